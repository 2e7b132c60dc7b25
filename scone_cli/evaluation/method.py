"""The section `method` of an evaluation: what was compared, and the commands that repeat it, as the manifests tell them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scone_cli import __version__
from scone_cli.artifacts.manifest import GIVEN, Manifest, read_manifest
from scone_cli.errors import SconeError
from scone_cli.evaluation.arms import Opened
from scone_cli.evaluation.result_types import Method
from scone_cli.evaluation.results import TABLE
from scone_cli.formatting import path_text


def method_of(
    found: Opened,
    corpora: Sequence[str],
    options: Sequence[str],
    settings: Mapping[str, Any],
    changed: Mapping[str, Any],
) -> Method:
    """The keys of `method` that are known before anything is measured.

    corpora, options: as on the command line. settings: all that change the result. changed: those that are not the default.
    """
    own = found.artifacts["model"].fingerprint
    tables = {TABLE: found.artifacts["table"]} if found.has_table else {}
    tables |= {f"{TABLE}:{name}": manifest for name, (_, manifest) in found.tables.items()}
    unknown: Method = {"training_unknown": found.hf_rivals()} if found.hf_rivals() else {}
    if elsewhere := found.trained_elsewhere():
        unknown["trained_on_other_tokens"] = [*elsewhere]
    return {
        **unknown,
        "scone": __version__,
        "tokenizer": found.artifacts["tokens"].tokenizer,
        "models": {name: found.rivals[name][1].fingerprint if name in found.rivals else own for name in found.names()},
        "tables": {
            name: {
                "fingerprint": table.fingerprint,
                "dtype": table.settings["dtype"],
                "rows": table.settings["num_fgrams"],
            }
            for name, table in tables.items()
        },
        "commands": commands_of(found, [*corpora, *options], settings),
        "calls": calls_of(found, corpora, options, changed, GIVEN.get().recipe.get("path")),
    }


# What the settings in a manifest hold that no option of the command sets.
_FOUND = {"num_tokens", "num_fgrams", "exclude_tokens", "held_out_by_hash", "exclude_folders", "tokenizer_library"}
_OF_FGRAMS = {"fgram_layers", "combine", "learned_rows"}
_FOUND_IN_TABLES = {"dim", "max_n"}


def commands_of(found: Opened, arguments: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The commands from the corpus to this evaluation. The path of the training corpus is not known: it is written as CORPUS."""
    workspace, made = found.workspace, found.artifacts
    commands = [
        _command(workspace, "count-ngrams", ["CORPUS"], _token_settings(found) | _settings_of(workspace, "counts"))
    ]
    if made["model"].settings["kind"] != "plain" and (vocab := _settings_of(workspace, "vocab")):
        commands.append(_command(workspace, "select-vocab", [], vocab))
    commands.append(_command(workspace, "train-fgram", [], _training_settings(made["model"])))
    trained_here = [found.rivals[name] for name in found.rivals if name not in found.hf_rivals()]
    for folder, model in trained_here:
        commands.append(_command(workspace, "train-fgram", ["--out", folder], _training_settings(model)))
    if "table" in made:
        commands.append(_precompute(workspace, [], made["table"]))
    for folder, table in found.tables.values():
        commands.append(_precompute(workspace, ["--out", folder], table))
    return [*commands, _command(workspace, "eval", arguments, settings)]


def _training_settings(model: Manifest) -> dict[str, Any]:
    """The settings of a training, without the f-gram model's where there is none: `train-fgram` fixes or refuses them."""
    kind = model.settings["kind"]
    fixed = {"scone": set(), "hashed": _OF_FGRAMS, "plain": _OF_FGRAMS | {"hashed_rows"}}[kind]
    return {name: value for name, value in model.settings.items() if name not in fixed}


def calls_of(
    found: Opened, corpora: Sequence[str], options: Sequence[str], changed: Mapping[str, Any], recipe: str | None
) -> dict[str, str]:
    """The beginnings of commands that hints print, see `results.Calls`.

    changed: the settings that are not the default. recipe: the one given now; if None, the one that made the model counts.
    """
    recipe = recipe or found.artifacts["model"].recipe.get("path")
    of_recipe = ["--config", path_text(recipe)] if recipe else []
    return {
        "train": _command(found.workspace, "train-fgram", [], {}, of_recipe),
        "evaluate": _command(found.workspace, "eval", [*corpora, *options], changed, of_recipe),
        "evaluate_text": _command(found.workspace, "eval", options, changed, of_recipe),
    }


def _token_settings(found: Opened) -> dict[str, Any]:
    """The settings of `tokens/`. A tokenizer that was given is noted there by its hash; its file is in `tokens/`."""
    settings = found.artifacts["tokens"].settings
    given = {"tokenizer": found.workspace / "tokens" / "tokenizer.json"} if settings.get("tokenizer") else {}
    return settings | given


def _settings_of(workspace: Path, artifact: str) -> dict[str, Any]:
    """The settings of an artifact that an evaluation does not need; none if it is gone."""
    try:
        return read_manifest(workspace / artifact, artifact).settings
    except SconeError:
        return {}


def _precompute(workspace: Path, own: Sequence[Any], table: Manifest) -> str:
    settings = {name: value for name, value in table.settings.items() if name not in _FOUND_IN_TABLES}
    return _command(workspace, "precompute", own, settings)


def _command(
    workspace: Path, name: str, own: Sequence[Any], settings: Mapping[str, Any], of_all: Sequence[str] = ()
) -> str:
    words = ["scone", *of_all, "--workspace", str(workspace), name, *map(str, own)]
    for setting, value in settings.items():
        flag = setting.replace("_", "-")
        if setting in _FOUND or value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
