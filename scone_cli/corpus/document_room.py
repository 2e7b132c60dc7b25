"""How much memory this process may take for one document of a compressed file, which may be far larger than the file.

A document takes up to nine times its size while it is decoded and encoded, and the decompressor's window comes on top. No result
depends on this: a document that is too large for the memory is an error, and not left out as one that is bad.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from scone_cli.formatting import bytes_text

LARGEST_WINDOW = 1 << 31  # bytes; `zstd --long=31` writes valid files that need it
_LEAST_WINDOW = 1 << 23  # what every decoder of Zstandard should take, by its specification (RFC 8878)
_TIMES = 9  # measured: characters beyond U+FFFF; others take 5 times the size
_ROOM: ContextVar[int | None] = ContextVar("room", default=None)

MORE = "give more --memory or fewer --workers, or decompress the file"


@contextlib.contextmanager
def documents_within(room: int | None) -> Iterator[None]:
    """Let a document of a compressed file take `room` bytes of memory in this process; None: there is no limit of this kind."""
    token = _ROOM.set(room)
    try:
        yield
    finally:
        _ROOM.reset(token)


def largest_compressed(largest: int) -> int:
    """The most bytes that a document of a compressed file may have, if others may have `largest`."""
    room = _ROOM.get()
    return largest if room is None else max(1, min(largest, room // (2 * _TIMES)))


def largest_window() -> int:
    """The most bytes that a decompressor may take for its window: a power of two."""
    room = _ROOM.get()
    if room is None:
        return LARGEST_WINDOW
    return min(LARGEST_WINDOW, max(_LEAST_WINDOW, 1 << (max(1, room // 2).bit_length() - 1)))


def too_large(num_bytes: int) -> str:
    """The cause of an error about a document of a compressed file that has more than `num_bytes`."""
    return f"a document of more than {bytes_text(num_bytes)} in a compressed file, for which --memory leaves no room"
