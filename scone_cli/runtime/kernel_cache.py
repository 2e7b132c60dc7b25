"""The decorator of compiled kernels, which keeps them on disk until a source that they are made of changes.

Numba compiles a kernel again when the file that it stands in has changed, but does not see what the kernel has inlined from
other files: after an edit or an upgrade it would run half of the old code, and give other numbers without a word. So
kernels are kept in a folder named by the hash of their file and of all files of the package that it imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import event

from scone_cli.progress import compilation

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[__name__.count(".") - 1]  # of the package
_IMPORT = re.compile(rf"^\s*from ({_PACKAGE}[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
_ONE_DAY = 24 * 3600  # a process that runs the old code may still want its folder


class _Told(event.Listener):  # type: ignore[misc] # numba has no types
    """Passes on what numba says of its compiler; a kernel that is read from the disk is not compiled."""

    def on_start(self, event: event.Event) -> None:  # noqa: ARG002
        compilation.begin()

    def on_end(self, event: event.Event) -> None:  # noqa: ARG002
        compilation.end()


event.register("numba:compile", _Told())


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba's `options`, without the interpreter's lock; kept on disk where that can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        folder = _cache_folder(Path(function.__code__.co_filename))
        given = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder or "")  # read when the function is decorated, not later
        try:
            return numba.njit(**{"nogil": True, "cache": folder is not None} | options)(function)
        finally:
            numba.config.CACHE_DIR = given

    return decorate


@cache
def _cache_folder(source: Path) -> Path | None:
    """Where the kernels of a file are kept; None where no folder can be written. Others of that file, a day old, are removed."""
    name = f"kernels-{source.stem}-"
    for parent in _places(source):
        folder = parent / (name + hash_of_sources(source))
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                for other in parent.glob(f"{name}*"):
                    if other != folder and other.stat().st_mtime < time.time() - _ONE_DAY:
                        shutil.rmtree(other, ignore_errors=True)
                return folder
    return None


def _places(source: Path) -> list[Path]:
    """The folders to try: the one that the user gave numba, or that of Python's own compiled files, then the user's cache."""
    if numba.config.CACHE_DIR:
        return [Path(numba.config.CACHE_DIR)]
    places = [source.parent / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # there is no home
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        places.append(users / "scone" / hashlib.sha256(str(_FOLDER).encode()).hexdigest()[:8])
    return places


def hash_of_sources(source: Path, package: Path = _FOLDER) -> str:
    """A hash of the file and of all files of the package that it imports, directly or not: what its kernels can be made of."""
    waiting, found = [source], {source}
    while waiting:
        new = _imported(waiting.pop(), package) - found
        found |= new
        waiting += new
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _imported(source: Path, package: Path) -> set[Path]:
    """The files of the package from which a file imports."""
    files = set()
    for module, names in _IMPORT.findall(source.read_text(encoding="utf-8")):
        base = package.joinpath(*module.split(".")[1:])
        places = [
            base.with_suffix(".py"),
            base / "__init__.py",
            *(base / f"{name}.py" for name in re.findall(r"\w+", names)),
        ]
        files |= {place for place in places if place.is_file()}
    return files
