"""Names arms after their folders. A file of its own, so that a recipe is read without torch."""

from __future__ import annotations

import os
from pathlib import Path

from scone_cli.errors import BadSetting


def named_folder(given: Path) -> tuple[str, Path]:
    """Name and folder of an arm that was given as NAME=DIR or DIR. A folder `model/` is named after its workspace.

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
