"""Whether this process works alone, or is one of several that torchrun started for one run. It loads no torch.

Each of these is a rank. They run the same code; what only one of them may do, rank 0 does: it writes, holds the lock of
the workspace and speaks. What several have to tell one another is in `process_group`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scone_cli.errors import BadSetting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Launch:
    """Which rank this process is, of how many, and which of the `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")


def launched() -> Launch:
    """What torchrun says in the environment, or the launch of a process that is alone, where there is no RANK.

    Raises:
        BadSetting: there is one, but not all that belongs to it.
    """
    said = {name: os.environ.get(name, "") for name in (*_NUMBERS, "MASTER_ADDR")}
    if not said["RANK"]:
        return Launch()
    wrong = [name for name in said if not (said[name].isdecimal() if name in _NUMBERS else said[name])]
    if not wrong and int(said["RANK"]) >= int(said["WORLD_SIZE"]):
        wrong = ["WORLD_SIZE"]
    if wrong:
        found = ", ".join(
            f"{name}={said[name]}" if said[name] else f"no {name}" for name in dict.fromkeys(["RANK", *wrong])
        )
        raise BadSetting(
            f"{found} in the environment: a process with a RANK is one of several, expected all that torchrun sets for it",
            "run: torchrun --nproc-per-node 2 -m scone_cli train-fgram; or, to train with one process, unset RANK",
        )
    size = int(said["WORLD_SIZE"])
    on_this_machine = os.environ.get("LOCAL_WORLD_SIZE", "")  # other launchers than torchrun may not say it
    local_size = int(on_this_machine) if on_this_machine.isdecimal() else size
    return Launch(int(said["RANK"]), size, int(said["LOCAL_RANK"]), local_size)


def speaks() -> bool:
    """Whether this process is the one that tells of what happens to all, whatever else is in the environment."""
    return os.environ.get("RANK", "") in ("", "0")


class Team(Protocol):
    """The processes of one run."""

    launch: Launch

    def first(self, name: str, make: Callable[[], str]) -> str:
        """What `make` gives on rank 0, where alone it is called; the others wait for it. A name is used once in a run."""

    def meet(self, name: str) -> None:
        """Return when every rank has come here. A name is used once in a run.

        Raises:
            LostRank: a process has gone.
        """

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

    def meet(self, name: str) -> None:
        """There is nobody else."""

    def combine(
        self,
        dense: Sequence[nn.Parameter],  # noqa: ARG002
        sparse: Sequence[nn.Parameter],  # noqa: ARG002
        numbers: Sequence[float],
    ) -> list[float]:
        """The numbers; gradients stay as they are."""
        return list(numbers)
