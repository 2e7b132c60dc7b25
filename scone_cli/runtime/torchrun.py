"""Find out whether this process is alone or one of several ranks that torchrun started, without importing torch.

All ranks run the same code. Rank 0 alone writes artifacts, holds the lock of the workspace and shows progress; errors are printed
once on each machine. Communication between the ranks is in `process_group`.
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
    """The rank of this process of `size`, its rank among the `local_size` processes on this machine, the machine's number."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0


_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")


def launched() -> Launch:
    """Read the launch from the environment variables of torchrun; without RANK the process is alone.

    Raises:
        BadSetting: RANK is set, but other variables of torchrun are missing or wrong.
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
            f"{found} in the environment: expected all variables that torchrun sets together with RANK",
            "run: torchrun --nproc-per-node 2 -m scone_cli train-fgram; or, to train with one process, unset RANK",
        )
    size = int(said["WORLD_SIZE"])
    on_this_machine = os.environ.get("LOCAL_WORLD_SIZE", "")  # other launchers than torchrun may not say it
    local_size = int(on_this_machine) if on_this_machine.isdecimal() else size
    node = os.environ.get("GROUP_RANK", "")
    return Launch(int(said["RANK"]), size, int(said["LOCAL_RANK"]), local_size, int(node) if node.isdecimal() else 0)


def speaks() -> bool:
    """Whether this process prints what concerns all ranks: it is alone or rank 0."""
    return os.environ.get("RANK", "") in ("", "0")


def speaks_here() -> bool:
    """Whether this process prints what concerns the ranks of its machine: it is alone or the first of them."""
    return not os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "") in ("", "0")


class Team(Protocol):
    """The processes of one run, as training uses them."""

    launch: Launch

    def first(self, name: str, make: Callable[[], str]) -> str:
        """The result of `make`, which only rank 0 calls; the others wait for it. A name is used once in a run."""

    def meet(self, name: str) -> None:
        """Wait until every rank has called this. A name is used once in a run.

        Raises:
            LostRank: another process has ended.
        """

    def gather(self, name: str, value: str) -> list[str]:
        """The values that all ranks give, in their order. A name is used once in a run.

        Raises:
            LostRank: another process has ended.
        """

    def combine(
        self, dense: Sequence[nn.Parameter], sparse: Sequence[nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Replace every gradient by its mean over all ranks, and return the sums of `numbers` over all ranks.

        Raises:
            LostRank: another process has ended.
        """


class Alone:
    """The team of a process that works alone."""

    launch = Launch()

    def first(self, name: str, make: Callable[[], str]) -> str:  # noqa: ARG002
        """The result of `make`."""
        return make()

    def meet(self, name: str) -> None:
        """Return at once: there is no other rank."""

    def gather(self, name: str, value: str) -> list[str]:  # noqa: ARG002
        """The one value."""
        return [value]

    def combine(
        self,
        dense: Sequence[nn.Parameter],  # noqa: ARG002
        sparse: Sequence[nn.Parameter],  # noqa: ARG002
        numbers: Sequence[float],
    ) -> list[float]:
        """The numbers, unchanged, as are the gradients."""
        return list(numbers)
