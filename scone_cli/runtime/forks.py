"""Keep forked children from waiting forever: gunicorn's `--preload`, the workers of a DataLoader, `multiprocessing`.

A forked child has only the thread that forked. torch splits large operations over a pool of OpenMP threads, and the
tokenizers library splits batches of texts; in a child both would wait forever for threads that only the parent has. So a
child computes with one thread.
"""

from __future__ import annotations

import os
from functools import cache


@cache
def work_alone_in_forks() -> None:
    """Set torch and tokenizers to one thread in every child that is forked from now on, as torch's own DataLoader does.

    A child may use more threads (`torch.set_num_threads`) only if its parent has never computed with more than one.
    """
    os.register_at_fork(after_in_child=_work_alone)


def _work_alone() -> None:
    import torch  # noqa: PLC0415 - already loaded wherever this is called

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
