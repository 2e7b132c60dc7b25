"""The decorator of compiled kernels, which keeps them on disk until a source that they are made of changes.

Numba compiles a kernel again when the file that it stands in has changed, but does not see what the kernel has inlined from
other files: after an edit or an upgrade it would run half of the old code, and give other numbers without a word. So
kernels are kept in a folder named by the hash of their file and of all files of the package that it imports.

What is kept is only ever a shortcut: a file that was cut short, a folder that can be read but not written, a full disk, and
many processes that begin at once on an empty folder cost the time of compiling, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock
from numba.core import event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

from scone_cli.progress import compilation

_PACKAGE = __name__.partition(".")[0]
_FOLDER = Path(__file__).parents[__name__.count(".") - 1]  # of the package
_IMPORT = re.compile(rf"^\s*from ({_PACKAGE}[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)
_ONE_DAY = 24 * 3600  # a process that runs the old code may still want its folder


# What reading a file that was cut short, or holds something else, can raise.
_DAMAGED = (
    *(OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(RuntimeError, MemoryError, OverflowError),
)


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
        compiled = numba.njit(**{"nogil": True} | options)(function)
        if _cache_folder(Path(function.__code__.co_filename)) is not None:
            compiled._cache = _Kept(function)  # noqa: SLF001 - what numba's own `cache=True` does
        return compiled

    return decorate


class _OurFolder(UserProvidedCacheLocator):  # type: ignore[misc]
    """Where numba keeps a kernel: in the folder for its file, whose name tells its sources."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        self._py_file, self._lineno = source, function.__code__.co_firstlineno
        self._cache_path = str(_cache_folder(Path(source)))

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _OurFolder:
        return cls(function, source)

    def ensure_cache_path(self) -> None:
        """It is there; whether it can be written is seen when it is."""

    def get_source_stamp(self) -> str:
        return Path(self._cache_path).name


class _InOurFolder(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_OurFolder,)


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's files of a kernel, of which none that is damaged or cannot be written stops the work."""

    _impl_class = _InOurFolder

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except _DAMAGED:
            return None  # it is compiled, and kept anew

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """One process at a time: of two that write their lists at once, one would take the other's kernel for its own."""
        with contextlib.suppress(OSError), FileLock(Path(self.cache_path) / ".lock"):
            try:
                super().save_overload(signature, compiled)
            except _DAMAGED:
                self.flush()
                super().save_overload(signature, compiled)


@cache
def _cache_folder(source: Path) -> Path | None:
    """Where the kernels of a file are kept, and others of that file, a day old, are removed. None where no folder can be written.

    A folder that has kernels is taken though it cannot be written: an image of a container may bring them.
    """
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
            if any(folder.glob("*.nbi")):
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
