"""Whether this process works alone, or is one of several that torchrun started for one run. It loads no torch.

Each of these is a rank. They run the same code; what only one of them may do, rank 0 does: it writes, holds the lock of
the workspace and speaks. What several have to tell one another is in `ranks`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Launch:
    """Which rank this process is, of how many, and which of those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def launched() -> Launch:
    """What torchrun says in the environment, or the launch of a process that is alone."""
    values = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    return Launch(*map(int, values)) if all(value.isdecimal() for value in values) else Launch()


class Team(Protocol):
    """The processes that train one model."""

    launch: Launch

    def first(self, name: str, make: Callable[[], str]) -> str:
        """What `make` gives on rank 0, where alone it is called; the others wait for it. A name is used once in a run."""

    def combine(
        self, dense: Sequence[nn.Parameter], sparse: Sequence[nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Put the mean over all ranks into every gradient, and return the sums over all ranks of the numbers.

        Raises:
            LostRank: a process has gone.
        """


class Alone:
    """A team of one."""

    launch = Launch()

    def first(self, name: str, make: Callable[[], str]) -> str:  # noqa: ARG002
        """What `make` gives."""
        return make()

    def combine(
        self,
        dense: Sequence[nn.Parameter],  # noqa: ARG002
        sparse: Sequence[nn.Parameter],  # noqa: ARG002
        numbers: Sequence[float],
    ) -> list[float]:
        """The numbers; gradients stay as they are."""
        return list(numbers)
