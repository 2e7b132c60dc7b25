"""Exporting a table: its rows, index and f-grams as safetensors files, for engines that do not read Parquet.

The bytes of rows and of the index are those of the table; `docs/table-format.md` specifies the folder, and `Table.open`
opens it. Memory does not grow with the table. `vocab.parquet`'s columns `docs` and `parent` are left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from scone_cli.artifacts.manifest import TOKENIZER, Manifest, check_files, fingerprint, read_manifest
from scone_cli.artifacts.opening import to_read, utf8_name
from scone_cli.artifacts.publish import (
    SCRATCH,
    check_replaces_only,
    place_of,
    publish,
    staging_folder,
    unfinished_bytes,
    workspace_lock,
)
from scone_cli.progress import Progress
from scone_cli.runtime.native_memory import LINE
from scone_cli.runtime.resources import check_disk
from scone_cli.table.layout import INDEX, locate_lines, parts_of
from scone_cli.table.stored_file import Piece, StoredFile
from scone_cli.table.table import checked_shape
from scone_cli.table.tensor_files import LINE_TYPE, LINES, ROWS, SUFFIX, header_of, row_type

EXPORT = "exported-table"
FGRAMS = f"fgrams{SUFFIX}"
STARTS, COUNTS, TOKENS = "starts", "counts", "tokens"  # its tensors, in the order of the file
_VOCAB = "vocab.parquet"
_VERSION = 1  # goes up when the same table gives other files
_BUFFER = 8 << 20  # bytes copied at a time
_AT_A_TIME = 1 << 16  # f-grams


def export_table(table: Path, out: Path, progress: Progress) -> Manifest:
    """Write the table in the folder `table` as safetensors files into the folder `out`, whole or not at all.

    An earlier export in `out` is replaced. Every byte of the table is checked. Equal tables give equal files.

    Raises:
        ForeignArtifact: `table` holds another artifact, also an export; `out` holds something that is not an export.
        StorageFailure: too little disk; a file cannot be read.
        WorkspaceLocked: another run exports this table to `out`.
        DamagedArtifact, MismatchedArtifacts, InputMissing, HalfWrittenArtifact, NewerArtifact: see `Table.open`.
    """
    made = read_manifest(table, "table")
    shape, row_bytes = checked_shape(table, made, model=None, hashes=False)
    num_fgrams, of_rows = shape["num_fgrams"], row_type(shape["dtype"], shape["dim"])
    parts = {part.file.path.name: part for part in parts_of(table, made, row_bytes, can_be_mapped=False)}
    index = StoredFile(table / INDEX, can_be_mapped=False)
    begin, num_lines = locate_lines(index, shape)
    check_replaces_only(EXPORT, out)
    mark = fingerprint("export", _VERSION, {}, {"table": made.fingerprint})
    needed = sum(stamp.bytes for stamp in made.files.values()) + num_fgrams * (16 + 4 * shape["max_n"])
    check_disk(place_of(out).parent, needed - unfinished_bytes(out), "the export")
    staging = staging_folder(out, mark)
    with workspace_lock(staging / SCRATCH):
        for source, target in _files(table, made, staging, progress):
            if source.name == _VOCAB:
                _write_fgrams(source, num_fgrams, target)
            elif source.name == INDEX:
                _copy_tensor(Piece(index, begin, num_lines * LINE), LINES, LINE_TYPE, num_lines, target)
            elif source.name == TOKENIZER:
                shutil.copyfile(source, target)
            else:
                part = parts[source.name]
                piece = Piece(part.file, part.start, part.num_rows * row_bytes)
                _copy_tensor(piece, ROWS, of_rows, part.num_rows, target)
        summary = {"rows": num_fgrams, "dim": shape["dim"], "dtype": shape["dtype"]}
        manifest = Manifest.new(
            EXPORT,
            stage="export",
            stage_version=_VERSION,
            fingerprint=mark,
            settings=made.settings,
            inputs=made.inputs | {"table": made.fingerprint},
            tokenizer=made.tokenizer,
            summary=summary | {"rows_bytes": num_fgrams * row_bytes, "index_bytes": num_lines * LINE},
        )
        return publish(staging, out, manifest)


def _files(table: Path, made: Manifest, staging: Path, progress: Progress) -> Iterator[tuple[Path, Path]]:
    """The files of a table, each with the file that is written from it; each is checked just before, while it is read."""
    total, done = sum(stamp.bytes for stamp in made.files.values()), 0
    for name, stamp in made.files.items():
        progress("exporting", done, total, "bytes", name)
        check_files(table, replace(made, files={name: stamp}), hashes=True)
        target = {_VOCAB: FGRAMS, TOKENIZER: TOKENIZER}.get(name, Path(name).stem + SUFFIX)
        yield table / name, staging / target
        done += stamp.bytes
    progress("exporting", total, total, "bytes")


def _copy_tensor(source: Piece, name: str, kind: tuple[str, int], count: int, target: Path) -> None:
    """Write a piece of a file as the one tensor of another file; `kind` is its type and its columns."""
    memory = np.empty(min(source.size, _BUFFER), np.uint8)
    with target.open("wb") as file:
        file.write(header_of({name: (kind[0], [count, kind[1]])}))
        for at in range(0, source.size, _BUFFER):
            buffer = memory[: source.size - at]
            source.file.read_into(buffer, source.start + at)
            file.write(buffer.data)


# ---- the f-grams as tokens ---------------------------------------------------------------------------------------


def _write_fgrams(vocab: Path, num_fgrams: int, target: Path) -> None:
    """Write `fgrams.safetensors`, column by column: the file is in the order of its tensors."""

    def column(name: str) -> Iterator[pa.Array]:
        with pq.ParquetFile(to_read(vocab)) as file:
            for batch in file.iter_batches(_AT_A_TIME, columns=[name]):
                yield batch.column(0)

    num_tokens = sum(int(n.to_numpy().sum(dtype=np.int64)) for n in column("n"))
    types = {STARTS: ("U64", [num_fgrams + 1]), COUNTS: ("U64", [num_fgrams]), TOKENS: ("U32", [num_tokens])}
    with target.open("wb") as file:
        file.write(header_of(types))
        ends = np.zeros(1, np.uint64)
        file.write(ends.data)
        for n in column("n"):
            ends = ends[-1] + np.cumsum(n.to_numpy(), dtype=np.uint64)
            file.write(ends.data)
        for count in column("count"):
            file.write(count.to_numpy().data)
        for tokens in column("tokens"):
            file.write(tokens.flatten().to_numpy().data)


def read_fgrams(path: Path, ids: Iterable[int]) -> Mapping[int, tuple[list[int], int]]:
    """The tokens and the count of some f-grams in `fgrams.safetensors`, by id; only these are read."""
    found = dict[int, tuple[list[int], int]]()
    with utf8_name(path) as name, safe_open(name, "numpy") as file:
        starts, counts, tokens = (file.get_slice(each) for each in (STARTS, COUNTS, TOKENS))
        for i in ids:
            first, end = starts[i : i + 2].tolist()
            found[i] = tokens[first:end].tolist(), int(counts[i : i + 1][0])
    return found
