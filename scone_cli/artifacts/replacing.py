"""What it means that an artifact is about to be replaced: which settings are others, and what no longer belongs to it.

An artifact that a recipe made is not replaced by one with the settings of no recipe, because the recipe was forgotten: models
that were trained for hours would no longer belong to anything. That is an error, unless nothing is made from the artifact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scone_cli.artifacts.manifest import GIVEN, Manifest, command_for, read_manifest
from scone_cli.artifacts.verify import artifact_folders
from scone_cli.errors import BadSetting, SconeError
from scone_cli.formatting import named_value_text, path_text, shortened
from scone_cli.progress import Progress

_MOST = 40  # characters of a setting that are told


def tell_replacing(progress: Progress, target: Path, replaced: str) -> None:
    """Say what `what_is_replaced` has found, if it has found something; the old artifact stays until the new one is made."""
    if replaced:
        progress(f"will replace {target}", 0, 0, detail=replaced)


def replaces(target: Path, replaced: str) -> dict[str, Any]:
    """The same as a fact of a plan."""
    return {"replaces": {target.name: replaced}} if replaced else {}


def what_is_replaced(
    workspace: Path,
    target: Path,
    artifact: str,
    config: Any,
    settings: Mapping[str, Any],
    made_from: Mapping[str, str],
    force: bool,
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """What is different from the artifact in `target`, which will be replaced, and what is out of date then.

    `settings` and `made_from` are those of the new one's fingerprint, `config` is the stage's; `asked` is what else
    was asked for, which a summary keeps under that name. It is empty where there is no artifact yet, or nothing is different.

    Raises:
        BadSetting: settings are different that were not given, and the recipe that made the artifact was not given either.
    """
    try:
        old = read_manifest(target, artifact)
    except SconeError:
        return ""
    before, now = dict(old.settings), dict(settings)
    if known := old.summary.get("asked"):  # not in evaluations of early versions
        before, now = before | known, now | dict(asked)
    changed = _changed(before, now, {item.name for item in dataclasses.fields(config)})
    sources = [name for name, value in made_from.items() if old.inputs.get(name, value) != value and name != "weights"]
    if not changed and not sources:
        return ""
    stale = _made_from(old, workspace, target)
    told = [f"{name.replace('_', '-')} {before} -> {after}" for name, (before, after) in changed.items()]
    told += [f"made from other {name}" for name in sources]
    said = ", ".join(told) + (f"; out of date then: {', '.join(stale)}" if stale else "")
    given = GIVEN.get()
    if old.recipe and not given.recipe and not force and artifact != "eval" and set(changed) - given.named:
        recipe = path_text(old.recipe["path"])
        raise BadSetting(
            f"{target}: made with the recipe {recipe}, which is not given now; it would be replaced: {said}",
            f"give the recipe: {command_for(target, old)}; or, to replace it, add --force",
        )
    return said


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], names: set[str]) -> dict[str, tuple[str, str]]:
    """The settings that differ, before and after; what an artifact notes beside its settings is left out."""
    compared = [*new, *(name for name in old if name in names and name not in new)]

    def text(name: str, value: Any) -> str:
        return "none" if value is None else shortened(named_value_text(name, value), _MOST)

    return {
        name: (text(name, old.get(name)), text(name, new.get(name)))
        for name in compared
        if old.get(name) != new.get(name)
    }


def _made_from(old: Manifest, workspace: Path, target: Path) -> list[str]:
    """The folders of the workspace that were made from an artifact, or from what was made from it."""
    gone, names = {old.fingerprint}, []
    for folder in artifact_folders(workspace):
        try:
            manifest = read_manifest(folder)
        except SconeError:
            continue
        of_one_command = (old.artifact, manifest.artifact) == ("tokens", "counts")
        if folder != target and not of_one_command and gone & set(manifest.inputs.values()):
            names.append(folder.name)
            gone.add(manifest.fingerprint)
    return names
