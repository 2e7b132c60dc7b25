"""Reads compressed files (gzip, Zstandard, bzip2, xz) with all their frames, and raises an error if a file is truncated.

The file objects of the libraries are not enough: zstandard's ends without an error at the end of a truncated frame, and
Python's ignore any data after the last frame.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import zstandard

from scone_cli.errors import BadData

# The first bytes of a compressed file, by its file extension. A Zstandard file may begin with a skippable frame, as those of
# pzstd do. In bzip2 the mark of a block, or of the end, follows the header.
_MARKS = re.compile(
    rb"(?P<gz>\x1f\x8b)|(?P<zst>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"
    rb"|(?P<bz2>BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90))|(?P<xz>\xfd7zXZ\x00)"
)
_SHORTEST = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh91AY&SY", ".xz": b"\xfd7zXZ\0"}
_ENDINGS = {compression: compression for compression in _SHORTEST} | {".zstd": ".zst", ".gzip": ".gz", ".bz": ".bz2"}

# Sizes of one read and of the buffer. Small, because a few KB that compress a run of zeros become hundreds of MB.
_CHUNK_BYTES = 1 << 14
_BUFFER_BYTES = 1 << 16

_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    # The largest possible window, because `zstd --long=31` writes valid files that need it.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
}
_DAMAGED = (zstandard.ZstdError, zlib.error, lzma.LZMAError, OSError, ValueError)  # the last two are bz2's


def endings_of(name: str) -> tuple[str, str]:
    """The file extension that tells the format, and the one that tells the compression, in lower case; "" if there is none.

    Called for up to a million files, so it makes no `Path`.
    """
    stem, ending = os.path.splitext(name.lower())
    compression = _ENDINGS.get(ending, "")
    return (os.path.splitext(stem)[1] if compression else ending), compression


def compression_of(head: bytes, named: str = "") -> str:
    """The compression of a file, by its first bytes; if they are too few to tell, the one its name tells (`named`)."""
    if found := _MARKS.match(head):
        return f".{found.lastgroup}"
    return named if named and _SHORTEST[named].startswith(head) else ""


def decompressed(raw: BinaryIO, compression: str, source: str) -> BinaryIO:
    """A stream of the decompressed content of a file; `source` names the file in errors.

    Raises (when it is read):
        BadData: the data is damaged or truncated.
    """
    return io.BufferedReader(_Decompressed(raw, compression, source), _BUFFER_BYTES)


def decompress_beginning(head: bytes, compression: str, most: int) -> bytes:
    """Decompress the first bytes of a file, to about `most` bytes at most; empty if they are damaged."""
    stream, content = _Decompressed(io.BytesIO(head), compression, ""), b""
    with contextlib.suppress(BadData):  # `head` ends here; if the file is damaged, reading it will raise the error
        while len(content) < most and (more := stream.read(most)):
            content += more
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
            while chunk := self._without_padding(chunk):
                if self._frame.eof:
                    self._frame = _DECOMPRESSORS[self._compression]()
                pieces.append(self._frame.decompress(chunk))
                chunk = self._frame.unused_data if self._frame.eof else b""
        except _DAMAGED as error:
            raise BadData(
                f"{self._source}: damaged {self._compression} data ({error}) before byte {self._raw.tell():,}",
                "get or make the file again",
            ) from error
        return b"".join(pieces)

    def _without_padding(self, chunk: bytes) -> bytes:
        """Remove the NULs that tapes and block devices append to a frame; all tools but `zstd` skip them."""
        return chunk.lstrip(b"\0") if self._frame.eof and self._compression != ".zst" else chunk
