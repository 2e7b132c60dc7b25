"""The driver of a Ray job: the process that `ray_engine` starts, which talks to the cluster and is told what to do by a pipe.

Tasks run in actors, a fixed number on each node, and not as tasks of Ray: a worker of Ray that has ended its task stays, with
the memory that it has, while others start; a process of ours that is counted keeps a node within `--memory`, and opens a
model once. One placement group reserves the same share of every node. Ray places, starts and watches the actors; here tasks
are given to those that are free, and given again if an actor is lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import scone_cli
from scone_cli.errors import InputMissing, SconeError
from scone_cli.formatting import amount_text, bytes_text
from scone_cli.private import begin_private
from scone_cli.runtime.engine import Task
from scone_cli.runtime.ray_engine import Failed, Found, Needs, in_one_line
from scone_cli.runtime.resources import available_memory
from scone_cli.runtime.worker_pool import keep_memory

MOST_LOSSES = 3  # of one task, for one reason, until the run is given up
_LESS_MEMORY = "free memory, or give a smaller --memory or fewer --workers; what is finished is kept"
_OF_NODE = "its node ended, or could not be reached"
_POLL = 0.1  # seconds between two looks at the pipe
_PATIENCE = 30  # seconds without room on the cluster until that is told
_LOOK_SECONDS = 120  # until a node that does not answer is given up


def serve(pipe: Connection, address: str) -> None:
    """Connect to the cluster at `address`, then do what the messages in `pipe` say, until it is closed.

    Each message is a tuple of a word and what belongs to it. `look` (files) is answered by `nodes` (a list of `Found`,
    the hash of the code here); `pool` (a `Needs`) starts processes, `release` ends them; `task` (number, task) is answered by
    `result` (number, value); `end` is the last. `notice` (a text) may come at any time.

    Raises:
        EOFError: the other process has ended.
    """
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray has set a handler
    pipe.send(("connected",))
    _Driver(pipe).serve()
    ray.shutdown()


@dataclass
class _Entry:
    """A task that was handed over, and how often its process was lost, by reason."""

    number: int
    task: Task
    losses: Counter[str] = field(default_factory=Counter)


class _Driver:
    """The state of the driver: tasks that wait, and actors that start, are free or are at work."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._needs: Needs | None = None
        self._group: Any = None
        self._num_nodes = 0  # of the group
        self._actor_class: Any = ray.remote(_Worker)
        self._failed_starts: Counter[int] = Counter()  # by bundle, since the last that worked
        self._waiting: deque[_Entry] = deque()
        self._free: list[tuple[Any, int]] = []  # actors, each with the number of its bundle
        self._starting: dict[Any, tuple[Any, int]] = {}  # by the reference of what they were asked first
        self._running: dict[Any, tuple[Any, int, _Entry]] = {}
        self._asked: dict[Any, tuple[Any, int, _Entry]] = {}  # out of reach, by the reference of what they were asked
        self._idle_since: float | None = None

    def serve(self) -> None:
        """Do what the messages say, and hand out tasks, until `end`.

        Raises:
            EOFError: the other process has ended.
        """
        while True:
            while self._pipe.poll(0 if self._starting or self._running or self._asked else _POLL):
                word, *rest = self._pipe.recv()
                if word == "end":
                    return self._end()
                getattr(self, f"_{word}")(*rest)
            while self._free and self._waiting:
                (actor, bundle), entry = self._free.pop(), self._waiting.popleft()
                self._running[actor.run.remote(entry.task)] = actor, bundle, entry
            references = [*self._starting, *self._running, *self._asked]
            if not references:
                continue
            for ended in ray.wait(references, num_returns=1, timeout=_POLL)[0]:
                if ended in self._starting:
                    self._begun(ended)
                elif ended in self._running:
                    self._ended(ended)
                else:
                    self._answered(ended)
            self._tell_if_idle()

    # ---- the messages --------------------------------------------------------------------------------------------

    def _look(self, files: list[str]) -> None:
        """Ask every node what it sees, and send the answers."""
        nodes = _fitting({"CPU": 1})
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ray.remote(seen).options(num_cpus=0, scheduling_strategy=there).remote(files)] = node
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_SECONDS) if asked else ([], [])
        found = []
        for reference, node in asked.items():
            host, has = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node["Resources"]
            room = int(has.get("memory", 0))
            try:
                missing, code, free = ray.get(reference) if reference in done else ((), "it did not answer", 0)
            except Exception as error:  # noqa: BLE001 - a node without scone cannot even name its error
                missing, code, free = (), in_one_line(error), 0
            memory = min(room, free)
            found.append(Found(host, int(has["CPU"]), int(has.get("GPU", 0)), memory, tuple(missing), code))
        self._pipe.send(("nodes", found, code_hash()))

    def _pool(self, needs: Needs) -> None:
        """Reserve room on every node, and start the processes."""
        self._needs = needs
        self._reserve()

    def _reserve(self) -> None:
        """Reserve the same share of every node that is there, and start the processes; a node may have been lost meanwhile."""
        needs = self._needs
        assert needs is not None
        share: dict[str, float] = {"CPU": needs.num_workers * needs.cpus, "memory": needs.memory}
        if needs.is_on_gpu:
            share["GPU"] = needs.num_workers
        self._num_nodes = min(needs.num_nodes, max(1, len(_fitting(share))))
        self._group = placement_group([share] * self._num_nodes, strategy="STRICT_SPREAD")
        for bundle in range(self._num_nodes):
            for _ in range(needs.num_workers):
                self._start(bundle)

    def _task(self, number: int, task: Task) -> None:
        self._waiting.append(_Entry(number, task))

    def _release(self) -> None:
        """End the processes, and give back what was reserved."""
        for actor in [
            *(each for each, _ in self._free),
            *(each[0] for each in (*self._starting.values(), *self._running.values(), *self._asked.values())),
        ]:
            ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)
        self._waiting.clear()
        self._free, self._starting, self._running, self._asked, self._group = [], {}, {}, {}, None

    _end = _release

    # ---- actors --------------------------------------------------------------------------------------------------

    def _start(self, bundle: int) -> None:
        assert self._needs is not None
        there = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
        actor = self._actor_class.options(
            num_cpus=self._needs.cpus,
            num_gpus=1 if self._needs.is_on_gpu else 0,
            memory=self._needs.memory // self._needs.num_workers,
            max_restarts=0,
            scheduling_strategy=there,
        ).remote(self._needs)
        self._starting[actor.ready.remote()] = actor, bundle

    def _begun(self, reference: Any) -> None:
        actor, bundle = self._starting.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise Failed from error.cause
        except ray.exceptions.RayError as error:
            if (reason := _reason(error)) != _OF_NODE:
                self._failed_starts[bundle] += 1
            if self._failed_starts[bundle] == MOST_LOSSES:
                raise SconeError(f"a process could not start, {MOST_LOSSES} times: {reason}", _LESS_MEMORY) from error
            self._replace(actor, bundle)
        else:
            del self._failed_starts[bundle]
            self._free.append((actor, bundle))

    def _ended(self, reference: Any) -> None:
        actor, bundle, entry = self._running.pop(reference)
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise Failed from error.cause
        except ray.exceptions.ActorUnavailableError:  # dead or not: Ray finds out, and answers when it knows
            self._asked[actor.ready.remote()] = actor, bundle, entry
        except ray.exceptions.RayError as error:
            self._lose(error, actor, bundle, entry)
        else:
            self._free.append((actor, bundle))
            self._pipe.send(("result", entry.number, value))

    def _answered(self, reference: Any) -> None:
        actor, bundle, entry = self._asked.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.ActorUnavailableError:  # not known yet
            time.sleep(_POLL)
            self._asked[actor.ready.remote()] = actor, bundle, entry
        except ray.exceptions.RayError as error:
            self._lose(error, actor, bundle, entry)
        else:
            self._free.append((actor, bundle))
            self._waiting.appendleft(entry)

    def _lose(self, error: Exception, actor: Any, bundle: int, entry: _Entry) -> None:
        """Note that the process of a task was lost, and give the task again, or give up.

        Raises:
            SconeError: it was lost three times for this reason, or this process has lost the cluster.
        """
        reason = _reason(error)
        entry.losses[reason] += 1
        if entry.losses[reason] == MOST_LOSSES:
            raise SconeError(
                f"a task was lost {MOST_LOSSES} times: {reason} ({entry.task[0].__name__})", _LESS_MEMORY
            ) from error
        self._tell(f"a task is run again: {reason}")
        self._waiting.appendleft(entry)
        self._replace(actor, bundle)

    def _replace(self, actor: Any, bundle: int) -> None:
        """Start an actor in the place of one that was lost, as soon as a node has room for it."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(actor)  # it may only be out of reach, and must not go on
        self._start(bundle)

    def _tell_if_idle(self) -> None:
        """Tell, once, that tasks wait and no process can start; and do without a node that was lost before its process began."""
        if self._running or self._free or self._asked or not self._waiting:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif 0 < self._idle_since < time.monotonic() - _PATIENCE:
            self._idle_since = 0.0
            needs = self._needs
            assert needs is not None
            num_alive = len(_fitting({"CPU": needs.num_workers * needs.cpus}))
            if 0 < num_alive < self._num_nodes:
                self._tell(f"{self._num_nodes - num_alive} of {self._num_nodes} nodes ended: going on without")
                waiting = list(self._waiting)
                self._release()
                self._waiting.extend(waiting)
                self._reserve()
                self._idle_since = None
                return
            cores, memory = amount_text(needs.num_workers * needs.cpus, "cores"), bytes_text(needs.memory)
            self._tell(
                f"waiting until {cores} and {memory} of memory are free on each of {amount_text(self._num_nodes, 'nodes')} "
                f"of the Ray cluster; {num_alive} can be reached"
            )

    def _tell(self, text: str) -> None:
        self._pipe.send(("notice", text))


def _fitting(share: dict[str, float]) -> list[dict[str, Any]]:
    """The nodes that are alive and have, in all, what is asked for."""
    nodes: list[dict[str, Any]] = ray.nodes()
    has = [node for node in nodes if node["Alive"]]
    return [node for node in has if all(node["Resources"].get(name, 0) >= least for name, least in share.items())]


class _Worker:
    """The actor: a process that runs tasks one after the other."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs

    def ready(self) -> None:
        """Get ready for tasks. Not in `__init__`, because Ray does not pass on what is raised there.

        Raises:
            SconeError: something is missing on this node.
        """
        keep_memory()
        if self._needs.is_private:  # Ray started this process, with its own umask
            begin_private()
        try:
            os.chdir(self._needs.folder)
            for name in self._needs.preload:
                importlib.import_module(name)
        except (OSError, ImportError) as error:
            raise SconeError(
                f"{socket.gethostname()}: cannot work here ({in_one_line(error)})",
                "every node needs the same folders, and scone with the same extras",
            ) from error

    def run(self, task: Task) -> Any:
        """Run a task, if this node sees the workspace: it may have joined the cluster later."""
        _check_seen(self._needs.marker)
        function, arguments = task
        return function(*arguments)


def seen(files: list[str]) -> tuple[list[str], str, int]:
    """What this node does not see of `files`; the hash of its code; its free memory in bytes."""
    return [path for path in files if not os.path.exists(path)], code_hash(), available_memory()  # noqa: PTH110


def _check_seen(marker: str) -> None:
    if not Path(marker).exists():
        raise InputMissing(
            f"{socket.gethostname()}: does not see the workspace ({Path(marker).parent})",
            "mount the same folder at the same path on every node",
        )


def code_hash() -> str:
    """A hash of scone's source files: nodes with other code would make other artifacts."""
    folder, digest = Path(scone_cli.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _reason(error: Exception) -> str:
    """Why an actor was lost, in words that do not differ from one time to the next.

    Raises:
        SconeError: this process has lost the cluster.
    """
    if isinstance(error, ray.exceptions.LocalRayletDiedError):
        raise SconeError("the Ray node of this machine ended", "start it again, and give the same command") from error
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "Ray ended its process because the memory of its node was nearly full"
    if "node has died" in str(error) or isinstance(error, ray.exceptions.NodeDiedError):
        return _OF_NODE
    return "its process was killed, perhaps for lack of memory"
