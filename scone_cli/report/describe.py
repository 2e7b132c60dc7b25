"""`scone inspect`: describes an artifact: its stage, settings and files, and its first rows as readable text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.manifest import Manifest, check_files, read_manifest
from scone_cli.artifacts.opening import DAMAGE, to_read
from scone_cli.artifacts.schemas import FILES_FILE
from scone_cli.artifacts.verify import artifact_folders, check_neighbours
from scone_cli.corpus.spelling import Speller, speller_of
from scone_cli.errors import BadSetting, DamagedArtifact, MismatchedArtifacts, SconeError
from scone_cli.progress import Progress
from scone_cli.table.row_formats import FORMATS, decode
from scone_cli.training.summary import read_config, read_tensors, training_record

if TYPE_CHECKING:
    from torch import Tensor

PORTRAYED = ("counts", "vocab")  # the artifacts whose n-grams are shown in figures
_MAIN_FILES = {"vocab": "vocab.parquet"}  # the file whose rows are shown, if it is not the first one
_COUNTED = ("rows", "lines", "counts")  # the tensors of an exported table that have a row for each row, line or f-gram
SHOWN_TOKENS = 24  # per document
SHOWN_VALUES = 6  # per row of the table

Row = dict[str, Any]


def describe(path: Path, rows: int, progress: Progress) -> dict[str, Any]:
    """Describe the artifact or workspace at `path`, with at most `rows` rows of its data, as JSON values.

    Raises:
        InputMissing: `path` does not exist.
        BadData: the artifact is damaged; a subclass says how.
    """
    folders = artifact_folders(path)
    if folders != [path] and path.is_dir():
        return {"artifacts": [_state(folder) for folder in folders]}
    return _describe_artifact(folders[0], path, rows, progress)


def describe_text(path: Path, text: str) -> dict[str, Any]:
    """Cut a text into its matches with the vocabulary at `path`, as JSON values; see `vocab.segment.cut`.

    Raises:
        BadSetting: there is no vocabulary at `path`.
    """
    folder, manifest = _vocabulary(path, "--text")
    from scone_cli.vocab.segment import cut  # noqa: PLC0415 - heavy: it matches text

    return cut(folder, manifest, text)


def describe_terms(path: Path, terms: Path) -> dict[str, Any]:
    """Match the terms in a file with the vocabulary at `path`, as JSON values; see `vocab.terms.match_terms`.

    Raises:
        BadSetting: there is no vocabulary at `path`.
        InputMissing, BadData: see `corpus.terms.read_terms`.
    """
    folder, manifest = _vocabulary(path, "--terms")
    from scone_cli.corpus.terms import read_terms  # noqa: PLC0415 - heavy, and so is what follows
    from scone_cli.vocab.terms import match_terms  # noqa: PLC0415

    return match_terms(folder, manifest, read_terms(terms))


def _vocabulary(path: Path, option: str) -> tuple[Path, Manifest]:
    """The folder and the manifest of the vocabulary at `path`; errors name the `option` that needs it."""
    (folder, *others) = artifact_folders(path)
    if others or path != folder:
        raise BadSetting(
            f"{option}: {path} is not one artifact folder", "name the folder of an f-gram vocabulary: vocab/"
        )
    manifest = read_manifest(folder)
    if manifest.artifact != "vocab":
        raise BadSetting(
            f"{option}: {path} holds '{manifest.artifact}', expected 'vocab'",
            "name the folder of an f-gram vocabulary; scone select-vocab makes one",
        )
    return folder, manifest


def _state(folder: Path) -> Row:
    """One line about an artifact of a workspace; its contents are not read (`scone verify` does that)."""
    row: Row = {
        "folder": folder.name,
        "artifact": None,
        "stage": None,
        "files": None,
        "bytes": None,
        "state": "complete",
    }
    try:
        manifest = read_manifest(folder)
        sizes = [stamp.bytes for stamp in manifest.files.values()]
        row |= {"artifact": manifest.artifact, "stage": manifest.stage, "files": len(sizes), "bytes": sum(sizes)}
        check_files(folder, manifest, hashes=False)
        check_neighbours(folder, manifest)
    except MismatchedArtifacts as error:
        row["state"] = f"out of date: {error.message}"
    except SconeError as error:
        row["state"] = f"unusable: {error.message}"
    return row


def _describe_artifact(folder: Path, path: Path, rows: int, progress: Progress) -> dict[str, Any]:
    manifest = read_manifest(folder)
    check_files(folder, manifest, hashes=False)
    spell, note = speller_of(folder, manifest)
    names = sorted(manifest.files, key=lambda name: (name == FILES_FILE, name))  # the documents first
    tables = [folder / name for name in names if name.endswith(".parquet")]
    main = folder / _MAIN_FILES.get(manifest.artifact, "")
    shown = path if path in tables else main if main in tables else tables[0] if tables else None
    description: dict[str, Any] = {
        "artifact": manifest.artifact,
        "format_version": manifest.schema_version,
        "stage": manifest.stage,
        "code_version": manifest.code_version,
        "fingerprint": manifest.fingerprint,
        "tokenizer": manifest.tokenizer,
        "token_text": note,
        "recipe": manifest.recipe,
        "settings": manifest.settings,
        "inputs": manifest.inputs,
        "summary": manifest.summary,
        "files": [_file(folder, name, stamp.bytes) for name, stamp in manifest.files.items()],
    }
    if manifest.artifact == "model":
        description["config"] = read_config(folder)
    if shown is not None:
        schema = _read(shown, lambda file: file.schema_arrow)
        description["columns"] = [{"column": field.name, "type": str(field.type)} for field in schema]
        description["rows_file"] = shown.name
        which = "last_rows" if shown.name == "log.parquet" else "first_rows"
        description[which] = _read(shown, lambda file: _rows(file, manifest, shown, rows, spell))
    elif manifest.artifact == "exported-table":
        from scone_cli.table.table import Table  # noqa: PLC0415 - heavy: it matches text

        description["rows_file"] = "rows-00000.safetensors"
        with Table.open(folder) as table:
            ids = np.arange(min(rows, table.num_rows), dtype=np.uint32)
            description["first_rows"] = [_embedding(i, row) for i, row in enumerate(table.rows(ids).float())]
    if manifest.artifact in PORTRAYED and path == folder:
        from scone_cli.vocab.summary import portray  # noqa: PLC0415 - heavy: it matches text

        description["portrait"] = portray(folder, manifest, rows, spell, progress)
    elif manifest.artifact == "model" and path == folder:
        description["portrait"] = training_record(folder, description["config"])
    return description


# ---- files -------------------------------------------------------------------------------------------------------


def _file(folder: Path, name: str, size: int) -> Row:
    """Name and size of a file, and the number of its rows (Parquet, exported tables) or parameters (weights)."""
    row: Row = {"file": name, "bytes": size}
    if name.endswith(".parquet"):
        row["rows"] = _read(folder / name, lambda file: file.metadata.num_rows)
    elif name.endswith(".safetensors"):
        tensors = read_tensors(folder / name)
        if of_export := [tensors[key] for key in _COUNTED if key in tensors]:
            row["rows"] = of_export[0].shape[0]
        else:
            row["parameters"] = sum(tensor.parameters for tensor in tensors.values())
    return row


def _read(path: Path, look: Callable[[pq.ParquetFile], Any]) -> Any:
    """Apply `look` to a Parquet file; flipped bits may raise any of pyarrow's errors, which become `DamagedArtifact`."""
    try:
        with pq.ParquetFile(to_read(path)) as file:
            return look(file)
    except DAMAGE as error:
        raise DamagedArtifact(
            f"{path}: cannot be read as Parquet ({error})", f"see: scone verify {path.parent}"
        ) from error


# ---- rows --------------------------------------------------------------------------------------------------------


def _rows(file: pq.ParquetFile, manifest: Manifest, path: Path, count: int, spell: Speller) -> list[Row]:
    if path.name == "log.parquet":
        records: list[Row] = file.read().slice(max(0, file.metadata.num_rows - count)).to_pylist()
        return records
    if manifest.artifact == "table" and path.name.startswith("rows-"):
        return list(_embeddings(file, manifest, path, count))
    return [_readable(record, spell) for record in _first(file, count)]


def _first(file: pq.ParquetFile, count: int) -> list[Row]:
    batches = file.iter_batches(batch_size=max(count, 1))
    rows: list[Row] = next(batches, pa.RecordBatch.from_pylist([], file.schema_arrow)).slice(0, count).to_pylist()
    return rows


def _readable(record: Row, spell: Speller) -> Row:
    """A record with its token ids as text in which blanks, line ends and control characters are visible."""
    row: Row = {}
    for key, value in record.items():
        if not isinstance(value, list):
            row[key] = value
            continue
        if key != "tokens":  # a few numbers, or the places of rows
            texts = (" ".join(map(str, each.values())) if isinstance(each, dict) else str(each) for each in value)
            row[key] = ", ".join(islice(texts, SHOWN_TOKENS)) + _more(value, SHOWN_TOKENS)
            continue
        if len(value) > SHOWN_TOKENS:
            row["num_tokens"] = len(value)
        shown = spell(value[:SHOWN_TOKENS])
        row[key if spell.tokenizer is None else "text"] = shown + _more(value, SHOWN_TOKENS)
    return row


def _more(values: Sized, shown: int) -> str:
    return " …" if len(values) > shown else ""


def _embeddings(file: pq.ParquetFile, manifest: Manifest, path: Path, count: int) -> Iterator[Row]:
    name, dim = str(manifest.settings.get("dtype")), manifest.settings.get("dim")
    found = file.schema.column(0).length
    if name not in FORMATS or not isinstance(dim, int) or FORMATS[name].row_bytes(dim) != found:
        raise DamagedArtifact(
            f"{path}: rows of {found} bytes, the manifest says {dim} numbers in {name}",
            f"see: scone verify {path.parent}",
        )
    before = [
        pq.read_metadata(to_read(each)).num_rows for each in sorted(path.parent.glob("rows-*.parquet")) if each < path
    ]
    raw = np.array([list(record["embedding"]) for record in _first(file, count)], np.uint8).reshape(-1, found)
    for number, row in enumerate(decode(raw, name, dim).float()):
        yield _embedding(sum(before) + number, row)


def _embedding(i: int, row: Tensor) -> Row:
    """A row [D] of a table for people: its width, its norm and its first numbers."""
    values = " ".join(f"{value or 0.0:.4g}" for value in row[:SHOWN_VALUES].tolist())
    return {"id": i, "width": len(row), "norm": row.norm().item(), "values": values + _more(row, SHOWN_VALUES)}
