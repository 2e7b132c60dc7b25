"""The five stages. Each module holds a frozen config dataclass and `run(config, inputs, out, progress, force) -> Report`.

`plan` takes the same arguments and writes nothing: its report tells what `run` would do, and the memory and disk it would
take. A stage reads artifacts, writes one artifact, and never imports another stage. This file holds what the stages share:
the report of a run, and how several processes run one stage together.
"""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scone_cli import __version__
from scone_cli.artifacts.manifest import Manifest
from scone_cli.errors import BadSetting, StorageFailure
from scone_cli.runtime.torchrun import Alone, Launch, Team


def joined(launch: Launch, device: str) -> contextlib.AbstractContextManager[Team]:
    """The processes of this run, connected while the context lasts; `device` is the setting: `auto` or a device's name."""
    if launch.size == 1:
        return contextlib.nullcontext(Alone())
    from scone_cli.runtime.process_group import join  # it loads torch

    return join(launch, device)


def check_shared(team: Team, out: Path) -> None:
    """Refuse to work if the processes do not all see the folder in which `out` is written: rank 0 puts a mark there.

    Raises:
        StorageFailure: a process does not see the mark; the message names the folder and its machine.
    """
    if team.launch.size == 1:
        return
    folder = out.parent.absolute()

    def put() -> str:
        mark = folder / f".shared-{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return ""  # nothing can be written, but all may be up to date
        return mark.name

    name = team.first("mark of the folder", put)
    if not name:
        return
    seen = json.dumps([_appears(folder / name), socket.gethostname(), str(folder)])
    try:
        (_, *first), *others = map(json.loads, team.gather("who sees the mark", seen))
    finally:
        if team.launch.rank == 0:
            (folder / name).unlink(missing_ok=True)
    for rank, (sees, *other) in enumerate(others, 1):
        if not sees:
            raise StorageFailure(
                f"rank {rank} on {other[0]} does not see {other[1]}/{name}, which rank 0 on {first[0]} has put into {first[1]}",
                "all processes need the workspace: mount the same file system on every machine, and give its path there",
            )


def check_same_work(team: Team, mark: str) -> None:
    """Refuse to work if the processes were given different settings or inputs, or run different versions.

    Raises:
        BadSetting: a process has another fingerprint, `mark`, or another version than rank 0.
    """
    said = json.dumps([mark, __version__, socket.gethostname()])
    (*first, host), *others = map(json.loads, team.gather("what is made", said))
    for rank, (*other, elsewhere) in enumerate(others, 1):
        if other != first:
            found = ", ".join(f"fingerprint {mark[:12]} by scone {version}" for mark, version in (first, other))
            raise BadSetting(
                f"rank 0 on {host} and rank {rank} on {elsewhere} would make different things: {found}",
                "give the same command on every machine: settings, workspace and version of scone",
            )


_SEEN_WITHIN = 10.0  # seconds: a network file system may show a new file late


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _SEEN_WITHIN
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@dataclass(frozen=True)
class Report:
    """The result of a run: where the artifact is, whether it was made now or was there, and what is in it.

    Attributes:
        summary: JSON values only; scalars are shown one per line, a list of flat dicts as a table. It is kept in the
            manifest, so a run that finds everything up to date reports the same.
        seconds: processor time of all processes, by the work it was spent on.
        details: printed by `--json` instead of the summary, where there is more.
        conclusion: the findings in one or two sentences, shown even when everything was up to date.
        problem: the condition of `--fail-if` that holds; the command then exits with 1.
    """

    stage: str
    out: Path
    up_to_date: bool
    summary: dict[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    conclusion: str = ""
    problem: str = ""

    @classmethod
    def of(cls, out: Path, manifest: Manifest, up_to_date: bool, seconds: Mapping[str, float] | None = None) -> Report:
        """The report of the artifact in `out`."""
        return cls(manifest.stage, out, up_to_date, manifest.summary, seconds or {})
