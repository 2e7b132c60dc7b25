"""Task files of lm-evaluation-harness, as it wants them: YAML read, and what they name beside them found.

A file is one task: a mapping with a name under `task`. `include` and `!function module.name` are looked up beside it, and so
are its data files (the harness would look for them in the folder it was started in). A folder is all the tasks in it; files
without a name are there to be included, and those that put tasks into groups are left out: every task is told by itself.

With a key of ours, `task_data`, a file's items come from a local copy of a public data set: `pipelines/tasks` has such files,
ready to be named alone. What such a copy looks like is in `task_data`.
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
FORMATS = ("json", "csv", "parquet", "text", "arrow")  # of data that lies beside a task, as the harness calls them

Config = dict[str, Any]


@dataclass(frozen=True)
class TaskFile:
    """A task: where it is from, what the harness takes, and the files whose content decides what it asks.

    is_local: whether all its data are files that are there. items: those of a `task_data`.
    """

    path: Path
    config: Config
    files: tuple[Path, ...]
    is_local: bool
    items: Sequence[Item] | None = None

    @property
    def name(self) -> str:
        """What it calls itself."""
        return str(self.config["task"])


def is_path(task: str) -> bool:
    """Whether a task is named by its file or folder, and not by the name that the harness knows it by."""
    return Path(task).exists() or task.endswith((".yaml", ".yml")) or "/" in task


def ready_task(name: str) -> Path | None:
    """The task file of that name which comes with the package, if there is one that reads `--task-data`."""
    path = shipped() / "tasks" / f"{name}.yaml"
    return path if name in TASK_DATA and path.is_file() else None


def find_tasks(path: Path, data: Path | None = None) -> list[TaskFile]:
    """The task in a file, or all tasks in a folder, there without those that need `data` where none are given.

    Raises:
        InputMissing: there is no such file, no task in the folder, or no such data file.
        BadData: a file is not a task.
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
    if _DATA in config:
        name = str(config.pop(_DATA))
        if name not in TASK_DATA:
            raise BadData(f"{path}: {_DATA} is '{name}'", f"known: {', '.join(TASK_DATA)}")
        if data is None:
            raise BadSetting(f"task {config['task']}: its data are not named", "name a local copy: --task-data DIR")
        items, sources = read_items(name, data)
        return TaskFile(path, config, (*read, *sources), is_local=True, items=items)
    files, is_local = _place_data(path, config)
    return TaskFile(path, config, (*read, *files), is_local)


# ---- reading -----------------------------------------------------------------------------------------------------


def _config(path: Path, read: list[Path], above: tuple[Path, ...] = ()) -> Config:
    """What a file says, what it includes first; the files it took are added to `read`. `above` are those that include it."""
    import yaml  # noqa: PLC0415 - of the extra: that it is missing is told by who asks for tasks

    above = (*above, path.resolve())
    if above[-1] in above[:-1]:
        raise BadData(f"{path}: includes itself", "take one `include` away")
    read.append(path)

    class Loader(yaml.SafeLoader):  # type: ignore[misc] # it has no types
        """Knows the functions that lie beside this file."""

    Loader.add_constructor(
        "!function", lambda loader, node: _function(loader.construct_scalar(node), path.parent, read)
    )
    try:
        config = yaml.load(path.read_bytes(), Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}" if place else ""
        raise BadData(
            f"{path}{where}: not YAML ({' '.join(str(getattr(error, 'problem', None) or error).split())})",
            "correct the task file",
        ) from error
    except OSError as error:
        raise InputMissing(f"{path}: cannot be read ({error.strerror})", "see what the task includes") from error
    if not isinstance(config, dict):
        raise BadData(
            f"{path}: {type(config).__name__}, expected a mapping", "expected a task of lm-evaluation-harness"
        )
    included = config.pop("include", [])
    found: Config = {}
    for each in included if isinstance(included, list) else [included]:
        found |= _config(path.parent / str(each), read, above)
    return found | config


def _function(spec: str, folder: Path, read: list[Path]) -> Any:
    """The function that `!function module.name` means: of a module beside the file, or of one that is installed."""
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
    """Make the places of a task's data absolute; the files, and whether these are all its data.

    Raises:
        InputMissing: a file is not there.
        BadData: `dataset_kwargs` are no mapping, or name no files.
    """
    folder, place = path.resolve().parent, str(config.get("dataset_path"))
    options = config.get("dataset_kwargs") or {}
    if not isinstance(options, dict):
        found = type(options).__name__
        raise BadData(
            f"{path}: `dataset_kwargs` is a {found}, expected a mapping", "name the files under `data_files` there"
        )
    if place not in FORMATS:
        is_here = (folder / place).is_dir()
        if is_here:
            config["dataset_path"] = str(folder / place)
        return sorted(each for each in (folder / place).rglob("*") if each.is_file()) if is_here else [], is_here
    files: list[Path] = []
    if (given := options.get("data_files")) is None:
        raise BadData(f"{path}: data in {place} without `data_files`", "name the files under `dataset_kwargs`")
    placed = {
        split: [_data_file(path, str(name), files) for name in (names if isinstance(names, list) else [names])]
        for split, names in (given if isinstance(given, dict) else {"train": given}).items()
    }
    config["dataset_kwargs"] = options | {"data_files": placed}
    return files, not any("://" in name for names in placed.values() for name in names)


def _data_file(path: Path, name: str, files: list[Path]) -> str:
    """Where a data file is: beside the task, or else where we are; it is added to `files`. `*` may stand for several."""
    if "://" in name:
        return name
    for folder in (path.resolve().parent, Path.cwd()):
        if found := sorted(map(Path, glob.glob(str(folder / name), recursive=True))):  # noqa: PTH207 - `name` may be absolute
            files += found
            return str(folder / name)
    raise InputMissing(f"{path}: no data file {name}", f"expected it in {path.parent}")
