"""Several processes of one run, started as torchrun starts them: on one machine, or as two agents that stand for two."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scone_cli.artifacts.publish import SCRATCH


def environment(**more: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SCONE_")}
    return kept | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in more.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(options: list[object], command: list[object]) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "scone_cli", *command]
    return subprocess.Popen(
        [str(word) for word in line], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


STATIC, C10D = "static", "c10d"


@contextlib.contextmanager
def two_nodes(*commands: list[object], form: str = STATIC) -> Iterator[list[subprocess.Popen[str]]]:
    """Two agents of torchrun, one process each, with the command of each node; nothing of them is left at the end."""
    port = free_port()
    options: list[object] = ["--nnodes", 2, "--nproc-per-node", 1]
    if form == C10D:
        options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", port]
    else:
        options += ["--master-addr", "127.0.0.1", "--master-port", port]
    agents = []
    workers = set[int]()
    try:
        for node, command in enumerate(commands):
            agents.append(torchrun([*options, *(["--node-rank", node] if form == STATIC else [])], command))
        yield agents
        workers |= {worker for agent in agents for worker in rank_processes(agent.pid).values()}
    finally:
        for agent in agents:
            workers |= set(rank_processes(agent.pid).values())
            agent.kill()
            agent.communicate()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def rank_processes(agent: int) -> dict[int, int]:
    """The process of each rank that an agent of torchrun, given by its process id, has started."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            rank = re.search(rb"\0RANK=(\d+)\0", Path(f"/proc/{child}/environ").read_bytes())
            if rank:
                found[int(rank[1])] = int(child)
    return found


def checkpoints(work: Path) -> list[Path]:
    return sorted(work.glob(f".model.partial-*/{SCRATCH}/step-*.safetensors"))


def wait_for_checkpoints(work: Path, *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(checkpoints(work)) < 2:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
