"""Find the cores, memory and disk that are free for this process, and turn system errors into errors of scone."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from scone_cli.errors import NotEnoughMemory, SconeError, StorageFailure
from scone_cli.formatting import bytes_text
from scone_cli.runtime import cgroups

MIB = 1 << 20


def num_cores() -> int:
    """The number of cores that this process may use; fewer than the machine has in a container, a batch job or `taskset`.

    A CPU limit (`cpu.max`) that is not a whole number of cores is rounded up.
    """
    allowed = usable_cores()
    share = cgroups.cpu_limit()
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


def usable_cores() -> int:
    """The number of cores on which the system may run this process, without regard to CPU limits."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of memory that are free for this process: of the machine, or less under a limit of its control groups."""
    free = _meminfo_available() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left = cgroups.memory_left()
    return free if left is None else min(free, left)


def _meminfo_available() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def check_disk(folder: Path, needed: int, what: str = "counting") -> None:
    """Refuse work (`what`) that needs more bytes of disk than are free.

    Raises:
        StorageFailure: less than `needed` is free on the disk of `folder`.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageFailure(
            f"{folder}: {free:,} bytes of disk are free, {what} needs about {needed:,}",
            "free some, or name another disk with --workspace",
        )


_NO_MEMORY = re.compile(r"allocate memory|out of memory|bad_alloc|DefaultCPUAllocator|Allocation failed", re.IGNORECASE)
_ASKED = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ [KMGTPE]iB)", re.IGNORECASE)


def memory_shortage(error: BaseException) -> NotEnoughMemory | None:
    """The NotEnoughMemory for an out-of-memory error of Python, torch or another allocator; None for any other error."""
    text = str(error)
    is_refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (
        is_refused or isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text))
    ):
        return None
    asked = _ASKED.search(text)
    amount = "" if asked is None else bytes_text(int(asked[1])) if asked[1] else asked[2]
    return NotEnoughMemory(
        f"not enough memory{f': {amount} were asked for at once' if amount else ''}",
        "make it smaller (a model: --dim, --layers, --batch, --learned-rows; a count: --memory, --workers), or free memory",
    )


# EFBIG: a file size limit. It arrives as an error because Python ignores SIGXFSZ, which would kill the process.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def storage_failures(place: Path) -> Iterator[None]:
    """Turn system errors about files into `StorageFailure`, and lack of memory into `NotEnoughMemory`.

    `place` is named if the error does not name a file.
    """
    try:
        yield
    except SconeError:
        raise
    except Exception as error:
        failure = memory_shortage(error) or _storage_failure(error, place)
        if failure is None:
            raise
        raise failure from error


def _storage_failure(error: Exception, place: Path) -> StorageFailure | None:
    number = _system_error(error)
    filename = getattr(error, "filename", None)
    if number in _FULL:
        return StorageFailure(
            f"no space left while writing {filename or f'in {place}'} ({os.strerror(number or 0)})",
            "free some space, or raise the limit, and give the same command again: it continues from what is finished",
        )
    if number is None and not isinstance(error, OSError):
        return None
    reason = getattr(error, "strerror", None) or str(error)
    return StorageFailure(f"{filename}: {reason}" if filename else reason)


def _system_error(error: Exception) -> int | None:
    """The errno of an error. Libraries in Rust (polars, safetensors) have it only in the text, and numpy loses it."""
    if isinstance(error, OSError):
        cut_off = error.errno is None and re.search(r"requested and \d+ written", str(error))
        return errno.ENOSPC if cut_off else error.errno
    in_text = re.search(r"\(os error (\d+)\)", str(error))
    return int(in_text.group(1)) if in_text else None
