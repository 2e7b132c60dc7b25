"""The whole pipeline, `pipelines/tiny.toml` through the installed command, and what others rely on in its artifacts."""

import hashlib
import json
import math
import re
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from workspaces import contents, installed, manifest, quality

from scone_cli import __version__
from scone_cli.artifacts import schemas
from scone_cli.artifacts.manifest import MADE_BY

FILES = {
    "tokens": {"files.parquet", "part-00000-0000.parquet", "tokenizer.json"},
    "counts": {"n=1.parquet", "n=2.parquet", "n=3.parquet", "n=4.parquet"},
    "vocab": {"vocab.parquet", "ladder.parquet"},
    "model": {
        "config.json",
        "main.safetensors",
        "fgram.safetensors",
        "learned.safetensors",
        "learned-fgrams.parquet",
        "log.jsonl",
        "log.parquet",
    },
    "plain": {"config.json", "main.safetensors", "log.jsonl", "log.parquet"},
    "table": {"rows-00000.parquet", "index.bin", "vocab.parquet", "tokenizer.json"},
    "eval": {"report.html", "results.json", "results.parquet"},
}
MADE_FROM = {
    "tokens": {"corpus"},
    "counts": {"tokens"},
    "vocab": {"tokens", "counts"},
    "model": {"tokens", "vocab", "held-out"},
    "plain": {"tokens", "held-out"},
    "table": {"vocab", "model", "weights"},
    "eval": {"tokens", "model", "weights", "table", "plain", "measured"},
}
TABLES = sorted(f"{folder}/{name}" for folder, names in FILES.items() for name in names if name.endswith(".parquet"))


@pytest.fixture(scope="module")
def work(made) -> Path:
    return made / "work"


# ---- what is in the workspace ------------------------------------------------------------------------------------


def test_folders_and_files_have_their_names(work):
    assert {path.name for path in work.iterdir()} == {*FILES, ".lock", ".runs"}
    for folder, names in FILES.items():
        assert {path.name for path in (work / folder).iterdir()} == names | {"manifest.json"}


def test_every_file_can_be_read_by_whom_the_workspace_can(work):
    modes = {path.stat().st_mode & 0o777 for folder in FILES for path in (work / folder).iterdir()}
    assert modes == {(work / "tokens").stat().st_mode & 0o666}


def names_in(value: object) -> set[str]:
    """Every name in a JSON value, however deep."""
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    return set(value) | names_in(list(value.values())) if isinstance(value, dict) else set()


@pytest.mark.parametrize("folder", FILES)
def test_a_program_can_use_every_name_of_a_summary_as_it_is(work, folder):
    names = names_in(manifest(work / folder)["summary"])
    assert [name for name in names if not re.fullmatch("[a-z][a-z0-9_]*|n=[0-9]", name)] == []


@pytest.mark.parametrize("folder", FILES)
def test_a_manifest_says_what_made_the_artifact_from_what(work, folder):
    found = manifest(work / folder)
    kind = "model" if folder == "plain" else folder
    assert (found["artifact"], found["schema_version"]) == (kind, schemas.SCHEMA_VERSIONS[kind])
    assert found["stage"] in MADE_BY[kind]
    assert found["code_version"] == __version__
    assert set(found["inputs"]) == MADE_FROM[folder]
    for name, fingerprint in found["inputs"].items():
        if name in FILES:
            assert fingerprint == manifest(work / name)["fingerprint"]
    assert found["tokenizer"] == hashlib.sha256((work / "tokens/tokenizer.json").read_bytes()).hexdigest()
    hashes = {name: digest for name, digest in contents(work / folder).items() if name != "manifest.json"}
    assert {name: stamp["sha256"] for name, stamp in found["files"].items()} == hashes
    assert all(stamp["bytes"] == (work / folder / name).stat().st_size for name, stamp in found["files"].items())


def test_the_recipes_settings_are_in_the_manifests(work):
    assert manifest(work / "tokens")["settings"]["held_out"] == 0.05
    limits = {"max_n": 4, "min_count": 4, "min_docs": 1}
    assert manifest(work / "counts")["settings"] == limits | {"exclude_tokens": []}
    assert manifest(work / "vocab")["settings"]["size"] == 4000
    assert manifest(work / "model")["settings"]["fgram_layers"] == 2
    assert manifest(work / "plain")["settings"]["fgram_layers"] == 0


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("tokens/part-00000-0000.parquet", schemas.TOKENS),
        ("tokens/files.parquet", schemas.TOKEN_FILES),
        ("counts/n=1.parquet", schemas.counts_schema(1)),
        ("counts/n=2.parquet", schemas.counts_schema(2)),
        ("counts/n=4.parquet", schemas.counts_schema(4)),
        ("vocab/vocab.parquet", schemas.VOCAB),
        ("vocab/ladder.parquet", schemas.LADDER),
        ("model/log.parquet", schemas.LOG),
        ("table/rows-00000.parquet", schemas.table_schema(2 * 64)),
        ("table/vocab.parquet", schemas.VOCAB),
        ("eval/results.parquet", schemas.RESULTS),
    ],
)
def test_every_table_has_its_schema(work, name, schema):
    assert pq.read_schema(work / name).equals(schema)


def test_the_split_is_train_and_held_out(work):
    splits = pl.read_parquet(work / "tokens/part-*.parquet").group_by("split").len().sort("split").rows()
    assert [name for name, _ in splits] == ["held-out", "train"]
    assert 0.02 < splits[0][1] / (splits[0][1] + splits[1][1]) < 0.1


def test_training_learned_and_looked_at_the_held_out_loss(work):
    for model in ("model", "plain"):
        log = pl.read_parquet(work / model / "log.parquet")
        looks = log.filter(pl.col("held_out_loss").is_not_null())
        assert log["step"].to_list() == list(range(1, 121))
        assert looks["step"].to_list() == [40, 80, 120]
        assert log["loss"].tail(20).mean() < log["loss"][0] - 1
        assert looks["held_out_loss"][2] < looks["held_out_loss"][0]


# ---- the evaluation ----------------------------------------------------------------------------------------------


def test_results_have_the_shape_that_others_read(work):
    found = json.loads((work / "eval/results.json").read_text())
    columns = {"arm", "corpus", "metric", "value", "stderr", "n", "seconds"}
    assert all(set(row) == columns for row in found["results"])
    metrics = ("nats_per_token", "perplexity", "word_perplexity", "bits_per_byte")
    assert set(quality(work)) == {(arm, metric) for arm in ("plain", "live", "table", "none") for metric in metrics}
    assert pq.read_table(work / "eval/results.parquet").to_pylist() == found["results"]


def test_metrics_agree_with_one_another(work):
    found = quality(work)
    held_out = pl.read_parquet(work / "tokens/part-*.parquet").filter(pl.col("split") == "held-out")
    num_tokens, num_bytes = held_out["tokens"].list.len().sum(), held_out["bytes"].sum()
    for arm in ("plain", "live", "table", "none"):
        nats, perplexity, bits = (found[arm, metric] for metric in ("nats_per_token", "perplexity", "bits_per_byte"))
        assert nats["n"] == num_tokens
        assert perplexity["value"] == pytest.approx(math.exp(nats["value"]))
        assert bits["value"] == pytest.approx(nats["value"] * num_tokens / math.log(2) / num_bytes)
        assert 0 < nats["stderr"] < 0.5
        assert 2 < nats["value"] < math.log(1024)  # it learned something, and not by looking at the answer


def test_the_table_stands_for_the_model_that_made_it(work):
    found = quality(work)
    live, table, none = (found[arm, "nats_per_token"]["value"] for arm in ("live", "table", "none"))
    assert abs(live - table) < 1e-3
    assert none - table > 0.01  # without its rows the same model is worse


def test_cost_and_what_is_not_measured_are_reported(work):
    found = json.loads((work / "eval/results.json").read_text())
    cost = {row["arm"]: row for row in found["cost"]}
    assert cost["plain"]["resident_parameters"] == cost["table"]["resident_parameters"]
    assert cost["plain"]["prefill_flops"] == cost["table"]["prefill_flops"] < cost["live"]["prefill_flops"]
    assert cost["plain"]["training_flops"] < cost["table"]["training_flops"]
    assert cost["table"]["offloaded_rows"] == pq.read_metadata(work / "vocab/vocab.parquet").num_rows == 4000
    assert found["lookup"] == found["speed"] == []  # the recipe says so
    assert sum(row["share"] for row in found["match_lengths"]) == pytest.approx(1)
    assert found["payback"]["baseline"]["name"] == "plain"
    assert found["payback"]["verdict"] in found["verdict"]


# ---- looking at artifacts ----------------------------------------------------------------------------------------


def test_verify_finds_everything_in_order(work):
    lines = installed(work, "verify", work).stdout.splitlines()
    assert len(lines) == len(FILES)
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("name", [".", *FILES, *TABLES])
def test_inspect_shows_every_artifact_and_table(scone, work, name):
    code, out, err = scone("inspect", work / name, "--rows", "3")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 5
    code, out, _ = scone("inspect", work / name, "--json")
    assert (code, out.count("\n")) == (0, 1)
    described = json.loads(out)
    assert described["artifacts" if name == "." else "files"]


def test_inspect_shows_text(scone, work):
    _, out, _ = scone("inspect", work / "vocab", "--json")
    shown = json.loads(out)["first_rows"]
    tokens = pl.read_parquet(work / "vocab/vocab.parquet")["tokens"].to_list()
    assert [row["id"] for row in shown] == list(range(10))
    assert all(isinstance(row["text"], str) and "tokens" not in row for row in shown)
    assert len({row["text"] for row in shown}) == len({tuple(row) for row in tokens[:10]}) == 10


@pytest.mark.parametrize("name", TABLES)
def test_polars_and_duckdb_open_every_table(work, name):
    path = work / name
    rows = pq.read_metadata(path).num_rows
    assert rows > 0
    frame = pl.read_parquet(path)
    assert (frame.height, frame.columns) == (rows, pq.read_schema(path).names)
    found = duckdb.sql(f"SELECT * FROM '{path}'")
    assert (len(found.fetchall()), found.columns) == (rows, frame.columns)


def test_the_questions_that_people_ask(work):
    """Each in polars and in DuckDB, over the names as they lie there."""
    top = pl.scan_parquet(work / "vocab/vocab.parquet").group_by("n").agg(pl.len(), pl.sum("count")).sort("n").collect()
    same = duckdb.sql(f"SELECT n, count(*), sum(count) FROM '{work}/vocab/vocab.parquet' GROUP BY n ORDER BY n")
    assert top.rows() == [tuple(map(int, row)) for row in same.fetchall()]
    assert sum(row[1] for row in top.rows()) == 4000

    longest = pl.read_parquet(work / "counts/n=4.parquet").head(1).rows()
    assert [tuple(longest[0][0]), *longest[0][1:]] == [
        tuple(duckdb.sql(f"SELECT tokens FROM '{work}/counts/n=4.parquet' LIMIT 1").fetchall()[0][0]),
        *duckdb.sql(f"SELECT count, docs FROM '{work}/counts/n=4.parquet' LIMIT 1").fetchall()[0],
    ]

    tokens = pl.scan_parquet(work / "tokens/part-*.parquet").select(pl.col("tokens").list.len().sum()).collect().item()
    assert duckdb.sql(f"SELECT sum(len(tokens)) FROM '{work}/tokens/part-*.parquet'").fetchall() == [(tokens,)]

    row = pl.read_parquet(work / "table/rows-*.parquet")["embedding"][7]
    vector = np.frombuffer(row, np.float16)
    raw = duckdb.sql(f"SELECT embedding FROM '{work}/table/rows-*.parquet' LIMIT 1 OFFSET 7").fetchall()[0][0]
    assert vector.shape == (64,)
    assert np.isfinite(vector).all()
    assert raw == row
