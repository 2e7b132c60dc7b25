"""Ask every arm the zero-shot tasks of lm-evaluation-harness, and return its metrics.

    with open_tasks(["pipelines/tasks", "lambada_openai"], progress) as tasks:  # before other work: it may be refused
        rows = run_tasks(tasks, arms, tokenizer, end_of_document, progress)

Task files with local data run offline; tasks that the harness knows by name fetch their data. The harness makes the
requests and works out the metrics; `scoring.Scorer` answers, and every arm gets the same requests.

The harness is an extra (`eval`) and heavy: importing it takes 1.4 s more than torch, or 3 s alone. So it is imported only
in `open_tasks`, `check_names` and `run_tasks`, inside `kept_quiet`, because it reads HF_HOME and its offline switches once,
when it is imported.
"""

from __future__ import annotations

import contextlib
import difflib
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

from scone_cli.artifacts.manifest import digest_file
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, BadSetting
from scone_cli.evaluation import scoring
from scone_cli.evaluation.harness import harness_version, kept_quiet, one_error
from scone_cli.evaluation.lm_eval_tasks import Config, TaskFile, find_tasks, is_path, ready_task
from scone_cli.evaluation.result_types import TaskScore
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.scoring import Scorer
from scone_cli.evaluation.task_answers import Answers
from scone_cli.evaluation.task_data import TASK_DATA
from scone_cli.progress import Progress

BOOTSTRAPS = 1000  # resamplings for the standard error of a metric that has no formula
SEED = 1234  # the harness's own: which examples a prompt shows
OURS = scoring.__file__  # an error that passes through this file is a bug of scone, not of the task

TaskDict = dict[str, Any]  # `lm_eval.tasks.manager.TaskDict`: tasks, groups and their members


@dataclass(frozen=True)
class TaskOptions:
    """Options of all tasks: the folder with data for ready tasks; how many items of each task at most."""

    data: Path | None = None
    limit: int | None = None


_DEFAULTS = TaskOptions()


@dataclass(frozen=True)
class OpenTasks:
    """Tasks with their data, by name, and the folder of their cache files (None: the user's own, for fetched data)."""

    tasks: dict[str, TaskDict]
    cache: str | None


def task_fingerprints(tasks: Sequence[str], options: TaskOptions = _DEFAULTS) -> dict[str, str]:
    """SHA-256 of every file of local tasks, and the version of the harness: results depend on these. Loads no harness.

    Raises:
        BadSetting: lm-evaluation-harness is not installed; two tasks have one name; no task reads the data.
        InputMissing, BadData: see `lm_eval_tasks.find_tasks`.
    """
    found = {"lm-eval": harness_version()} | ({"limit": str(options.limit)} if options.limit else {})
    files, _ = _found(tasks, options.data)
    for task in files:
        for file in task.files:
            place = os.path.relpath(file, task.path.parent)
            found[f"task {task.name}: {place}"] = digest_file(file)
    return found


def check_names(tasks: Sequence[str], data: Path | None, progress: Progress) -> None:
    """Refuse names that the harness does not know, without fetching anything: for a plan.

    Raises:
        BadSetting: the harness knows no such task.
    """
    _, names = _found(tasks, data)
    if names:
        with tempfile.TemporaryDirectory() as cache, kept_quiet(cache, progress):
            _manager(names)


@contextlib.contextmanager
def open_tasks(tasks: Sequence[str], progress: Progress, options: TaskOptions = _DEFAULTS) -> Iterator[OpenTasks]:
    """Find tasks and read or fetch all their data, which stay until the end of `with`.

    `tasks` are files, folders, names of ready tasks (with `options.data`), or names that the harness knows.

    Raises:
        BadSetting: lm-evaluation-harness is not installed, or knows no such task.
        InputMissing: a file or data do not exist, or there is no network to fetch them from.
        BadData: a file is not a task.
    """
    harness_version()
    files, names = _found(tasks, options.data)
    num_tasks = len(files) + len(names)
    with tempfile.TemporaryDirectory() as folder:
        cache = None if names else folder
        with kept_quiet(cache, progress) as aloud:
            aloud("reading tasks", 0, num_tasks, "tasks")
            manager = _manager(names)
            loaded = dict[str, TaskDict]()
            for file in files:
                with one_error(str(file.path), OURS):
                    loaded[file.name] = manager.load([_config(file, folder)])
            for name in names:
                with one_error(f"task {name}", OURS):
                    loaded[name] = manager.load([name])
            aloud("reading tasks", num_tasks, num_tasks, "tasks")
        yield OpenTasks(loaded, cache)


def run_tasks(
    tasks: OpenTasks,
    arms: Sequence[Arm],
    tokenizer: Tokenizer,
    end_of_document: int,
    progress: Progress,
    limit: int | None = None,
    answers: Answers | None = None,
) -> list[TaskScore]:
    """Ask every arm every task; returns a row a metric: the section `tasks` of `results.json`.

    A row has task, arm, metric, value, stderr (None if unknown), n (items; None for a group), version (of the task) and cut
    (requests whose context was cut on the left to the model's length). The score of each item is added to `answers`.

    Raises:
        BadData: the harness cannot run a task.
        InputMissing: what a metric needs cannot be fetched.
    """
    rows, answers = list[TaskScore](), answers or Answers()
    with kept_quiet(tasks.cache, progress) as aloud:
        for name, task in tasks.tasks.items():
            for arm in arms:
                scorer = Scorer(arm, tokenizer, end_of_document, aloud, f"task {name}, {arm.name}")
                with one_error(f"task {name}", OURS):
                    rows += _answered(task, scorer, limit, answers)
    for name, cut in {row["task"]: row["cut"] for row in rows if row["cut"]}.items():
        progress(f"task {name}", 0, 0, "", f"{cut:,} contexts are longer than the model's, and cut on the left")
    return rows


# ---- loading -----------------------------------------------------------------------------------------------------


def _found(tasks: Sequence[str], data: Path | None) -> tuple[list[TaskFile], list[str]]:
    """The tasks that are files, each once, and the names that are left to the harness.

    Raises:
        BadSetting: two tasks have one name; `data` is given and no task reads it.
    """
    paths = {task: Path(task) if is_path(task) else ready_task(task) if data else None for task in tasks}
    names = [task for task, path in paths.items() if path is None]
    by_path = {file.path.resolve(): file for path in paths.values() if path for file in find_tasks(path, data)}
    files = list(by_path.values())
    if data and not any(file.items for file in files):
        raise BadSetting(f"--task-data {data}: no task reads it", f"name one that does: {', '.join(TASK_DATA)}")
    taken = {name: f"lm-evaluation-harness's {name}" for name in names}
    for file in files:
        if file.name in taken:
            raise BadSetting(f"{file.path} and {taken[file.name]}: two tasks named '{file.name}'", "rename one of them")
        taken[file.name] = str(file.path)
    return files, names


def _config(file: TaskFile, cache: str) -> Config:
    """A task file for the harness, with its items written to `cache`, and everything made of local data kept there."""
    metadata, options = file.config.get("metadata"), file.config.get("dataset_kwargs") or {}
    config = file.config | {"metadata": {"version": 0, **(metadata if isinstance(metadata, dict) else {})}}
    if file.items is not None:
        place = Path(cache) / f"{file.name}.jsonl"
        place.write_text("".join(json.dumps(item) + "\n" for item in file.items), encoding="utf-8")
        options = {"data_files": {"test": str(place)}}
        config |= {"dataset_path": "json", "test_split": "test"}
    if file.is_local:
        config["dataset_kwargs"] = options | {"cache_dir": cache}
    return config


def _manager(names: Sequence[str]) -> Any:
    """The harness's TaskManager; only for `names` with its own 14,000 tasks, because it reads them all in half a minute.

    Raises:
        BadSetting: it knows no task of such a name.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=bool(names))
    for name in names:
        if name not in manager.all_tasks:
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks))
            raise BadSetting(
                f"task {name}: not known to lm-evaluation-harness {harness_version()}"
                + (f", but {near}" if near else ""),
                "name one that it knows (lm-eval ls tasks), or a YAML file: ./task.yaml",
            )
    return manager


# ---- answering ---------------------------------------------------------------------------------------------------


def _answered(asked: TaskDict, scorer: Scorer, limit: int | None, answers: Answers) -> list[TaskScore]:
    """The metrics that the harness works out of one arm's answers, which are added to `answers`.

    It is `evaluate` and not `simple_evaluate`, which starts git and pip at every call to describe the machine.
    """
    from lm_eval.evaluator import evaluate

    for task in asked["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    random.seed(SEED)  # some tasks draw from these generators: every arm gets the same requests
    np.random.seed(SEED)  # noqa: NPY002
    cut = Counter[str]()
    found = evaluate(_as_lm(scorer, cut), asked, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=True)
    answers.add(scorer.arm.name, found)
    rows = list[TaskScore]()
    for task, metrics in found["results"].items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")  # chosen: the filter of the answers, `none` for no filter
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
    """The scorer as a model of the harness; counts the requests that were cut, by task, in `cut`."""
    from lm_eval.api.model import LM

    def answered(ask: Callable[[list[Any]], list[Any]], requests: list[Any], asked: list[Any]) -> list[Any]:
        answers = ask(asked)
        cut.update(requests[number].task_name for number in scorer.cut)
        return answers

    class SconeLM(LM):  # type: ignore[misc] # the harness has no types to speak of
        """One arm as the harness sees it."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return answered(scorer.loglikelihood, requests, [tuple(map(_text, each.args)) for each in requests])

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return answered(scorer.loglikelihood_rolling, requests, [_text(each.args[0]) for each in requests])

        def generate_until(self, requests: list[Any]) -> list[str]:
            return answered(scorer.generate_until, requests, [(_text(each.args[0]), each.args[1]) for each in requests])

    return SconeLM()


def _text(given: Any) -> str:
    """A rendered template as text: the harness turns text that looks like a number into a number."""
    if not isinstance(given, str | int | float):
        raise BadData(
            f"a task asks for {str(given)[:100]!r}, expected text", "correct its doc_to_text or doc_to_target"
        )
    return str(given)
