"""Compiled kernels that numba keeps beside the sources: forgotten when one of these is newer than they are.

Numba compiles a kernel again when the file that it stands in has changed, but knows nothing of what it has inlined from
another: after an edit or a `git pull` it would run half of the old code, and give other numbers without a word.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

HERE = Path(__file__).parent
_INLINED_ONLY = "raw_memory"  # has no kernels that are kept, but is part of many


def forget_stale_kernels(folder: Path = HERE) -> int:
    """Remove all kept kernels of the modules in `folder` if one of the modules is newer; returns how many there were."""
    kept = [path for path in (folder / "__pycache__").glob("*.nb[ic]") if path.is_file()]
    modules = {path.name.partition(".")[0] for path in kept} | {_INLINED_ONLY}
    sources = [path for path in folder.glob("*.py") if path.stem in modules]
    with contextlib.suppress(OSError):  # another process removes them too, or they are not ours to remove
        if kept and sources and min(map(_modified, kept)) < max(map(_modified, sources)):
            for path in kept:
                path.unlink(missing_ok=True)
            return len(kept)
    return 0


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
