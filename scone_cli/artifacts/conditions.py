"""The condition of every artifact of a workspace: there or not, up to date or why not, and unfinished work beside it.

Up to date means: its files have their sizes, it was made from the artifacts that are beside it now, these are up to date
too, and whatever else the caller compares, such as settings. No byte of data is read and no hash computed, so it takes
milliseconds whatever the size. A corpus is not looked at.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scone_cli.artifacts.manifest import MADE_BY, MANIFEST, Manifest, check_files, command_for, read_manifest
from scone_cli.artifacts.publish import SCRATCH, staging_folders, unfinished_bytes
from scone_cli.artifacts.registry import VERSIONS
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.artifacts.verify import MADE_FROM, TOKENIZED, WEIGHTS, differences
from scone_cli.errors import SconeError

IN_ORDER = ("tokens", "counts", "vocab", "model", "table", "eval")  # of the stages
# What an artifact is made from again with it. A model is kept when text is counted again: its own inputs are history.
_READS: Mapping[str, tuple[str, ...]] = {
    "counts": ("tokens",),
    "vocab": ("tokens", "counts"),
    "table": ("vocab", "model"),
    "eval": ("tokens", "model", "table"),
}

State = Literal["up to date", "out of date", "missing", "damaged"]
Compare = Callable[
    [str, Manifest], Sequence[str]
]  # why an artifact, by its folder's name, is out of date beside its inputs


@dataclass(frozen=True)
class Condition:
    """The condition of one artifact.

    Attributes:
        name: of its folder in the workspace; `folder`: its path.
        manifest: None if it is missing or damaged.
        made: seconds since 1970, the time of its manifest; None if there is none.
        bytes: of its files, as the manifest has them.
        reasons: why it is not up to date; notes: what is good to know and no reason.
        command: makes it anew; without --workspace and --config.
        unfinished: bytes of unfinished work; `steps`: of its newest checkpoint, if it is a training.
    """

    name: str
    folder: Path
    state: State
    manifest: Manifest | None = None
    made: float | None = None
    bytes: int = 0
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    unfinished: int = 0
    steps: int | None = None

    @property
    def is_up_to_date(self) -> bool:
        """Whether there is nothing to do."""
        return self.state == "up to date"


def conditions_of(workspace: Path, compare: Compare, recipe: Mapping[str, str]) -> list[Condition]:
    """The artifacts of the stages in their order, also missing ones, then other artifacts of the workspace by name.

    `recipe` is the one that is given now (see `Manifest.recipe`): commands name it instead of the one of then. A table is left
    out where it is missing and the model has none.
    """
    found = dict[str, Condition]()
    for name in [*IN_ORDER, *_others(workspace)]:
        found[name] = _condition(workspace / name, found, compare, recipe)
    model, table = found["model"].manifest, found["table"]
    if model is not None and model.summary.get("kind") != "scone" and table.state == "missing" and not table.unfinished:
        del found["table"]
    return list(found.values())


def is_workspace(path: Path) -> bool:
    """Whether a folder has artifacts, or a stage has begun to make one there."""
    begun = any((path / name).is_symlink() or (path / name / MANIFEST).is_file() for name in IN_ORDER)
    return begun or ((path / ".lock").is_file() and not (path / VERSIONS).is_dir())


def _others(workspace: Path) -> list[str]:
    """Further artifacts, or unfinished work on them: baselines, and tables of other formats."""
    there = {path.parent.name for path in workspace.glob(f"[!.]*/{MANIFEST}")}
    begun = {found[1] for path in workspace.glob(".*.partial-*") if (found := _STAGING.match(path.name))}
    return sorted((there | begun) - set(IN_ORDER))


_STAGING = re.compile(r"\.(.+)\.partial-[0-9a-f]{16}")


def _condition(folder: Path, others: Mapping[str, Condition], compare: Compare, recipe: Mapping[str, str]) -> Condition:
    name = folder.name
    found = Condition(name, folder, "missing")
    try:
        found = replace(found, unfinished=unfinished_bytes(folder), steps=_steps_done(folder))
        manifest = read_manifest(folder, *(name,) * (name in SCHEMA_VERSIONS))
        found = replace(found, made=(folder / MANIFEST).stat().st_mtime)
        check_files(folder, manifest, hashes=False)
    except (SconeError, FileNotFoundError) as error:
        if not folder.exists() and not folder.is_symlink():
            return replace(found, command=MADE_BY.get(name, "") + _own_vocabulary(name, folder, others))
        told, hint = (error.message, error.hint or "") if isinstance(error, SconeError) else (str(error), "")
        again = re.sub("^(make it again|(if scone wrote this folder, )?run): ", "", hint)
        own = _own_vocabulary(name, folder, others) if "precompute" in again else ""
        return replace(found, state="damaged", reasons=(told,), command=again + own)
    reasons, notes = _compared(folder, manifest, others)
    reasons += compare(name, manifest)
    command = command_for(folder, replace(manifest, recipe={**manifest.recipe, **recipe}))
    return replace(
        found,
        state="out of date" if reasons else "up to date",
        manifest=manifest,
        bytes=sum(stamp.bytes for stamp in manifest.files.values()),
        reasons=tuple(reasons),
        notes=tuple(notes),
        command=command + _own_vocabulary(manifest.artifact, folder, others),
    )


def _own_vocabulary(kind: str, folder: Path, others: Mapping[str, Condition]) -> str:
    """The option with which `precompute` makes a table of a vocabulary that is not the model's; empty if it needs none."""
    model, vocab = (others[name].manifest if name in others else None for name in ("model", "vocab"))
    if kind != "table" or model is None or vocab is None or model.inputs.get("vocab") == vocab.fingerprint:
        return ""
    return f" --vocab {shlex.quote(str(folder.parent / 'vocab'))}"


def _compared(folder: Path, manifest: Manifest, others: Mapping[str, Condition]) -> tuple[list[str], list[str]]:
    """Why an artifact does not belong to those beside it, and what is good to know of them."""
    reasons, notes, kind = list[str](), list[str](), manifest.artifact
    told = {MADE_FROM: "made from other {}/", WEIGHTS: "{}/ was trained again", TOKENIZED: "other tokenizer than {}/"}
    history = list[str]()
    for neighbour, what in differences(folder, manifest):
        if kind == "model" and what == MADE_FROM:
            history.append(f"{neighbour}/")
        else:
            reasons.append(told[what].format(neighbour))
    if history:
        notes.append(f"trained with earlier {' and '.join(history)}, and kept; train-fgram would train it again")
    for rival in sorted(manifest.inputs.keys() - SCHEMA_VERSIONS.keys()) if kind == "eval" else ():
        if (place := folder.parent / rival / MANIFEST).is_file() and _other_print(place.parent, manifest.inputs[rival]):
            reasons.append(f"made from other {rival}/")
    for source in _READS.get(kind, ()):
        if source in manifest.inputs and not others[source].is_up_to_date:
            reasons.append(f"{source}/ is {others[source].state}")
    return reasons, notes


def _other_print(folder: Path, expected: str) -> bool:
    try:
        return read_manifest(folder).fingerprint != expected
    except SconeError:
        return False  # it has a row of its own


def _steps_done(folder: Path) -> int | None:
    """The step of the newest checkpoint of an unfinished training; None if there is none."""
    found = [
        int(path.stem.removeprefix("step-"))
        for staging in staging_folders(folder)
        for path in (staging / SCRATCH).glob("step-*.safetensors")
        if path.stem.removeprefix("step-").isdigit()
    ]
    return max(found, default=None)
