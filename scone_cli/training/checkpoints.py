"""Checkpoints of a training run: each is written whole or not at all, and the newest few are kept.

A checkpoint is one safetensors file: weights as `model/<parameter>`, the state of the optimisers as
`optimizer/<parameter>/<what>`; its header holds the step and the number of windows read, which is the position in the data.
The log is a separate file (`log`). The settings of the run lie beside them, so that a run of other settings, which gives up
this work, can tell what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scone_cli.artifacts.opening import load_weights, utf8_name
from scone_cli.artifacts.publish import SCRATCH, fsync, staging_folder, staging_folders, write_atomically
from scone_cli.artifacts.replacing import changed_settings, changes_told
from scone_cli.progress import Progress

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Position:
    """How far a run has come: optimiser steps taken, and windows of the text read."""

    step: int = 0
    windows: int = 0


class Checkpoints:
    """The checkpoints in one folder, of which `keep` are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, at: Position, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write the tensors of all `parts`, sync them to the disk, then delete the oldest checkpoints beyond `keep`.

        Checkpoints of later steps are deleted too: they are damaged, or the run would have continued from them.
        """
        tensors = {
            f"{part}/{name}": tensor.contiguous() for part, named in parts.items() for name, tensor in named.items()
        }
        path = self.folder / f"step-{at.step:08d}.safetensors"
        beside = self.folder / "checkpoint.tmp"  # always this name: a run that is killed many times leaves one file
        save_file(tensors, beside, {"step": str(at.step), "windows": str(at.windows)})
        fsync(beside)
        beside.replace(path)
        fsync(self.folder)
        kept = [each for each in self._files() if each <= path][-self._keep :]
        for other in self._files():
            if other not in kept:
                other.unlink()

    def newest(self) -> str:
        """The name of the newest checkpoint that is not damaged; empty if there is none."""
        return next((path.name for path in reversed(self._files()) if _position(path)), "")

    def load(self, name: str) -> tuple[Position, dict[str, dict[str, Tensor]]]:
        """The position and the tensors that `save` wrote."""
        path = self.folder / name
        at = _position(path)
        assert at is not None
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_weights(path).items():
            part, within = key.split("/", 1)
            parts.setdefault(part, {})[within] = tensor
        return at, parts

    def last_before(self, step: int) -> str:
        """For a message: the newest checkpoint of a step up to `step`; if all are later, the oldest."""
        kept = [(at.step, path) for path in self._files() if (at := _position(path))]
        if good := [each for each in kept if each[0] <= step]:
            return f"the last good checkpoint is {good[-1][1]} (step {good[-1][0]:,})"
        if kept:
            return f"no good checkpoint is kept: the oldest is {kept[0][1]} (step {kept[0][0]:,}), after step {step:,}"
        return "there is no checkpoint"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"))


def training_folder(out: Path, mark: str, settings: Mapping[str, Any], progress: Progress) -> Path:
    """The staging folder of a model with the fingerprint `mark`; tells which unfinished training is given up for it."""
    if told := given_up(out, mark, settings):
        progress(f"will give up unfinished training of {out}", 0, 0, detail=told)
    staging = staging_folder(out, mark)
    write_atomically(staging / SCRATCH / _SETTINGS, json.dumps(settings).encode())
    return staging


def given_up(out: Path, mark: str, settings: Mapping[str, Any]) -> str:
    """How far an interrupted training of another fingerprint has come, and how its settings differ; empty if there is none."""
    told = []
    for folder in staging_folders(out):
        scratch = folder / SCRATCH
        newest = Checkpoints(scratch, 1).newest()
        at = _position(scratch / newest) if newest else None
        if (
            at is None or folder.name.endswith(mark[:16]) or not (scratch / _SETTINGS).exists()
        ):  # early versions had none
            continue
        other = json.loads((scratch / _SETTINGS).read_bytes())
        changes = changes_told(changed_settings(other, settings, settings.keys())) or ["made from other inputs"]
        told.append(f"{at.step:,} steps, {at.windows * other['context']:,} tokens read; {', '.join(changes)}")
    return "; ".join(told)


def _position(path: Path) -> Position | None:
    """The position in the header of a checkpoint; None if the file is damaged."""
    try:
        with utf8_name(path) as name, safe_open(name, "pt") as file:
            said = file.metadata() or {}
        return Position(int(said["step"]), int(said["windows"]))
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
