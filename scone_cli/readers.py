"""A corpus on disk to documents: plain text (one document a file), JSON Lines and Parquet, each also `.gz` or `.zst`.

Files are read as streams; what is not as it should be is one `BadData` that names file, line and cause. Text is taken
as it is: no line end, NUL or mark is changed. Files are ordered by their content, never by their name, so the same
texts give the same tokens wherever they lie.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from scone_cli.artifacts import digest_file
from scone_cli.errors import BadData, BadSetting, InputMissing, StorageFailure
from scone_cli.progress import Progress, silent

_CHUNK_BYTES = 1 << 16
_PARQUET_ROWS = 256
_LARGEST_DOCUMENT = 1 << 30  # a document is held in memory, several times over while it is encoded


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus; `name` tells it from the others and does not depend on where the corpus lies."""

    path: Path
    name: str
    bytes: int
    sha256: str
    mtime_ns: int  # tells that it has changed since; no part of what it is


@dataclass(frozen=True)
class Document:
    """One text; `name` is the file's, with the line (from 1) or Parquet row (from 0); `num_bytes`: its UTF-8 length."""

    name: str
    text: str
    num_bytes: int


# ---- finding -----------------------------------------------------------------------------------------------------


def find_files(corpora: Sequence[Path], progress: Progress = silent) -> list[SourceFile]:
    """Every file of the corpora (files and folders), hashed, sorted by hash and name.

    Hidden files in folders are left out, links are followed. With several corpora, names begin with the folder's own name.

    Raises:
        InputMissing: a path that does not exist, a link to nothing, or a folder without files.
        BadData: a link that leads back to a folder it lies in.
        BadSetting: two files would have the same name.
        StorageFailure: a file that cannot be read.
    """
    paths: dict[str, Path] = {}
    for corpus in corpora:
        for name, path in _listing(corpus, prefixed=len(corpora) > 1):
            if name in paths:
                raise BadSetting(
                    f"{path} and {paths[name]}: two files that would both be called '{name}'",
                    "give one folder that holds both, or rename one",
                )
            paths[name] = path
    files = []
    for number, (name, path) in enumerate(paths.items()):
        progress("hashing files", number, len(paths), "files")
        with _readable(path):
            found = path.stat()  # before hashing: a change from now on will be seen
            files.append(SourceFile(path, name, found.st_size, digest_file(path), found.st_mtime_ns))
    progress("hashing files", len(paths), len(paths), "files")
    return sorted(files, key=lambda file: (file.sha256, file.name))


def _listing(corpus: Path, prefixed: bool) -> Iterator[tuple[str, Path]]:
    """Name and path of the files of one corpus."""
    if corpus.is_file():
        yield _printable(corpus.name), corpus
        return
    if not corpus.is_dir():
        raise InputMissing(f"{corpus}: no such file or folder", "name files or folders that hold text")
    prefix = f"{corpus.resolve().name}/" if prefixed else ""
    num_files = 0
    with _readable(corpus):
        for folder, subfolders, names in os.walk(corpus, onerror=_raise, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in subfolders:
                _check_no_loop(Path(folder, name), corpus)
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(folder, name)
                if path.is_symlink() and not path.exists():
                    raise InputMissing(
                        f"{path}: a link to {path.readlink()}, which does not exist", "remove it or mend it"
                    )
                if path.is_file():
                    num_files += 1
                    yield _printable(prefix + path.relative_to(corpus).as_posix()), path
    if not num_files:
        raise InputMissing(
            f"{corpus}: a folder without files (hidden ones are not read)", "name a folder that holds text"
        )


def _check_no_loop(subfolder: Path, corpus: Path) -> None:
    """Refuse a link to a folder that is being walked, or to one around it: the walk would never end."""
    if not subfolder.is_symlink():
        return
    target = subfolder.resolve()
    # Each by itself: what was reached through another link lies elsewhere on disk than on the way to it.
    for above in subfolder.relative_to(corpus).parents:
        if (corpus / above).resolve().is_relative_to(target):
            raise BadData(f"{subfolder}: a link to {target}, a folder that it lies in: a loop", "remove it")


def _raise(error: OSError) -> None:
    raise error


def _printable(name: str) -> str:
    """A file name as text; bytes in it that are no UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissing(f"{error.filename or path}: was there a moment ago and is gone") from error
    except OSError as error:
        raise StorageFailure(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error


# ---- reading -----------------------------------------------------------------------------------------------------


def read_documents(file: SourceFile, text_field: str = "text") -> Iterator[Document]:
    """The documents of a file, in order, as a stream; those with empty text are left out.

    Raises:
        BadData: naming the file, the line or row, what was found and what was expected; or the file has changed since
            it was found, so that its hash is not that of the documents.
        StorageFailure: the file cannot be read.
    """
    for document, _ in read_with_position(file, text_field):
        yield document


def read_with_position(file: SourceFile, text_field: str) -> Iterator[tuple[Document, int]]:
    """The documents of a file, each with the bytes of the file (as it lies on disk) that are read so far."""
    lowered = file.path.name.lower()
    compression = next((suffix for suffix in _DECOMPRESSORS if lowered.endswith(suffix)), "")
    parse, unit = _PARSERS.get(Path(lowered.removesuffix(compression)).suffix, (_parse_text, ""))
    with _readable(file.path), file.path.open("rb") as raw:
        content: BinaryIO = raw
        if compression:
            content = io.BufferedReader(_Decompressed(raw, compression, file.path), _CHUNK_BYTES)
        try:
            for number, text in parse(content, file.path, text_field):
                if text:
                    name = f"{file.name}:{number}" if unit else file.name
                    yield Document(name, text, _utf8_length(text, f"{file.path}: {unit} {number}")), raw.tell()
        except BadData:
            _check_unchanged(file, raw)  # then that is the reason: a line that is half written, an archive cut short
            raise
        _check_unchanged(file, raw)


def _check_unchanged(file: SourceFile, raw: BinaryIO) -> None:
    now = os.fstat(raw.fileno())
    if (now.st_size, now.st_mtime_ns) != (file.bytes, file.mtime_ns):
        raise BadData(f"{file.path}: changed while it was being read", "run the command again")


def _utf8_length(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise BadData(
            f"{where}: half a surrogate pair (U+{ord(text[error.start]):04X}) "
            f"at character {error.start:,} of the text, expected Unicode text"
        ) from error


# What a parser gives: number of the line or row, and the text.
_Texts = Iterator[tuple[int, str]]


def _parse_text(content: BinaryIO, path: Path, _: str) -> _Texts:
    data = content.read(_LARGEST_DOCUMENT + 1)
    if len(data) > _LARGEST_DOCUMENT:
        raise BadData(
            f"{path}: one plain text file is one document, expected at most {_LARGEST_DOCUMENT:,} bytes",
            "split it into several files, or into one JSON object a line (.jsonl)",
        )
    yield 1, _utf8(data, str(path))


def _parse_json_lines(content: BinaryIO, path: Path, text_field: str) -> _Texts:
    for number, line in enumerate(content, 1):
        where = f"{path}: line {number}"
        if line.isspace():
            continue
        text = _utf8(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, where)  # some editors write a BOM
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}"
            raise BadData(f"{where}: not JSON ({found}), expected one JSON object a line") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; nested too deep
            raise BadData(f"{where}: JSON that cannot be read ({error})") from error
        if not isinstance(record, dict):
            raise BadData(
                f"{where}: found a JSON {_json_type(record)}, expected an object with the field '{text_field}'"
            )
        if text_field not in record:
            raise _no_field(where, "field", text_field, list(record))
        if not isinstance(record[text_field], str):
            raise BadData(
                f"{where}: field '{text_field}' is a JSON {_json_type(record[text_field])}, expected a string"
            )
        yield number, record[text_field]


def _parse_parquet(content: BinaryIO, path: Path, text_field: str) -> _Texts:
    with contextlib.ExitStack() as stack:
        if not content.seekable():  # Parquet is read from its end
            plain = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(content, plain, 1 << 20)
            content = plain
        with _parquet_errors(path):
            reader = pq.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)  # a buffer: not whole row groups
            schema = reader.schema_arrow
        if text_field not in schema.names:
            raise _no_field(str(path), "column", text_field, schema.names)
        kind = schema.field(text_field).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise BadData(f"{path}: column '{text_field}' is {kind}, expected string")
        row = 0
        batches = reader.iter_batches(_PARQUET_ROWS, columns=[text_field], use_threads=False)
        while (batch := _next_batch(batches, path)) is not None:
            for value in batch.column(0):
                where = f"{path}: row {row}"
                try:
                    text = value.as_py()
                except UnicodeDecodeError as error:  # pyarrow checks no text before
                    raise _not_utf8(where, error) from error
                if text is None:
                    raise BadData(f"{where}: column '{text_field}' is null, expected a string")
                yield row, text
                row += 1


def _next_batch(batches: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch | None:
    with _parquet_errors(path):
        return next(batches, None)


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:  # damaged pages come as OSError
        cause = " ".join(str(error).split())
        raise BadData(
            f"{path}: not a Parquet file, or a damaged one ({cause})", "get or make the file again"
        ) from error


_PARSERS: dict[str, tuple[Callable[[BinaryIO, Path, str], _Texts], str]] = {
    ".jsonl": (_parse_json_lines, "line"),
    ".ndjson": (_parse_json_lines, "line"),
    ".parquet": (_parse_parquet, "row"),
}


def _utf8(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from error


def _not_utf8(where: str, error: UnicodeDecodeError) -> BadData:
    found = f"byte 0x{error.object[error.start]:02x} at offset {error.start:,}"
    return BadData(f"{where}: not UTF-8 ({found}), expected UTF-8 text", "convert the file to UTF-8, or leave it out")


def _no_field(where: str, kind: str, text_field: str, found: list[str]) -> BadData:
    names = ", ".join(map(repr, found[:8])) + (", …" if len(found) > 8 else "")
    return BadData(f"{where}: no {kind} '{text_field}', found {names or 'none'}", f"name the {kind} with --text-field")


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    # The largest window there is: what `zstd --long=31` wrote is not damaged.
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, of all its frames.

    Both libraries' own file objects fall short: zstandard's ends without an error where a truncated frame ends.
    """

    def __init__(self, raw: BinaryIO, compression: str, path: Path) -> None:
        self._raw = raw
        self._compression = compression
        self._path = path
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
                f"{self._path}: truncated, the {self._compression} data ends in the middle "
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
                f"{self._path}: damaged {self._compression} data ({error}) before byte {self._raw.tell():,}",
                "get or make the file again",
            ) from error
        return b"".join(pieces)
