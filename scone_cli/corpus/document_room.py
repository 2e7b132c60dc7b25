"""How much memory this process may take for one document of a compressed file, which may be far larger than the file.

No result depends on this: a document that is too large for the memory is an error, and not left out as one that is bad. Other
documents are as large as their files, or, in a file of columns, are looked at when they are in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from scone_cli.formatting import bytes_text

LARGEST_WINDOW = 1 << 31  # bytes; `zstd --long=31` writes valid files that need it
_LEAST_WINDOW = 1 << 23  # what every decoder of Zstandard should take, by its specification (RFC 8878)
# Measured: bytes of memory for each byte of text that is read and decoded (with characters beyond U+FFFF; others take 5), and for
# each token while a text is encoded.
_PER_BYTE, _PER_TOKEN = 9, 50
_PER_PAGE_BYTE = 3  # measured, of a page of Parquet
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


def largest_window() -> int:
    """The most bytes that a decompressor may take for its window: a power of two, up to a quarter of the room."""
    room = _ROOM.get()
    if room is None:
        return LARGEST_WINDOW
    return min(LARGEST_WINDOW, max(_LEAST_WINDOW, 1 << (max(1, room // 4).bit_length() - 1)))


def largest_compressed(largest: int) -> int:
    """The most bytes that a document of a compressed file may have, if others may have `largest`."""
    room = _left()
    return largest if room is None else max(1, min(largest, room // _PER_BYTE))


def largest_page() -> int | None:
    """The most bytes that a page of Parquet may have; None if there is no limit."""
    room = _left()
    return None if room is None else room // _PER_PAGE_BYTE


def can_encode(num_tokens: float) -> bool:
    """Whether so many tokens of one document can be encoded."""
    room = _left()
    return room is None or num_tokens * _PER_TOKEN <= room


def _left() -> int | None:
    """What the window leaves."""
    room = _ROOM.get()
    return None if room is None else room - room // 4


def too_large(what: str) -> str:
    """The cause of an error about a document, `what` is too much of it."""
    return f"{what} in one document of a compressed file, for which --memory leaves no room"


def more_than(num_bytes: int) -> str:
    """The cause of an error about a document that has more bytes."""
    return too_large(f"more than {bytes_text(num_bytes)}")
