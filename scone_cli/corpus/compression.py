"""The content of compressed files: gzip and Zstandard, of all their frames, and an error where one is cut short.

Both libraries' own file objects fall short: zstandard's ends without an error where a truncated frame ends.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

from scone_cli.errors import BadData

# By the ending of a file's name: the bytes with which such a file begins.
MARKS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}

_CHUNK_BYTES = 1 << 16

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    # The largest window there is: what `zstd --long=31` wrote is not damaged.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}


def compression_of(name: str) -> str:
    """The ending of a file's name that says how it is compressed, in lower case; empty if it does not."""
    return next((suffix for suffix in MARKS if name.lower().endswith(suffix)), "")


def decompressed(raw: BinaryIO, compression: str, source: str) -> BinaryIO:
    """The content of a file; `source` names it in errors.

    Raises (when it is read):
        BadData: the data is damaged, or ends in the middle.
    """
    return io.BufferedReader(_Decompressed(raw, compression, source), _CHUNK_BYTES)


def decompress_beginning(head: bytes, compression: str) -> bytes:
    """What the first bytes of a file hold, as far as they go; nothing if they are damaged."""
    try:
        content: bytes = _DECOMPRESSORS[compression]().decompress(head)
    except (zstandard.ZstdError, zlib.error):
        return b""  # reading it will say so
    return content


class _Decompressed(io.RawIOBase):
    def __init__(self, raw: BinaryIO, compression: str, source: str) -> None:
        self._raw = raw
        self._compression = compression
        self._source = source
        self._frame = _DECOMPRESSORS[compression]()
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            chunk = self._raw.read(_CHUNK_BYTES)
            if not chunk:
                return self._end()
            self._ready = memoryview(self._decompress(chunk))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _end(self) -> int:
        if not self._frame.eof:
            raise BadData(
                f"{self._source}: truncated, the {self._compression} data ends in the middle "
                f"after {self._raw.tell():,} bytes",
                "get or make the file again",
            )
        return 0

    def _decompress(self, chunk: bytes) -> bytes:
        pieces = []
        try:
            while chunk:
                if self._frame.eof:
                    self._frame = _DECOMPRESSORS[self._compression]()
                pieces.append(self._frame.decompress(chunk))
                chunk = self._frame.unused_data if self._frame.eof else b""
        except (zstandard.ZstdError, zlib.error) as error:
            raise BadData(
                f"{self._source}: damaged {self._compression} data ({error}) before byte {self._raw.tell():,}",
                "get or make the file again",
            ) from error
        return b"".join(pieces)
