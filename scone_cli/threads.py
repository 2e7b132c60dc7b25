"""Loops of our own over as many threads as torch has."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

_FEWEST = 1024  # rows for which a second thread pays


def share_out(kernel: Callable[..., None], count: int, *arrays: Any, fewest: int = _FEWEST) -> None:
    """Run kernel(first, last, *arrays) over [0, count), in parts of at least `fewest` side by side.

    The kernel lets go of Python's lock, and no two parts may write to the same number.
    """
    threads = max(1, min(torch.get_num_threads(), count // fewest))
    if threads == 1:
        kernel(0, count, *arrays)
        return
    cuts = [count * i // threads for i in range(threads + 1)]
    list(_pool(threads).map(lambda i: kernel(cuts[i], cuts[i + 1], *arrays), range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
