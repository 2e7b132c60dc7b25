"""Reads documents from text files: plain text (one document per file, or many with a separator), JSON Lines, Parquet and Arrow.

Files are read as streams. Every problem is a `BadData` that names the file, the line and the cause. Text is not changed: line
ends, NULs and byte order marks stay. A document with invalid Unicode (invalid UTF-8, or half a surrogate pair, which JSON can
contain) is a bad document: no tokenizer has ids for it, and replacing it by U+FFFD would change the text.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa

from scone_cli.corpus.columns import Columns, column_type, columns_of
from scone_cli.corpus.compression import decompressed
from scone_cli.corpus.document_list import ID_FIELD, Exclusion
from scone_cli.corpus.document_room import MORE, largest_compressed, largest_page, more_than
from scone_cli.corpus.files import SourceFile, at_hand
from scone_cli.corpus.folders import readable
from scone_cli.corpus.formats import ARROW, BAD_KINDS, LINES, PARQUET
from scone_cli.corpus.separators import Separator
from scone_cli.errors import BadData, NotEnoughMemory
from scone_cli.formatting import bytes_text

_SMALL_BYTES = 1 << 20
_BEFORE_RECORDS = (
    codecs.BOM_UTF8 + b"\x1e"
)  # some editors begin a file with a BOM, some writers begin every record with 0x1e
_LARGEST_DOCUMENT = 1 << 30  # bytes; while a document is encoded, memory holds several copies of it
_SKIPPED_BYTES = 1 << 20  # read at a time of what is not kept


@dataclass(frozen=True, slots=True)
class Document:
    """One document of text. `name`: the file's name with the line (from 1) or row (from 0); `utf8`: the text as bytes."""

    name: str
    text: str
    utf8: bytes

    @property
    def num_bytes(self) -> int:
        """The UTF-8 length of the text."""
        return len(self.utf8)


class BadDocument(BadData):
    """A document that cannot be read, in a file whose other documents can: its `name`, and the `cause`."""

    def __init__(self, name: str, where: str, cause: str, hint: str | None) -> None:
        super().__init__(f"{where}: {cause}", hint)
        self.name = name
        self.cause = cause

    def __reduce__(self) -> tuple[type[BadData], tuple[str, str | None]]:
        return BadData, (self.message, self.hint)  # outside the worker, only the message and the hint are needed


# Called for each bad document, which is then left out. Without a callback (None), a bad document is an error.
OnBad = Callable[[BadDocument], None]


class _Unreadable(Exception):
    """What is wrong with one record; the caller adds the file and the line."""

    def __init__(self, cause: str, hint: str | None = None) -> None:
        super().__init__(cause, hint)
        self.cause, self.hint = cause, hint


class _NoRoom(_Unreadable):
    """It could be read with more memory. Then it is an error in any case: memory must not decide what is left out."""


@dataclass(frozen=True, slots=True)
class _Long:
    """A record that is not held in memory: what came before its end, and its bytes, counted up to the largest document."""

    num_bytes: int


def read_documents(
    file: SourceFile, text_field: str = "text", on_bad: OnBad | None = None, separator: Separator | None = None
) -> Iterator[Document]:
    """Read the documents of a file as a stream, in order, without empty ones. `separator` divides plain text.

    Raises:
        BadDocument: a document cannot be read and there is no `on_bad`; names the file, the line or row, and the cause.
        BadData: the whole file cannot be read; or it changed since it was hashed.
        NotEnoughMemory: a document of a compressed file is too large, see `document_room`.
        StorageFailure: the file cannot be read.
    """
    for document, _ in read_with_position(file, text_field, on_bad, separator):
        yield document


def read_with_position(
    file: SourceFile,
    text_field: str,
    on_bad: OnBad | None,
    separator: Separator | None = None,
    beginning: int | None = None,
    exclusion: Exclusion | None = None,
) -> Iterator[tuple[Document, int]]:
    """Read the documents of a file, each with the number of bytes on disk that have been read so far.

    `beginning`: if the whole file is one document, read only its first `beginning` bytes, to look at it. What `exclusion`
    leaves out is not given out, and is no bad document either; to find it, a whole file is read.
    """
    records, text_of, unit = _format_of(file, separator, exclusion is not None)
    is_json = file.kind == LINES
    with at_hand(file) as path, readable(file.location), open(path, "rb") as raw:  # not Path: a million files
        content = decompressed(raw, file.compression, file.location) if file.compression else raw
        try:
            if beginning is not None and not unit and file.kind not in BAD_KINDS and exclusion is None:
                text = content.read(beginning).decode(errors="ignore")
                yield Document(file.name, text, text.encode()), raw.tell()
                return
            for number, record, share in records(content, file.location, text_field):
                name = f"{file.name}:{number}" if unit else file.name
                excluded = set[int]() if exclusion is None else exclusion.naming(file, name)
                try:
                    text, identity = text_of(record, text_field)
                    utf8 = record if isinstance(record, bytes) and not is_json else _utf8(text)
                except _Unreadable as bad:
                    if exclusion is not None and exclusion.leave_out(excluded):
                        continue
                    where = f"{file.location}: {unit} {number}" if unit else file.location
                    if isinstance(bad, _NoRoom):
                        raise NotEnoughMemory(f"{where}: {bad.cause}", bad.hint) from bad
                    error = BadDocument(name, where, bad.cause, bad.hint)
                    if on_bad is None:
                        raise error from bad
                    on_bad(error)
                    continue
                if text:
                    if exclusion is not None and exclusion.leave_out(
                        excluded | exclusion.documents.saying(utf8, identity)
                    ):
                        continue
                    document = [Document(name, text, utf8)]
                    del record, text, utf8  # it may be a GB: no reference is kept, so the caller can free it
                    yield document.pop(), raw.tell() if share is None else int(share * file.bytes)
        except BadData:
            _check_unchanged(file, raw)  # a changed file is the real cause: a half-written line, a truncated archive
            raise
        _check_unchanged(file, raw)


def _check_unchanged(file: SourceFile, raw: BinaryIO) -> None:
    now = os.fstat(raw.fileno())
    if (now.st_size, now.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise BadData(f"{file.location}: changed while it was being read", "run the command again")


# ---- formats: records of a file, and the text of a record --------------------------------------------------------

# The number of the line or row, its content, and the share of the file that has been read (None: see the file's position).
_Records = Iterator[tuple[int, Any, float | None]]
_Text = tuple[str, Any]  # the text of a record, and its id, or None
_Format = tuple[Callable[[BinaryIO, str, str], _Records], Callable[[Any, str], _Text], str]


def _format_of(file: SourceFile, separator: Separator | None, with_ids: bool) -> _Format:
    is_packed = bool(file.compression)
    most = largest_compressed(_LARGEST_DOCUMENT) if is_packed else _LARGEST_DOCUMENT
    if file.kind == LINES:
        return partial(_lines, most), partial(_text_of_line, most), "line"
    if file.kind in (PARQUET, ARROW):  # their pages are compressed
        return partial(_rows, file.kind, with_ids), partial(_text_of_row, largest_compressed(_LARGEST_DOCUMENT)), "row"
    if file.kind in BAD_KINDS:
        return _nothing, partial(_refuse, file.kind), ""
    if separator is not None:
        return partial(_separated, separator, most), partial(_text_of_bytes, most), "line"
    return partial(_whole, most), partial(_text_of_bytes, most), ""


def _nothing(_content: BinaryIO, _location: str, _text_field: str) -> _Records:
    yield 1, None, None


def _refuse(kind: str, _record: Any, _text_field: str) -> _Text:
    raise _Unreadable(f"{kind}, expected UTF-8 text or JSON Lines", BAD_KINDS[kind])


def _separated(separator: Separator, most: int, content: BinaryIO, _location: str, _text_field: str) -> _Records:
    for line, text, size in separator.split(content, most):
        yield line, text if size <= most else _Long(size), None


def _whole(most: int, content: BinaryIO, _location: str, _text_field: str) -> _Records:
    data = content.read(min(most + 1, _SMALL_BYTES))  # reading with the limit would allocate a GB for every file
    if len(data) == _SMALL_BYTES:
        if content.seekable():
            content.seek(0)
            data = b""
        data += content.read(most + 1 - len(data))
    if len(data) > most:
        size, data = len(data), b""
        while size <= _LARGEST_DOCUMENT and (piece := content.read(_SKIPPED_BYTES)):
            size += len(piece)
        yield 1, _Long(size), None
    else:
        yield 1, data, None


def _text_of_bytes(most: int, data: bytes | _Long, _text_field: str) -> _Text:
    hint = "say where documents begin (--document-separator), or write one JSON object a line (.jsonl)"
    return _decoded(_short(data, most, "one document of plain text, ", hint)), None


def _lines(most: int, content: BinaryIO, _location: str, _text_field: str) -> _Records:
    number = 0
    while line := content.readline(most + 1):
        number += 1
        if len(line) <= most:
            yield number, line.lstrip(_BEFORE_RECORDS), None
            continue
        size, is_whole = len(line), line.endswith(b"\n")
        while size <= _LARGEST_DOCUMENT and not is_whole and (line := content.readline(_SKIPPED_BYTES)):
            size, is_whole = size + len(line), line.endswith(b"\n")
        yield number, _Long(size), None
        while not is_whole and (line := content.readline(_SKIPPED_BYTES)):
            is_whole = line.endswith(b"\n")


def _text_of_line(most: int, line: bytes | _Long, text_field: str) -> _Text:
    line = _short(line, most, "", "split the document")
    if line.isspace():
        return "", None
    try:
        record = json.loads(_decoded(line))
    except json.JSONDecodeError as error:
        cause = f"not JSON ({error.msg.removesuffix(' at')} at column {error.colno}), expected one JSON object a line"
        raise _Unreadable(cause, _LEAVE_OUT) from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits; nesting that is too deep
        raise _Unreadable(f"JSON that cannot be read ({error})", _LEAVE_OUT) from error
    if not isinstance(record, dict):
        raise _Unreadable(f"found a JSON {_json_type(record)}, expected an object with the field '{text_field}'")
    if text_field not in record:
        raise _Unreadable(*_no_field("field", text_field, list(record)))
    text = record[text_field]
    if not isinstance(text, str):
        raise _Unreadable(f"field '{text_field}' is a JSON {_json_type(text)}, expected a string")
    return text, record.get(ID_FIELD)


def _rows(kind: str, with_ids: bool, content: BinaryIO, location: str, text_field: str) -> _Records:
    with contextlib.ExitStack() as stack:
        if not content.seekable():  # Parquet is read from its end, and Arrow is mapped
            plain = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(content, plain, 1 << 20)
            plain.flush()
            content = plain
        columns = columns_of(kind, content, location)
        if text_field not in columns.schema.names:
            cause, hint = _no_field("column", text_field, columns.schema.names)
            raise BadData(f"{location}: {cause}", hint)
        found = column_type(columns.schema, text_field, location)
        found = found.value_type if pa.types.is_dictionary(found) else found
        if not (pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)):
            raise BadData(f"{location}: column '{text_field}' is {found}, expected string")
        _check_pages(columns, text_field, location)
        ids = _ids(columns) if with_ids and ID_FIELD in columns.schema.names else itertools.repeat(None)
        for rows in columns.rows(text_field, 0, columns.num_units):
            of_row = (rows.high - rows.low) / max(1, len(rows.values))
            for number, value in enumerate(rows.values):
                yield rows.first + number, (value, next(ids)), rows.low + of_row * (number + 1)


def _check_pages(columns: Columns, text_field: str, location: str) -> None:
    most = largest_page()
    if most is not None and (found := columns.largest_page(text_field)) > most:
        raise NotEnoughMemory(
            f"{location}: a page of {bytes_text(found)} in column '{text_field}', for which --memory leaves no room: it has "
            f"{bytes_text(most)}",
            "give more --memory or fewer --workers, or write the file with smaller pages",
        )


def _ids(columns: Columns) -> Iterator[Any]:
    for rows in columns.rows(ID_FIELD, 0, columns.num_units):
        yield from rows.values


def _text_of_row(most: int, record: tuple[Any, Any], text_field: str) -> _Text:
    value, identity = record
    held = value.value if pa.types.is_dictionary(value.type) else value
    if held is not None and held.is_valid:
        _short(_Long(held.as_buffer().size), most, "", "split the document")
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:  # pyarrow does not check UTF-8 earlier
        raise _not_utf8(error) from error
    if text is None:
        raise _Unreadable(f"column '{text_field}' is null, expected a string")
    assert isinstance(text, str)
    return text, None if identity is None else _id_of(identity)


def _id_of(value: Any) -> Any:
    with contextlib.suppress(UnicodeDecodeError):  # then no line of a list can name it
        return value.as_py()
    return None


def _short(record: bytes | _Long, most: int, what: str, hint: str) -> bytes:
    """A record that is no larger than `most`; else an error."""
    size = record.num_bytes if isinstance(record, _Long) else len(record)
    if size > _LARGEST_DOCUMENT:
        raise _Unreadable(f"{what}expected at most {_LARGEST_DOCUMENT:,} bytes", hint)
    if size > most:
        raise _NoRoom(more_than(most), MORE)
    return b"" if isinstance(record, _Long) else record


# ---- what can be wrong with a record -----------------------------------------------------------------------------

_LEAVE_OUT = "scone count-ngrams leaves such documents out with --on-bad-document skip"


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _Unreadable(
            f"half a surrogate pair (U+{ord(text[error.start]):04X}) "
            f"at character {error.start:,} of the text, expected Unicode text",
            _LEAVE_OUT,
        ) from error


def _not_utf8(error: UnicodeDecodeError) -> _Unreadable:
    return _Unreadable(
        f"not UTF-8 (byte 0x{error.object[error.start]:02x} at offset {error.start:,}), expected UTF-8 text",
        f"convert the file to UTF-8; {_LEAVE_OUT}",
    )


def _no_field(kind: str, text_field: str, found: list[str]) -> tuple[str, str]:
    names = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
    return f"no {kind} '{text_field}', found {names or 'none'}", f"name the {kind} with --text-field"


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
