"""Zero-shot tasks of lm-evaluation-harness for our arms: local task files offline, registered ones where the network is there.

    rows = run_tasks(["pipelines/tasks", "lambada_openai"], arms, tokenizer, end_of_document, progress)

The harness makes requests of tasks and metrics of answers; the answers are `scoring.Scorer`'s, and every arm gets the same
requests. It is imported when it is needed (extra `eval`), and kept from writing: to the terminal at all, and to the disk
but for data that it fetches from a network.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scone_cli import scoring
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, BadSetting
from scone_cli.evaluation import Arm
from scone_cli.harness import harness_version, kept_quiet, one_error
from scone_cli.progress import Progress
from scone_cli.scoring import Scorer
from scone_cli.task_files import TaskFile, find_tasks, is_path

BOOTSTRAPS = 1000  # resamplings for the standard error of a metric that has no formula
SEED = 1234  # the harness's own: which examples a prompt shows
OURS = scoring.__file__  # what fails there is our mistake, not the task's

Row = dict[str, Any]
Group = dict[str, Any]  # of tasks, as the harness's TaskManager loads them


def task_fingerprints(tasks: Sequence[str]) -> dict[str, str]:
    """What the result depends on: the SHA-256 of every file of local tasks, and the version of the harness. Before any work.

    Raises:
        BadSetting: lm-evaluation-harness is not installed.
        InputMissing, BadData: see `task_files.find_tasks`.
    """
    found = {"lm-eval": harness_version()}
    for task in _files(tasks):
        for file in task.files:
            place = os.path.relpath(file, task.path.parent)
            found[f"task {task.name}: {place}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def run_tasks(
    tasks: Sequence[str], arms: Sequence[Arm], tokenizer: Tokenizer, end_of_document: int, progress: Progress
) -> list[Row]:
    """What every arm makes of every task, by its metrics: the section `tasks` of `results.json`.

    Rows have task, arm, metric, value, stderr (None where none is known), n (documents; None of a group), version (of the
    task), cut (requests of whose context the model did not see the left). `tasks` are files, folders, or the harness's names.

    Raises:
        BadSetting: lm-evaluation-harness is not installed, or knows no such task.
        InputMissing: a file or data are not there, or there is no network to fetch them from.
        BadData: a task is not one.
    """
    harness_version()
    files, names = _files(tasks), [task for task in tasks if not is_path(task)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache, kept_quiet(None if names else cache, progress) as aloud:
        aloud("reading tasks", 0, len(files) + len(names), "tasks")
        loaded = {file.name: _local(file, cache) for file in files} | _registered(names)
        aloud("reading tasks", len(files) + len(names), len(files) + len(names), "tasks")
        for name, group in loaded.items():
            for arm in arms:
                scorer = Scorer(arm, tokenizer, end_of_document, aloud, f"task {name}, {arm.name}")
                with one_error(f"task {name}", OURS):
                    rows += _answered(group, scorer)
    for task, cut in {row["task"]: row["cut"] for row in rows if row["cut"]}.items():
        progress(f"task {task}", 0, 0, "", f"{cut:,} contexts are longer than the model's, and cut on the left")
    return rows


# ---- loading -----------------------------------------------------------------------------------------------------


def _files(tasks: Sequence[str]) -> list[TaskFile]:
    """The tasks among these that are files, each once.

    Raises:
        BadSetting: two have one name, or that of another task that is asked for.
    """
    by_path = {file.path.resolve(): file for task in tasks if is_path(task) for file in find_tasks(Path(task))}
    found: dict[str, str] = {task: f"lm-evaluation-harness's {task}" for task in tasks if not is_path(task)}
    for file in by_path.values():
        if file.name in found:
            raise BadSetting(f"{file.path} and {found[file.name]}: two tasks named '{file.name}'", "rename one of them")
        found[file.name] = str(file.path)
    return list(by_path.values())


def _local(file: TaskFile, cache: str) -> Group:
    """The task in a file; what is made of its data lies in `cache`, and no longer than that."""
    config = file.config | {"metadata": {"version": 0, **_mapping(file.config.get("metadata"))}}
    if file.is_local:
        config["dataset_kwargs"] = (config.get("dataset_kwargs") or {}) | {"cache_dir": cache}
    with one_error(str(file.path), OURS):
        from lm_eval.api.task import ConfigurableTask  # noqa: PLC0415 - heavy, and an extra

        return {"tasks": {file.name: ConfigurableTask(config=config)}, "groups": {}, "group_map": {}}


def _mapping(metadata: Any) -> Row:
    return metadata if isinstance(metadata, dict) else {}


def _registered(names: Sequence[str]) -> dict[str, Group]:
    """Tasks, and groups of them, by the harness's names."""
    if not names:
        return {}
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    manager = TaskManager()
    found = {}
    for name in names:
        if name not in manager.all_tasks:
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks))
            raise BadSetting(
                f"task {name}: not known to lm-evaluation-harness {harness_version()}"
                + (f", but {near}" if near else ""),
                "name one that it knows (lm-eval ls tasks), or a YAML file: ./task.yaml",
            )
        with one_error(f"task {name}", OURS):
            found[name] = manager.load([name])
    return found


# ---- answering ---------------------------------------------------------------------------------------------------


def _answered(group: Group, scorer: Scorer) -> list[Row]:
    """The metrics of a group of tasks, as the harness works them out of the answers."""
    from lm_eval.evaluator import evaluate  # noqa: PLC0415

    for task in group["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    random.seed(SEED)  # some tasks draw by these: every arm gets the same requests
    np.random.seed(SEED)  # noqa: NPY002
    cut = Counter[str]()
    found = evaluate(_as_lm(scorer, cut), group, bootstrap_iters=BOOTSTRAPS, log_samples=False)
    rows = []
    for task, metrics in found["results"].items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")  # chosen: which part of an answer counts, `none` where it is all
            if chosen and not metric.endswith("_stderr"):
                rows.append(
                    {
                        "task": task,
                        "arm": scorer.arm.name,
                        "metric": metric if chosen == "none" else f"{metric} ({chosen})",
                        "value": _number(value),
                        "stderr": _number(metrics.get(f"{metric}_stderr,{chosen}")),
                        "n": found["n-samples"].get(task, {}).get("effective"),
                        "version": str(found["versions"].get(task)),
                        "cut": cut[task],
                    }
                )
    return rows


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _as_lm(scorer: Scorer, cut: Counter[str]) -> Any:
    """A scorer as the harness's kind of model; how many requests were cut is counted by task."""
    from lm_eval.api.model import LM  # noqa: PLC0415

    def answered(ask: Callable[[list[Any]], list[Any]], requests: list[Any], asked: list[Any]) -> list[Any]:
        answers = ask(asked)
        cut.update(requests[number].task_name for number in scorer.cut)
        return answers

    class SconeLM(LM):  # type: ignore[misc] # the harness has no types to speak of
        """Answers with one arm."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return answered(scorer.loglikelihood, requests, [tuple(map(_text, each.args)) for each in requests])

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return answered(scorer.loglikelihood_rolling, requests, [_text(each.args[0]) for each in requests])

        def generate_until(self, requests: list[Any]) -> list[str]:
            return answered(scorer.generate_until, requests, [(_text(each.args[0]), each.args[1]) for each in requests])

    return SconeLM()


def _text(given: Any) -> str:
    """What a template came to: the harness makes a number of what looks like one."""
    if not isinstance(given, str | int | float):
        raise BadData(
            f"a task asks for {str(given)[:100]!r}, expected text", "correct its doc_to_text or doc_to_target"
        )
    return str(given)
