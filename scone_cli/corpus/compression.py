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

from scone_cli.corpus.document_room import MORE, documents_within, largest_window
from scone_cli.errors import BadData, NotEnoughMemory
from scone_cli.formatting import bytes_text

# The first bytes of a compressed file, by its file extension. A Zstandard file may begin with a skippable frame, as those of
# pzstd do. In bzip2 the mark of a block, or of the end, follows the header.
_MARKS = re.compile(
    rb"(?P<gz>\x1f\x8b)|(?P<zst>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"
    rb"|(?P<bz2>BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90))|(?P<xz>\xfd7zXZ\x00)"
)
_SHORTEST = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".bz2": b"BZh91AY&SY", ".xz": b"\xfd7zXZ\0"}
_ENDINGS = {compression: compression for compression in _SHORTEST} | {".zstd": ".zst", ".gzip": ".gz", ".bz": ".bz2"}

# Compressed bytes that are given to a decompressor at a time, bytes that it gives back at most, and the size of the buffer.
# Small, because a few KB that compress a run of zeros become GBs. Zstandard's gives back all: up to 16 MB for 512 bytes.
_CHUNK_BYTES, _ZSTD_CHUNK_BYTES = 1 << 14, 1 << 9
_PIECE_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 16


class _Zlib:
    """A member of gzip."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.is_waiting = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, chunk: bytes) -> tuple[bytes, bytes]:
        content = self._inner.decompress(chunk, _PIECE_BYTES)
        return content, self._inner.unused_data if self.eof else self._inner.unconsumed_tail


class _Limited:
    """A stream of bzip2 or xz: their decompressors keep the input that they have not used yet."""

    def __init__(self, inner: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._inner = inner

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def is_waiting(self) -> bool:
        return self._inner.needs_input or self._inner.eof

    def decompress(self, chunk: bytes) -> tuple[bytes, bytes]:
        content = self._inner.decompress(chunk, _PIECE_BYTES)
        return content, self._inner.unused_data if self.eof else b""


class _Zstd:
    """A frame of Zstandard."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=largest_window()).decompressobj()
        self.is_waiting = True

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    def decompress(self, chunk: bytes) -> tuple[bytes, bytes]:
        content = self._inner.decompress(chunk)
        return content, self._inner.unused_data if self.eof else b""


def _xz() -> _Limited:
    # A window takes as much memory as it has bytes, the rest of the decoder less than 2 MB.
    return _Limited(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=largest_window() + (2 << 20)))


# A frame is one of several compressed streams that a file may have. `decompress` returns some content, and the input that is not
# used yet; `is_waiting` tells that there is no more content without more input.
_Frame = _Zlib | _Limited | _Zstd
_FRAMES: dict[str, Callable[[], _Frame]] = {
    ".gz": _Zlib,
    ".zst": _Zstd,
    ".bz2": lambda: _Limited(bz2.BZ2Decompressor()),
    ".xz": _xz,
}
_NEEDS_MEMORY = re.compile(r"Frame requires too much memory|Memory usage limit exceeded")
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
        NotEnoughMemory: its window is larger than `document_room.largest_window`.
    """
    return io.BufferedReader(_Decompressed(raw, compression, source), _BUFFER_BYTES)


def decompress_beginning(head: bytes, compression: str, most: int) -> bytes:
    """Decompress the first bytes of a file, to about `most` bytes at most; empty if they are damaged."""
    content = b""
    # The limit of windows is not for this: a window takes no more memory than there is content. `head` ends here; if the file is
    # damaged, reading it will raise the error.
    with documents_within(None), contextlib.suppress(BadData):
        stream = _Decompressed(io.BytesIO(head), compression, "")
        while len(content) < most and (more := stream.read(most)):
            content += more
    return content


class _Decompressed(io.RawIOBase):
    def __init__(self, raw: BinaryIO, compression: str, source: str) -> None:
        self._raw = raw
        self._compression = compression
        self._source = source
        self._frame = _FRAMES[compression]()
        self._chunk = b""  # compressed bytes that were read and not used
        self._chunk_bytes = _ZSTD_CHUNK_BYTES if compression == ".zst" else _CHUNK_BYTES
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._chunk and self._frame.is_waiting:
                self._chunk = self._raw.read(self._chunk_bytes)
                if not self._chunk:
                    return self._end()
            self._ready = memoryview(self._decompress())
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

    def _decompress(self) -> bytes:
        """Some of the content, perhaps none, from the chunk, whose used part is removed."""
        if self._frame.eof:
            self._chunk = self._without_padding(self._chunk)
            if not self._chunk:
                return b""
            self._frame = _FRAMES[self._compression]()
        try:
            content, self._chunk = self._frame.decompress(self._chunk)
        except _DAMAGED as error:
            if _NEEDS_MEMORY.search(str(error)):
                raise NotEnoughMemory(
                    f"{self._source}: {self._compression} data with a window of more than {bytes_text(largest_window())}, "
                    "for which --memory leaves no room",
                    MORE,
                ) from error
            raise BadData(
                f"{self._source}: damaged {self._compression} data ({error}) before byte {self._raw.tell():,}",
                "get or make the file again",
            ) from error
        return content

    def _without_padding(self, chunk: bytes) -> bytes:
        """Remove the NULs that tapes and block devices append to a frame; all tools but `zstd` skip them."""
        return chunk.lstrip(b"\0") if self._compression != ".zst" else chunk
