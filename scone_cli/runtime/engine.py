"""What runs tasks: processes of this machine (`worker_pool`), or those of the nodes of a Ray cluster (`ray_engine`).

A task is a function that reads files, writes files that appear whole, and does nothing if they exist. So it is safe to run it
again, and every engine runs the same functions. An engine tells what a node has; a pool is what a plan makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

Task = tuple[Callable[..., Any], tuple[Any, ...]]


class Pool(Protocol):
    """Processes that run tasks, as a context manager: its end ends them.

    Attributes:
        num_workers: processes of all nodes together.
        lasting: whether tasks must call fsync before a file appears, because a node may be lost while this process goes on.
    """

    @property
    def num_workers(self) -> int: ...  # noqa: D102
    @property
    def lasting(self) -> bool: ...  # noqa: D102

    def num_threads(self, num_tasks: int) -> int:
        """The threads that a process may use without taking another's core, if there are `num_tasks` tasks."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Run `function(*arguments)` for every task, and yield (number of the task, result) as they end, in any order.

        `tasks` may be an iterator: only as many tasks are taken as workers can soon start. Functions, arguments and results
        must be picklable.

        Raises:
            SconeError: workers were lost three times.
        """


class Engine(Protocol):
    """Where tasks can run.

    Attributes:
        where: the name of what runs tasks, for a plan; empty for this machine.
        num_nodes: machines that run tasks.
        num_cores: cores of a node; of the smallest, where they differ.
        free_memory: bytes that are free on every node.
    """

    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def num_nodes(self) -> int: ...  # noqa: D102
    @property
    def num_cores(self) -> int: ...  # noqa: D102
    @property
    def free_memory(self) -> int: ...  # noqa: D102

    def pool(self, num_workers: int, memory: int, preload: Iterable[str] = ()) -> Pool:
        """A pool of `num_workers` processes on each node, which take `memory` bytes on each node together.

        `preload` names modules that workers need.
        """


def check_engine(name: str, address: str) -> None:
    """Check the settings of an engine, before any work.

    Raises:
        BadSetting: Ray is not installed, or the address is none.
    """
    if name == "ray":
        from scone_cli.runtime.ray_engine import check_address  # noqa: PLC0415 - only if it is asked for

        check_address(address)


def open_engine(
    name: str, address: str, workspace: Path | None, inputs: Iterable[Path]
) -> AbstractContextManager[Engine]:
    """The engine `local` or `ray`; `address`, `workspace` and `inputs` are for Ray, see `ray_engine.RayEngine`.

    Raises:
        SconeError: there is no such cluster, or a node does not see the files.
    """
    if name == "ray":
        from scone_cli.runtime.ray_engine import RayEngine  # noqa: PLC0415 - only if it is asked for

        return RayEngine(address, workspace, inputs)
    from scone_cli.runtime.worker_pool import LocalEngine  # noqa: PLC0415 - it imports this module

    return LocalEngine()
