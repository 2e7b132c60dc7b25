"""`scone select-vocab` on a real workspace: the ways of choosing a size, what is left out, and what it tells."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest
from messages import error_of
from workspaces import TRAIN, copy_of, manifest

from scone_cli.table.sizes import table_bytes


@pytest.fixture
def work(small, tmp_path):
    """A workspace to select in."""
    return copy_of(small / "work", tmp_path / "work")


@pytest.fixture
def select(scone, work):
    """Select with some options; returns the findings."""

    def run(*options: object) -> dict[str, object]:
        code, out, err = scone("--quiet", "--workspace", work, "select-vocab", *options, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def refused(scone, work):
    """Select with options that are refused; returns what is said."""

    def run(*options: object) -> str:
        code, out, err = scone("--quiet", "--workspace", work, "select-vocab", *options)
        assert (code, out) == (2, "")
        return err

    return run


def vocab(work):
    return pl.read_parquet(work / "vocab" / "vocab.parquet")


def test_sizes_are_as_people_write_them_and_at_most_all(select, work):
    counted = sum(level["ngrams"] for level in manifest(work / "counts")["summary"]["counts"])
    sizes = [select(*options)["fgrams"] for options in (["--size", "1_100"], ["--size", "0.7k"], ["--size", "1M"], [])]
    assert sizes == [1100, 700, counted, counted]
    assert len(vocab(work)) == counted
    assert select("--size", "1000000")["up_to_date"]  # the default, and 1M


def test_every_way_of_choosing_keeps_a_beginning_of_the_ranking(select, work):
    select("--size", "1M")
    ranking = vocab(work)
    for options in (["--coverage", "0.5"], ["--size", "auto"], ["--budget", "60kB", "--dim", "16"]):
        found = select(*options)
        assert 0 < found["fgrams"] < len(ranking)
        assert vocab(work).equals(ranking.head(found["fgrams"]))


def test_the_coverage_that_was_asked_for(select, work):
    shares = []
    enough = select("--coverage", "0.5")["fgrams"]
    for size in (enough - 1, enough):
        select("--size", size)
        shares += pl.read_parquet(work / "vocab" / "ladder.parquet").filter("chosen")["matched"].to_list()
    assert shares[0] < 0.5 <= shares[1]


def test_a_budget_is_kept_by_the_files_of_the_table(select, work, forks):
    """By the real ones, of a model trained on that vocabulary; one more f-gram would not fit."""
    budget = 60_000
    size = select("--budget", "60kB", "--dim", "16", "--dtype", "float32")["fgrams"]
    for args in (("train-fgram", *TRAIN), ("precompute", "--dtype", "float32")):
        ended = forks.run("--workspace", work, *args)
        assert ended.code == 0, ended.err
    files = [*(work / "table").glob("rows-*"), *(work / "table").glob("index.*")]
    assert budget - 2_000 < sum(path.stat().st_size for path in files) <= budget
    assert table_bytes(size + 1, 16, "float32", num_tokens(work)) > budget


def num_tokens(work):
    return manifest(work / "vocab")["settings"]["num_tokens"]


def test_what_is_left_out(select, work):
    select("--size", "1M", "--min-docs", 30, "--min-count", 40, "--max-n", 3)
    left = vocab(work)
    everything = pl.concat(
        pl.read_parquet(work / "counts" / f"n={n}.parquet", hive_partitioning=False).select("count", "docs")
        for n in (2, 3)
    )
    assert len(left) == len(everything.filter((pl.col("docs") >= 30) & (pl.col("count") >= 40)))
    assert set(left["n"]) == {2, 3}
    assert manifest(work / "vocab")["settings"]["max_n"] == 3


def test_the_ladder_is_told_and_written(select, work):
    found = select("--size", 1500, "--dim", 64, "--dtype", "float32")
    ladder = pl.read_parquet(work / "vocab" / "ladder.parquet")
    told = found["ladder"]
    assert ladder["size"].to_list() == [row["size"] for row in told]
    assert {1000, 1500, 2000} <= set(ladder["size"])
    assert ladder.filter("chosen")["size"].to_list() == [row["size"] for row in told if "chosen" in row] == [1500]
    assert ladder["table_bytes"].to_list() == [
        table_bytes(size, 64, "float32", num_tokens(work)) for size in ladder["size"]
    ]
    assert ladder["fgrams"].to_list() == [[row[f"n={n}"] for n in (2, 3, 4)] for row in told]
    assert ladder["fgrams"].list.sum().to_list() == ladder["size"].to_list()
    chosen = next(row for row in told if "chosen" in row)
    assert chosen["matched"] == found["matched"]
    assert chosen["cutoff_count"] == found["cutoff_count"] == vocab(work)["count"].min()


def test_other_rules_select_other_fgrams(select, work):
    chosen = []
    for rule in ("count", "prediction"):
        select("--size", 500, "--by", rule)
        chosen.append(set(map(tuple, vocab(work)["tokens"].to_list())))
    assert 0 < len(chosen[0] & chosen[1]) < 500


def test_what_is_at_odds(refused):
    for first, second in ((["--size", "5"], ["--budget", "1MB"]), (["--size", "auto"], ["--coverage", "0.5"])):
        error_of(refused(*first, *second), " ".join(first), " ".join(second))
    error_of(refused("--budget", "1MB", "--coverage", "0.5"), "--budget", "--coverage", hint=("SCONE_SELECT_VOCAB_",))


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--size", "0"], ["--size", "'0'", "1"]),
        (["--size", "all"], ["--size", "'all'"]),
        (["--size", "5G"], ["--size", "5G", "4,294,967,296"]),
        (["--budget", "8 gigs"], ["--budget", "'8 gigs'", "bytes"]),
        (["--coverage", "0"], ["--coverage", "0.0", "1"]),
        (["--size", "auto", "--min-gain", "1"], ["--min-gain", "1.0", "0", "1"]),
        (["--dim", "0"], ["--dim", "0", "1"]),
        (["--min-count", "4"], ["--min-count", "4", "5"]),
        (["--min-docs", "0"], ["--min-docs", "0", "1"]),
        (["--min-docs", "61"], ["--min-docs", "61", "counts"]),
        (["--max-n", "5"], ["--max-n", "5", "2", "4"]),
        (["--max-n", "1"], ["--max-n", "1", "2", "4"]),
    ],
)
def test_what_is_refused(refused, options, facts):
    error_of(refused(*options), *facts)


def test_what_can_be_had_is_told(refused):
    """The least size of a table, and the most that all n-grams match."""
    budget, _ = error_of(refused("--budget", "100"), "--budget", "100")
    assert re.search(r"\b17,\d{3}\b", budget)
    coverage, _ = error_of(refused("--coverage", "1"), "--coverage", "n-grams")
    assert re.search(r"\b0\.\d{4}\b", coverage)


@pytest.mark.parametrize(
    "options", [["--size", "300"], ["--coverage", "0.5", "--by", "prediction"], ["--size", "auto"]]
)
def test_block_by_block_the_artifact_is_the_same(select, scone, work, monkeypatch, options):
    found = select(*options)
    files = {path.name: path.read_bytes() for path in (work / "vocab").glob("*.parquet")}
    monkeypatch.setattr("scone_cli.vocab.plan._RANKED", 1 << 40)
    monkeypatch.setattr("scone_cli.vocab.plan._LARGEST_BLOCK", 500)
    again = select(*options, "--memory", "700MiB", "--force")
    assert again["ladder"] == found["ladder"]
    assert {path.name: path.read_bytes() for path in (work / "vocab").glob("*.parquet")} == files
    assert len(files) == 2
    code, _, err = scone("--workspace", work, "select-vocab", *options, "--memory", "700MiB", "--force")
    assert code == 0
    assert "500 in memory at a time" in err
    assert select(*options, "--memory", "800MiB")["up_to_date"]


def test_too_little_memory_is_refused_before_the_work(scone, work, monkeypatch):
    monkeypatch.setattr("scone_cli.vocab.plan._RANKED", 1 << 40)
    for way in ([], ["--plan"]):
        code, out, err = scone("--quiet", "--workspace", work, "select-vocab", "--memory", "100MiB", *way)
        assert (code, out) == (2, "")
        error_of(err, "--memory", "104,857,600", hint=("--memory",))


def test_a_refusal_after_the_ranking_leaves_nothing_behind(scone, work, monkeypatch):
    before = sorted(work.iterdir())
    monkeypatch.setattr("scone_cli.vocab.plan._RANKED", 1 << 40)
    code, _, err = scone("--quiet", "--workspace", work, "select-vocab", "--memory", "700MiB", "--coverage", "1")
    assert code == 2
    error_of(err, "--coverage 1.0", hint=("--coverage",))
    assert sorted(work.iterdir()) == before
