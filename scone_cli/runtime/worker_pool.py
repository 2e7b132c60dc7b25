"""Run tasks in worker processes of this machine, and run a task again if its worker is killed; see `engine`."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Self

from scone_cli.errors import SconeError
from scone_cli.progress import compilation
from scone_cli.runtime.engine import Task
from scone_cli.runtime.resources import available_memory, num_cores

_POLL = 0.5  # seconds between two checks whether workers compile kernels
_PAUSE = 0.3  # seconds until a killed server is noticed, or memory is free again
_MOST_LOSSES = 3  # lost workers in a row, with no task finished in between, before giving up


class LocalEngine:
    """The machine of this process, as a context manager; see `engine.Engine`."""

    num_nodes = 1
    where = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to end: a pool ends its processes."""

    @property
    def num_cores(self) -> int:
        """The cores that this process may use."""
        return num_cores()

    @property
    def free_memory(self) -> int:
        """Bytes that are free on this machine."""
        return available_memory()

    def pool(self, num_workers: int, memory: int, preload: Iterable[str] = ()) -> Pool:  # noqa: ARG002
        """A pool of `num_workers` processes; tasks keep to the plan that `memory` was estimated for."""
        return Pool(num_workers, preload)


class Pool:
    """Runs tasks in `num_workers` processes, or in this process if that is 1, which saves the memory of another.

    `preload` names modules that workers need: they are imported once, in the background, and shared by all workers. Use the
    pool as a context manager: its end ends the workers.
    """

    lasting = False  # a crash of the machine ends this process too, and unfinished work is made anew

    def __init__(self, num_workers: int, preload: Iterable[str] = ()) -> None:
        self.num_workers = num_workers
        self._executor: ProcessPoolExecutor | None = None
        self._context = _context(preload) if num_workers > 1 else None
        self._compilers = _Compilers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(kill=kind is not None)

    def num_threads(self, num_tasks: int) -> int:
        """The threads that a process may use without taking another's core, if there are `num_tasks` tasks."""
        return max(1, num_cores() // max(1, min(self.num_workers, num_tasks)))

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[int, Any]]:
        """Run the tasks; see `engine.Pool.run`.

        Raises:
            SconeError: workers were killed three times in a row.
        """
        if self._context is None:
            keep_memory()
            for number, (function, arguments) in enumerate(tasks):
                yield number, function(*arguments)
            return
        yield from self._run_in_workers(iter(enumerate(tasks)))

    def _run_in_workers(self, tasks: Iterator[tuple[int, Task]]) -> Iterator[tuple[int, Any]]:
        waiting: deque[tuple[int, Task]] = deque()  # tasks of killed workers
        running: dict[Future[Any], tuple[int, Task]] = {}
        num_losses = 0
        while True:
            lost = False
            while not lost and len(running) < 2 * self.num_workers:  # so that no worker waits for this process
                entry = waiting.popleft() if waiting else next(tasks, None)
                if entry is None:
                    break
                try:
                    running[self._submit(entry[1])] = entry
                except (BrokenProcessPool, EOFError, ConnectionError):  # a worker, or the server that they come from
                    waiting.appendleft(entry)
                    lost = True
            if not running and not waiting:
                self._end(kill=False)  # frees the memory that workers hold; later tasks get new workers
                return
            ended = wait(running, timeout=0 if lost else _POLL, return_when=FIRST_COMPLETED).done
            self._compilers.look()
            for future in ended:
                entry = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    waiting.append(entry)
                    lost = True
                    continue
                num_losses = 0
                yield entry[0], result
            if lost:
                waiting.extend(running.values())
                running.clear()
                self._end(kill=True)
                num_losses += 1
                if num_losses >= _MOST_LOSSES:
                    raise SconeError(
                        f"worker processes were killed {num_losses} times in a row, perhaps for lack of memory",
                        "free memory, or give a smaller --memory or fewer --workers; what is finished is kept",
                    )
                time.sleep(_PAUSE)

    def _submit(self, task: Task) -> Future[Any]:
        if self._executor is None:
            told = self._compilers.open(self._context)
            self._executor = ProcessPoolExecutor(self.num_workers, self._context, _become_worker, (told,))
        with _signals_wait():
            return self._executor.submit(task[0], *task[1])

    def _end(self, kill: bool) -> None:
        if self._executor is None:
            return
        if kill:
            for process in list((self._executor._processes or {}).values()):  # noqa: SLF001 - public from Python 3.14 on
                process.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None
        self._compilers.close()


class _Compilers:
    """Counts the workers that are compiling kernels, from a pipe: a worker writes one byte at the start and one at the end.

    Single bytes need no lock, so a killed worker leaves none locked.
    """

    def __init__(self) -> None:
        self._heard: Connection | None = None
        self._told: Connection | None = None
        self._num = 0

    def open(self, context: BaseContext | None) -> Connection:
        """Open a pipe, and return its end for the workers."""
        assert context is not None
        self._heard, self._told = context.Pipe(duplex=False)
        return self._told

    def look(self) -> None:
        """Read what workers have written."""
        before = self._num
        while self._heard is not None and self._heard.poll():
            self._num += 1 if self._heard.recv_bytes() == b"+" else -1
        self._step(before, self._num)

    def close(self) -> None:
        """Close the pipe, after all workers have ended."""
        self._step(self._num, 0)
        self._num = 0
        for end in (self._heard, self._told):
            if end is not None:
                end.close()
        self._heard = self._told = None

    @staticmethod
    def _step(before: int, after: int) -> None:
        if not before and after:
            compilation.begin()
        elif before and not after:
            compilation.end()


def _context(preload: Iterable[str]) -> BaseContext:
    """The way to start workers: forked from a clean server process, because a fork of this one would lack its threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker  # noqa: PLC0415 - not on every system

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scone_cli.runtime.worker_pool", *preload])
    resource_tracker.ensure_running()  # unblocks signals when it starts, so it comes first
    with _interrupts_blocked():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Delay signals that have a handler: a worker that is being started is not yet listed, and would not be ended."""
    arrived: list[int] = []
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():  # Python sets handlers only in the main thread
        handlers = {}
    mine = [each for each, handler in handlers.items() if callable(handler)]
    for each in mine:
        signal.signal(each, lambda signum, _: arrived.append(signum))
    try:
        yield
    finally:
        for each in mine:
            signal.signal(each, handlers[each])
        for signum in arrived[:1]:
            signal.raise_signal(signum)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delay Ctrl-C in this process, and block it in a process that is started now: a terminal sends it to both.

    Without this, a process that is still importing would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keep_memory() -> None:
    """Keep freed memory in the process for later use instead of returning it to the system (glibc only).

    Tasks allocate arrays of the same sizes again and again. Without this, mapping new memory takes a tenth of the time of a
    count.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def give_back_memory() -> None:
    """Return freed memory to the system (glibc only), after work that needed more memory than what comes next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _become_worker(told: Connection) -> None:
    """Set up a worker: it ends with its parent, ignores Ctrl-C, and reports to the parent when it compiles kernels."""
    compilation.listener = lambda begins: told.send_bytes(b"+" if begins else b"-")
    keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    owner = multiprocessing.parent_process()
    assert owner is not None

    def watch() -> None:
        multiprocessing.connection.wait([owner.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
