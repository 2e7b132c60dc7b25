"""lm-evaluation-harness's own `--model hf`, on an exported model, gives the numbers of `scone eval --tasks`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workspaces import copy_of

from scone_cli.serving import load_model

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytest.importorskip("transformers")
from lm_eval.tasks import TaskManager  # noqa: E402 - the harness is an extra

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore")]  # the harness's own

CHOOSE = {"output_type": "multiple_choice", "doc_to_choice": "ends", "doc_to_target": "right"}
LIKELY = {
    "output_type": "loglikelihood",
    "doc_to_target": " {{last}}",
    "metric_list": [{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc", "aggregation": "mean"}],
}
WRITE = {
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{written}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
TASKS = {
    "choose": CHOOSE | {"doc_to_text": "{{text}}"},
    "choose_first": CHOOSE | {"doc_to_text": "", "target_delimiter": ""},
    "likely": LIKELY | {"doc_to_text": "{{text}}"},
    "likely_after_nothing": LIKELY | {"doc_to_text": ""},
    "write": WRITE,
}
ROLLING = {"whole_text": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{whole}}"}}


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory, forks) -> Path:
    """Task files over texts that fit into the context, what `scone eval` found, and the exported model."""
    folder = tmp_path_factory.mktemp("tasks")
    with load_model(small / "work") as model:
        docs = list(documents(small / "corpus", model))
    for name, config in (TASKS | ROLLING).items():
        write_task(folder / "tasks", name, docs, config)
    workspace = copy_of(small / "work", folder / "work")
    for args in (("eval", "--no-speed", "--tasks", folder / "tasks"), ("export", "--to", "hf", folder / "exported")):
        ended = forks.run("--quiet", "--workspace", workspace, *args)
        assert ended.code == 0, ended.err
    return folder


def documents(corpus: Path, model: Any) -> Iterator[dict[str, Any]]:
    """Beginnings of texts of the corpus; every second one has as its last field what the model writes."""
    texts = [(corpus / f"{number}.txt").read_text().split() for number in range(12)]
    for number, words in enumerate(texts):
        text, others = " ".join(words[:4]), [texts[number - 1][9], texts[number - 2][12]]
        yield {
            "text": text,
            "ends": [" ".join(words[4:6]), *others],
            "right": number % 3,
            "last": words[4],
            "whole": " ".join(words[:6]),
            "written": model.generate(text, max_tokens=6, temperature=0) if number % 2 else "other",
        }


def write_task(folder: Path, name: str, docs: list[dict[str, Any]], config: dict[str, Any]) -> None:
    """A task file, JSON being YAML, with its data beside it."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    data = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder.parent / "cache")}
    settings = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(json.dumps(settings | {"target_delimiter": " "} | config))


def scone_found(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "work" / "eval" / "results.json").read_text())["tasks"]
    assert not any(row["cut"] for row in rows)
    return {(row["task"], row["metric"]): row["value"] for row in rows if row["arm"] == "table"}


def harness_found(folder: Path, tasks: dict[str, Any], more: str = "") -> dict[tuple[str, str], float]:
    """The metrics that `lm_eval --model hf` works out; it imports nothing of scone but through the folder."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={folder / 'exported'},trust_remote_code=True{more}",
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=5,
    )["results"]
    return {
        (task, key.partition(",")[0]): value
        for task, metrics in found.items()
        for key, value in metrics.items()
        if key.endswith(",none") and "_stderr" not in key
    }


@pytest.mark.parametrize(("tasks", "more"), [(TASKS, ""), (ROLLING, ",add_bos_token=False")], ids=["tasks", "rolling"])
def test_the_harness_finds_the_same(folder, tasks, more):
    """Whole texts need add_bos_token=False: the harness puts a token before them itself, and would ask for a second one."""
    expected = {key: value for key, value in scone_found(folder).items() if key[0] in tasks}
    found = harness_found(folder, tasks, more)
    assert found.keys() == expected.keys()
    assert {task for task, _ in found} == tasks.keys()
    for key, value in found.items():
        exactly = key[1] in ("acc", "acc_norm", "exact_match")
        assert value == (expected[key] if exactly else pytest.approx(expected[key], rel=1e-4)), key
    if "write" in tasks:
        assert found["write", "exact_match"] == 0.5
