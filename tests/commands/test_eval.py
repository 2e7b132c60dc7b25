"""`scone eval` as a whole, on a small workspace: arms and their names, conditions, what is measured again and what is not."""

import functools
import json
import shlex
import shutil
from pathlib import Path

import click
import pytest
import torch
from messages import error_of, was_made
from result_keys import wrong_keys
from workspaces import TRAIN, copy_of, manifest, timeless

from scone_cli.artifacts import schemas
from scone_cli.console import cli
from scone_cli.console.help_texts import STAGES
from scone_cli.evaluation.result_types import Results

ARMS = ("plain", "live", "table", "none")


@pytest.fixture
def work(small, tmp_path):
    return copy_of(small / "work", tmp_path / "work")


@pytest.fixture
def evaluate(forks, work):
    """Run `scone eval` on it: (exit code, stdout, stderr, results.json)."""

    def run(*args):
        ended = forks.run("--workspace", work, "eval", *args)
        return ended.code, ended.out, ended.err, json.loads((work / "eval" / "results.json").read_text())

    return run


@pytest.fixture(scope="module")
def all_of_it(small, tmp_path_factory, forks):
    """Everything at once: two corpora, a rival, a further table, the ladder; and what was printed."""
    folder = tmp_path_factory.mktemp("all")
    work = copy_of(small / "work", folder / "work")
    for name in ("a", "b"):
        (folder / "wiki" / name).mkdir(parents=True)
        for number in range(3):
            shutil.copy(small / "corpus" / f"{number + 3 * (name == 'b')}.txt", folder / "wiki" / name)
    (folder / "law.jsonl").write_text(json.dumps({"text": "abc def ghij " * 60}) + "\n")
    made = forks.run("--workspace", work, "precompute", "--dtype", "int8", "--out", folder / "int8")
    assert made.code == 0, made.err
    args = ["--against", f"rival={work / 'plain'}", "--table", folder / "int8", "--ladder"]
    args += ["--fail-if", "table.ppl[wiki] > table:int8.ppl[wiki] * 1000"]
    ended = forks.run("--workspace", work, "eval", folder / "wiki", folder / "law.jsonl", *args)
    assert ended.code == 0, ended.err
    return work, ended


def test_every_section_is_there(all_of_it):
    work, ended = all_of_it
    found = json.loads((work / "eval" / "results.json").read_text(), parse_constant=pytest.fail)
    assert found.keys() == Results.__annotations__.keys()
    assert wrong_keys(found) == []
    assert found["schema_version"] == schemas.SCHEMA_VERSIONS["eval"] == 2
    empty = {name for name in found if found[name] in ([], None)}
    assert empty == {"terms", "tasks", "task_differences"}
    assert list(dict.fromkeys(row["arm"] for row in found["results"])) == [
        "rival",
        "live",
        "table",
        "table:int8",
        "none",
    ]
    corpora = list(dict.fromkeys(row["corpus"] for row in found["results"]))
    assert corpora == ["wiki", "wiki/a", "wiki/b", "law.jsonl"]
    assert [row["corpus"] for row in found["method"]["corpora"]] == ["wiki", "law.jsonl"]
    assert found["method"]["corpora"][1]["words"] == 180
    assert {row["against"] for row in found["tail"][0]["differences"]} == {"rival", "none"}
    assert found["method"]["tables"]["table:int8"]["dtype"] == "int8"
    assert found["checks"][0]["holds"] is False
    assert ended.out.rstrip().endswith(found["verdict"])


def test_the_page_and_the_columns_say_the_same(all_of_it):
    work, _ = all_of_it
    found = json.loads((work / "eval" / "results.json").read_text())
    page = (work / "eval" / "report.html").read_text()
    assert page.startswith("<!")
    assert all(arm in page for arm in ("rival", "table:int8"))
    import pyarrow.parquet as pq  # noqa: PLC0415

    assert pq.read_table(work / "eval" / "results.parquet").to_pylist() == found["results"]


def test_the_commands_that_make_it_again_can_be_given(all_of_it, scone):
    work, _ = all_of_it
    commands = json.loads((work / "eval" / "results.json").read_text())["method"]["commands"]
    names = []
    for command in commands:
        program, flag, folder, name, *words = shlex.split(command)
        assert (program, flag, folder) == ("scone", "--workspace", str(work))
        cli.scone.get_command(click.Context(cli.scone), name).make_context(name, words)
        names.append(name)
    assert names == ["count-ngrams", "select-vocab", "train-fgram", "train-fgram", "precompute", "precompute", "eval"]
    assert list(STAGES) == list(dict.fromkeys(names))
    for command in commands[2:4]:  # the same settings: both models are up to date
        code, out, err = scone(*shlex.split(command)[1:], "--plan")
        assert (code, "nothing to do" in out) == (0, True), (command, err)


# ---- what is measured again --------------------------------------------------------------------------------------


def test_equal_runs_are_equal_and_the_second_is_skipped(evaluate, work):
    assert was_made(evaluate("--ladder")[1])
    first = timeless(work / "eval")
    assert not was_made(evaluate("--ladder")[1])
    assert was_made(evaluate("--ladder", "--force")[1])
    assert timeless(work / "eval") == first


def test_conditions_and_prices_judge_what_was_measured(evaluate, work, forks, tmp_path):
    _, _, _, before = evaluate("--against", work / "plain")
    code, out, err, found = evaluate("--against", work / "plain", "--fail-if", "table.ppl > 1")
    assert code == 1
    assert "evaluating" not in err
    value = next(row["value"] for row in found["results"] if (row["arm"], row["metric"]) == ("table", "perplexity"))
    error_of(err, "--fail-if", "'table.ppl > 1'", f"{value:.6g}", "1")
    assert was_made(out)
    assert "table.ppl > 1" in out
    assert [row["holds"] for row in found["checks"]] == [True]
    assert found["results"] == before["results"]
    assert found["speed"] == before["speed"]
    assert "table.ppl > 1" in found["method"]["commands"][-1]
    recipe = tmp_path / "prices.toml"
    recipe.write_text("[prices]\naccelerator-hour = 200.0\n")
    ended = forks.run("--config", recipe, "--workspace", work, "eval", "--against", work / "plain")
    assert (ended.code, "evaluating" in ended.err) == (0, False), ended.err
    assert json.loads((work / "eval" / "results.json").read_text())["payback"]["prices"]["accelerator_hour"] == 200


def test_a_condition_that_holds_fails_every_time(evaluate):
    for made in (True, False):
        code, out, err, _ = evaluate("--fail-if", "none.bpb >= 0", "--fail-if", "table.ppl < 0")
        assert (code, was_made(out)) == (1, made)
        message, _ = error_of(err, "--fail-if", "'none.bpb >= 0'")
        assert "table.ppl < 0" not in message


def test_a_word_is_a_folder_of_the_workspace_and_the_verdict_has_the_commands_to_go_on(forks, work, tmp_path):
    shutil.copytree(work / "table", work / "again")
    recipe = tmp_path / "r.toml"
    recipe.write_text("[eval]\nspeed = false\n")
    ended = forks.run(
        "--config", recipe, "--workspace", work, "eval", "--against", "plain", "--table", "again", "--json"
    )
    assert ended.code == 0, ended.err
    method = json.loads(ended.out)["method"]
    assert {"plain", "table:again"} <= set(method["models"])
    start = ["scone", "--config", str(recipe), "--workspace", str(work)]
    again = ["--against", str(work / "plain"), "--table", str(work / "again"), "--no-speed"]
    assert shlex.split(method["calls"]["train"]) == [*start, "train-fgram"]
    assert shlex.split(method["calls"]["evaluate"]) == [*start, "eval", *again]
    for option, command in (("--against", "train-fgram --kind plain"), ("--table", "precompute")):
        ended = forks.run("--workspace", work, "eval", option, "nope")
        assert ended.code == 66
        error_of(ended.err, "nope", str(work))
        assert f"scone --workspace {work} {command} --out {work / 'nope'}" in ended.err


@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        ("tabel.ppl > 1", ["'tabel'"]),
        ("table.ppl[wiki] > 1", ["table.ppl[wiki]", "'wiki'"]),
        ("import os", ["--fail-if", "import os"]),
    ],
)
def test_a_condition_that_is_not_understood_is_refused_before_any_work(evaluate, condition, facts):
    code, out, err, _ = evaluate("--fail-if", condition, "--ladder")
    assert (code, out) == (2, "")
    error_of(err, *facts)
    assert "evaluating" not in err


def test_a_condition_on_a_folder_that_is_not_there_is_told_when_all_is_safe(evaluate, work):
    for _ in range(2):
        code, out, err, found = evaluate("--fail-if", "table.ppl[held-out/law] > 1")
        assert (code, out) == (2, "")
        error_of(err, "--fail-if", "table.ppl[held-out/law]", "'held-out/law'")
        assert found["checks"] == []
        assert "held-out/law" in found["method"]["commands"][-1]
    assert manifest(work / "eval")["stage_version"] == 6


def test_the_held_out_documents_by_their_name_beside_a_corpus(evaluate, small):
    corpora = ["held-out", small / "corpus" / "1.txt"]
    both = evaluate(*corpora, "--no-speed")[3]
    assert [row["corpus"] for row in both["method"]["corpora"]] == ["held-out", "1.txt"]
    code, out, _, turned = evaluate(*reversed(corpora), "--no-speed")
    assert (code, was_made(out)) == (0, True)  # the first corpus is the one that the verdict is about
    assert [row["corpus"] for row in turned["method"]["corpora"]] == ["1.txt", "held-out"]
    alone = evaluate("--no-speed")[3]
    assert [row for row in both["differences"] if row["corpus"] == "held-out"] == alone["differences"]


# ---- who takes part ----------------------------------------------------------------------------------------------


def test_a_rival_is_named_by_its_folder_its_workspace_or_its_user(evaluate, work, tmp_path):
    shutil.copytree(work / "plain", tmp_path / "other" / "model")
    found = evaluate("--against", tmp_path / "other" / "model", "--against", f"mine={work / 'plain'}", "--no-speed")[3]
    assert list(found["method"]["models"]) == ["other", "mine", "live", "table", "none"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(scone, work, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    code, _, err = scone("--quiet", "--workspace", work, "eval", "--device", device, "--force")
    assert code == 2
    error_of(err, f"--device {device}")


@pytest.mark.parametrize("name", ["table:int8", "a[1]", ""])
def test_a_name_that_would_mean_something_else_is_refused(evaluate, work, name):
    code, _, err, _ = evaluate("--against", f"{name}={work / 'plain'}")
    assert code == 2
    error_of(err, f"'{name}'")


@pytest.mark.parametrize("arguments", [("--against", "{plain}", "--against", "{plain}"), ("--against", "live={plain}")])
def test_two_arms_of_one_name_are_refused(evaluate, work, arguments):
    code, _, err, _ = evaluate(*(each.format(plain=work / "plain") for each in arguments))
    assert code == 2
    error_of(err, hint=("NAME=MODEL_DIR",))


def test_a_table_of_another_model_is_refused(evaluate, forks, work, tmp_path):
    other = copy_of(work, tmp_path / "other")
    for args in (("train-fgram", "--dim", "16", "--heads", "1", "--layers", "1", "--steps", "2"), ("precompute",)):
        ended = forks.run("--workspace", other, *args)
        assert ended.code == 0, ended.err
    code, _, err, _ = evaluate("--table", other / "table")
    assert code == 65
    error_of(err, str(other / "table"), "model")


def test_models_that_may_have_learned_from_what_is_held_out(evaluate, forks, small, work, tmp_path):
    """The same text and tokenizer, and other documents held out: the models know those that are held out here."""
    other = tmp_path / "other"
    counted = (small / "corpus", "--tokenizer", work / "tokens" / "tokenizer.json", "--held-out", "0.3", "--max-n", "2")
    for args in (("count-ngrams", *counted), ("train-fgram", *TRAIN, "--kind", "plain")):
        ended = forks.run("--workspace", other, *args)
        assert ended.code == 0, ended.err
    code, out, err, _ = evaluate("--against", other / "model")
    assert (code, out) == (65, "")
    error_of(err, str(other / "model"), "tokens", hint=("corpus",))
    found = evaluate("--against", other / "model", small / "corpus" / "1.txt", "--no-speed")[3]
    assert "other" in found["method"]["models"]
    # A tokenizer that was given is named by where it lies, not by its hash.
    ended = forks.run("--workspace", other, "eval", "--no-speed")
    assert ended.code == 0, ended.err
    commands = json.loads((other / "eval" / "results.json").read_text())["method"]["commands"]
    assert f"--tokenizer {other / 'tokens' / 'tokenizer.json'} " in commands[0]
    copy_of(other / "tokens", work / "tokens")
    code, out, err, _ = evaluate()
    assert (code, out) == (65, "")
    error_of(err, str(work / "model"), "tokens")


def test_a_plain_model_is_evaluated_alone(forks, work, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(work / "tokens", alone / "tokens")
    shutil.copytree(work / "plain", alone / "model")
    ended = forks.run("--workspace", alone, "eval", "--no-speed")
    assert ended.code == 0, ended.err
    found = json.loads((alone / "eval" / "results.json").read_text())
    assert {row["arm"] for row in found["results"]} == {"none"}
    assert (found["differences"], found["payback"]) == ([], None)
    assert found["verdict"]
    refused = forks.run("--workspace", alone, "eval", "--table", work / "table")
    assert refused.code == 2
    error_of(refused.err, "f-grams", "table")


# ---- the terms of a field, and latencies -------------------------------------------------------------------------


def test_terms_of_a_field_and_conditions_on_latency(evaluate, work, small, tmp_path):
    terms, text = tmp_path / "terms.txt", (small / "corpus" / "1.txt").read_text()
    word = max(set(text.split()), key=text.split().count)
    terms.write_bytes(f"\ufeff{word}\r\n\r\n# none\r\nqzqz\r\n".encode())
    args = ("--against", work / "plain", "--terms", terms, small / "corpus" / "1.txt")
    code, out, err, found = evaluate(*args, "--fail-if", "table.latency_ms > 1e9")
    assert code == 0, err
    everything, first, last = found["terms"]
    assert (everything["term"], first["term"], last["term"]) == (None, word, "qzqz")
    assert first["occurrences"] == text.split().count(word)
    assert last["occurrences"] == 0
    assert everything["losses"].keys() == {"plain", "live", "table", "none"}
    assert word in out
    assert f"--terms {terms}" in found["method"]["commands"][-1]
    assert found["clusters"][0]["by"] == "blocks"  # one document
    assert "this text only" in out
    assert all(row["low"] is not None for row in found["differences"])
    assert next(row for row in found["differences"] if row["against"] == "live")["finding"] in (
        "the same",
        "no difference shown",
    )
    terms.write_text("qzqz\n")
    assert was_made(evaluate(*args, "--no-speed")[1])  # other terms, another evaluation
    code, _, err, _ = evaluate(*args, "--no-speed", "--fail-if", "table.latency_ms > 1")
    assert code == 2
    error_of(err, "table.latency_ms > 1", hint=("--no-speed",))


def test_a_task_that_cannot_be_had_is_refused_before_any_work(scone, work, monkeypatch):
    """One that nobody knows, and one whose data would have to be fetched where nothing answers."""
    tasks = pytest.importorskip("lm_eval.tasks")
    own = Path(tasks.__file__).parent / "piqa"  # one of the harness's 14,000 tasks, all of which take it 20 s to read
    only_piqa = functools.partial(tasks.TaskManager, include_path=str(own), include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", lambda **_: only_piqa())
    monkeypatch.setattr("scone_cli.evaluation.harness._is_reachable", bool)
    monkeypatch.setattr("scone_cli.evaluation.measure.load_arms", lambda *_: pytest.fail("it was begun"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library that fetches would wait for 23 s in all
    for task, how, wanted in (("pica", "--force", 2), ("pica", "--plan", 2), ("piqa", "--force", 66)):
        code, out, err = scone("--workspace", work, "eval", "--tasks", task, how)
        assert (code, out) == (wanted, "")
        error_of(err, task)


def test_options_of_tasks_without_a_task_are_refused(evaluate, tmp_path):
    for args in (("--task-data", tmp_path), ("--limit", "3")):
        code, _, err, _ = evaluate(*args)
        assert code == 2
        error_of(err, args[0], hint=("--tasks",))
