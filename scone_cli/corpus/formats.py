"""Detects the format of a corpus file from its first bytes: plain text, JSON Lines, Parquet or Arrow, and the compression.

One function serves files from folders and from standard input. The file extension decides where the content cannot: a
`.jsonl` that does not begin with an object is bad JSON Lines, not plain text. Archives, databases and documents such as PDF
are refused with their name, so that a model never trains on their bytes as text.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from typing import NamedTuple

from scone_cli.corpus.compression import compression_of, decompress_beginning, endings_of
from scone_cli.errors import BadData

TEXT, LINES, PARQUET, ARROW = "text", "JSON Lines", "Parquet", "Arrow"
TOKENS = "token ids"  # detected by the file extension; `token_files.py` reads their headers

# Bytes of a file that are looked at: a bzip2 block may have 900 kB, and gives no output before its end.
LOOKED_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16  # bytes of the decompressed content that are looked at

_UNPACK = "unpack it, and name the files of text in it"
_CONVERT = "write its column of text as Parquet or JSON Lines, and name that"
_READ = "decompress it, or compress it with gzip, zstd, bzip2 or xz"

# The first bytes of formats that are refused: binary ones here, and in `_REFUSED_TEXT` those that look like plain text.
_REFUSED = {
    **dict.fromkeys((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"), ("a zip archive", _UNPACK)),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", _UNPACK),
    b"MSCF\0\0\0\0": ("a cab archive", _UNPACK),
    b"xar!\0": ("a xar archive", _UNPACK),
    b"\xed\xab\xee\xdb": ("an rpm package", _UNPACK),
    b"\x04\x22\x4d\x18": ("compressed with lz4", _READ),
    b"\x02\x21\x4c\x18": ("compressed with lz4", _READ),
    b"\xff\x06\0\0sNaPpY": ("compressed with snappy", _READ),
    b"LZIP\x01": ("compressed with lzip", _READ),
    b"\x89LZO\0": ("compressed with lzop", _READ),
    b"\x1f\x9d": ("compressed with compress (.Z)", _READ),
    b"]\0\0": ("compressed with lzma", _READ),
    b"Obj\x01": ("an Avro file", _CONVERT),
    b"SQLite format 3\0": ("an SQLite database", _CONVERT),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _CONVERT),
    b"ORC": ("an ORC file", _CONVERT),
    b"FEA1": ("a Feather file", _CONVERT),
    b"\x93NUMPY": ("an array of numpy", "name it .npy if it holds token ids"),
    **{bytes((0x80, protocol)): ("a pickle of Python", _CONVERT) for protocol in range(2, 6)},
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of an old Office", "save it as plain text"),
}
_REFUSED_TEXT = {
    b"!<arch>\n": ("an ar archive", _UNPACK),
    b"WARC/1.": ("a WARC web archive", "take the text out of its records, as JSON Lines"),
}
_TEXT_MARKS = tuple(_REFUSED_TEXT)
_ARROW_MARKS = (b"ARROW1\0\0", b"\xff\xff\xff\xff")  # of a file, and of a stream
_NO_MARK = (".br", ".snappy", ".sz", ".lz4")  # extensions of compressions without magic bytes

# Kinds of files that count as one bad document each, with a hint what to do about them.
_LEAVE_OUT = "scone count-ngrams leaves such files out with --on-bad-document skip"
BAD_KINDS = {
    "a JSON array": f"write one object a line (jq -c '.[]' FILE > FILE.jsonl); {_LEAVE_OUT}",
    "a JSON document of several lines": f"write one object a line (jq -c . FILE > FILE.jsonl); {_LEAVE_OUT}",
    "a .json file that is not JSON Lines": f'write one object a line, such as {{"text": "..."}}; {_LEAVE_OUT}',
    "UTF-16 text": f"convert it: iconv -f UTF-16 -t UTF-8 FILE; {_LEAVE_OUT}",
    "UTF-32 text": f"convert it: iconv -f UTF-32 -t UTF-8 FILE; {_LEAVE_OUT}",
    "a PDF document": f"convert it to plain text (pdftotext); {_LEAVE_OUT}",
    "an RTF document": f"convert it to plain text; {_LEAVE_OUT}",
    "a PostScript document": f"convert it to plain text (ps2ascii); {_LEAVE_OUT}",
}
_BAD_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32 text",  # must come before UTF-16, whose mark is its first two bytes
    codecs.BOM_UTF32_BE: "UTF-32 text",
    codecs.BOM_UTF16_LE: "UTF-16 text",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"%PDF-": "a PDF document",
    b"{\\rtf": "an RTF document",
    b"%!PS-": "a PostScript document",
}

_BAD_BEGINNINGS = tuple(_BAD_MARKS)

_STRING = rb'"(?:[^"\\\r\n]|\\.)*"'
_BLANK = rb"(?:\xef\xbb\xbf)?[\s\x1e]*"  # some writers put 0x1e before every record
_OBJECT_LINE = re.compile(_BLANK + rb"\{[ \t]*(?:" + _STRING + rb"[ \t]*:|\}[ \t]*\r?(?:\n|\Z))")
_OBJECT = re.compile(_BLANK + rb"\{\s*" + _STRING + rb"\s*:")
_ARRAY = re.compile(_BLANK + rb'\[\s*(?:\{\s*["}]|' + _STRING + rb"\s*(?:,|\]\s*\Z)|" + _STRING[:-1] + rb"\Z)")
_CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b\x1e"})
_LINES_TRIED = 16


class Format(NamedTuple):
    """What a file is (TEXT, LINES, PARQUET, ARROW, TOKENS or one of `BAD_KINDS`), and its compression: "" or such as ".gz"."""

    kind: str
    compression: str


def format_of(head: bytes, location: str, name: str = "") -> Format:
    """Detect the format of a file from `head`, its first `LOOKED_BYTES` (all of it, if shorter), and its name.

    Raises:
        BadData: an archive, a database, a compression or another kind of file that is not supported.
    """
    ending, named = endings_of(name or location)
    if ending in (".bin", ".npy"):
        return Format(TOKENS, named)
    compression = compression_of(head, named)
    if named and not compression and not _is_text(head):
        compression = named  # its first bytes are damaged: reading will raise the error
    content = decompress_beginning(head, compression, _HEAD_BYTES) if compression else head
    content = content[:_HEAD_BYTES]
    is_text = _is_text(content)
    refused = _refused_text(content) if is_text else _refused_binary(content, ending, bool(compression))
    if refused is not None:
        raise BadData(f"{location}: {refused[0]}, which is not read", refused[1])
    return Format(_kind_of(content, ending, is_text), compression)


def _refused_text(head: bytes) -> tuple[str, str] | None:
    """The name of a refused format that looks like plain text, and a hint; else None. Fast, for a million files of text."""
    if not head.startswith(_TEXT_MARKS):
        return None
    return next(facts for mark, facts in _REFUSED_TEXT.items() if head.startswith(mark))


def _refused_binary(head: bytes, ending: str, is_inside: bool) -> tuple[str, str] | None:
    """The name of a refused binary format, and a hint; else None."""
    if (found := next((facts for mark, facts in _REFUSED.items() if head.startswith(mark)), None)) is not None:
        return found
    if _is_tar(head):
        return "a tar archive", "unpack it, and name the folder"
    if is_inside and (again := compression_of(head)):
        return f"compressed twice, with {again} inside", "decompress it once"
    if head[:2] in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda") and _is_zlib(head):
        return "compressed with zlib", _READ
    if ending in _NO_MARK:
        return f"compressed as {ending}", _READ
    return None


def _kind_of(head: bytes, ending: str, is_text: bool) -> str:
    if ending == ".parquet" or (head.startswith(b"PAR1") and not is_text):
        return PARQUET
    if ending == ".arrow" or (head.startswith(_ARROW_MARKS) and not is_text):
        return ARROW
    if head.startswith(_BAD_BEGINNINGS):
        return next(kind for mark, kind in _BAD_MARKS.items() if head.startswith(mark))
    if not is_text and _is_utf16(head):
        return "UTF-16 text"
    return LINES if ending in (".jsonl", ".ndjson") else _kind_of_json(head, ending == ".json")


def _kind_of_json(head: bytes, is_named: bool) -> str:
    """Detect JSON Lines, by an object that fills a line; other JSON is a bad kind, so that it is not read as plain text."""
    if _OBJECT_LINE.match(head):
        *whole, _ = head.lstrip(b"\xef\xbb\xbf\x1e \t\r\n").split(b"\n", _LINES_TRIED)
        # If the first line has no end here, it is the only line, or longer than the bytes that are looked at.
        return LINES if not whole or any(map(_is_object, whole)) else "a JSON document of several lines"
    if _OBJECT.match(head):
        return "a JSON document of several lines"
    beginning = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if _ARRAY.match(head) or (is_named and beginning.startswith(b"[")):
        return "a JSON array"
    if not is_named:
        return TEXT
    return "a .json file that is not JSON Lines" if beginning else LINES


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_text(head: bytes) -> bool:
    """Whether the first 4 KB can be plain text: valid UTF-8 without control characters that text does not have."""
    head = head[:4096]
    try:
        codecs.utf_8_decode(head)  # without an error if it ends within a character
    except UnicodeDecodeError:
        return False
    return len(head.translate(None, _CONTROLS)) == len(head)


def _is_utf16(head: bytes) -> bool:
    """Whether it looks like Latin text in UTF-16 without a mark: nearly every second byte is NUL, and nearly no other."""
    fewer, more = sorted((head[0::2].count(0), head[1::2].count(0)))
    return len(head) >= 4 and more > 0.7 * (len(head) // 2) and fewer < 0.1 * (len(head) // 2)


def _is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes are a tar header: every kind of tar has the same checksum field."""
    told = re.fullmatch(rb"[ 0]*([0-7]+)[\0 ]+", head[148:156])
    if told is None or len(head) < 512:
        return False
    return int(told[1], 8) == sum(head[:148]) + 8 * ord(" ") + sum(head[156:512])


def _is_zlib(head: bytes) -> bool:
    try:
        return bool(zlib.decompressobj().decompress(head, 1 << 10))
    except zlib.error:
        return False
