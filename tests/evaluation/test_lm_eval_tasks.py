"""Task files: what they include, where their data are, and one error for every way in which they are wrong."""

from __future__ import annotations

import pytest
from messages import refusal

from scone_cli.errors import BadData, InputMissing
from scone_cli.evaluation.lm_eval_tasks import find_tasks, is_path

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'scone-cli[eval]'")

TASK = "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\n"


@pytest.fixture
def folder(tmp_path):
    """Two tasks, what they have in common, a group, data and a function."""
    (tmp_path / "in").mkdir()
    (tmp_path / "common.yaml").write_text("dataset_path: json\nmetric_list: [{metric: acc}]\ntest_split: test\n")
    (tmp_path / "d.jsonl").write_text('{"x": 1}\n')
    (tmp_path / "in" / "utils.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "in" / "a.yaml").write_text(
        "include: ../common.yaml\ntask: a\ntest_split: validation\nprocess_docs: !function utils.twice\n"
        "doc_to_text: !function math.floor\ndataset_kwargs: {data_files: ../d.jsonl, delimiter: x}\n"
    )
    (tmp_path / "b.yml").write_text("task: b\ndataset_path: data\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.csv").write_text("x\n1\n")
    (tmp_path / "all.yaml").write_text("group: all\ntask: [a, b]\n")
    return tmp_path


def test_a_folder_is_all_the_tasks_in_it(folder):
    first, second = find_tasks(folder)
    assert (first.name, second.name) == ("b", "a")
    assert find_tasks(folder / "in" / "a.yaml")[0].path == second.path


def test_what_lies_beside_a_task_is_found(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    b, a = find_tasks(folder)
    assert a.config["dataset_kwargs"] == {
        "data_files": {"train": [str(folder / "in" / ".." / "d.jsonl")]},
        "delimiter": "x",
    }
    assert (a.config["dataset_path"], a.config["test_split"]) == (
        "json",
        "validation",
    )  # what it says itself comes last
    assert "include" not in a.config
    assert (a.config["process_docs"](4), a.config["doc_to_text"](4.5)) == (8, 4)
    assert [path.name for path in a.files] == ["a.yaml", "utils.py", "common.yaml", "d.jsonl"]
    assert b.config["dataset_path"] == str(folder / "data")
    assert [path.name for path in b.files] == ["b.yml", "test.csv"]
    assert a.is_local
    assert b.is_local


@pytest.mark.parametrize(
    ("text", "files", "is_local"),
    [
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: ['*.jsonl', data/test.csv]}}", 2, True),
        ("dataset_path: csv\ndataset_kwargs: {data_files: {test: https://example.org/x.csv}}", 0, False),
        ("dataset_path: json\ndataset_kwargs: {data_files: [d.jsonl, hf://x/y]}", 1, False),
        ("dataset_path: someone/something", 0, False),
    ],
)
def test_data_may_be_elsewhere(folder, text, files, is_local):
    (folder / "t.yaml").write_text(f"task: t\n{text}\n")
    [task] = find_tasks(folder / "t.yaml")
    assert (len(task.files) - 1, task.is_local) == (files, is_local)


def test_a_file_may_be_included_twice(folder):
    (folder / "x.yaml").write_text("include: common.yaml\nx: 1\n")
    (folder / "t.yaml").write_text("include: [common.yaml, x.yaml]\ntask: t\ndataset_path: data\n")
    [task] = find_tasks(folder / "t.yaml")
    assert (task.config["x"], task.config["test_split"]) == (1, "test")


def test_data_are_looked_for_where_we_are_too(tmp_path, monkeypatch):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "t.yaml").write_text(TASK)
    (tmp_path / "d.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    assert find_tasks(tmp_path / "tasks" / "t.yaml")[0].files[-1] == tmp_path / "d.jsonl"


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("a: 1\nb: [", BadData, ["t.yaml", "line 2", "YAML"]),
        ("a: \x00", BadData, ["t.yaml", "YAML"]),
        ("a: !python/name:os.system", BadData, ["YAML"]),
        ("- task", BadData, ["t.yaml", "list", "mapping"]),
        ("", BadData, ["t.yaml", "NoneType", "mapping"]),
        ("dataset_path: json", BadData, ["t.yaml", "name"]),
        ("group: g\ntask: [a]", BadData, ["t.yaml", "group"]),
        ("task: t\ninclude: t.yaml", BadData, ["t.yaml", "itself"]),
        ("task: t\ninclude: ../{here}/t.yaml", BadData, ["t.yaml", "itself"]),
        ("task: t\ninclude: other.yaml", InputMissing, ["other.yaml", "No such file"]),
        (TASK, InputMissing, ["t.yaml", "d.jsonl"]),
        (TASK.replace("d.jsonl", "'*.jsonl'"), InputMissing, ["*.jsonl"]),
        ("task: t\ndataset_path: json\ndataset_kwargs: [x]", BadData, ["`dataset_kwargs`", "list", "mapping"]),
        ("task: t\ndataset_path: .\ndataset_kwargs: x", BadData, ["`dataset_kwargs`", "str", "mapping"]),
        ("task: t\ndataset_path: json", BadData, ["json", "`data_files`"]),
        ("task: t\nx: !function utils.f", BadData, ["!function utils.f", "ModuleNotFoundError"]),
        ("task: t\nx: !function math.nothing", BadData, ["!function math.nothing", "AttributeError"]),
        ("task: t\nx: !function broken.f", BadData, ["!function broken.f", "ZeroDivisionError"]),
    ],
    ids=str,
)
def test_every_way_to_be_wrong_has_its_error(tmp_path, text, error, said):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    path = tmp_path / "t.yaml"
    path.write_text(text.replace("{here}", tmp_path.name))
    with refusal(error, *said) as raised:
        find_tasks(path)
    assert raised.value.hint
    assert "\n" not in raised.value.message


def test_what_is_not_there(tmp_path):
    with refusal(InputMissing, "file", "folder"):
        find_tasks(tmp_path / "nowhere")
    with refusal(InputMissing, "task", "folder"):
        find_tasks(tmp_path)
    (tmp_path / "bad.yaml").write_text("{")
    with refusal(BadData, "YAML"):  # the harness would pass over it
        find_tasks(tmp_path)


def test_a_name_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    tried = ("here", "x.yaml", "x/y", "lambada_openai")
    assert [is_path(task) for task in tried] == [True, True, True, False]
