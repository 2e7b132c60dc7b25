"""`scone status` on real workspaces: what is up to date, why not, how the last runs ended, what to do next."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from messages import error_of, names
from workspaces import TRAIN, copy_of, wait_for_step

from scone_cli.artifacts.publish import unfinished_bytes

STAGES = ("tokens", "counts", "vocab", "model", "table", "eval")
RECIPE = """
[count-ngrams]
corpus = "corpus"
vocab-size = 400
held-out = 0.1
max-n = 4
[select-vocab]
size = {size}
dim = 128
[train-fgram]
dim = 16
heads = 1
layers = 1
fgram-layers = 1
context = 32
batch = 4
steps = {steps}
[train-fgram.plain]
kind = "plain"
"""


@pytest.fixture
def work(small, tmp_path) -> Path:
    work = copy_of(small / "work", tmp_path / "work")
    copy_of(small / "runs", work / ".runs")
    return work


def told(scone, *args: object) -> dict[str, Any]:
    """The facts of `scone status ARGS --json`."""
    code, out, err = scone(*args, "--json")
    assert (code, err) == (0, "")
    facts: dict[str, Any] = json.loads(out)
    return facts


def states(facts: dict[str, Any]) -> dict[str, str]:
    return {each["artifact"]: each["state"] for each in facts["artifacts"]}


def reasons(facts: dict[str, Any]) -> dict[str, list[str]]:
    return {each["artifact"]: each["reasons"] for each in facts["artifacts"] if each["reasons"]}


def run_of(facts: dict[str, Any], stage: str) -> dict[str, Any]:
    (found,) = (run for run in facts["runs"] if run["stage"] == stage)
    return found


# ---- up to date, or why not ---------------------------------------------------------------------------------------


def test_all_is_up_to_date_and_can_be_published(scone, work):
    facts = told(scone, "--workspace", work, "status")
    assert states(facts) == dict.fromkeys([*STAGES, "plain"], "up to date")
    assert facts["up_to_date"]
    assert [each["artifact"] for each in facts["artifacts"]] == [*STAGES, "plain"], "in the order of the stages"
    assert facts["next"] == f"scone --workspace {work} publish --to REGISTRY/NAME"
    for each in facts["artifacts"]:
        made = datetime.fromtimestamp((work / each["artifact"] / "manifest.json").stat().st_mtime, UTC)
        assert each["made"] == f"{made:%Y-%m-%dT%H:%M:%SZ}"
        assert each["bytes"] > 1000
        assert each["made_from"]
    stages = [run["stage"] for run in facts["runs"]]
    assert stages == ["count-ngrams", "select-vocab", "train-fgram", "train-fgram.plain", "precompute", "eval"]
    assert all((run["state"], run["exit_code"]) == ("ended", 0) and run["seconds"] > 0 for run in facts["runs"])
    code, page, _ = scone("status", work)
    assert code == 0
    assert names(page, "up to date", "600 f-grams", "precompute", "not compared", "the corpus", facts["next"])


def test_a_changed_setting_of_the_recipe_is_named(scone, small, work, tmp_path):
    recipe = tmp_path / "r.toml"
    (tmp_path / "corpus").symlink_to(small / "corpus")
    recipe.write_text(RECIPE.format(size=600, steps=6))
    assert told(scone, "--config", recipe, "status", work)["up_to_date"], "the recipe has the settings of the workspace"
    recipe.write_text(RECIPE.format(size=700, steps=7).replace("max-n = 4", "max-n = 3"))
    facts = told(scone, "--config", recipe, "status", work)
    assert reasons(facts) == {
        "counts": ["max-n 4 -> 3"],
        "vocab": ["counts/ is out of date", "size 600 -> 700"],
        "model": ["learned-rows 189 -> 241", "steps 6 -> 7"],  # their default follows from the steps
        "table": ["vocab/ is out of date", "model/ is out of date"],
        "eval": ["model/ is out of date", "table/ is out of date"],
        "plain": ["steps 6 -> 7"],
    }
    assert facts["next"] == f"scone --workspace {work} --config {recipe.name} count-ngrams"
    assert told(scone, "status", work)["up_to_date"], "without a recipe, settings are not compared"


def test_another_input_is_named_and_the_model_is_kept(scone, work):
    scone("--workspace", work, "select-vocab", "--size", "500")
    facts = told(scone, "status", work)
    assert reasons(facts) == {"table": ["made from other vocab/"], "eval": ["table/ is out of date"]}
    (model,) = (each for each in facts["artifacts"] if each["artifact"] == "model")
    assert names(" ".join(model["notes"]), "vocab/", "train-fgram")
    vocab = work / "vocab"
    assert facts["next"] == f"scone --workspace {work} precompute --vocab {vocab}"
    code, _, err = scone("--workspace", work, "precompute", "--vocab", vocab)
    assert code == 0, err
    assert reasons(told(scone, "status", work)) == {"eval": ["made from other table/"]}


def test_what_is_missing_or_damaged_is_told(scone, work):
    shutil.rmtree(work / "counts")
    with (work / "table" / "index.bin").open("ab") as file:
        file.write(b"x")
    facts = told(scone, "status", work)
    assert states(facts) == {
        **dict.fromkeys(STAGES, "out of date"),
        "tokens": "up to date",
        "counts": "missing",
        "model": "up to date",
        "table": "damaged",
        "plain": "up to date",
    }
    assert reasons(facts)["vocab"] == ["counts/ is missing"]
    assert names(reasons(facts)["table"][0], "index.bin")
    assert facts["next"] == f"scone --workspace {work} count-ngrams CORPUS"


def test_the_command_after_a_damaged_manifest_works(scone, work):
    (work / "table" / "manifest.json").write_text("{")
    code, _, err = scone("--workspace", work, "precompute")
    assert code == 65
    error_of(err, "manifest", hint=(f"scone --workspace {work} precompute --force",))
    facts = told(scone, "status", work)
    assert facts["next"] == f"scone --workspace {work} precompute --force"
    assert scone(*shlex.split(facts["next"])[1:])[0] == 0
    assert states(told(scone, "status", work))["table"] == "up to date"


def test_the_next_command_has_a_corpus_where_the_recipe_has_none(scone, work, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[count-ngrams]\nmax-n = 3\n")
    code, out, _ = scone("--config", recipe, "status", work, "--json")
    assert code == 0
    assert json.loads(out)["next"] == f"scone --workspace {work} --config {recipe.name} count-ngrams CORPUS"


def test_an_unknown_folder_is_an_error(scone, tmp_path):
    for path, code in ((tmp_path / "nothing", 66), (tmp_path, 65)):
        ended, out, err = scone("status", path)
        assert (ended, out) == (code, "")
        error_of(err, str(path))


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_that_failed_leaves_its_exit_code_and_no_text(scone, work):
    code, _, _ = scone("--workspace", work, "select-vocab", "--size", "none at all")
    assert code == 2
    run = run_of(told(scone, "status", work), "select-vocab")
    assert (run["state"], run["exit_code"], run["error"]) == ("ended", 2, "BadSetting")
    assert "none at all" not in (work / ".runs" / "select-vocab.json").read_text()
    assert scone("--workspace", work, "select-vocab", "--size", "600")[0] == 0
    assert run_of(told(scone, "status", work), "select-vocab")["exit_code"] == 0, "also if all was up to date"


def test_a_bad_recipe_or_option_is_a_failed_run_but_a_plan_is_none(scone, work, tmp_path):
    (tmp_path / "bad.toml").write_text("[select-vocab]\nsizes = 1\n")
    before = (work / ".runs" / "precompute.json").read_text()
    assert scone("--workspace", work, "--config", tmp_path / "bad.toml", "select-vocab")[0] == 2
    assert scone("--workspace", work, "train-fgram", "--stepps", "7")[0] == 2
    assert scone("--workspace", work, "precompute", "--plan", "--dtype", "float3")[0] == 2
    assert scone("--workspace", work, "precompute", "--help")[0] == 0
    facts = told(scone, "status", work)
    assert [run_of(facts, stage)["exit_code"] for stage in ("select-vocab", "train-fgram", "eval")] == [2, 2, 0]
    assert (work / ".runs" / "precompute.json").read_text() == before
    scone("--workspace", tmp_path / "typo", "--config", tmp_path / "bad.toml", "select-vocab")
    assert not (tmp_path / "typo").exists()


def test_work_that_was_killed_or_goes_on_is_told(scone, work):
    args = ["train-fgram", *TRAIN, "--steps", "4000", "--seed", "1"]
    command = [sys.executable, "-m", "scone_cli", "--workspace", work, *args]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for_step(work, 3)
        process.send_signal(signal.SIGSTOP)
        facts = told(scone, "status", work)
        run = run_of(facts, "train-fgram")
        assert (run["state"], run["pid"], run["exit_code"]) == ("at work", process.pid, 0), "0: of the run before"
        assert facts["next"] is None
        assert names(facts["next_because"], "train-fgram", "at work")
        assert scone("--workspace", work, "train-fgram")[0] == 75
        assert run_of(told(scone, "status", work), "train-fgram") == run, "a second run, which was refused, is none"
        process.kill()
    facts = told(scone, "status", work)
    assert run_of(facts, "train-fgram")["state"] == "did not end"
    (model,) = (each for each in facts["artifacts"] if each["artifact"] == "model")
    assert model["unfinished_bytes"] == facts["unfinished_bytes"] == unfinished_bytes(work / "model") > 10_000
    assert model["unfinished_steps"] % 2 == 0
    assert model["state"] == "up to date"
    _, page, _ = scone("status", work)
    assert names(page, "did not end", f"pid {process.pid}", "unfinished work", "steps done")
    scone("status", work, "--prometheus", work / "x.prom")
    assert metrics(work / "x.prom")["scone_stage_last_exit_code"][of(work, stage="train-fgram")] == -1


def test_a_signal_is_an_exit_code(forks, scone, work):
    args = ("--quiet", "--workspace", work, "precompute", "--dtype", "float32")
    ended = forks.run(*args, moment=15, signum=signal.SIGINT)  # when it has begun, and has not ended
    assert ended.code == 130
    run = run_of(told(scone, "status", work), "precompute")
    assert (run["state"], run["exit_code"], run["error"]) == ("ended", 130, "Stopped")


def test_a_folder_of_records_that_is_in_the_way_fails_no_run(scone, work):
    shutil.rmtree(work / ".runs")
    (work / ".runs").write_text("")
    assert scone("--workspace", work, "select-vocab", "--size", "600")[0] == 0
    assert told(scone, "status", work)["runs"] == []


# ---- a registry ----------------------------------------------------------------------------------------------------


def test_versions_of_a_registry(scone, work, tmp_path):
    name = tmp_path / "reg" / "law"
    assert scone("--workspace", work, "publish", "--to", name)[0] == 0
    facts = told(scone, "status", work)
    assert facts["next"] is None
    assert names(facts["next_because"], "published", str(name))
    assert run_of(facts, "publish")["exit_code"] == 0
    scone("--workspace", work, "eval", "--no-speed", "--fail-if", "table.ppl > 1")
    assert scone("--workspace", work, "publish", "--to", name)[0] == 1
    refused = told(scone, "status", work)
    assert (run_of(refused, "publish")["exit_code"], run_of(refused, "publish")["error"]) == (1, "GateClosed")
    assert names(refused["next_because"], "table.ppl > 1")
    assert refused["next"] is None
    scone("--workspace", work, "eval", "--no-speed")
    assert scone("--workspace", work, "publish", "--to", name)[0] == 0
    facts = told(scone, "status", name)
    assert [version["current"] for version in facts["versions"]] == [False, True]
    newest = facts["versions"][1]
    assert newest["figures"]["corpora"][0]["perplexity"] > 1
    assert (
        newest["made_from"]["fingerprints"]["model"]
        == json.loads((work / "model/manifest.json").read_text())["fingerprint"]
    )
    assert facts["bytes"] == sum(version["bytes"] for version in facts["versions"])
    code, page, _ = scone("status", name)
    assert (code, page.count("current")) == (0, 1)
    assert re.search(rf"current +{newest['version']}", page)
    assert scone("rollback", name)[0] == 0
    assert run_of(told(scone, "status", name), "rollback")["exit_code"] == 0
    (name / "versions" / newest["version"] / "version.json").write_text("{}")
    code, page, _ = scone("status", tmp_path / "reg")
    assert code == 0
    assert names(page, "law", facts["versions"][0]["version"])
    assert names(scone("status", name)[1], newest["version"], "version.json")
    scone("status", tmp_path / "reg", "--prometheus", tmp_path / "reg.prom")
    found = metrics(tmp_path / "reg.prom")
    assert found["scone_versions"] == {(("name", str(name)),): 2}
    assert found["scone_version_current_bytes"] == {(("name", str(name)),): facts["versions"][0]["bytes"]}


# ---- metrics -------------------------------------------------------------------------------------------------------

Labels = tuple[tuple[str, str], ...]
_LABEL = r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
_UNESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)\{{((?:{_LABEL},?)+)\}} (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def of(place: Path, **labels: str) -> Labels:
    return (("workspace", str(place)), *labels.items())


def metrics(path: Path) -> dict[str, dict[Labels, float]]:
    """A strict reader of the text format: help, then type, then at least one sample, and no sample twice."""
    found: dict[str, dict[Labels, float]] = {}
    lines = path.read_text().split("\n")
    assert lines.pop() == "", "the last line ends"
    name, is_typed = "", False
    for line in lines:
        if line.startswith("# HELP "):
            assert not name or found[name], "no sample"
            name, is_typed = line.split()[2], False
            assert name not in found
            found[name] = {}
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {name} gauge"
            is_typed = True
        else:
            sample = _SAMPLE.fullmatch(line)
            assert sample, line
            assert (sample[1], is_typed) == (name, True)
            pairs = re.findall(_LABEL, sample[2])
            labels = tuple((key, re.sub(r"\\.", lambda two: _UNESCAPED[two[0]], value)) for key, value in pairs)
            assert labels not in found[name]
            found[name][labels] = float(sample[5])
    return found


def test_metrics_are_those_of_the_facts(scone, small, tmp_path):
    work = copy_of(small / "work", tmp_path / 'a "quoted"\\\nplace')
    shutil.rmtree(work / ".runs", ignore_errors=True)  # may have records of other tests, of runs that were refused
    copy_of(small / "runs", work / ".runs")
    path = tmp_path / "scone.prom"
    assert scone("status", work, "--prometheus", path) == (0, "", "")
    found, facts = metrics(path), told(scone, "status", work)
    for each in facts["artifacts"]:
        labels = of(work, artifact=each["artifact"])
        assert found["scone_artifact_bytes"][labels] == each["bytes"]
        assert found["scone_artifact_up_to_date"][labels] == 1
        assert found["scone_unfinished_bytes"][labels] == 0
        made = (work / each["artifact"] / "manifest.json").stat().st_mtime
        assert found["scone_artifact_made_timestamp_seconds"][labels] == int(made)
    for run in facts["runs"]:
        labels = of(work, stage=run["stage"])
        assert found["scone_stage_last_exit_code"][labels] == 0
        assert found["scone_stage_last_run_seconds"][labels] == run["seconds"]
        assert found["scone_stage_last_run_timestamp_seconds"][labels] > 1e9
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    found = os.umask(0o022)
    os.umask(found)
    return found


def test_the_file_of_metrics_is_whole_at_any_moment(forks, small, tmp_path):
    path = tmp_path / "scone.prom"
    path.write_text("old\n")
    args = ("status", small / "work", "--prometheus", path)
    moments = forks.run(*args).moments
    assert metrics(path)
    assert moments[-1].startswith("os.rename")
    for moment in range(1, len(moments) + 1):
        path.write_text("old\n")
        assert forks.run(*args, moment=moment).code == -signal.SIGKILL
        assert path.read_text() == "old\n"
    beside = [*tmp_path.glob(".scone.prom.*")]
    assert forks.run(*args, limit=100).code == 74
    assert path.read_text() == "old\n"
    assert [*tmp_path.glob(".scone.prom.*")] == beside, "a full disk is not filled further"
    assert forks.run("status", small / "work", "--prometheus", tmp_path / "nowhere" / "x.prom").code == 74
