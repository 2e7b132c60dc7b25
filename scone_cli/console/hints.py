"""The commands that hints say to run, with the workspace and the recipe, so that they can be copied."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from scone_cli.console.help_texts import STAGES

DEFAULT_WORKSPACE = Path("scone-work")

# A command that a hint says to run, with the options that it has; of those that only look, these two read the workspace.
_TO_RUN = re.compile(
    r"(?:(?<=: )|(?<=run )|(?<=&& ))scone (?P<options>(?:--(?:workspace|config) (?:'[^']*'|\"[^\"]*\"|[^\s'\"])+ )*)"
    rf"(?=(?:{'|'.join([*STAGES, 'lookup', 'generate'])})\b)"
)


def completed(hint: str, workspace: Path, recipe: Path | None) -> str:
    """A hint whose commands can be copied: they name the workspace, if it is not the default, and the recipe, if there is one."""
    named = {"--workspace": None if workspace == DEFAULT_WORKSPACE else workspace, "--config": recipe}

    def whole(found: re.Match[str]) -> str:
        options = found["options"]
        missing = [f"{flag} {shlex.quote(str(path))} " for flag, path in named.items() if path and flag not in options]
        return f"scone {''.join(missing)}{options}"

    return _TO_RUN.sub(whole, hint)
