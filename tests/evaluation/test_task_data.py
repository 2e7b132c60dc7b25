"""Local copies of public tasks in every shape that they are published in; the items here are our own."""

from __future__ import annotations

import importlib.util
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from letters import FOLLOWS, Letters, bigram_model
from messages import refusal

from scone_cli.errors import BadData, BadSetting, InputMissing
from scone_cli.evaluation.lm_eval import TaskOptions, open_tasks, run_tasks, task_fingerprints
from scone_cli.evaluation.lm_eval_tasks import find_tasks, ready_task
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.task_answers import Answers
from scone_cli.evaluation.task_data import TASK_DATA, read_items
from scone_cli.progress import silent
from scone_cli.settings import shipped

PIQA = [{"goal": f"a{i}", "sol1": "b", "sol2": "c"} for i in range(3)]
_CHOICES = [{"text": "b", "label": "1"}, {"text": "c", "label": "2"}]
ARC = [{"id": "x", "question": {"stem": "a", "choices": _CHOICES}, "answerKey": key} for key in "12"]
FLAT_ARC = [
    {"id": "x", "question": "a", "choices": {"text": ["b", "c"], "label": ["1", "2"]}, "answerKey": key} for key in "12"
]
SWAG = [
    {
        "ind": 4,
        "activity_label": "A",
        "ctx_a": "b [x] c.",
        "ctx_b": "ab",
        "ctx": "",
        "endings": ["a [title] b", "c", "b", "a"],
    }
    | {"label": label}
    for label in (0, 3)
]
LAMBADA = [{"text": "a b c"}, {"text": "c b"}]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def columns(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def labelled(rows, labels, as_text=False):
    return [row | {"label": str(label) if as_text else label} for row, label in zip(rows, labels, strict=True)]


def authors(folder):
    """As the authors of each publish it, all in one folder, with the other splits beside."""
    lines(folder / "physicaliqa" / "dev.jsonl", PIQA)
    (folder / "physicaliqa" / "dev-labels.lst").write_text("0\n1\n0\n")
    lines(folder / "physicaliqa" / "train.jsonl", PIQA * 2)
    for part in ("Easy", "Challenge"):
        for split in ("Train", "Dev", "Test"):
            lines(folder / "ARC-V1" / f"ARC-{part}" / f"ARC-{part}-{split}.jsonl", ARC)
    lines(folder / "hellaswag_val.jsonl", SWAG)
    lines(folder / "hellaswag_train.jsonl", SWAG)
    (folder / "lambada_test_plain_text.txt").write_text("a b c\nc b\n")


def hugging_face(folder):
    """As a snapshot of the hub has it."""
    shard = "00000-of-00001.parquet"
    columns(folder / "piqa" / "plain_text" / f"validation-{shard}", labelled(PIQA, [0, 1, 0]))
    columns(folder / "piqa" / "plain_text" / f"test-{shard}", labelled(PIQA, [-1, -1, -1]))
    for part in ("Easy", "Challenge"):
        for split in ("train", "validation", "test"):
            columns(folder / "ai2_arc" / f"ARC-{part}" / f"{split}-{shard}", FLAT_ARC)
    columns(folder / "hellaswag" / "data" / f"validation-{shard}", labelled(SWAG, [0, 3], as_text=True))
    lines(folder / "lambada_openai" / "data" / "lambada_test_en.jsonl", LAMBADA)
    lines(folder / "lambada_openai" / "data" / "lambada_test_de.jsonl", [{"text": "x y"}])
    columns(folder / "wikitext" / f"test-{shard}", [{"text": "b a"}])  # of another data set, with such a column


EXPECTED = {
    "piqa": [{"goal": f"a{i}", "choices": ["b", "c"], "right": i % 2} for i in range(3)],
    "arc_easy": [{"question": "a", "choices": ["b", "c"], "right": i} for i in range(2)],
    "arc_challenge": [{"question": "a", "choices": ["b", "c"], "right": i} for i in range(2)],
    "hellaswag": [{"scene": "A: b c. Ab", "choices": ["a. b", "c", "b", "a"], "right": right} for right in (0, 3)],
    "lambada": [{"passage": "a b", "word": "c"}, {"passage": "c", "word": "b"}],
}


@pytest.mark.parametrize("publish", [authors, hugging_face])
@pytest.mark.parametrize("name", TASK_DATA)
def test_items_are_the_same_from_either_source(tmp_path, publish, name):
    publish(tmp_path)
    items, files = read_items(name, tmp_path)
    assert items == EXPECTED[name]
    assert len(files) == (2 if (name, publish) == ("piqa", authors) else 1)
    assert read_items(name, files[0])[0] == items  # the file itself is named


def test_shards_are_read_together_and_one_folder_of_a_split(tmp_path):
    for shard in range(2):
        columns(tmp_path / "a" / f"test-0000{shard}-of-00002.parquet", LAMBADA[shard : shard + 1])
    assert read_items("lambada", tmp_path / "a")[0] == EXPECTED["lambada"]
    columns(tmp_path / "b" / "test" / "0000.parquet", LAMBADA)
    assert read_items("lambada", tmp_path / "b")[0] == EXPECTED["lambada"]


def test_two_files_that_could_be_meant_are_not_guessed_between(tmp_path):
    lines(tmp_path / "old" / "test.jsonl", LAMBADA)
    lines(tmp_path / "new" / "test.jsonl", LAMBADA)
    with refusal(BadData, "--task-data", "2 files", "test.jsonl", hint=("folder",)):
        read_items("lambada", tmp_path)


@pytest.mark.parametrize("name", TASK_DATA)
def test_a_folder_without_the_data(tmp_path, name):
    with refusal(InputMissing, str(tmp_path), name, hint=("expected",)):
        read_items(name, tmp_path)
    with refusal(InputMissing, str(tmp_path / "gone")):
        read_items(name, tmp_path / "gone")


@pytest.mark.parametrize(
    ("file", "content", "name", "facts"),
    [
        ("valid.jsonl", json.dumps(PIQA[0] | {"label": 2}), "piqa", ["record 1", "number 2"]),
        ("valid.jsonl", json.dumps(PIQA[0]), "piqa", ["record 1", "label"]),
        ("valid.jsonl", json.dumps(PIQA[0] | {"label": 0, "sol2": None}), "piqa", ["record 1", "None", "text"]),
        ("valid.jsonl", json.dumps(PIQA[0] | {"label": 0, "goal": 7}), "piqa", ["record 1", "7", "text"]),
        ("valid.jsonl", json.dumps(PIQA[0] | {"label": 0.6}), "piqa", ["record 1", "0.6", "whole number"]),
        ("ARC-Easy-Test.jsonl", json.dumps(ARC[0] | {"question": None}), "arc_easy", ["record 1"]),
        ("valid.jsonl", json.dumps(PIQA[0]) + "\n{", "piqa", ["JSON"]),
        ("ARC-Easy-Test.jsonl", json.dumps(ARC[0] | {"answerKey": "Z"}), "arc_easy", ["record 1"]),
        ("test.jsonl", '{"text": "one"}', "lambada", ["record 1", "one word"]),
        ("test.parquet", "PAR1", "lambada", ["Parquet"]),
        ("test.jsonl", "[1]", "lambada", ["JSON Lines of objects"]),
    ],
)
def test_what_is_damaged_is_named(tmp_path, file, content, name, facts):
    (tmp_path / file).write_text(content)
    with refusal(BadData, file, *facts):
        read_items(name, tmp_path)


def test_labels_of_other_items_are_refused(tmp_path):
    lines(tmp_path / "valid.jsonl", PIQA)
    (tmp_path / "valid-labels.lst").write_text("0\n1\n")
    with refusal(BadData, "valid-labels.lst", 2, 3):
        read_items("piqa", tmp_path)


# ---- as tasks ----------------------------------------------------------------------------------------------------

needs_harness = pytest.mark.skipif(
    not importlib.util.find_spec("lm_eval"), reason="lm-evaluation-harness is not installed"
)
ARMS = [Arm("table", bigram_model(FOLLOWS)), Arm("plain", bigram_model([row[::-1] for row in FOLLOWS]))]


class Blanks(Letters):
    """Takes every letter that it does not know for a blank."""

    def encode_batch(self, texts):
        return super().encode_batch(["".join(each if each in "abc" else " " for each in text) for text in texts])


BLANKS = Blanks("abc ")


def test_every_data_set_has_its_task_file():
    pytest.importorskip("yaml")
    assert all(ready_task(name) for name in TASK_DATA)
    assert ready_task("last_word") is ready_task("gone") is None
    assert {file.name for file in find_tasks(shipped() / "tasks")} == {
        "last_word",
        "set_phrases",
    }  # no data are given


@needs_harness
def test_ready_tasks_need_only_the_folder_of_their_data(tmp_path):
    hugging_face(tmp_path)
    answers = Answers()
    with open_tasks(list(TASK_DATA), silent, TaskOptions(tmp_path)) as tasks:
        rows = run_tasks(tasks, ARMS, BLANKS, 4, silent, answers=answers)
        limited = run_tasks(tasks, ARMS, BLANKS, 4, silent, limit=2)
    assert {(row["task"], row["arm"]) for row in rows} == {(name, arm.name) for name in TASK_DATA for arm in ARMS}
    assert {row["task"]: row["n"] for row in rows} == {name: len(items) for name, items in EXPECTED.items()}
    assert {row["n"] for row in limited if row["task"] == "piqa"} == {2}
    values = {(row["task"], row["metric"], row["arm"]): row["value"] for row in rows}
    for row in answers.differences("table"):
        key = row["task"], row["metric"]
        assert row["difference"] == pytest.approx(values[*key, "table"] - values[*key, "plain"])
    compared = {(row["task"], row["metric"]) for row in answers.differences("table")}
    assert ("lambada", "acc") in compared
    assert ("lambada", "perplexity") not in compared  # no mean over items


@needs_harness
def test_what_is_asked_is_in_the_fingerprint(tmp_path):
    hugging_face(tmp_path)
    found = task_fingerprints(["piqa"], TaskOptions(tmp_path))
    assert any("validation-00000-of-00001.parquet" in key for key in found)
    assert task_fingerprints(["piqa"], TaskOptions(tmp_path, 5)) != found


@needs_harness
def test_data_and_tasks_that_do_not_belong_together(tmp_path):
    hugging_face(tmp_path)
    with refusal(BadSetting, "--task-data", str(tmp_path), hint=("piqa", "lambada")):
        task_fingerprints([str(shipped() / "tasks" / "last_word.yaml")], TaskOptions(tmp_path))
    with refusal(BadSetting, "piqa", hint=("--task-data DIR",)):
        task_fingerprints([str(shipped() / "tasks" / "piqa.yaml")])


def test_differences_worked_by_hand():
    answers = Answers()

    def found(scores):
        samples = [{"doc_id": i, "filter": "none", "acc": score} for i, score in enumerate(scores)]
        value = sum(scores) / len(scores)
        return {"samples": {"t": samples}, "results": {"t": {"acc,none": value, "acc_stderr,none": 0.1, "alias": "t"}}}

    answers.add("plain", found([0.0, 1.0, 0.0, 0.0] * 4))
    answers.add("table", found([1.0, 1.0, 0.0, 0.0] * 4))
    answers.add("live", found([1.0, 1.0, 0.0, 0.0] * 4))
    plain, live = answers.differences("table")
    assert (plain["difference"], plain["n"], plain["finding"]) == (0.25, 16, "better")
    assert plain["stderr"] == pytest.approx((3 / 15) ** 0.5 / 4)
    assert plain["high"] - plain["difference"] == pytest.approx(2.131 * plain["stderr"], rel=2e-3)
    nothing = {"difference": 0.0, "stderr": None, "low": None, "high": None}
    assert live == live | nothing | {"n": 16, "finding": "no difference shown"}  # all items alike is no error of 0


@pytest.mark.parametrize("own", [[1.0, 1.0, 0.0, 1.0, 0.0], [1.0] * 5])
def test_nothing_is_found_of_few_items(own):
    answers = Answers()
    for arm, scores in (("table", own), ("plain", [1.0, 1.0, 0.0, 1.0, 0.0])):
        samples = [{"doc_id": i, "filter": "none", "acc": score} for i, score in enumerate(scores)]
        answers.add(arm, {"samples": {"t": samples}, "results": {"t": {"acc,none": sum(scores) / 5}}})
    [found] = answers.differences("table")
    assert (found["stderr"], found["low"], found["high"], found["finding"]) == (None, None, None, "too few")
