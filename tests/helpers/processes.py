"""The real command in a process of its own, for a tenth of the price: forked from one that has imported everything.

Kills, signals, limits and locks need real processes, and starting Python with torch takes seconds. A server imports what
the stages import and runs none of it (so it has no threads that a fork would lose), then forks a child for every run.

A child may be sent a signal at a *moment*: just before the k-th time that it opens a file for writing, renames or removes
something, or exchanges two folders. That hits every step of the way exactly, where a kill from outside would hit a few by chance.
"""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: by that signal), what it printed, and its moments if it came to its end."""

    code: int
    out: str
    err: str
    moments: list[str]


class Forks:
    """Runs commands one after the other; use it as a context manager."""

    def __enter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SCONE_")}
        self._server = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()
        self._folder.cleanup()

    def run(
        self,
        *args: object,
        moment: int = 0,
        signum: int = signal.SIGKILL,
        limit: int | None = None,
        umask: int | None = None,
    ) -> Ended:
        """Run `scone ARGS`; at `moment` (from 1; 0: never) it gets `signum`; no file may grow beyond `limit` bytes.

        `umask`: what the process begins with.
        """
        out, err, moments = (Path(self._folder.name, name) for name in ("out", "err", "moments"))
        moments.unlink(missing_ok=True)
        request = {
            "args": [str(arg) for arg in args],
            "moment": moment,
            "signum": int(signum),
            "limit": limit,
            "umask": umask,
        }
        request |= {"out": str(out), "err": str(err), "moments": str(moments)}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        seen = json.loads(moments.read_text()) if moments.exists() else []
        return Ended(code, out.read_text(), err.read_text(), seen)


# ---- the server --------------------------------------------------------------------------------------------------


def serve() -> None:
    import_everything()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(work(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def import_everything() -> None:
    """Import what the stages import, and make small what a tiny corpus would never reach: parts, chunks, timings."""
    for name in (
        "torch._dynamo",
        "scone_cli.console.commands",
        "scone_cli.table.table",
        "scone_cli.training.loop",
        "scone_cli.evaluation.measure",
    ):
        importlib.import_module(name)  # the first comes with the optimizer
    from scone_cli.corpus import part_writer, shards  # noqa: PLC0415 - not for those who start a server
    from scone_cli.counting import count, plan  # noqa: PLC0415 - not for those who start a server
    from scone_cli.evaluation import speed  # noqa: PLC0415 - not for those who start a server
    from scone_cli.table import fgram_forward, pieces  # noqa: PLC0415 - not for those who start a server

    shards._TASK_BYTES, part_writer._PART_TOKENS, plan._LEAST_BITS = 60_000, 10_000, 1
    fgram_forward.CPU_FGRAMS, pieces.PIECE_BYTES = 64, 4096
    speed.SECONDS = 0.01
    warm_kernels(count.KERNELS)


def warm_kernels(modules: Sequence[str]) -> None:
    """Load what is compiled once and not in every child; it starts no thread either."""
    for name in modules:
        importlib.import_module(name)
    from scone_cli.counting.sort import radix_order  # noqa: PLC0415

    radix_order(np.arange(3, dtype=np.uint64), 8)


def work(request: dict) -> int:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if request["umask"] is not None:
        os.umask(request["umask"])
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    seen = watch(request["moment"], request["signum"])
    from scone_cli.console import cli  # noqa: PLC0415

    try:
        cli.main(request["args"])
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what the interpreter would do
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if request["limit"] is None:
        Path(request["moments"]).write_text(json.dumps(seen))
    return code


def watch(moment: int, signum: int) -> list[str]:
    """Note every moment from now on, and send the signal at its own."""
    seen: list[str] = []

    def hook(event: str, args: tuple) -> None:
        writing = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wa+")
        swapping = event == "ctypes.dlopen" and args[0] is None  # artifacts.exchange looks up what swaps two folders
        if writing or swapping or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            seen.append(f"{event} {args[0]}")
            if len(seen) == moment:
                os.kill(os.getpid(), signum)

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    serve()
