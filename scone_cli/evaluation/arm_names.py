"""The name that an arm gets from the folder it is given by; apart, so that a recipe is read without torch."""

from __future__ import annotations

import os
from pathlib import Path

from scone_cli.errors import BadSetting


def named_folder(given: Path) -> tuple[str, Path]:
    """The name and the folder of what was given, NAME=DIR or DIR: its own name, but for a `model/` that of its workspace.

    Raises:
        BadSetting: it cannot be the name of an arm.
    """
    name, separator, folder = str(given).partition("=")
    if not separator or "/" in name or given.exists():
        path = Path(os.path.abspath(given))  # noqa: PTH100 - not resolved: a link may be there to give it a name
        name, folder = (path.parent.name if path.name == "model" else path.name), str(given)
    if not name or set(name) & set("[]:"):  # which have a meaning in the names of other arms and in conditions
        raise BadSetting(f"{given}: '{name}' cannot be the name of an arm", "give it one without [ ] and : by NAME=DIR")
    return name, Path(folder)
