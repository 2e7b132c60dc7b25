"""Records of runs: `.runs/STAGE.json` in a workspace says when the last run of a stage began and ended, and how.

A record is written when the run begins and again when it ends, so a run that was killed leaves one without an end. It holds
the exit code and the kind of an error, not its message. A record that cannot be written fails no run: status then tells less.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import json_of
from scone_cli.artifacts.publish import boot_id, write_atomically

RUNS = ".runs"


@dataclass(frozen=True)
class RunRecord:
    """The last run of a stage in a workspace.

    Attributes:
        stage: the name of the command; of `train-fgram` and `precompute` into a folder of another name, `train-fgram.plain`.
        began, ended: seconds since 1970; `ended` is None until the run ends.
        seconds: how long it took.
        exit_code: of the command.
        error: the class of its error; empty if there was none.
        to: where a version was published; empty for other stages.
        process: host, pid, boot id of the machine, and the process's own start, which tell whether it is still at work.
        before: `ended`, `seconds`, `exit_code` and `error` of the run before, while this one has not ended.
    """

    stage: str
    began: float
    ended: float | None = None
    seconds: float | None = None
    exit_code: int | None = None
    error: str = ""
    to: str = ""
    process: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)

    def is_at_work(self) -> bool:
        """Whether it has not ended and its process is there; of another machine nobody here can tell, so False."""
        there = self.process
        is_here = there.get("host") == socket.gethostname() and there.get("boot") == boot_id()
        return self.ended is None and is_here and _start_of(there.get("pid", 0)) == there.get("start") != ""

    def is_elsewhere(self) -> bool:
        """Whether it has not ended and was on another machine: it may be at work there."""
        return self.ended is None and self.process.get("host") != socket.gethostname()


def begin(folder: Path, stage: str, to: str = "") -> RunRecord:
    """Record that a run of `stage` begins in `folder`; the caller holds the lock of `folder`."""
    there = {"host": socket.gethostname(), "pid": os.getpid(), "boot": boot_id(), "start": _start_of(os.getpid())}
    last = read_record(folder, stage)
    told = ("ended", "seconds", "exit_code", "error")
    before = {} if last is None else last.before if last.ended is None else {name: vars(last)[name] for name in told}
    record = RunRecord(stage, time.time(), to=to, process=there, before=before)
    _write(folder, record, makes_folder=True)
    return record


def end(folder: Path, record: RunRecord, seconds: float, exit_code: int, error: str = "") -> None:
    """Record that a run has ended."""
    ended = replace(record, ended=time.time(), seconds=round(seconds, 3), exit_code=exit_code, error=error, before={})
    _write(folder, ended)


def failed_early(folder: Path, stage: str, seconds: float, exit_code: int, error: str) -> None:
    """Record a run that failed before it had the lock, such as for a bad recipe: only where runs were recorded before.

    The record of a run that is at work stays.
    """
    last = read_record(folder, stage)  # without the folder of records, `end` writes nothing
    if last is None or not (last.is_at_work() or last.is_elsewhere()):
        end(folder, RunRecord(stage, time.time() - seconds), seconds, exit_code, error)


def read_record(folder: Path, stage: str) -> RunRecord | None:
    """The record of a stage; None if there is none that can be read."""
    return _read(_path(folder, stage))


def read_records(folder: Path) -> list[RunRecord]:
    """The records of all stages in `folder`, by name; what cannot be read is left out."""
    return [record for path in sorted((folder / RUNS).glob("[!.]*.json")) if (record := _read(path))]


def _read(path: Path) -> RunRecord | None:
    names = {item.name for item in dataclasses.fields(RunRecord)}
    try:
        facts = json_of(path.read_bytes())
        record = RunRecord(**{name: value for name, value in facts.items() if name in names})
        float(record.began), float(record.ended or 0), int(record.exit_code or 0)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return record


def _path(folder: Path, stage: str) -> Path:
    return folder / RUNS / f"{stage}.json"


def _write(folder: Path, record: RunRecord, makes_folder: bool = False) -> None:
    with contextlib.suppress(OSError):
        if makes_folder:
            (folder / RUNS).mkdir(exist_ok=True)
            for left in (folder / RUNS).glob(".*.tmp"):  # of a run that was killed while it wrote
                left.unlink(missing_ok=True)
        if (folder / RUNS).is_dir():
            write_atomically(_path(folder, record.stage), (json.dumps(dataclasses.asdict(record)) + "\n").encode())


def _start_of(pid: int) -> str:
    """When a process started, in ticks since the machine's start, as Linux tells it; empty if there is no such process.

    Numbers of processes are used again; with its start a process is named for good.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a process that has ended may still wait for its parent
