"""Read task files of lm-evaluation-harness, and find the files that they name: includes, functions, data.

A task file is YAML: a mapping with a name under `task`. `include`, `!function module.name` and data files are looked up
beside it. A folder stands for all tasks in it; files without a name (made to be included) and groups are left out.

Our own key `task_data` takes the items of a task from a local copy of a public data set (see `task_data`). The files in
`pipelines/tasks` with this key are ready to be named alone: `--tasks piqa --task-data DIR`.

The harness's own reader cannot be used here: it does not say which files it read, which the fingerprint of an evaluation
needs; it skips a damaged file in a folder without a message; and it looks for data in the current folder only.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scone_cli.errors import BadData, BadSetting, InputMissing
from scone_cli.evaluation.task_data import TASK_DATA, Item, read_items
from scone_cli.settings import shipped

_DATA = "task_data"  # our key in a task file
FORMATS = ("json", "csv", "parquet", "text", "arrow")  # of data files, by the names that the harness has for them

Config = dict[str, Any]


@dataclass(frozen=True)
class TaskFile:
    """One task as its file defines it.

    Attributes:
        path: the task file.
        config: its content, with includes merged and `!function`s loaded.
        files: every file that decides what is asked: the task file, includes, modules of functions, data.
        is_local: whether all data of the task are in `files`.
        items: the items that `task_data` stands for; None for a task without this key.
    """

    path: Path
    config: Config
    files: tuple[Path, ...]
    is_local: bool
    items: Sequence[Item] | None = None

    @property
    def name(self) -> str:
        """The name under `task`."""
        return str(self.config["task"])


def is_path(task: str) -> bool:
    """Whether `task` is a file or a folder, and not a name that the harness knows."""
    return Path(task).exists() or task.endswith((".yaml", ".yml")) or "/" in task


def ready_task(name: str) -> Path | None:
    """The task file in the package that has this name and reads `--task-data`; None if there is none."""
    path = shipped() / "tasks" / f"{name}.yaml"
    return path if name in TASK_DATA and path.is_file() else None


def find_tasks(path: Path, data: Path | None = None) -> list[TaskFile]:
    """The task in a file, or all tasks in a folder; tasks in a folder that need `data` are left out without it.

    Raises:
        InputMissing: the path or a data file does not exist, or the folder has no task.
        BadData: a file is not a task.
        BadSetting: the task in a file needs `data`.
    """
    if not path.exists():
        raise InputMissing(
            f"{path}: no such task file or folder", "name a YAML file of lm-evaluation-harness, or a folder of them"
        )
    if path.is_file():
        return [_task(path, data)]
    paths = sorted(each for each in path.rglob("*.y*ml") if each.suffix in {".yaml", ".yml"})
    configs = {each: _config(each, []) for each in paths}
    named = [each for each, config in configs.items() if isinstance(config.get("task"), str)]
    found = [_task(each, data) for each in named if data or _DATA not in configs[each]]
    if not found:
        raise InputMissing(f"{path}: no task in this folder", "expected YAML files with a name under `task`")
    return found


def _task(path: Path, data: Path | None) -> TaskFile:
    read: list[Path] = []
    config = _config(path, read)
    if not isinstance(config.get("task"), str) or "group" in config:
        raise BadData(
            f"{path}: {'a group of tasks' if 'group' in config else 'no name'}, expected a task with a name under `task`",
            "name the file of a task, or a folder of them",
        )
    if _DATA not in config:
        files, is_local = _place_data(path, config)
        return TaskFile(path, config, (*read, *files), is_local)
    name = str(config.pop(_DATA))
    if name not in TASK_DATA:
        raise BadData(f"{path}: {_DATA} is '{name}'", f"known: {', '.join(TASK_DATA)}")
    if data is None:
        raise BadSetting(f"task {config['task']}: its data are not given", "name a local copy: --task-data DIR")
    items, sources = read_items(name, data)
    return TaskFile(path, config, (*read, *sources), is_local=True, items=items)


# ---- YAML --------------------------------------------------------------------------------------------------------


def _config(path: Path, read: list[Path], above: tuple[Path, ...] = ()) -> Config:
    """The content of a task file over that of its includes; appends the files to `read`. `above`: the files that include it."""
    import yaml  # noqa: PLC0415 - of the extra `eval`: whoever asks for tasks is told if it is missing

    above = (*above, path.resolve())
    if above[-1] in above[:-1]:
        raise BadData(f"{path}: includes itself", "take one `include` away")
    read.append(path)

    class Loader(yaml.SafeLoader):  # type: ignore[misc] # it has no types
        """Also loads the functions that lie beside this file."""

    Loader.add_constructor(
        "!function", lambda loader, node: _function(loader.construct_scalar(node), path.parent, read)
    )
    try:
        config = yaml.load(path.read_bytes(), Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "unreadable"
        raise BadData(f"{path}: not YAML ({what}{where})", "correct the task file") from error
    except OSError as error:
        raise InputMissing(f"{path}: cannot be read ({error.strerror})", "check what the task includes") from error
    if not isinstance(config, dict):
        raise BadData(f"{path}: {type(config).__name__}, expected a mapping", "name a task of lm-evaluation-harness")
    included = config.pop("include", [])
    found: Config = {}
    for each in included if isinstance(included, list) else [included]:
        found |= _config(path.parent / str(each), read, above)
    return found | config


def _function(spec: str, folder: Path, read: list[Path]) -> Any:
    """The function `!function module.name`, from a module beside the task file or an installed one."""
    module_name, _, name = spec.rpartition(".")
    path = (folder / f"{module_name.replace('.', '/')}.py").resolve()
    try:
        if path.is_file():
            read.append(path)
            module_name = f"scone_task_{hashlib.blake2b(str(path).encode(), digest_size=8).hexdigest()}"
            if module_name not in sys.modules:
                found = importlib.util.spec_from_file_location(module_name, path)
                assert found is not None
                assert found.loader is not None
                module = importlib.util.module_from_spec(found)
                found.loader.exec_module(module)
                sys.modules[module_name] = module
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise BadData(f"!function {spec}: {type(error).__name__}: {error}", f"expected it in {path}") from error


# ---- data --------------------------------------------------------------------------------------------------------


def _place_data(path: Path, config: Config) -> tuple[list[Path], bool]:
    """Make the data paths in `config` absolute: the harness would look in the current folder.

    Returns the data files, and whether they are all data of the task.

    Raises:
        InputMissing: a file does not exist.
        BadData: `dataset_kwargs` is not a mapping, or names no files: the harness would take all in the current folder.
    """
    folder, place = path.resolve().parent, str(config.get("dataset_path"))
    options = config.get("dataset_kwargs") or {}
    if not isinstance(options, dict):
        problem = f"{path}: `dataset_kwargs` is a {type(options).__name__}, expected a mapping"
        raise BadData(problem, "name the files under `data_files` there")
    if place not in FORMATS:
        if not (folder / place).is_dir():
            return [], False
        config["dataset_path"] = str(folder / place)
        return sorted(each for each in (folder / place).rglob("*") if each.is_file()), True
    if (given := options.get("data_files")) is None:
        raise BadData(f"{path}: data in {place} without `data_files`", "name the files under `dataset_kwargs`")
    files: list[Path] = []
    placed = {
        split: [_placed(path, str(name), files) for name in (names if isinstance(names, list) else [names])]
        for split, names in (given if isinstance(given, dict) else {"train": given}).items()
    }
    config["dataset_kwargs"] = options | {"data_files": placed}
    return files, not any("://" in name for names in placed.values() for name in names)


def _placed(path: Path, name: str, files: list[Path]) -> str:
    """The absolute path or pattern of a data file, beside the task or else in the current folder; appends to `files`."""
    if "://" in name:
        return name
    for folder in (path.resolve().parent, Path.cwd()):
        if found := sorted(map(Path, glob.glob(str(folder / name), recursive=True))):  # noqa: PTH207 - `name` may be absolute
            files += found
            return str(folder / name)
    raise InputMissing(f"{path}: no data file {name}", f"expected it in {path.parent}")
