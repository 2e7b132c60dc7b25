"""The five stages. Each module holds a frozen config dataclass and `run(config, inputs, out, progress, force) -> Report`.

`plan` takes the same arguments and writes nothing: its report tells what `run` would do, and the memory and disk it would
take. A stage reads artifacts, writes one artifact, and never imports another stage. This file holds what the stages share:
the report of a run, and how several processes run one stage together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import Manifest
from scone_cli.runtime.torchrun import Alone, Launch, Team


def joined(launch: Launch, device: str) -> contextlib.AbstractContextManager[Team]:
    """The processes of this run, connected while the context lasts; `device` is the setting: `auto` or a device's name."""
    if launch.size == 1:
        return contextlib.nullcontext(Alone())
    from scone_cli.runtime.process_group import join  # it loads torch

    return join(launch, device)


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
