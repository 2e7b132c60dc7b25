"""The table: one row an f-gram, kept in Parquet files that are also mapped, and the index that finds a row's id.

    table = Table.open(folder, placement="ram")  # or "mmap": the rows stay on the disk
    matcher = table.matcher()                    # one a thread; of one stream, or of many
    ids = matcher.match(tokens)                  # uint32 [N]: the longest f-gram that ends at each token, or NONE
    rows = table.rows(ids)                       # [N, D]; zero where there is none, or as `out` was

A `rows-*.parquet` file holds one required fixed-size binary column, uncompressed, PLAIN, in one page of one row group.
Its rows therefore lie contiguous in the file, from `data_page_offset + total_compressed_size - rows * row_bytes` on:
what any Parquet reader opens is also what is served, without a second copy. Row number = f-gram id = frequency rank, so
hot rows lie together and a smaller table is a prefix of a larger one. `index.bin` is a line of JSON, padded to 256 bytes, and
the lines of the index (see `vocab.index`). Left out: what a row is made of (`model`), and its formats (`row_formats`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import Manifest, check_files, digest_weights, json_of, read_manifest
from scone_cli.artifacts.opening import DAMAGE, to_read
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.errors import BadSetting, DamagedArtifact, ForeignArtifact, MismatchedArtifacts, StorageFailure
from scone_cli.runtime.native_memory import LINE
from scone_cli.table.fetch import Part, RowsInFiles, RowsInMemory, large_pages
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import FORMATS, decode, row_bytes, torch_dtype
from scone_cli.table.sizes import PART_BYTES
from scone_cli.table.stored_file import StoredFile, is_local
from scone_cli.vocab.index import ID, NONE, REMAKE, FgramIndex, as_uint32, fewest_lines
from scone_cli.vocab.matcher import Matcher

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PLACEMENTS = ("mmap", "ram")
_INDEX = "index.bin"
_HEADER_BYTES = 256  # of the index: whole lines of the cache

Raw = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Table:
    """A table opened for reading: S rows of D numbers in one of `row_formats`, and the index of its f-grams."""

    index: FgramIndex
    num_rows: int
    dim: int
    format: str
    manifest: Manifest
    stored: RowsInFiles | RowsInMemory
    plain_type: torch.dtype | None  # of rows that are numbers and nothing else

    @classmethod
    def open(
        cls, folder: Path, placement: str = "mmap", *, model: Manifest | None = None, hashes: bool = False
    ) -> Table:
        """Open a table, checking sizes, schema, fingerprint and index (every byte if `hashes`).

        With `placement` "mmap" that takes milliseconds, and rows are read from the disk when they are asked for, through the page
        cache; with "ram" all of it is read now, into pages as large as the system has them: the fastest, and nothing that
        happens to the disk later matters. `model` is the manifest of the model that will read it (None: not checked).

        Raises:
            BadSetting: there is no such placement.
            MismatchedArtifacts: the table was made from another model, vocabulary or tokenizer, or by an earlier version.
            DamagedArtifact: a file is not what the manifest and this module say it is.
            StorageFailure: a file cannot be read, or does not fit into memory.
            InputMissing, HalfWrittenArtifact, ForeignArtifact, NewerArtifact: see `manifest.read_manifest`.
        """
        if placement not in PLACEMENTS:
            raise BadSetting(f"placement {placement!r}, expected one of {', '.join(PLACEMENTS)}")
        manifest = read_manifest(folder, "table")
        try:
            _check_origin(folder, manifest, model)
            check_files(folder, manifest, hashes)
            settings = {name: manifest.settings[name] for name in ("dtype", "dim", "num_fgrams", "num_tokens", "max_n")}
            width = row_bytes(settings["dtype"], settings["dim"])
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            problem = f"{folder}: a manifest that no table has ({type(error).__name__}: {error})"
            raise ForeignArtifact(problem, REMAKE) from error
        can_be_mapped = is_local(folder)
        index = _read_index(StoredFile(folder / _INDEX, can_be_mapped), settings, placement)
        paths = sorted(folder.glob("rows-*.parquet"))
        parts = [Part(StoredFile(path, can_be_mapped), *locate_rows(path, width)) for path in paths]
        num_rows = sum(part.num_rows for part in parts)
        if num_rows != index.num_fgrams:
            raise DamagedArtifact(f"{folder}: {num_rows:,} rows, expected {index.num_fgrams:,} rows", REMAKE)
        most = max((part.num_rows for part in parts), default=0)
        if any(part.num_rows != most for part in parts[:-1]):  # by its number alone a row's file is found
            raise DamagedArtifact(
                f"{folder}: files that do not all have {most:,} rows, expected of all but the last", REMAKE
            )
        stored = RowsInMemory(parts, width) if placement == "ram" else RowsInFiles(parts, width)
        form = FORMATS[settings["dtype"]]
        plain_type = None if form.largest else torch_dtype(form.name)
        return cls(index, num_rows, settings["dim"], form.name, manifest, stored, plain_type)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return row_bytes(self.format, self.dim)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers that `rows` gives: that of the files, float32 where these have a scale."""
        return self.plain_type or torch.float32

    def matcher(self, streams: int = 1) -> Matcher:
        """A matcher for so many streams of tokens that arrive in pieces, see there."""
        return Matcher(self.index, streams)

    def rows(self, ids: U32, out: torch.Tensor | None = None) -> torch.Tensor:
        """The rows of some f-grams [len(ids), D]; where an id is NONE, zero.

        Into the first of `out` [at least len(ids), D] if it is given, of any type: it is returned, and a row for which there is
        NONE stays as it is. Nothing is converted, and nothing copied twice, if it is contiguous and of the table's own type.

        Raises:
            ValueError: `out` is too small, or on another device; ids that have not one dimension.
            IndexError: an id is none of the table's.
            DamagedArtifact, StorageFailure: see `fetch.RowsInFiles`.
        """
        if ids.size != 1 or ids.dtype is not ID:
            ids = as_uint32(ids, NONE - 1)  # of which no table has a row
        if out is None:
            out = torch.zeros((ids.size, self.dim), dtype=self.dtype)
        shape = out.shape
        if len(shape) != 2 or shape[0] < ids.size or shape[1] != self.dim or not out.is_cpu:
            found = f"{list(shape)} on {out.device}"
            raise ValueError(f"out is {found}, expected at least [{ids.size}, {self.dim}] on the CPU")
        if out.dtype is self.plain_type and out.is_contiguous():
            self.stored.read(ids, out.data_ptr())
        else:
            matched = np.flatnonzero(ids != np.uint32(NONE))
            raw = np.empty((matched.size, self.row_bytes), np.uint8)
            self.stored.read(ids[matched], raw.ctypes.data)
            out[torch.from_numpy(matched)] = decode(raw, self.format, self.dim).to(out.dtype)
        return out


def _check_origin(folder: Path, manifest: Manifest, model: Manifest | None) -> None:
    if manifest.schema_version < SCHEMA_VERSIONS["table"]:
        raise MismatchedArtifacts(
            f"{folder}: a table in format {manifest.schema_version}, expected format {SCHEMA_VERSIONS['table']}", REMAKE
        )
    if model is None:
        return
    for what, found, expected in (
        ("rows of model", manifest.inputs["model"], model.fingerprint),
        ("rows of weights", manifest.inputs["weights"], digest_weights(model)),
        ("rows of vocabulary", manifest.inputs["vocab"], model.inputs["vocab"]),
        ("tokenizer", manifest.tokenizer, model.tokenizer),
    ):
        if found != expected:
            raise MismatchedArtifacts(
                f"{folder}: {what} {found[:12]}, expected {expected[:12]}", "run: scone precompute"
            )


# ---- reading and writing the files -------------------------------------------------------------------------------


def write_rows(folder: Path, raw: Raw, part_bytes: int = PART_BYTES) -> None:
    """Write raw rows uint8 [S, row_bytes] (may be mapped) as `rows-*.parquet`, each of at most `part_bytes`."""
    files = RowFiles(folder, len(raw), raw.shape[1], part_bytes)
    files.create()
    files.write(np.arange(len(raw)), raw)


def locate_rows(path: Path, width: int) -> tuple[int, int]:
    """The first byte of the rows in a file, and their number: they lie contiguous from there on.

    Raises:
        DamagedArtifact: they do not, or have another width.
        StorageFailure: the disk fails.
    """
    try:
        metadata = pq.read_metadata(to_read(path))
        column = metadata.row_group(0).column(0) if metadata.num_row_groups == 1 and metadata.num_columns == 1 else None
        rows = metadata.num_rows
        # Not by its `compression`: asked for a codec that it does not know, a flipped bit, pyarrow ends the process.
        size_differs = column is not None and column.total_compressed_size != column.total_uncompressed_size
        if column is None or size_differs or column.has_dictionary_page:
            raise DamagedArtifact(f"{path}: expected one plain, uncompressed column in one row group", REMAKE)
        if (found := metadata.schema.column(0).length) != width:
            raise DamagedArtifact(f"{path}: rows of {found} bytes, expected rows of {width}", REMAKE)
        page, size = column.data_page_offset, column.total_compressed_size
    except DAMAGE as error:
        if (
            isinstance(error, OSError) and error.errno
        ):  # an OSError without it is pyarrow's way to say that the file is none
            raise StorageFailure(f"{path}: cannot be read ({os.strerror(error.errno)})") from error
        raise DamagedArtifact(f"{path}: not a Parquet file ({error})", REMAKE) from error
    start, end = page + size - rows * width, page + size
    if not 0 < page < start <= end <= path.stat().st_size:
        raise DamagedArtifact(f"{path}: its rows are said to be where the file is not", REMAKE)
    with path.open("rb") as file:
        file.seek(page)
        if not file.read(16).startswith(_page_start(rows * width)):
            raise DamagedArtifact(f"{path}: expected all {rows:,} rows in one page, none of them null", REMAKE)
    return start, rows


def _page_start(size: int) -> bytes:
    """How a data page of `size` bytes begins in Parquet: (type: 0, uncompressed size, ...) in Thrift's compact form.

    A second page would put its header between the rows, and the footer does not say how many pages there are.
    """
    varint, rest = bytearray(), 2 * size
    while rest > 0x7F:
        varint.append(rest & 0x7F | 0x80)
        rest >>= 7
    return b"\x15\x00\x15" + bytes(varint) + bytes([rest])


def write_index(folder: Path, index: FgramIndex, dim: int, dtype: str) -> None:
    """Write the index, and before it what else rows are read by: the manifest, which no hash protects, must say the same."""
    shape = {"dtype": dtype, "dim": dim, "num_fgrams": index.num_fgrams}
    shape |= {"num_tokens": index.num_tokens, "max_n": index.max_n, "num_lines": index.lines.nbytes // LINE}
    with (folder / _INDEX).open("wb") as file:
        file.write(json.dumps(shape).ljust(_HEADER_BYTES - 1).encode() + b"\n")
        index.lines.tofile(file)


def _read_index(file: StoredFile, settings: Mapping[str, Any], placement: str) -> FgramIndex:
    path, header = file.path, np.empty(min(file.size, _HEADER_BYTES), np.uint8)
    file.read_into(header, 0)
    try:
        shape = json_of(header.tobytes())
    except ValueError as error:
        raise DamagedArtifact(f"{path}: not an index ({error})", REMAKE) from error
    num_lines = shape.pop("num_lines", None) if isinstance(shape, dict) else None
    if shape != settings:
        raise DamagedArtifact(f"{path}: the index of {shape}, the manifest says {dict(settings)}", REMAKE)
    if not isinstance(num_lines, int) or num_lines < fewest_lines(shape["num_fgrams"], shape["num_tokens"]):
        raise DamagedArtifact(f"{path}: {num_lines} lines are too few for {shape['num_fgrams']:,} f-grams", REMAKE)
    index_bytes = num_lines * LINE
    if file.size != _HEADER_BYTES + index_bytes:
        raise DamagedArtifact(f"{path}: {file.size:,} bytes, expected {_HEADER_BYTES + index_bytes:,}", REMAKE)
    if placement == "ram":
        lines = large_pages(index_bytes)
        file.read_into(lines, _HEADER_BYTES)
    else:
        lines = file.bytes[_HEADER_BYTES:]
    return FgramIndex(lines.view(np.uint32), shape["num_fgrams"], shape["num_tokens"], shape["max_n"])
