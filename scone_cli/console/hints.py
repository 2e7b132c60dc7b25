"""Completes the commands in hints with the workspace and the recipe, so that they can be copied."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from scone_cli.console.help_texts import STAGES

DEFAULT_WORKSPACE = Path("scone-work")

# A command in a hint, with its options: a stage, or one of the other commands that read the workspace.
_TO_RUN = re.compile(
    r"(?:(?<=: )|(?<=run )|(?<=&& ))scone (?P<options>(?:--(?:workspace|config) (?:'[^']*'|\"[^\"]*\"|[^\s'\"])+ )*)"
    rf"(?=(?:{'|'.join([*STAGES, 'lookup', 'generate', 'export', 'publish'])})\b)"
)


def completed(hint: str, workspace: Path, recipe: Path | None) -> str:
    """The hint with --workspace (if it is not the default) and --config (if there is a recipe) in its commands."""
    named = {"--workspace": None if workspace == DEFAULT_WORKSPACE else workspace, "--config": recipe}

    def whole(found: re.Match[str]) -> str:
        options = found["options"]
        missing = [f"{flag} {shlex.quote(str(path))} " for flag, path in named.items() if path and flag not in options]
        return f"scone {''.join(missing)}{options}"

    return _TO_RUN.sub(whole, hint)
