"""Compile numba kernels and cache them on disk until one of their source files changes.

Numba's own cache compiles a kernel again when its file has changed, but not when a function has changed that it inlines from
another file: after an edit or an upgrade it would run partly old code, and silently give other numbers. So the cache folder
is named by a hash of the kernel's file and of all files of the package that it imports.

A damaged cache file, a read-only folder, a full disk, or many processes that start at once with an empty cache cost the time
of compiling, and nothing else.
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
_ONE_DAY = 24 * 3600  # a running process with the old code may still need its folder


# What reading a damaged cache file can raise.
_DAMAGED = (
    *(OSError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(RuntimeError, MemoryError, OverflowError),
)


class _Told(event.Listener):  # type: ignore[misc] # numba has no types
    """Tells the progress display when numba compiles; loading a kernel from the disk is not compiling."""

    def on_start(self, event: event.Event) -> None:  # noqa: ARG002
        compilation.begin()

    def on_end(self, event: event.Event) -> None:  # noqa: ARG002
        compilation.end()


event.register("numba:compile", _Told())


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba's `options`, releasing the GIL, and cache it on disk if a folder can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = numba.njit(**{"nogil": True} | options)(function)
        if _cache_folder(Path(function.__code__.co_filename)) is not None:
            compiled._cache = _Kept(function)  # noqa: SLF001 - what numba's own `cache=True` does
        return compiled

    return decorate


class _OurFolder(UserProvidedCacheLocator):  # type: ignore[misc]
    """Tells numba in which folder it caches a kernel: the one for its source file and the hash of all its sources."""

    def __init__(self, function: Callable[..., Any], source: str) -> None:
        self._py_file, self._lineno = source, function.__code__.co_firstlineno
        self._cache_path = str(_cache_folder(Path(source)))

    @classmethod
    def from_function(cls, function: Callable[..., Any], source: str) -> _OurFolder:
        return cls(function, source)

    def ensure_cache_path(self) -> None:
        """Nothing to do: the folder exists, and a failure to write is handled when writing."""

    def get_source_stamp(self) -> str:
        return Path(self._cache_path).name


class _InOurFolder(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_OurFolder,)


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one kernel, in which a file that is damaged or cannot be written is no error."""

    _impl_class = _InOurFolder

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return super().load_overload(signature, target)
        except _DAMAGED:
            return None  # numba compiles it and writes it again

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Write under a lock: if two processes wrote their lists at once, one would load the other's kernel as its own."""
        with contextlib.suppress(OSError), FileLock(Path(self.cache_path) / ".lock"):
            try:
                super().save_overload(signature, compiled)
            except _DAMAGED:
                self.flush()
                super().save_overload(signature, compiled)


@cache
def _cache_folder(source: Path) -> Path | None:
    """The cache folder for the kernels of a source file; None if no folder can be written.

    Removes folders for older versions of that file after a day. A read-only folder that has kernels is used: the image of a
    container may bring them.
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
    """The folders to try: NUMBA_CACHE_DIR if it is set, or else `__pycache__` beside the source, then the user's cache."""
    if numba.config.CACHE_DIR:
        return [Path(numba.config.CACHE_DIR)]
    places = [source.parent / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # the user has no home
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        places.append(users / "scone" / hashlib.sha256(str(_FOLDER).encode()).hexdigest()[:8])
    return places


def hash_of_sources(source: Path, package: Path = _FOLDER) -> str:
    """A hash of a source file and of all files of the package that it imports, directly or not."""
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
