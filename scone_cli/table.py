"""The table: one row an f-gram, kept in Parquet files that are also mapped, and the index that finds a row's id.

A `rows-*.parquet` file holds one required fixed-size binary column, uncompressed, PLAIN, in one page of one row group.
Its rows therefore lie contiguous in the file, from `data_page_offset + total_compressed_size - rows * row_bytes` on:
what any Parquet reader opens is also what is served, without a second copy. Row number = f-gram id = frequency rank, so
hot rows lie together and a smaller table is a prefix of a larger one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scone_cli.artifacts import Manifest, check_files, read_manifest, write_parquet
from scone_cli.errors import BadSetting, DamagedArtifact, MismatchedArtifacts
from scone_cli.ngrams import I64, NONE, U32, FgramIndex, Matcher
from scone_cli.schemas import SCHEMA_VERSIONS, table_schema
from scone_cli.table_size import PART_BYTES

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PLACEMENTS = ("mmap", "ram")
_REMAKE = "run: scone precompute --force"

Raw = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Table:
    """A table opened for reading; rows and index stay on disk and are mapped.

    parts: raw rows uint8 [rows_per_part, row_bytes] of each file (the last may be shorter).
    """

    parts: tuple[Raw, ...]
    index: FgramIndex
    dim: int
    dtype: torch.dtype
    manifest: Manifest

    @classmethod
    def open(
        cls, folder: Path, placement: str = "mmap", *, model: Manifest | None = None, hashes: bool = False
    ) -> Table:
        """Open a table in milliseconds, checking sizes, schema, fingerprint and index (every byte if `hashes`).

        `placement` is where its rows are to be read from: "mmap" (the disk, through the page cache) or "ram" (all are
        read now). `model` is the manifest of the model that will read it (None: not checked).

        Raises:
            BadSetting: there is no such placement.
            MismatchedArtifacts: the table was made from another model, or by an earlier version.
            DamagedArtifact: a file is not what the manifest and this module say it is.
            InputMissing, HalfWrittenArtifact, ForeignArtifact, NewerArtifact: see `artifacts.read_manifest`.
        """
        if placement not in PLACEMENTS:
            raise BadSetting(f"placement {placement!r}, expected one of {', '.join(PLACEMENTS)}")
        manifest = read_manifest(folder, "table")
        check_files(folder, manifest, hashes)
        if (
            manifest.schema_version < SCHEMA_VERSIONS["table"]
        ):  # what entered the model then was made of a row, not a row
            raise MismatchedArtifacts(
                f"{folder}: rows in format {manifest.schema_version}, expected format {SCHEMA_VERSIONS['table']}",
                "run: scone train-fgram && scone precompute",
            )
        if model is not None and manifest.inputs["model"] != model.fingerprint:
            raise MismatchedArtifacts(
                f"{folder}: rows of model {manifest.inputs['model'][:12]}, expected those of {model.fingerprint[:12]}",
                "run: scone precompute",
            )
        settings = manifest.settings
        dtype, dim = DTYPES[settings["dtype"]], int(settings["dim"])
        row_bytes = dim * dtype.itemsize
        parts = tuple(map_rows(path, row_bytes) for path in sorted(folder.glob("rows-*.parquet")))
        if placement == "ram":
            parts = tuple(np.array(part) for part in parts)
        slots = _map_array(folder / "index.slots.npy", np.uint64)
        values = _map_array(folder / "index.values.npy", np.uint32)
        rows = sum(len(part) for part in parts)
        if rows != settings["num_fgrams"] or slots.size != values.size or slots.size < rows:
            raise DamagedArtifact(
                f"{folder}: {rows:,} rows and {slots.size:,} index slots, expected {settings['num_fgrams']:,} rows",
                _REMAKE,
            )
        index = FgramIndex(slots, values, settings["num_tokens"], settings["max_n"])
        return cls(parts, index, dim, dtype, manifest)

    @property
    def num_rows(self) -> int:
        """S, the number of f-grams."""
        return sum(len(part) for part in self.parts)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * self.dtype.itemsize

    def matcher(self, streams: int = 1) -> Matcher:
        """A matcher for so many streams of tokens that arrive in pieces, see there."""
        return self.index.matcher(streams)

    def rows(self, ids: U32, out: torch.Tensor | None = None) -> torch.Tensor:
        """The rows of some f-grams [len(ids), D], in the table's dtype or into `out`.

        Where an id is NONE, the row of `out` stays as it is (zero if there is no `out`).
        """
        if out is None:
            out = torch.zeros((len(ids), self.dim), dtype=self.dtype)
        is_row = np.flatnonzero(ids != np.uint32(NONE))
        out[torch.from_numpy(is_row)] = self._gathered(ids[is_row]).to(out.dtype)
        return out

    def _gathered(self, ids: U32) -> torch.Tensor:
        if len(self.parts) == 1:
            raw = self.parts[0].take(ids, axis=0)
        else:
            raw = np.empty((len(ids), self.row_bytes), np.uint8)
            part, row = np.divmod(ids.astype(np.int64), len(self.parts[0]))
            for number in np.unique(part):
                here = part == number
                raw[here] = self.parts[number].take(row[here], axis=0)
        return torch.from_numpy(raw.view(f"u{self.dtype.itemsize}")).view(self.dtype)


# ---- reading and writing the files -------------------------------------------------------------------------------


def write_rows(folder: Path, raw: Raw, part_bytes: int = PART_BYTES) -> None:
    """Write raw rows uint8 [S, row_bytes] (may be mapped) as `rows-*.parquet`, each of at most `part_bytes`."""
    row_bytes = raw.shape[1]
    schema, rows_per_part = table_schema(row_bytes), max(1, part_bytes // row_bytes)
    for number, first in enumerate(range(0, len(raw), rows_per_part)):
        part = np.ascontiguousarray(raw[first : first + rows_per_part])
        array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(row_bytes), len(part), [None, pa.py_buffer(part)])
        write_parquet(
            folder / f"rows-{number:05d}.parquet",
            schema,
            pa.Table.from_arrays([array], schema=schema),
            row_group_size=len(part),
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            data_page_size=part_bytes,
            max_rows_per_page=len(part),
            write_batch_size=len(part),
        )


def map_rows(path: Path, row_bytes: int) -> Raw:
    """Map the rows of one file, without reading them: uint8 [rows, row_bytes].

    Raises:
        DamagedArtifact: the rows do not lie contiguous, or have another width.
    """
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DamagedArtifact(f"{path}: not a Parquet file ({error})", _REMAKE) from error
    column = metadata.row_group(0).column(0) if metadata.num_row_groups == 1 and metadata.num_columns == 1 else None
    rows = metadata.num_rows
    if column is None or column.compression != "UNCOMPRESSED" or column.has_dictionary_page:
        raise DamagedArtifact(f"{path}: expected one plain, uncompressed column in one row group", _REMAKE)
    if (found := metadata.schema.column(0).length) != row_bytes:
        raise DamagedArtifact(f"{path}: rows of {found} bytes, expected rows of {row_bytes}", _REMAKE)
    with path.open("rb") as file:
        file.seek(column.data_page_offset)
        if not file.read(16).startswith(_page_start(rows * row_bytes)):
            raise DamagedArtifact(f"{path}: expected all {rows:,} rows in one page, none of them null", _REMAKE)
    header = column.total_compressed_size - rows * row_bytes
    mapped = np.memmap(path, np.uint8, "r", column.data_page_offset + header, (rows, row_bytes))
    return np.asarray(mapped)


def _page_start(size: int) -> bytes:
    """How a data page of `size` bytes begins in Parquet: (type: 0, uncompressed size, ...) in Thrift's compact form.

    A second page would put its header between the rows, and the footer does not say how many pages there are.
    """
    varint, rest = bytearray(), 2 * size
    while rest > 0x7F:
        varint.append(rest & 0x7F | 0x80)
        rest >>= 7
    return b"\x15\x00\x15" + bytes(varint) + bytes([rest])


def write_index(folder: Path, index: FgramIndex) -> None:
    """Write the index as two plain arrays that can be mapped."""
    np.save(folder / "index.slots.npy", index.slots)
    np.save(folder / "index.values.npy", index.values)


def _map_array(path: Path, dtype: Any) -> Any:
    try:
        array = np.load(path, mmap_mode="c")  # copy on write: private, and to the compiled kernels an ordinary array
    except (OSError, ValueError) as error:
        raise DamagedArtifact(f"{path}: not an array ({error})", _REMAKE) from error
    if array.ndim != 1 or array.dtype != dtype:
        raise DamagedArtifact(
            f"{path}: found {array.dtype}{list(array.shape)}, expected a list of {dtype.__name__}", _REMAKE
        )
    return np.asarray(array)


def token_order_chunks(order: I64, size: int) -> list[I64]:
    """The f-grams in token order, cut into pieces of `size`: neighbours share prefixes, so pieces share few nodes."""
    return [order[first : first + size] for first in range(0, len(order), size)]
