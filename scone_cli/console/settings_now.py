"""Whether the settings of a recipe are those that an artifact was made with, for `scone status`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from scone_cli.artifacts.conditions import IN_ORDER, Compare
from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.replacing import changed_settings, changes_told
from scone_cli.console.help_texts import STAGES
from scone_cli.console.options import Session, fields_of
from scone_cli.console.recipes import TRAIN, Recipe
from scone_cli.errors import BadSetting, SconeError
from scone_cli.settings import result_settings

_OF_VOCABULARY = {"learned_rows", "hashed_rows"}  # settings of a model whose defaults follow from its vocabulary


def compare_with(group: click.Context, workspace: Path) -> Compare:
    """What tells why an artifact is not what its stage would make now, by its version and, with a recipe, by its settings.

    `group` is the context of the command `scone`: variables and the recipe give the settings, as they would to the stage.
    """
    session: Session = group.obj

    def compare(name: str, made: Manifest) -> list[str]:
        if made.stage not in STAGES:
            return []
        now = STAGES[made.stage].module().STAGE_VERSION
        told = (
            [] if made.stage_version == now else [f"made by version {made.stage_version} of the stage, this is {now}"]
        )
        is_of_recipe = session.recipe and (name in IN_ORDER or name in session.recipe.baselines)
        return (
            told + _changes(group, session.recipe, workspace / name, made) if session.recipe and is_of_recipe else told
        )

    return compare


def _changes(group: click.Context, recipe: Recipe, folder: Path, made: Manifest) -> list[str]:
    try:
        config = _config(group, made.stage, folder.name if folder.name in recipe.baselines else None)
        before, now = dict(made.settings), _settings(config, folder.parent, made)
    except SconeError as error:  # what is missing upstream is told there
        is_here = isinstance(error, BadSetting) or made.artifact == "tokens"
        return [f"its settings cannot be compared: {error.message}"] if is_here else []
    if made.stage == "eval":
        before["fail_if"] = (made.summary.get("asked") or {}).get("fail_if")
        now["fail_if"] = ", ".join(recipe.tables.get("eval", {}).get("fail_if", ())) or None
    goals = (
        {item.name for item in fields_of(type(config))} if made.artifact == "vocab" else set()
    )  # one decides its size
    return changes_told(changed_settings(before, now, goals))


def _config(group: click.Context, stage: str, baseline: str | None) -> Any:
    """The settings of a stage, as its command would get them without options."""
    from scone_cli.console.commands import build_command  # it imports this module

    arguments = ["-"] if stage == "count-ngrams" else ["--baseline", baseline] if baseline else []  # no corpus is read
    given = build_command(stage).make_context(stage, arguments, parent=group).params
    config_class = STAGES[stage].config_class()
    return config_class(**{item.name: given[item.name] for item in dataclasses.fields(config_class)})


def _settings(config: Any, workspace: Path, made: Manifest) -> dict[str, Any]:
    """The settings with which the stage would make the artifact again, as a manifest has them."""
    module = STAGES[made.stage].module()
    if made.stage in {"count-ngrams", "select-vocab"}:
        found: dict[str, Any] = module.settings_now(config, workspace, made)
        return found
    if made.stage != TRAIN:  # what is None is taken from the tokens
        return {name: value for name, value in result_settings(config).items() if value is not None}
    recipe = module.recipe_of(config, workspace, hashes=False)
    derived = _OF_VOCABULARY if recipe.made_from.get("vocab") != made.inputs.get("vocab") else set()
    return {name: value for name, value in recipe.settings.items() if name not in derived}
