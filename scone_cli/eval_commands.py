"""The commands that make again what an evaluation has compared, from what the manifests say of the settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scone_cli.arms import Opened
from scone_cli.artifacts.manifest import Manifest, read_manifest
from scone_cli.errors import SconeError

# What a manifest says beside the settings of its command.
_FOUND = {"num_tokens", "num_fgrams", "exclude_tokens"}
_FOUND_IN_TABLES = {"dim", "max_n"}


def commands_of(found: Opened, arguments: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """From the corpus to this evaluation with these `arguments`; where the corpus of training lay is not known: CORPUS."""
    workspace, made = found.workspace, found.artifacts
    commands = [_command(workspace, "count-ngrams", ["CORPUS"], _token_settings(found) | _count_settings(workspace))]
    if "vocab" in made:
        commands.append(_command(workspace, "select-vocab", [], made["vocab"].settings))
    commands.append(_command(workspace, "train-fgram", [], made["model"].settings))
    for folder, model in found.rivals.values():
        commands.append(_command(workspace, "train-fgram", ["--out", folder], model.settings))
    if "table" in made:
        commands.append(_precompute(workspace, [], made["table"]))
    for folder, table in found.tables.values():
        commands.append(_precompute(workspace, ["--out", folder], table))
    return [*commands, _command(workspace, "eval", arguments, settings)]


def _token_settings(found: Opened) -> dict[str, Any]:
    """Those of `tokens/`; a tokenizer that was given is known there by its hash, and lies in it."""
    settings = found.artifacts["tokens"].settings
    given = {"tokenizer": found.workspace / "tokens" / "tokenizer.json"} if settings.get("tokenizer") else {}
    return settings | given


def _count_settings(workspace: Path) -> dict[str, Any]:
    """Those of `counts/`, if it is still there: an evaluation does not need it."""
    try:
        return read_manifest(workspace / "counts", "counts").settings
    except SconeError:
        return {}


def _precompute(workspace: Path, own: Sequence[Any], table: Manifest) -> str:
    settings = {name: value for name, value in table.settings.items() if name not in _FOUND_IN_TABLES}
    return _command(workspace, "precompute", own, settings)


def _command(workspace: Path, name: str, own: Sequence[Any], settings: Mapping[str, Any]) -> str:
    words = ["scone", "--workspace", str(workspace), name, *map(str, own)]
    for setting, value in settings.items():
        flag = setting.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None and setting not in _FOUND:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
