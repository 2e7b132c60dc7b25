"""`--private`: only the owner can read what this process and its children make, whatever the umask was.

The umask does most of it, because every process that is started inherits it. What a umask does not change is looked at here:
folders that were there before, and a folder whose default access list replaces the umask.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextvars import ContextVar
from pathlib import Path

from scone_cli.errors import BadSetting

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_PRIVATE: ContextVar[bool] = ContextVar("private", default=False)


def begin_private() -> None:
    """Make all new files 0600 and all new folders 0700, in this process and in those that it starts."""
    os.umask(_OTHERS)
    _PRIVATE.set(True)


def is_private() -> bool:
    """Whether `begin_private` was called in this process."""
    return _PRIVATE.get()


def is_open(path: Path) -> bool:
    """Whether others than its owner have any right to a file or folder."""
    return bool(path.stat().st_mode & _OTHERS)


def check_private(folder: Path) -> None:
    """Refuse a folder that others may look into: they would see names, and the files that are there already.

    Raises:
        BadSetting: others may, and `--private` was asked for.
    """
    if is_private() and folder.is_dir() and is_open(folder):
        raise BadSetting(
            f"{folder}: open to others (mode {stat.S_IMODE(folder.stat().st_mode):04o}), and --private was asked for",
            f"close it, with all that is in it: chmod -R go= {shlex.quote(str(folder))}; or name a new folder",
        )


def close_to_others(folder: Path) -> None:
    """With `--private`, take all rights of others from a folder and what is in it: a run without it has left them."""
    if not is_private():
        return
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink() and is_open(path):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
