"""Say what changes when an artifact is replaced: its settings and inputs, and the artifacts that are out of date then.

If a recipe made the artifact and no recipe is given now, other settings are an error: the recipe was probably forgotten, and
models that took hours to train would be out of date. `--force` replaces the artifact anyway.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scone_cli.artifacts.manifest import GIVEN, Manifest, command_for, read_manifest
from scone_cli.artifacts.verify import artifact_folders
from scone_cli.errors import BadSetting, SconeError
from scone_cli.formatting import named_value_text, path_text, shortened
from scone_cli.progress import Progress

_MOST = 40  # characters shown of a setting


def tell_replacing(progress: Progress, target: Path, replaced: str) -> None:
    """Report the result of `what_is_replaced`, unless it is empty; the old artifact stays until the new one is made."""
    if replaced:
        progress(f"will replace {target}", 0, 0, detail=replaced)


def replaces(target: Path, replaced: str, given_up: str = "") -> dict[str, Any]:
    """The result of `what_is_replaced`, and the unfinished work that is given up, as entries of a plan, unless empty."""
    return {name: {target.name: told} for name, told in (("replaces", replaced), ("gives_up", given_up)) if told}


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
    """Describe how the new artifact differs from the one in `target`, and which artifacts will be out of date.

    `settings` and `made_from` are those of the new fingerprint, `config` is the stage's; `asked` are further requests, which a
    summary keeps under that name. The text is empty if there is no artifact yet, or no difference.

    Raises:
        BadSetting: settings differ that were not named now, and the recipe that made the artifact was not given either.
    """
    try:
        old = read_manifest(target, artifact)
    except SconeError:
        return ""
    before, now = dict(old.settings), dict(settings)
    if known := old.summary.get("asked"):  # not in evaluations of early versions
        before, now = before | known, now | dict(asked)
    changed = changed_settings(before, now, {item.name for item in dataclasses.fields(config)})
    sources = [name for name, value in made_from.items() if old.inputs.get(name, value) != value and name != "weights"]
    if not changed and not sources:
        return ""
    stale = _made_from(old, workspace, target)
    told = changes_told(changed)
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


def changes_told(changed: Mapping[str, tuple[str, str]]) -> list[str]:
    """Each setting of `changed_settings` as text: `min-docs 1 -> 2`."""
    return [f"{name.replace('_', '-')} {before} -> {after}" for name, (before, after) in changed.items()]


def changed_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], names: Collection[str]
) -> dict[str, tuple[str, str]]:
    """The settings that differ, with their texts before and after; entries of `old` that are not settings are left out."""
    compared = [*new, *(name for name in old if name in names and name not in new)]

    def text(name: str, value: Any) -> str:
        return "none" if value is None else shortened(named_value_text(name, value), _MOST)

    return {
        name: (text(name, old.get(name)), text(name, new.get(name)))
        for name in compared
        if old.get(name) != new.get(name)
    }


def _made_from(old: Manifest, workspace: Path, target: Path) -> list[str]:
    """The folders of the workspace that were made from an artifact, directly or not."""
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
