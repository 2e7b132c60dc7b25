"""Run tasks on the nodes of a Ray cluster (extra `ray`), through a process of its own that is the driver of the Ray job.

The driver is another process (`ray_driver`) because Ray ends a driver that loses its cluster, writes to its terminal, and
sets its signal handlers: so this process lives on and says what happened. Nothing else is started here: the cluster is there
before, started by `ray start` or by whatever manages it.

All nodes must see the workspace and the corpus under the same paths. Before work begins, every node looks for a marker that
this process wrote, and for the input.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scone_cli.errors import BadSetting, InputMissing, SconeError
from scone_cli.formatting import amount_text, names_of
from scone_cli.private import is_private
from scone_cli.progress import notice
from scone_cli.runtime.engine import Task

_CONNECT_SECONDS = 5  # until an address that nobody answers is given up; Ray itself takes two minutes
_ANSWER_SECONDS = 30  # until a cluster that does not greet is given up
_END_SECONDS = 10  # until a driver that was told to end is killed; then the cluster ends its tasks
_START = "start a cluster (ray start --head), or give the address of one: --ray-address HOST:PORT"


@dataclass(frozen=True)
class Found:
    """A node: its host, what Ray gives on it, and what was found there.

    `free_memory`: bytes. `missing`: files that the node does not see. `code`: a hash of scone's source files there, or why
    scone cannot be loaded.
    """

    host: str
    cpus: int
    gpus: int
    free_memory: int
    missing: tuple[str, ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Needs:
    """What a pool takes: on each of `num_nodes` nodes `num_workers` processes, which share `memory` bytes.

    `is_on_gpu`: each process has a GPU. `preload` names modules that they load, `folder` is their current folder, `marker` a
    file that each node must see. `is_private`: only the owner may read what they make.
    """

    num_nodes: int
    num_workers: int
    cpus: int
    memory: int
    is_on_gpu: bool
    preload: tuple[str, ...]
    folder: str
    marker: str
    is_private: bool


class RayEngine:
    """The nodes of a Ray cluster, as a context manager; see `engine.Engine`.

    `address` is HOST:PORT, or `auto`: RAY_ADDRESS, or else the cluster that `ray start` noted on this machine. Every node must
    see the folder `workspace`, if one is given, and the files `inputs`.

    Raises:
        BadSetting: Ray is not installed, or nobody answers at the address.
        InputMissing: a node does not see a file.
        SconeError: a node has other code, or the cluster has no node that could work.
    """

    def __init__(self, address: str, workspace: Path | None, inputs: Iterable[Path]) -> None:
        self.address = _address(address)
        self._workspace = None if workspace is None else workspace.absolute()
        self._marker = (self._workspace or Path.cwd()) / f".nodes-{uuid.uuid4().hex[:12]}"
        self._inputs = [str(path.absolute()) for path in inputs]
        self.nodes: Sequence[Found] = ()

    def __enter__(self) -> Self:
        self._end = contextlib.ExitStack()
        with contextlib.ExitStack() as end:
            log = end.enter_context(tempfile.NamedTemporaryFile(prefix="scone-ray-"))
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._driver = context.Process(target=_drive, args=(theirs, self.address, log.name), daemon=True)
            self._driver.start()
            theirs.close()
            end.callback(self._stop)
            if not self._pipe.poll(_ANSWER_SECONDS):
                self._driver.kill()
                raise BadSetting(f"{self.address}: what answers there is no Ray cluster, or of another version", _START)
            self._receive("connected")
            log.close()  # the driver has it open; its name is not needed any more
            self._look()
            self._end = end.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.close()

    @property
    def where(self) -> str:
        """The cluster, for a plan."""
        return f"Ray cluster at {self.address}: "

    @property
    def num_nodes(self) -> int:
        """The nodes of the cluster that have a core."""
        return len(self.nodes)

    @property
    def num_cores(self) -> int:
        """The cores that Ray may use on the smallest node."""
        return min(node.cpus for node in self.nodes)

    @property
    def num_gpus(self) -> int:
        """The GPUs of the node that has the fewest."""
        return min(node.gpus for node in self.nodes)

    def keep_gpu_nodes(self, required: bool) -> bool:
        """Use only the nodes that have a GPU, if there are any; returns whether there are.

        Raises:
            BadSetting: there is none, and one is required.
        """
        with_gpu = [node for node in self.nodes if node.gpus]
        if required and not with_gpu:
            raise BadSetting(f"--device cuda: the Ray cluster at {self.address} has no GPU", "give --device cpu")
        self.nodes = with_gpu or self.nodes
        return bool(with_gpu)

    @property
    def free_memory(self) -> int:
        """Bytes that are free on every node, and that Ray may give."""
        return min(node.free_memory for node in self.nodes)

    def pool(
        self, num_workers: int, memory: int, preload: Iterable[str] = (), cpus: int = 1, is_on_gpu: bool = False
    ) -> RayPool:
        """A pool of `num_workers` processes on each node, with `cpus` cores each and `memory` bytes together.

        Raises:
            BadSetting: a node has fewer cores, or less memory.
        """
        for node in self.nodes:
            if node.cpus < num_workers * cpus:
                raise BadSetting(
                    f"--workers {num_workers}: {node.host} has {amount_text(node.cpus, 'cores')} for Ray",
                    f"give --workers {node.cpus} or fewer: they are for each node",
                )
            if node.free_memory < memory:
                raise BadSetting(
                    f"{node.host}: {node.free_memory:,} bytes of memory are free for Ray, the plan takes {memory:,}",
                    f"give --memory {node.free_memory >> 20}MiB or less, or more memory to Ray: ray start --memory BYTES",
                )
        folder, marker = str(Path.cwd()), str(self._marker)
        needs = Needs(
            self.num_nodes, num_workers, cpus, memory, is_on_gpu, tuple(preload), folder, marker, is_private()
        )
        return RayPool(self, needs)

    # ---- what the pool uses --------------------------------------------------------------------------------------

    def send(self, *message: Any) -> None:
        """Tell the driver something; that it has ended is noticed by `receive`."""
        with contextlib.suppress(OSError):
            self._pipe.send(message)

    def receive(self) -> tuple[Any, ...]:
        """The next answer of the driver.

        Raises:
            SconeError: the driver failed, or has lost the cluster.
        """
        while True:
            try:
                word, *rest = self._pipe.recv()
            except (EOFError, ConnectionError) as error:
                raise SconeError(
                    f"the Ray cluster at {self.address} ended, or could not be reached any more",
                    "start it again, and give the same command: it continues from what is finished",
                ) from error
            if word == "failed":
                raise rest[0]
            if word != "notice":
                return (word, *rest)
            notice(rest[0])

    def _receive(self, word: str) -> tuple[Any, ...]:
        found, *rest = self.receive()
        assert found == word
        return tuple(rest)

    def _stop(self) -> None:
        self.send("end")
        self._pipe.close()
        self._driver.join(_END_SECONDS)
        self._driver.kill()
        self._driver.join()
        self._marker.unlink(missing_ok=True)

    def _look(self) -> None:
        """Ask every node whether it sees the files, and has this code."""
        files = [str(Path.cwd()), *self._inputs]
        if self._workspace is not None:
            self._workspace.mkdir(parents=True, exist_ok=True)
            for left in self._workspace.glob(".nodes-*"):  # by a run that was killed
                left.unlink(missing_ok=True)
            self._marker.touch()
            files.insert(0, str(self._marker))
        self.send("look", files)
        self.nodes, code = self._receive("nodes")
        if not self.nodes:
            raise SconeError(
                f"the Ray cluster at {self.address} has no node with a CPU", "add one: ray start --address"
            )
        for node in self.nodes:
            if node.missing:
                lost = [str(self._workspace) if path == str(self._marker) else path for path in node.missing]
                raise InputMissing(
                    f"{node.host}: does not see {names_of(lost, 'files')}",
                    "every node needs the workspace and the corpus at the same paths: a shared folder",
                )
            if node.code != code:
                found = f"code {node.code}, here it is {code}" if len(node.code) == len(code) else node.code
                raise SconeError(f"{node.host}: {found}", "install the same version of scone on every node")


class RayPool:
    """The processes on all nodes; see `engine.Pool`. One pool at a time."""

    lasting = True

    def __init__(self, engine: RayEngine, needs: Needs) -> None:
        self._engine, self._needs = engine, needs
        self.num_workers = needs.num_nodes * needs.num_workers

    def __enter__(self) -> Self:
        self._engine.send("pool", self._needs)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._engine.send("release")

    def num_threads(self, num_tasks: int) -> int:
        """The threads that a process may use without taking another's core, if there are `num_tasks` tasks."""
        on_a_node = -(-min(self.num_workers, max(1, num_tasks)) // self._needs.num_nodes)
        return max(1, self._engine.num_cores // on_a_node)

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Run the tasks on the nodes; see `engine.Pool.run`.

        Raises:
            SconeError: a task's process was lost three times for one reason, or the cluster is lost.
        """
        left, under_way = iter(enumerate(tasks)), 0
        while True:
            while under_way < 2 * self.num_workers and (entry := next(left, None)) is not None:
                self._engine.send("task", *entry)
                under_way += 1
            if not under_way:
                return
            word, number, value = self._engine.receive()
            assert word == "result"
            under_way -= 1
            yield number, value


def _drive(pipe: Connection, address: str, log: str) -> None:
    """The other process: `ray_driver.serve`, with what Ray writes in the file `log`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the other one decides
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with contextlib.suppress(EOFError, OSError):
        try:
            from scone_cli.runtime.ray_driver import serve  # noqa: PLC0415 - it loads Ray, an extra

            serve(pipe, address)
        except Failed as error:
            pipe.send(("failed", error.__cause__))
        except Exception as error:  # noqa: BLE001 - of Ray: sent on, whatever it is
            pipe.send(("failed", error if isinstance(error, SconeError) else SconeError(in_one_line(error))))
    os._exit(0)  # Ray's threads may wait for a cluster that is gone


class Failed(Exception):
    """A task has raised its `__cause__`, which is raised again in the process of the stage."""


def in_one_line(error: BaseException) -> str:
    """The class and the text of an error of a library, for a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def check_address(given: str) -> None:
    """Check that Ray is installed, and what was given for an address.

    Raises:
        BadSetting: it is neither `auto` nor HOST:PORT.
    """
    if importlib.util.find_spec("ray") is None:
        raise BadSetting("--engine ray: Ray is not installed", "run: pip install 'scone-cli[ray]'")
    host, _, port = given.rpartition(":")
    if given != "auto" and not (host and "/" not in host and port.isdecimal() and 0 < int(port) < 1 << 16):
        what = "the address of a Ray Client; give that of the cluster, " if "://" in given else ""
        raise BadSetting(f"--ray-address '{given}': {what}expected HOST:PORT, such as 10.0.0.1:6379, or auto")


def _address(given: str) -> str:
    """The address of a cluster that answers.

    Raises:
        BadSetting: see `check_address`; there is no such cluster.
    """
    check_address(given)
    address, source = given, "--ray-address"
    if given == "auto":
        noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108 - Ray's place
        address, source = os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"
        if address in ("", "auto"):
            address, source = noted.read_text().strip() if noted.is_file() else "", str(noted)
        if not address:
            raise BadSetting("--engine ray: no Ray cluster was started on this machine", _START)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BadSetting(f"{source} {address}: no Ray cluster answers there ({error})", _START) from error
    return address
