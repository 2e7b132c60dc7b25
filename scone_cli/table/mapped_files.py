"""Files mapped for reading, of which none can kill the process: not one that shrinks, nor a disk that fails.

To touch a mapped page that the file no longer has, or that the disk cannot read, raises SIGBUS, and that ends the process. So
all files are mapped inside one reserved piece of the address space, and a compiled handler of that signal, which knows where
it lies, puts a page of zeros in the place of the lost one and counts it: whoever reads looks at the count afterwards, and
raises. It costs a read nothing. Elsewhere than on 64-bit Linux, or where another program has taken that piece of the address
space, files are read into memory instead.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, cfunc, types

from scone_cli.errors import DamagedArtifact, SconeError, StorageFailure
from scone_cli.runtime.native_memory import pointer

_START, _SIZE = 0x1000_0000_0000, 0x4000_0000_0000  # 64 TiB that no system gives out by itself; its first page is ours
_PAGE = mmap.PAGESIZE
_NOTHING, _READ, _WRITE = 0, 1, 2
_SHARED, _PRIVATE, _FIXED, _ANONYMOUS, _NO_RESERVE, _NO_REPLACE = 0x1, 0x2, 0x10, 0x20, 0x4000, 0x100000
_SIGINFO, _NO_DEFER, _ON_STACK = 0x4, 0x40000000, 0x08000000

_c_mmap = types.ExternalFunction("mmap", types.intp(*[types.intp] * 2, *[types.int32] * 3, types.intp))
_c_sigaction = types.ExternalFunction("sigaction", types.int32(types.int32, types.intp, types.intp))
# The first page, in words of 8 bytes: how many pages have been lost; from _BEFORE on, the action that there was before.
_LOST, _BEFORE = 0, 8


@cfunc(types.void(types.int32, types.intp, types.intp), cache=True)
def _on_bus_error(number, info, context):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001 - compiled
    """Of a signal handler only what may be done in one: no Python, no memory but ours, two calls of the system."""
    address = carray(pointer(np.uint64(info)), (3,), np.int64)[2]  # si_addr
    words = carray(pointer(np.uint64(_START)), (1,), np.int64)
    page = address - address % _PAGE
    ours = _START + _PAGE <= address < _START + _SIZE
    if ours and _c_mmap(page, _PAGE, _READ, _PRIVATE | _ANONYMOUS | _FIXED, -1, 0) == page:
        words[_LOST] += 1
    else:
        _c_sigaction(
            number, _START + 8 * _BEFORE, 0
        )  # on return the instruction faults again, and what was there before acts


class _Action(ctypes.Structure):
    """The C library's struct sigaction on 64-bit Linux."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@cache
def _mmap() -> Any:
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    return call


@cache
def can_map() -> bool:
    """Reserve the piece of the address space and install the handler, at the first call; whether that is possible."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return False
    reserved = _PRIVATE | _ANONYMOUS | _NO_RESERVE | _NO_REPLACE
    if _mmap()(_START, _SIZE, _NOTHING, reserved, -1, 0) != _START:
        return False
    if _mmap()(_START, _PAGE, _READ | _WRITE, _PRIVATE | _ANONYMOUS | _FIXED, -1, 0) != _START:
        return False
    before = _Action.from_address(_START + 8 * _BEFORE)
    action = _Action(_on_bus_error.address, flags=_SIGINFO | _NO_DEFER | _ON_STACK)
    set_action = ctypes.CDLL(None).sigaction
    return bool(set_action(int(signal.SIGBUS), ctypes.byref(action), ctypes.byref(before)) == 0)


_none_lost = np.zeros(1, np.int64)


def lost_counter() -> int:
    """The address of the number (int64) of pages lost since the process began, of whatever file."""
    return _START if can_map() else int(_none_lost.ctypes.data)


def lost_pages() -> int:
    """Pages lost since the process began, of whatever file."""
    return ctypes.c_int64.from_address(lost_counter()).value


_taken: list[tuple[int, int]] = []  # start and end of what is mapped, in order
_freed: deque[tuple[int, int]] = deque()  # of these, what is mapped no more
_lock = threading.Lock()


def _reserve(size: int) -> int:
    """A place for `size` bytes, the first that is free."""
    with _lock:
        while _freed:
            _taken.remove(_freed.popleft())
        start = _START + _PAGE
        for begin, end in _taken:
            if begin - start >= size:
                break
            start = end
        bisect.insort(_taken, (start, start + size))
        return start


def _release(start: int, size: int) -> None:
    """Unmap; the place is free for the next. Python may call this at any moment, so it must not wait for the lock."""
    _mmap()(start, size, _NOTHING, _PRIVATE | _ANONYMOUS | _NO_RESERVE | _FIXED, -1, 0)
    _freed.append((start, start + size))


class MappedFile:
    """A file's bytes, mapped (or, where that is not safe, read); `numpy.asarray` makes an array of them that keeps it open.

    Raises:
        StorageFailure: it cannot be opened, mapped or read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, os.close, self.descriptor)
            self.size = os.fstat(self.descriptor).st_size
            self._copy = None if can_map() and self.size else np.fromfile(path, np.uint8)
        except OSError as error:
            raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
        if self._copy is not None:
            self.address = int(self._copy.ctypes.data)
            return
        room = -(-self.size // _PAGE) * _PAGE
        self.address = _reserve(room)
        if _mmap()(self.address, self.size, _READ, _SHARED | _FIXED, self.descriptor, 0) != self.address:
            _release(self.address, room)
            raise StorageFailure(f"{path}: cannot be mapped ({os.strerror(ctypes.get_errno())})")
        weakref.finalize(self, _release, self.address, room)

    @property
    def __array_interface__(self) -> Mapping[str, Any]:
        """How numpy sees it: bytes, not to be written."""
        return {"version": 3, "shape": (self.size,), "typestr": "|u1", "data": (self.address, True)}

    def bytes(self) -> npt.NDArray[np.uint8]:
        """All of it uint8 [size]."""
        return np.asarray(self)

    def read_into(self, memory: npt.NDArray[np.uint8], start: int) -> None:
        """Read the file from the byte `start` on, as much as `memory` takes.

        Raises:
            DamagedArtifact: it has become shorter.
            StorageFailure: the disk fails.
        """
        done = 0
        while done < memory.size:
            try:
                piece: Any = memory[done : done + (1 << 30)]
                count = os.preadv(self.descriptor, [piece], start + done)
            except OSError as error:
                raise StorageFailure(f"{self.path}: cannot be read ({error.strerror})") from error
            if not count:
                raise self.failure()
            done += count

    def failure(self) -> SconeError:
        """What to say when a read of the file has failed."""
        return self.damage() or StorageFailure(f"{self.path}: cannot be read, the disk failed")

    def damage(self) -> SconeError | None:
        """What has befallen the file since it was opened: an error to raise, or None."""
        try:
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            return StorageFailure(f"{self.path}: cannot be read ({error.strerror})")
        if size < self.size:
            hint = "make the table again: scone precompute --force"
            return DamagedArtifact(
                f"{self.path}: cut short while it was read, from {self.size:,} bytes to {size:,}", hint
            )
        if self._copy is None and _has_lost_pages(self.address, self.address + self.size):
            return StorageFailure(f"{self.path}: part of it could not be read, open the table again")
        return None


def _has_lost_pages(start: int, end: int) -> bool:
    """Whether the handler has put pages of no file there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, _, _, _, inode, *_ = line.split()
        first, last = (int(address, 16) for address in place.split("-"))
        if first < end and start < last and inode == "0":
            return True
    return False
