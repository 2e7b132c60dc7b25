"""`--plan`: what a stage would do and take, of every stage; and a training that does not fit is refused."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from messages import error_of, names
from workspaces import COUNT, SELECT, TRAIN, contents, manifest

from scone_cli.stages import train_fgram

STAGES = {
    "count-ngrams": (*COUNT,),
    "select-vocab": (*SELECT,),
    "train-fgram": (*TRAIN,),
    "precompute": (),
    "eval": (),
}


@pytest.fixture
def work(small, tmp_path):
    return shutil.copytree(small / "work", tmp_path / "work")


def plan_of(scone, small, work, stage, *args):
    corpus = [small / "corpus"] if stage == "count-ngrams" else []
    code, out, err = scone("--quiet", "--workspace", work, stage, *corpus, *STAGES[stage], *args, "--plan", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_tells_what_there_is_to_do_and_writes_nothing(scone, small, work, stage):
    before = contents(work)
    done, forced = (plan_of(scone, small, work, stage, *force) for force in ((), ("--force",)))
    assert (done["stage"], done["up_to_date"], forced["up_to_date"]) == (stage, True, False)
    assert done["plan"]["memory_bytes"] > 1 << 20
    code, out, _ = scone(
        "--quiet", "--workspace", work, stage, *[small / "corpus"] * (stage == "count-ngrams"), "--plan"
    )
    assert code == 0
    assert out.startswith(f"{stage} -> ")
    assert names(out, "memory")
    assert contents(work) == before


def test_a_plan_of_a_corpus_makes_no_workspace(scone, small, tmp_path):
    found = plan_of(scone, small, tmp_path / "new", "count-ngrams")
    assert not (tmp_path / "new").exists()
    assert not found["up_to_date"]
    tokens = manifest(small / "work" / "tokens")["summary"]["tokens"]
    assert tokens < found["plan"]["tokens_at_most"] < 5 * tokens, "as the run's own estimate, with a margin"
    code, _, err = scone("--workspace", tmp_path / "new", "count-ngrams", "-", "--plan")
    assert code == 2
    error_of(err, "--plan", "standard input")


@pytest.mark.parametrize(
    ("stage", "given", "code", "facts"),
    [
        ("train-fgram", ("--mixture", "zz=1", "--seed", "8"), 2, ("--mixture", "'zz'")),
        ("eval", ("--fail-if", "table.ppl > 1 / 0"), 2, ("--fail-if", "division by zero")),
    ],
)
def test_a_plan_refuses_what_the_run_would_find_later(scone, work, stage, given, code, facts):
    ended, out, err = scone("--quiet", "--workspace", work, stage, *given, "--plan")
    assert (ended, out) == (code, ""), err
    error_of(err, *facts)


def test_a_plan_for_a_workspace_that_can_be_none(scone, small, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "work", "/dev/null"):
        code, out, err = scone("--quiet", "--workspace", place, "count-ngrams", small / "corpus", "--plan")
        assert (code, out) == (74, ""), err
        error_of(err, str(place), "workspace")


def test_a_training_is_as_it_was_planned(scone, small, work):
    plan = plan_of(scone, small, work, "train-fgram", "--seed", "5")["plan"]
    code, out, err = scone("--workspace", work, "train-fgram", *TRAIN, "--seed", "5", "--json")
    assert code == 0, err
    assert names(next(line for line in err.splitlines() if line.startswith("plan: ")), "memory", "disk", "FLOPs")
    made = json.loads(out)
    for name in ("resident_parameters", "training_only_parameters", "learned_rows", "tokens", "steps"):
        assert plan[name] == made[name], name
    disk = sum(path.stat().st_size for path in (work / "model").glob("*.safetensors"))
    assert disk < plan["disk_bytes"]


@pytest.mark.parametrize("how", [(), ("--plan",)])
def test_a_model_that_does_not_fit_is_refused_in_one_sentence_with_the_bytes(scone, work, how):
    before = contents(work)
    code, out, err = scone("--quiet", "--workspace", work, "train-fgram", "--dim", "1000000", "--steps", "1", *how)
    assert code == 2
    (line,) = err.splitlines()
    assert names(line, "TiB", "bytes", "free", "--dim")
    assert bool(out) == bool(how)
    assert contents(work) == before


def test_learned_rows_are_those_that_training_meets(scone, small, work):
    """As many as occur often enough in what is read; the number stands in the manifest."""
    steps, tokens = 6, manifest(work / "tokens")["summary"]
    read, counted = steps * 4 * 32, tokens["tokens"] - tokens["held_out_tokens"]
    rows = manifest(work / "model")["settings"]["learned_rows"]
    counts = pq.read_table(work / "vocab" / "vocab.parquet")["count"].to_pylist()
    assert rows == sum(count * read >= train_fgram.LEAST_MET * counted for count in counts)
    assert 0 < rows < len(counts)
    assert plan_of(scone, small, work, "train-fgram", "--steps", "100000", "--force")["plan"]["learned_rows"] == len(
        counts
    )
    assert plan_of(scone, small, work, "train-fgram", "--learned-rows", "7")["plan"]["learned_rows"] == 7
    assert plan_of(scone, small, work, "train-fgram", "--combine", "replace")["plan"]["learned_rows"] == 0


def test_a_vocabulary_smaller_than_asked_is_told(scone, work):
    counted = sum(row["ngrams"] for row in manifest(work / "counts")["summary"]["counts"])
    code, out, err = scone("--workspace", work, "select-vocab", "--size", "1M", "--json")
    assert code == 0
    assert names(err, counted, 1_000_000, "--min-count")
    found = json.loads(out)
    assert (found["fgrams"], found["fgrams_asked"]) == (counted, 1_000_000)
    assert names(found["notice"], "--min-count")
    assert "notice" not in json.loads(scone("--workspace", work, "select-vocab", "--force", "--json")[1]), (
        "nobody asked"
    )
    assert "notice" not in json.loads(scone("--workspace", work, "select-vocab", "--size", "50", "--json")[1])


def test_verdicts_as_json(scone, work):
    code, out, _ = scone("--quiet", "verify", work, "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (0, True)
    assert {row["artifact"] for row in found["artifacts"]} == {"tokens", "counts", "vocab", "model", "table", "eval"}
    assert all(row["ok"] and row["bytes"] > 0 and row["error"] is None for row in found["artifacts"])
    assert scone("--quiet", "--workspace", work, "verify", "--json")[1] == out, "the workspace, where no PATH is given"
    assert scone("--workspace", work, "inspect")[1] == scone("inspect", work)[1]
    (work / "vocab" / "vocab.parquet").write_bytes(b"spoilt")
    code, out, err = scone("--quiet", "verify", work, "--json")
    found = json.loads(out)
    assert (code, found["ok"]) == (65, False)
    error_of(err, 1)
    (wrong,) = [row for row in found["artifacts"] if not row["ok"]]
    assert wrong["folder"] == str(work / "vocab")
    assert names(wrong["error"], "vocab.parquet")
    assert names(wrong["hint"], "select-vocab")
