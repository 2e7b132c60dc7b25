"""Zero-shot tasks of lm-evaluation-harness for our arms: local task files offline, registered ones where the network is there.

    with open_tasks(["pipelines/tasks", "lambada_openai"], progress) as tasks:  # before other work: it may be refused
        rows = run_tasks(tasks, arms, tokenizer, end_of_document, progress)

The harness makes requests of tasks and metrics of answers; the answers are `scoring.Scorer`'s, and every arm gets the same
requests. It is imported when it is needed (extra `eval`), and kept from writing: to the terminal at all, and to the disk
but for data that it fetches from a network.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, BadSetting
from scone_cli.evaluation import scoring
from scone_cli.evaluation.harness import harness_version, kept_quiet, one_error
from scone_cli.evaluation.lm_eval_tasks import TaskFile, find_tasks, is_path, ready_task
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.scoring import Scorer
from scone_cli.evaluation.task_answers import Answers
from scone_cli.evaluation.task_data import TASK_DATA
from scone_cli.progress import Progress

BOOTSTRAPS = 1000  # resamplings for the standard error of a metric that has no formula
SEED = 1234  # the harness's own: which examples a prompt shows
OURS = scoring.__file__  # what fails there is our mistake, not the task's

Row = dict[str, Any]
Group = dict[str, Any]  # of tasks, as the harness's TaskManager loads them


@dataclass(frozen=True)
class TaskOptions:
    """How tasks are asked: the folder with the data of ready ones; of each so many items at most."""

    data: Path | None = None
    limit: int | None = None


_AS_THEY_ARE = TaskOptions()


@dataclass(frozen=True)
class OpenTasks:
    """Tasks with their data, by name; `cache` is where all that is made of the data lies, None where they were fetched."""

    groups: dict[str, Group]
    cache: str | None


def task_fingerprints(tasks: Sequence[str], options: TaskOptions = _AS_THEY_ARE) -> dict[str, str]:
    """What the result depends on: the SHA-256 of every file of local tasks, and the version of the harness. Before any work.

    Raises:
        BadSetting: lm-evaluation-harness is not installed.
        InputMissing, BadData: see `lm_eval_tasks.find_tasks`.
    """
    found = {"lm-eval": harness_version()} | ({"limit": str(options.limit)} if options.limit else {})
    for task in _files(tasks, options.data):
        for file in task.files:
            place = os.path.relpath(file, task.path.parent)
            found[f"task {task.name}: {place}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@contextlib.contextmanager
def open_tasks(tasks: Sequence[str], progress: Progress, options: TaskOptions = _AS_THEY_ARE) -> Iterator[OpenTasks]:
    """Find tasks and read or fetch all their data, which are there until the end of `with`.

    `tasks` are files, folders, names of ready tasks whose data are there, or the harness's names.

    Raises:
        BadSetting: lm-evaluation-harness is not installed, or knows no such task.
        InputMissing: a file or data are not there, or there is no network to fetch them from.
        BadData: a task is not one.
    """
    harness_version()
    files, names = _files(tasks, options.data), _registered_names(tasks, options.data)
    with tempfile.TemporaryDirectory() as folder:
        cache = None if names else folder
        with kept_quiet(cache, progress) as aloud:
            aloud("reading tasks", 0, len(files) + len(names), "tasks")
            groups = {file.name: _local(file, folder) for file in files} | _registered(names)
            aloud("reading tasks", len(files) + len(names), len(files) + len(names), "tasks")
        yield OpenTasks(groups, cache)


def run_tasks(
    tasks: OpenTasks,
    arms: Sequence[Arm],
    tokenizer: Tokenizer,
    end_of_document: int,
    progress: Progress,
    limit: int | None = None,
    answers: Answers | None = None,
) -> list[Row]:
    """What every arm makes of every task, by its metrics: the section `tasks` of `results.json`.

    Rows have task, arm, metric, value, stderr (None where none is known), n (documents; None of a group), version (of the
    task), cut (requests of whose context the model did not see the left). What is answered to each item goes to `answers`.

    Raises:
        BadData: a task is not one.
        InputMissing: what its metric needs cannot be fetched.
    """
    rows, answers = list[Row](), answers or Answers()
    with kept_quiet(tasks.cache, progress) as aloud:
        for name, group in tasks.groups.items():
            for arm in arms:
                scorer = Scorer(arm, tokenizer, end_of_document, aloud, f"task {name}, {arm.name}")
                with one_error(f"task {name}", OURS):
                    rows += _answered(group, scorer, limit, answers)
    for task, cut in {row["task"]: row["cut"] for row in rows if row["cut"]}.items():
        progress(f"task {task}", 0, 0, "", f"{cut:,} contexts are longer than the model's, and cut on the left")
    return rows


# ---- loading -----------------------------------------------------------------------------------------------------


def _path_of(task: str, data: Path | None) -> Path | None:
    """The file or folder that a task is named by; None where the harness knows it."""
    if is_path(task):
        return Path(task)
    return ready_task(task) if data else None


def _registered_names(tasks: Sequence[str], data: Path | None) -> list[str]:
    return [task for task in tasks if _path_of(task, data) is None]


def _files(tasks: Sequence[str], data: Path | None) -> list[TaskFile]:
    """The tasks among these that are files, each once.

    Raises:
        BadSetting: two have one name, or that of another task that is asked for; data are given, and no task reads them.
    """
    paths = [path for task in tasks if (path := _path_of(task, data))]
    by_path = {file.path.resolve(): file for path in paths for file in find_tasks(path, data)}
    if data and not any(file.items for file in by_path.values()):
        raise BadSetting(f"--task-data {data}: no task reads it", f"name one that does: {', '.join(TASK_DATA)}")
    found: dict[str, str] = {task: f"lm-evaluation-harness's {task}" for task in _registered_names(tasks, data)}
    for file in by_path.values():
        if file.name in found:
            raise BadSetting(f"{file.path} and {found[file.name]}: two tasks named '{file.name}'", "rename one of them")
        found[file.name] = str(file.path)
    return list(by_path.values())


def _local(file: TaskFile, cache: str) -> Group:
    """The task in a file; what is made of its data lies in `cache`, and no longer than that."""
    config = file.config | {"metadata": {"version": 0, **_mapping(file.config.get("metadata"))}}
    if file.items is not None:
        place = Path(cache) / f"{file.name}.jsonl"
        place.write_text("".join(json.dumps(item) + "\n" for item in file.items), encoding="utf-8")
        config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(place)}}, "test_split": "test"}
    if file.is_local:
        config["dataset_kwargs"] = (config.get("dataset_kwargs") or {}) | {"cache_dir": cache}
    with one_error(str(file.path), OURS):
        from lm_eval.api.task import ConfigurableTask  # heavy, and an extra

        return {"tasks": {file.name: ConfigurableTask(config=config)}, "groups": {}, "group_map": {}}


def _mapping(metadata: Any) -> Row:
    return metadata if isinstance(metadata, dict) else {}


def _registered(names: Sequence[str]) -> dict[str, Group]:
    """Tasks, and groups of them, by the harness's names."""
    if not names:
        return {}
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    _check_known(names, manager.all_tasks)
    found = {}
    for name in names:
        with one_error(f"task {name}", OURS):
            found[name] = manager.load([name])
    return found


def check_names(tasks: Sequence[str], data: Path | None, progress: Progress) -> None:
    """Refuse tasks that the harness does not know, before any work; nothing is fetched.

    Raises:
        BadSetting: it knows no such task.
    """
    if names := _registered_names(tasks, data):
        with tempfile.TemporaryDirectory() as cache, kept_quiet(cache, progress):
            from lm_eval.tasks import TaskManager

            known = TaskManager().all_tasks
        _check_known(names, known)


def _check_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known))
            raise BadSetting(
                f"task {name}: not known to lm-evaluation-harness {harness_version()}"
                + (f", but {near}" if near else ""),
                "name one that it knows (lm-eval ls tasks), or a YAML file: ./task.yaml",
            )


# ---- answering ---------------------------------------------------------------------------------------------------


def _answered(group: Group, scorer: Scorer, limit: int | None, answers: Answers) -> list[Row]:
    """The metrics of a group of tasks, as the harness works them out of the answers, which are added to `answers`."""
    from lm_eval.evaluator import evaluate

    for task in group["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    random.seed(SEED)  # some tasks draw by these: every arm gets the same requests
    np.random.seed(SEED)  # noqa: NPY002
    cut = Counter[str]()
    found = evaluate(_as_lm(scorer, cut), group, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True)
    answers.add(scorer.arm.name, found)
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
    from lm_eval.api.model import LM

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
