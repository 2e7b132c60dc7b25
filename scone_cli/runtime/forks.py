"""Work that goes on in the children of a fork: gunicorn's `--preload`, the workers of a DataLoader, `multiprocessing`.

A child has the thread that forked and no other. torch shares large operations among OpenMP threads that it keeps, and the
tokenizers library batches of texts; a child that does the same waits for threads that only its parent has, forever. Work of
one thread asks for no others.
"""

from __future__ import annotations

import os
from functools import cache


@cache
def work_alone_in_forks() -> None:
    """Let torch and tokenizers work with one thread in every child that is forked from now on, as torch's own DataLoader does.

    A child may ask for more (`torch.set_num_threads`) as long as its parent has not computed with more than one itself.
    """
    os.register_at_fork(after_in_child=_work_alone)


def _work_alone() -> None:
    import torch  # noqa: PLC0415 - where this is called it is loaded already

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
