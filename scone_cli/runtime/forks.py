"""Work that goes on in the children of a fork: gunicorn's `--preload`, the workers of a DataLoader, `multiprocessing`.

A child has the thread that forked and no other. torch shares large operations among OpenMP threads that it keeps; a child that
does the same waits for threads that only its parent has, forever. An operation of one thread asks for no others.
"""

from __future__ import annotations

import os
from functools import cache


@cache
def compute_alone_in_forks() -> None:
    """Let torch compute with one thread in every child that is forked from now on, as it does in workers of a DataLoader.

    A child may ask for more (`torch.set_num_threads`) as long as its parent has not computed with more than one itself.
    """
    import torch  # noqa: PLC0415 - where this is called torch is loaded already

    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
