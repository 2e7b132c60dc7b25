"""Tasks through lm-evaluation-harness: metrics by hand, the same requests for every arm, silence, one error for what is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import tempfile
from pathlib import Path

import pytest
from letters import FOLLOWS, Letters, bigram_model
from messages import names, refusal

from scone_cli.errors import BadData, BadSetting, InputMissing
from scone_cli.evaluation import harness
from scone_cli.evaluation.lm_eval import open_tasks, run_tasks, task_fingerprints
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.scoring import Scorer
from scone_cli.progress import silent

needs_harness = pytest.mark.skipif(
    not importlib.util.find_spec("lm_eval"),
    reason="lm-evaluation-harness is not installed: pip install 'scone-cli[eval]'",
)

ARM = Arm("plain", bigram_model(FOLLOWS))
OTHER = Arm("other", bigram_model([row[::-1] for row in FOLLOWS]))
LETTERS = Letters("abc ")
OUR_TASKS = Path(__file__).parents[2] / "pipelines" / "tasks"


def run(*names: object, arms=(ARM,), progress=silent, letters=LETTERS) -> list[dict]:
    with open_tasks([str(name) for name in names], progress) as tasks:
        return run_tasks(tasks, arms, letters, len(letters.pieces), progress)


def task(folder: Path, docs: list[dict], name: str = "t", **config: object) -> Path:
    """A task of some documents, JSON being YAML."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    settings = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}
    settings |= {"test_split": "test", "target_delimiter": ""}
    (folder / f"{name}.yaml").write_text(json.dumps(settings | config))
    return folder / f"{name}.yaml"


# After a comes b (one half), c (a quarter), a blank (an eighth), a (a sixteenth).
CHOICES = [
    {"x": "a", "ends": ["b", "c"], "right": 0},
    {"x": "a", "ends": ["bb", "c"], "right": 0},  # a half of a sixteenth against a quarter
    {"x": "a", "ends": ["c", "b"], "right": 1},
    {"x": "b", "ends": ["a", "c", "b"], "right": 0},
]
CHOOSE = {"output_type": "multiple_choice", "doc_to_text": "{{x}}", "doc_to_choice": "ends", "doc_to_target": "right"}


@needs_harness
def test_choices_worked_by_hand(tmp_path):
    [acc, norm] = run(task(tmp_path, CHOICES, metadata={"version": 3}, **CHOOSE))
    assert acc == {
        "task": "t",
        "arm": "plain",
        "metric": "acc",
        "value": 0.75,
        "stderr": pytest.approx(math.sqrt(0.75 * 0.25 / 3)),  # of a mean of four, by the spread of the sample
        "n": 4,
        "version": "3",
        "cut": 0,
    }
    # By the letter bb loses too: 2.5 halvings a letter against 2.
    assert (norm["metric"], norm["value"]) == ("acc_norm", 0.75)


@needs_harness
def test_likelihoods_worked_by_hand(tmp_path):
    docs = [{"x": "a", "y": "b"}, {"x": "a", "y": "b c"}, {"x": "a", "y": "c"}]
    metrics = [{"metric": name, "aggregation": kind} for name, kind in (("perplexity", "perplexity"), ("acc", "mean"))]
    path = task(
        tmp_path, docs, output_type="loglikelihood", doc_to_text="{{x}}", doc_to_target="{{y}}", metric_list=metrics
    )
    found = {row["metric"]: row for row in run(path)}
    assert found["perplexity"]["value"] == pytest.approx(2 ** ((1 + 3 + 2) / 3), abs=1e-3)
    assert found["acc"]["value"] == pytest.approx(2 / 3)
    assert found["perplexity"]["stderr"] > 0


@needs_harness
def test_whole_texts_worked_by_hand(tmp_path):
    docs = [{"x": "ab c"}, {"x": "ab c" * 5}]
    found = run(task(tmp_path, docs, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{x}}"))
    values = {row["metric"]: row["value"] for row in found}
    assert values["bits_per_byte"] == pytest.approx((4 + 28) / 24, abs=1e-3)
    assert values["byte_perplexity"] == pytest.approx(2 ** (32 / 24), abs=1e-3)
    assert values["word_perplexity"] == pytest.approx(2 ** (32 / (2 + 6)), abs=0.02)
    assert {row["n"] for row in found} == {2}


@needs_harness
def test_texts_worked_by_hand(tmp_path):
    """The arm writes `b ` and stops at c; of a longer prompt it sees the end."""
    docs = [{"x": "a", "y": "b "}, {"x": "b", "y": "b"}, {"x": "ca" * 20, "y": "b "}]
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    config = {
        "output_type": "generate_until",
        "doc_to_text": "{{x}}",
        "doc_to_target": "{{y}}",
        "metric_list": [metric],
    }
    [row] = run(task(tmp_path, docs, generation_kwargs={"until": ["c"], "max_gen_toks": 5}, **config))
    assert (row["metric"], row["value"], row["n"], row["cut"]) == ("exact_match", pytest.approx(2 / 3), 3, 1)


@needs_harness
def test_every_arm_gets_the_same_requests_with_the_same_examples(tmp_path, monkeypatch):
    asked = []
    answer = Scorer.loglikelihood

    def heard(self, pairs):
        asked.append((self.arm.name, list(pairs)))
        return answer(self, pairs)

    monkeypatch.setattr(Scorer, "loglikelihood", heard)
    docs = [{"x": x, "ends": ["b", "c"], "right": 0} for x in ("a", "b", "c", "aa", "ab", "ac", "ba", "bb")]
    found = run(
        task(tmp_path, docs, num_fewshot=2, fewshot_split="test", fewshot_delimiter=" ", **CHOOSE), arms=(ARM, OTHER)
    )
    assert [name for name, _ in asked] == ["plain", "other"]
    assert asked[0][1] == asked[1][1]
    assert len(asked[0][1]) == 16
    assert all(context.count(" ") == 2 for context, _ in asked[0][1])
    assert found[0]["value"] != found[2]["value"]


@needs_harness
def test_a_folder_of_tasks_is_told_task_by_task(tmp_path):
    task(tmp_path, CHOICES, "one", **CHOOSE)
    task(tmp_path, CHOICES[:1], "two", **CHOOSE)
    told = []
    found = run(tmp_path, arms=(ARM, OTHER), progress=lambda *args: told.append(args))
    assert [(row["task"], row["arm"], row["n"]) for row in found if row["metric"] == "acc"] == [
        ("one", "plain", 4),
        ("one", "other", 4),
        ("two", "plain", 1),
        ("two", "other", 1),
    ]
    assert [row["stderr"] for row in found[4:]] == [None] * 4  # of one document
    assert ("task one, plain", 9, 9, "windows", "") in told
    assert ("reading tasks", 2, 2, "tasks", "") in told


@needs_harness
def test_tasks_and_groups_by_the_names_that_the_harness_knows(tmp_path, monkeypatch):
    """As if it had come with these: the metrics of a task are those of its file, those of a group are means."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    expected = run(task(tmp_path, CHOICES, "one", **CHOOSE))
    task(tmp_path, CHOICES[:2], "two", **CHOOSE)
    group = {
        "group": "both",
        "task": ["one", "two"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}],
    }
    (tmp_path / "both.yaml").write_text(json.dumps(group))
    monkeypatch.setattr(harness, "_is_reachable", bool)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    ours = TaskManager(include_path=tmp_path, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: ours)
    monkeypatch.chdir(tmp_path)  # there the harness looks for data
    assert [row | {"version": "0"} for row in run("one")] == expected
    found = {row["task"]: row for row in run("both", arms=(OTHER,)) if row["metric"] == "acc"}
    assert sorted(found) == ["both", "one", "two"]
    assert found["both"]["value"] == pytest.approx((found["one"]["value"] + found["two"]["value"]) / 2)
    assert [found[name]["n"] for name in ("both", "one", "two")] == [None, 4, 2]


@needs_harness
def test_what_is_cut_is_told(tmp_path):
    told = []
    docs = [*CHOICES, {"x": "ab" * 9, "ends": ["b", "c"], "right": 0}]
    found = run(task(tmp_path, docs, **CHOOSE), progress=lambda *args: told.append(args))
    assert {row["cut"] for row in found} == {2}
    assert told[-1][:4] == ("task t", 0, 0, "")
    assert names(told[-1][4], 2, "left")


@needs_harness
def test_nothing_is_written_but_what_we_say(tmp_path, capfd, monkeypatch):
    """To no stream, into no folder; settings of the process are as they were."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    for folder in (home, temporary):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = dict(os.environ)
    run(task(tmp_path, CHOICES, **CHOOSE), progress=lambda *_: os.write(2, b"."))
    out, err = capfd.readouterr()
    assert (out, set(err)) == ("", {"."})
    assert (list(home.iterdir()), list(temporary.iterdir())) == ([], [])
    assert dict(os.environ) == before


@needs_harness
def test_our_own_tasks_are_tasks(monkeypatch):
    """Every sentence of ours, by an arm that knows its letters; what is asked for is a word, with the blank before it."""
    asked = []
    answer = Scorer.loglikelihood
    monkeypatch.setattr(Scorer, "loglikelihood", lambda self, pairs: asked.extend(pairs) or answer(self, pairs))
    text = "".join(path.read_text() for path in OUR_TASKS.glob("*.jsonl"))
    letters = "".join(sorted({*text}))
    model = bigram_model([[1 / (len(letters) + 1)] * (len(letters) + 1)] * (len(letters) + 1), context=16)
    found = run(OUR_TASKS, arms=[Arm("even", model)], letters=Letters(letters))
    assert [(row["task"], row["metric"], row["n"]) for row in found] == [
        ("last_word", "perplexity", 16),
        ("last_word", "acc", 16),
        ("set_phrases", "acc", 20),
        ("set_phrases", "acc_norm", 20),
    ]
    assert found[0]["cut"] == 16
    assert len(asked) == 16 + 80
    assert all(context[-1] != " " and continuation[0] == " " for context, continuation in asked)
    for line in (OUR_TASKS / "set_phrases.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert len(set(row["endings"])) == 4 > row["right"]


# ---- what is wrong -----------------------------------------------------------------------------------------------


def test_without_the_harness(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    for asked in (lambda: run(OUR_TASKS), lambda: task_fingerprints([str(OUR_TASKS)])):
        with refusal(BadSetting, "lm-evaluation-harness", hint=("pip install 'scone-cli[eval]'",)):
            asked()


@needs_harness
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"output_type": "guessing"}, "guessing"),
        ({"test_split": "nowhere"}, "nowhere"),
        ({"metric_list": [{"metric": "beauty"}]}, "beauty"),
        ({"nonsense": 1}, "nonsense"),
        ({"doc_to_choice": "{{missing}}"}, "missing"),
        ({"doc_to_target": "{{1 / 0}}"}, "ZeroDivisionError"),
    ],
    ids=str,
)
def test_a_task_that_the_harness_refuses(tmp_path, config, said):
    path = task(tmp_path, CHOICES, **CHOOSE | config)
    with refusal(BadData, "lm-evaluation-harness") as raised:
        run(path)
    assert said in raised.value.message
    assert str(path) in raised.value.message or "task t" in raised.value.message


@needs_harness
def test_a_number_is_text_and_a_list_is_none(tmp_path):
    config = {"output_type": "loglikelihood", "doc_to_text": "{{x}}", "doc_to_target": "{{y}}"}
    digits = Letters("abc12")
    arm = Arm("plain", bigram_model([[1 / 6] * 6] * 6))
    path = str(task(tmp_path, [{"x": "a", "y": "12"}, {"x": "b", "y": "1"}], metric_list=[{"metric": "acc"}], **config))
    assert run(path, arms=[arm], letters=digits)[0]["n"] == 2
    config["doc_to_target"] = "z"
    path = str(task(tmp_path, [{"x": "a", "z": ["a", "b"]}], metric_list=[{"metric": "acc"}], **config))
    with refusal(BadData, "text"):
        run(path, arms=[arm], letters=digits)


@needs_harness
def test_two_tasks_of_one_name(tmp_path):
    one = task(tmp_path, CHOICES, **CHOOSE)
    (tmp_path / "more").mkdir()
    other = task(tmp_path / "more", CHOICES, **CHOOSE)
    assert len(run(one, one, str(one.parent / "more" / ".." / "t.yaml"))) == 2
    with refusal(BadSetting, str(other), str(one), "'t'"):
        run(one, other)
    with refusal(BadSetting, "lm-evaluation-harness", "'t'"):
        task_fingerprints(["t", str(one)])


@needs_harness
def test_data_that_are_no_data(tmp_path):
    path = task(tmp_path, CHOICES, **CHOOSE)
    (tmp_path / "t.jsonl").write_text('{"x": "a"\nnonsense\n')
    with refusal(BadData, "t.yaml", "lm-evaluation-harness", "position 10"):
        run(path)
    (tmp_path / "t.jsonl").unlink()
    with refusal(InputMissing, "t.yaml", "t.jsonl"):
        run(path)


@needs_harness
def test_data_that_would_have_to_be_fetched(tmp_path):
    """Offline, as local tasks are run: the harness is not left to try."""
    path = task(tmp_path, CHOICES, **CHOOSE | {"dataset_path": "someone/something", "dataset_kwargs": {}})
    with refusal(InputMissing, "t.yaml", "data", hint=("network",)):
        run(path)


def test_nothing_is_fetched_where_nothing_answers(monkeypatch):
    asked = []

    def refused(address, timeout):
        asked.append((address, timeout <= 5))
        raise OSError

    monkeypatch.setattr("socket.create_connection", refused)
    monkeypatch.setattr(harness, "getproxies", dict)
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not harness._is_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example:8000/hub")
    assert not harness._is_reachable()
    assert asked == [(("huggingface.co", 443), True), (("mirror.example", 8000), True)]
    with harness.kept_quiet(None, silent):
        assert (os.environ["HF_HUB_OFFLINE"], "HF_HOME" in os.environ) == ("1", False)
    monkeypatch.setattr(harness, "getproxies", lambda: {"https": "proxy"})
    with harness.kept_quiet(None, silent):
        assert "HF_HUB_OFFLINE" not in os.environ


@needs_harness
def test_a_name_that_nobody_knows(monkeypatch):
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    monkeypatch.setattr(harness, "_is_reachable", bool)
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", lambda **_: TaskManager(include_path=OUR_TASKS, include_defaults=False)
    )
    with refusal(BadSetting, "set_phrase", "lm-evaluation-harness", "set_phrases"):
        run("set_phrase")
    with refusal(BadSetting, "zzz", "lm-evaluation-harness"):
        run("zzz")


@needs_harness
def test_a_mistake_of_ours_is_not_called_the_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr("scone_cli.evaluation.scoring.judge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(task(tmp_path, CHOICES, **CHOOSE))


@needs_harness
def test_fingerprints_are_those_of_all_files(tmp_path):
    path = task(tmp_path, CHOICES, **CHOOSE)
    found = task_fingerprints([str(path), "lambada_openai"])
    assert sorted(found) == ["lm-eval", "task t: t.jsonl", "task t: t.yaml"]
    assert all(len(found[name]) == 64 for name in found if name != "lm-eval")
    (tmp_path / "t.jsonl").write_text("{}\n")
    changed = task_fingerprints([str(path)])
    assert {name for name in changed if changed[name] != found[name]} == {"task t: t.jsonl"}
    assert task_fingerprints([]) == {"lm-eval": found["lm-eval"]}
