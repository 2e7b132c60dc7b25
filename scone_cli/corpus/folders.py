"""Walks folders and matches patterns on this machine; links are followed, hidden files are left out."""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scone_cli.errors import BadData, InputMissing, StorageFailure
from scone_cli.formatting import names_of
from scone_cli.progress import notice


@contextlib.contextmanager
def readable(location: str) -> Iterator[None]:
    """Turn an OSError into a SconeError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissing(f"{error.filename or location}: was deleted while the corpus was read") from error
    except OSError as error:
        raise StorageFailure(f"{error.filename or location}: cannot be read ({error.strerror or error})") from error


def walk(top: str) -> Iterator[str]:
    """The files of a folder and of all folders in it."""
    for _, entries in _folders(top):
        _tell_left_out(entry.path for entry in entries if not entry.is_file())
        yield from (entry.path for entry in entries if entry.is_file())


def _tell_left_out(paths: Iterable[str]) -> None:
    """Print a notice about corpus paths that are left out: pipes, sockets and devices."""
    if found := sorted(paths):
        notice(f"left out, neither a file nor a folder: {names_of(found, 'paths')}")


def _folders(top: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Walk a folder and its subfolders; yields each folder with its entries that are no folders. Hidden ones are left out."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        with readable(folder), os.scandir(folder) as entries:
            found = sorted((each for each in entries if not each.name.startswith(".")), key=lambda entry: entry.name)
        for entry in found:
            if entry.is_symlink():
                _check_link(entry.path, top)
        yield folder, [entry for entry in found if not entry.is_dir()]
        waiting += (entry.path for entry in reversed(found) if entry.is_dir())


def matching(pattern: Path, base: Path) -> Iterator[str]:
    """The files that match a pattern, and the files in folders that match it.

    The standard library's `glob` is not used: it recurses for every folder level of a `**`.
    """
    found = dict.fromkeys([str(base)])
    for part in pattern.parts[len(base.parts) :]:
        found = dict.fromkeys(path for folder in found for path in _step(folder, part, str(base)))
    folders = (
        path for path in found if os.path.isdir(path) and os.path.dirname(path) not in found
    )  # a folder inside a matching folder is walked with that one
    _tell_left_out(path for path in found if not os.path.isfile(path) and not os.path.isdir(path))
    files = itertools.chain(filter(os.path.isfile, found), *map(walk, folders))
    yield from dict.fromkeys(files)


def _step(folder: str, part: str, base: str) -> Iterator[str]:
    """The paths in a folder that one component of a pattern matches."""
    if not os.path.isdir(folder):
        return
    if part == "**":
        yield from (each for each, _ in _folders(folder))
    elif glob.has_magic(part):
        with readable(folder):
            names = sorted(os.listdir(folder))
        for name in fnmatch.filter(names, part):
            if part.startswith(".") or not name.startswith("."):
                yield _checked(os.path.join(folder, name), base)
    elif os.path.lexists(path := os.path.join(folder, part)):
        yield _checked(path, base)


def _checked(path: str, base: str) -> str:
    if os.path.islink(path):
        _check_link(path, base)
    return path


def fixed_part(pattern: Path) -> Path:
    """The leading folder of a pattern, before its first component with a wildcard."""
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _check_link(link: str, top: str) -> None:
    """Refuse a broken link, and a link to a folder that contains it: the walk would never end."""
    if not os.path.exists(link):
        raise InputMissing(f"{link}: a link to {os.readlink(link)}, which does not exist", "remove it or mend it")
    if not os.path.isdir(link):
        return
    target = Path(link).resolve()
    # Each folder on the path is resolved alone: behind another link, its parent on disk is not its parent on the path.
    for above in Path(link).relative_to(top).parents:
        if (top / above).resolve().is_relative_to(target):
            raise BadData(f"{link}: a link to {target}, a folder that it lies in: a loop", "remove it")
