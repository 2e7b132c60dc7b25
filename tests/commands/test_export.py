"""`scone export`: whole or not at all, and every command that reads a table reads what it wrote."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal

import numpy as np
import pytest
from messages import error_of, names
from workspaces import contents, copy_of, manifest

from scone_cli.serving import load_model
from scone_cli.table import Table

TO = ("export", "--to", "safetensors")


@pytest.fixture
def work(small):
    return small / "work"


@pytest.fixture
def exported(scone, work, tmp_path):
    """An export of the small workspace's table, alone in a folder."""
    (tmp_path / "alone").mkdir()
    assert scone("--quiet", "--workspace", work, *TO, tmp_path / "alone" / "table")[0] == 0
    return tmp_path / "alone" / "table"


def test_it_tells_what_it_wrote(scone, work, tmp_path):
    code, out, err = scone("--workspace", work, *TO, tmp_path / "exported", "--json")
    found = json.loads(out)
    assert (code, found.pop("seconds") > 0) == (0, True)
    stamps = manifest(tmp_path / "exported")["files"].values()
    assert found.pop("bytes") == sum(stamp["bytes"] for stamp in stamps)
    table = manifest(work / "table")["summary"]
    shape = {key: table[key] for key in ("rows", "dim", "dtype", "rows_bytes", "index_bytes")}
    assert found == {"schema_version": 1, "to": "safetensors", "out": str(tmp_path / "exported"), **shape}
    assert names(err, "exporting")
    code, out, _ = scone("--quiet", "--workspace", work, *TO, tmp_path / "exported")
    assert code == 0
    assert names(out, str(tmp_path / "exported"), table["rows"], table["dtype"])


@pytest.mark.parametrize(
    "is_there",
    [pytest.param(False, id="nothing before", marks=pytest.mark.long), pytest.param(True, id="an earlier export")],
)
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(forks, work, tmp_path, is_there):
    """Nothing is at DIR until all of it is; an export of another table stays until then."""
    other, target = tmp_path / "other", tmp_path / "to" / "exported"
    (tmp_path / "to").mkdir()
    if is_there:
        workspace = copy_of(work, tmp_path / "work")
        assert (
            forks.run("--workspace", workspace, "precompute", "--dtype", "int8", "--out", tmp_path / "int8").code == 0
        )
        assert forks.run("--workspace", work, *TO, other, "--table", tmp_path / "int8").code == 0

    def run(**options: int):
        shutil.rmtree(target, ignore_errors=True)
        if is_there:
            copy_of(other, target)
        return export(**options)

    def export(**options: int):
        return forks.run("--quiet", "--workspace", work, *TO, target, **options)

    old, moments = contents(other), run().moments
    new = contents(target)
    assert old != new
    assert any("manifest.json" in moment for moment in moments)
    last = len(moments)
    for moment in sorted({*range(1, last, 5), *range(last - 2, last + 1)}):  # the last ones put it in its place
        where = f"killed before {moment} of {len(moments)}: {moments[moment - 1]}"
        assert run(moment=moment).code == -signal.SIGKILL, where
        assert contents(target) in (old, new), where
        again = export()
        assert (again.code, again.err) == (0, ""), where
        assert contents(target) == new, where
        assert [path.name for path in target.parent.iterdir()] == ["exported"], where


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(forks, work, tmp_path):
    ended = forks.run("--quiet", "--workspace", work, *TO, tmp_path / "exported", limit=10_000)
    assert (ended.code, ended.out) == (74, "")
    error_of(ended.err, "no space left", str(tmp_path))
    assert not (tmp_path / "exported").exists()
    assert forks.run("--quiet", "--workspace", work, *TO, tmp_path / "exported").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


# ---- what reads it -----------------------------------------------------------------------------------------------


def test_it_is_verified_and_inspected(scone, work, exported):
    assert scone("--quiet", "--workspace", work, "verify", exported)[0] == 0
    code, out, _ = scone("inspect", exported, "--rows", 3, "--json")
    found = json.loads(out)
    assert (code, found["artifact"]) == (0, "exported-table")
    table = json.loads(scone("inspect", work / "table", "--rows", 3, "--json")[1])
    assert found["first_rows"] == table["first_rows"]
    assert found["settings"] == table["settings"]
    rows = {entry["file"]: entry.get("rows") for entry in found["files"]}
    assert rows["rows-00000.safetensors"] == rows["fgrams.safetensors"] == 600
    path = exported / "rows-00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, out, _ = scone("--quiet", "verify", exported)
    assert code == 65
    assert names(out, "rows-00000.safetensors", "SHA-256", f"scone export --to safetensors {exported}")


def test_it_is_looked_up_without_the_workspace(scone, work, small, exported):
    text = (small / "corpus" / "0.txt").read_text()[:60]
    expected, found = (
        json.loads(scone("--workspace", workspace, "lookup", text, "--json")[1])
        for workspace in (work, exported.parent)
    )
    assert found.pop("table") == str(exported)
    assert expected.pop("table") == str(work / "table")
    assert found == expected


def test_a_model_reads_it_in_the_place_of_its_table(scone, work, small, exported):
    text = (small / "corpus" / "0.txt").read_text()[:20]
    greedy = ("--workspace", work, "generate", "--prompt", text, "--temperature", 0, "--max-tokens", 12, "--json")
    own, found = (json.loads(scone(*greedy, *more)[1])["tokens"] for more in ((), ("--table", exported)))
    assert own == found
    for placement in ("mmap", "ram"):
        model = load_model(work, table=exported, placement=placement)
        with Table.open(work / "table") as table:
            ids = np.arange(len(table))
            assert np.array_equal(model.table.rows(ids).numpy(), table.rows(ids).numpy())


# ---- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "facts"),
    [
        (("out",), 2, ["--to"]),
        (("--to", "gguf", "out"), 2, ["gguf", "hf", "safetensors"]),
        (("--to", "safetensors"), 2, ["DIR"]),
        (("--to", "safetensors", "out", "--model", "model"), 2, ["--model", "--to hf"]),
        (("--to", "safetensors", "out", "--table", "nowhere"), 66, ["nowhere", "table"]),
        (("--to", "safetensors", "out", "--table", "model"), 65, ["model", "'model'", "'table'"]),
        (("--to", "safetensors", "model"), 65, ["model", "'model'"]),
        (("--to", "safetensors", "."), 65, ["manifest.json"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_a_line(scone, work, monkeypatch, args, code, facts):
    monkeypatch.chdir(work)
    before = contents(work)
    found, out, err = scone("--quiet", "--workspace", ".", "export", *args)
    assert (found, out) == (code, "")
    error_of(err, *facts)
    assert contents(work) == before


def test_without_transformers_the_extra_is_named(scone, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else name)
    code, out, err = scone("export", "--to", "hf", "out")
    assert (code, out) == (2, "")
    error_of(err, "transformers", hint=("pip install 'scone-cli[hf]'",))
