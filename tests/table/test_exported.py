"""An exported table: its bytes are those of the table, for `Table`, for safetensors, and for a reader of the page alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import namedtuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import slow_matches
from exports import COUNTS, DIM, EVERY, FGRAMS, MAX_N, NUM_ROWS, TEXT, make, make_exported, raw_rows
from messages import refusal
from safetensors.torch import load_file
from workspaces import contents, manifest, write_manifest

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import staging_folder, workspace_lock
from scone_cli.artifacts.verify import verify_artifact
from scone_cli.errors import (
    BadData,
    DamagedArtifact,
    ForeignArtifact,
    MismatchedArtifacts,
    NewerArtifact,
    StorageFailure,
    WorkspaceLocked,
)
from scone_cli.progress import silent
from scone_cli.table import exported
from scone_cli.table.exported import export_table, read_fgrams
from scone_cli.table.row_formats import FORMATS
from scone_cli.table.table import PLACEMENTS, Table
from scone_cli.vocab.index import NONE

PARAMETRIZE_DTYPE = pytest.mark.parametrize("dtype", FORMATS)


# ---- the reader of another author, from docs/table-format.md alone -------------------------------------------------

LEVELS = np.array([-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127], np.float32)


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    data = np.memmap(path, np.uint8, "r")
    size = 8 + int.from_bytes(data[:8].tobytes(), "little")
    found = {}
    entries = json.loads(data[8:size].tobytes())
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        first, end = entry["data_offsets"]
        kind = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "U32": "<u4", "U64": "<u8"}[entry["dtype"]]
        found[name] = data[size + first : size + end].view(kind).reshape(entry["shape"])
    return found


class NumpyReader:
    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "manifest.json").read_text())
        assert (index["artifact"], index["schema_version"]) == ("exported-table", 1)
        assert all((folder / name).stat().st_size == stamp["bytes"] for name, stamp in index["files"].items())
        self.format, self.dim, self.max_n = (index["settings"][name] for name in ("dtype", "dim", "max_n"))
        fgrams = tensors_of(folder / "fgrams.safetensors")
        starts, tokens = fgrams["starts"].tolist(), fgrams["tokens"].tolist()
        self.ids = {tuple(tokens[starts[i] : starts[i + 1]]): i for i in range(len(starts) - 1)}
        self.parts = [tensors_of(path)["rows"] for path in sorted(folder.glob("rows-*.safetensors"))]

    def match(self, text: list[int]) -> list[int]:
        def longest(end: int) -> int:
            found = (self.ids.get(tuple(text[end - n : end])) for n in range(min(self.max_n, end), 1, -1))
            return next((i for i in found if i is not None), 2**32 - 1)

        return [longest(end) for end in range(1, len(text) + 1)]

    def row(self, i: int) -> np.ndarray:
        raw = self.parts[i // len(self.parts[0])][i % len(self.parts[0])]
        if self.format == "bfloat16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        if self.format in ("float32", "float16"):
            return raw.astype(np.float32)
        numbers, scale = raw[:-4], raw[-4:].copy().view("<f4")[0]
        if self.format == "int8":
            return numbers.view(np.int8) * scale
        if self.format == "int4":
            return LEVELS[np.stack([numbers & 15, numbers >> 4], 1).ravel()[: self.dim]] * scale
        exponent, part = (numbers >> 3 & 15).astype(int), (numbers & 7) / 8
        size = np.where(exponent == 0, np.ldexp(part, -6), np.ldexp(1 + part, exponent - 7))
        return np.where(numbers & 128, -size, size).astype(np.float32) * scale


@PARAMETRIZE_DTYPE
def test_a_reader_that_follows_the_page_alone_reads_an_exported_table(tmp_path, dtype):
    reader = NumpyReader(make_exported(tmp_path, dtype))
    with Table.open(tmp_path / "table") as table:
        assert reader.match(TEXT) == table.matcher().match(TEXT).tolist()
        rows = table.rows(EVERY).float().numpy()
    assert all(np.array_equal(reader.row(i), row) for i, row in enumerate(rows))


# ---- the same bytes ----------------------------------------------------------------------------------------------


@PARAMETRIZE_DTYPE
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rows_and_ids_are_those_of_the_table(tmp_path, dtype, placement):
    with Table.open(make(tmp_path, dtype)) as table:
        expected, rows = raw_rows(table), table.rows(EVERY)
    export_table(tmp_path / "table", tmp_path / "exported", silent)
    with Table.open(tmp_path / "exported", placement, hashes=True) as found:
        assert (found.num_rows, found.dim, found.format, found.row_bytes) == (NUM_ROWS, DIM, dtype, expected.shape[1])
        assert np.array_equal(raw_rows(found), expected)
        assert torch.equal(found.rows(EVERY), rows)
        ids = found.matcher().match(TEXT)
        known = {fgram: i for i, fgram in enumerate(FGRAMS)}
        assert ids.tolist() == [known.get(fgram, NONE) for fgram in slow_matches(TEXT, FGRAMS, MAX_N)]
        assert found.prewarm() == (0 if placement == "ram" else found.index.nbytes + expected.nbytes + 128)


@PARAMETRIZE_DTYPE
def test_safetensors_reads_the_same_tensors(tmp_path, dtype):
    folder = make_exported(tmp_path, dtype)
    paths = sorted(folder.glob("rows-*.safetensors"))
    rows = torch.cat([load_file(path)["rows"] for path in paths])
    with Table.open(tmp_path / "table") as table:
        assert len(paths) == 3
        assert rows.dtype == (torch.uint8 if FORMATS[dtype].largest else table.dtype)
        assert np.array_equal(rows.view(torch.uint8).numpy(), raw_rows(table))
        lines = load_file(folder / "index.safetensors")["lines"].numpy()
        assert lines.tobytes() == (tmp_path / "table" / "index.bin").read_bytes()[256:]
    fgrams = load_file(folder / "fgrams.safetensors")
    starts = fgrams["starts"].long().tolist()
    assert [tuple(fgrams["tokens"][a:b].tolist()) for a, b in pairwise(starts)] == FGRAMS
    assert fgrams["counts"].tolist() == COUNTS.tolist()
    for path in folder.glob("*.safetensors"):
        assert int.from_bytes(path.read_bytes()[:8], "little") % 64 == 56


def test_some_fgrams_are_read_alone(tmp_path):
    found = read_fgrams(make_exported(tmp_path) / "fgrams.safetensors", [3, NUM_ROWS - 1])
    assert found == {i: (list(FGRAMS[i]), int(COUNTS[i])) for i in (3, NUM_ROWS - 1)}


def test_two_exports_are_the_same_whatever_is_copied_at_a_time(tmp_path, monkeypatch):
    folder = make_exported(tmp_path)
    first = contents(folder)
    monkeypatch.setattr(exported, "_BUFFER", 100)
    monkeypatch.setattr(exported, "_AT_A_TIME", 7)
    export_table(tmp_path / "table", tmp_path / "again", silent)
    export_table(tmp_path / "table", folder, silent)  # in the place of the first
    assert contents(folder) == contents(tmp_path / "again") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "exported", "table"]


def test_it_is_verified_and_says_what_it_was_made_from(tmp_path):
    made = export_table(make(tmp_path), tmp_path / "exported", silent)
    of_table = manifest(tmp_path / "table")
    assert verify_artifact(tmp_path / "exported", silent) == made
    assert made.settings == of_table["settings"]
    assert made.tokenizer == of_table["tokenizer"]
    assert made.inputs == of_table["inputs"] | {"table": of_table["fingerprint"]}
    export_table(make(tmp_path, "int8"), tmp_path / "exported", silent)  # of another table, in its place
    assert manifest(tmp_path / "exported")["settings"]["dtype"] == "int8"
    make(tmp_path, "int4")
    with refusal(MismatchedArtifacts, "table", hint=("scone export --to safetensors", str(tmp_path / "exported"))):
        verify_artifact(tmp_path / "exported", silent)


def test_progress_counts_the_bytes_of_the_table(tmp_path):
    told = []
    export_table(make(tmp_path), tmp_path / "exported", lambda *args: told.append(args))
    total = sum(stamp["bytes"] for stamp in manifest(tmp_path / "table")["files"].values())
    assert {(what, whole, unit) for what, _, whole, unit, *_ in told} == {("exporting", total, "bytes")}
    assert [done for _, done, *_ in told] == sorted(done for _, done, *_ in told)
    assert (told[0][1], told[-1][1]) == (0, total)


def test_on_another_machine_nothing_is_mapped_and_all_is_the_same(tmp_path, monkeypatch):
    folder = make_exported(tmp_path)
    monkeypatch.setattr("scone_cli.table.table.is_local", lambda _: False)
    with Table.open(folder) as found, Table.open(tmp_path / "table") as table:
        assert np.array_equal(raw_rows(found), raw_rows(table))
        assert found.matcher().match(TEXT).tolist() == table.matcher().match(TEXT).tolist()
        assert str(folder) not in Path("/proc/self/maps").read_text()


# ---- where it comes from ---------------------------------------------------------------------------------------------


def test_rows_of_another_model_or_tokenizer_are_refused(tmp_path):
    folder = make_exported(tmp_path)
    own = manifest(folder)["tokenizer"]
    model = Manifest("model", 1, "train-fgram", 1, "m" * 64, {}, {"vocab": "v" * 64}, own, {})
    assert Table.open(folder, model=model, tokenizer=folder / "tokenizer.json").tokenizer_sha256 == own
    for changed in ({"fingerprint": "n" * 64}, {"tokenizer": "u" * 64}):
        with refusal(MismatchedArtifacts, str(folder)):
            Table.open(folder, model=dataclasses.replace(model, **changed))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BadData):
        Table.open(folder, tokenizer=tmp_path / "other.json")


def test_a_later_version_is_refused(tmp_path):
    folder = make_exported(tmp_path)
    write_manifest(folder, manifest(folder) | {"schema_version": 2})
    with refusal(NewerArtifact, "exported-table", 2, 1):
        Table.open(folder)


# ---- what is not exported, and where to ------------------------------------------------------------------------------


def test_a_damaged_table_is_not_exported(tmp_path):
    folder = make(tmp_path)
    for path in sorted(folder.iterdir()):
        if path.name == "manifest.json":
            continue
        sound = path.read_bytes()
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with refusal(DamagedArtifact, path.name):
            export_table(folder, tmp_path / "exported", silent)
        path.write_bytes(sound)
        assert not (tmp_path / "exported").exists()
    export_table(folder, tmp_path / "exported", silent)


def test_an_export_is_not_exported(tmp_path):
    with refusal(ForeignArtifact, "exported-table"):
        export_table(make_exported(tmp_path), tmp_path / "again", silent)


def test_what_is_no_export_is_not_replaced(tmp_path):
    table = make(tmp_path)
    before = contents(table)
    with refusal(ForeignArtifact, "'table'"):
        export_table(table, table, silent)
    assert contents(table) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with refusal(ForeignArtifact, str(tmp_path / "mine")):
        export_table(table, tmp_path / "mine", silent)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    assert export_table(table, tmp_path / "empty", silent).files.keys() > {"index.safetensors"}


def test_two_exports_do_not_write_to_one_place(tmp_path):
    table = make(tmp_path)
    made = export_table(table, tmp_path / "exported", silent)
    staging = staging_folder(tmp_path / "exported", made.fingerprint)
    with workspace_lock(staging / "work"), pytest.raises(WorkspaceLocked):
        export_table(table, tmp_path / "exported", silent)
    assert export_table(table, tmp_path / "exported", silent) == made


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    table = make(tmp_path)
    usage = namedtuple("usage", "free")  # noqa: PYI024
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))
    with refusal(StorageFailure, 1000, "export"):
        export_table(table, tmp_path / "exported", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
