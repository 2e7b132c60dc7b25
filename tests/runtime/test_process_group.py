"""Several processes: torchrun of the real command, and what ranks tell one another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from messages import error_of, names, refusal, was_made
from ranks import checkpoints, environment, free_port, rank_processes, torchrun, wait_for_checkpoints
from safetensors import safe_open
from torch.distributed import TCPStore
from workspaces import TRAIN, contents, copy_of, manifest

from scone_cli.errors import LostRank
from scone_cli.runtime import process_group
from scone_cli.runtime.signals import noting_stops
from scone_cli.runtime.torchrun import Alone, Launch, launched

pytestmark = pytest.mark.slow  # they start processes that import torch, or compile kernels

COMMAND = ("train-fgram", *TRAIN, "--steps", "80", "--learning-rate", "1e-3", "--checkpoint-every", "4", "--seed", "1")


def started(work: Path) -> subprocess.Popen[str]:
    return torchrun(["--nproc-per-node", 2, "--master-port", free_port()], ["--workspace", work, *COMMAND])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them")
@pytest.mark.long
def test_a_lost_rank_costs_one_checkpoint_and_two_ranks_learn_what_one_learns(forks, small, tmp_path):
    """Killed with -9, the run ends with its last checkpoint named; given again, it ends as one process does."""
    alone, work = (copy_of(small / "work", tmp_path / name) for name in ("alone", "work"))
    before = contents(work / "model")
    with started(work) as process:
        wait_for_checkpoints(work, process)
        os.kill(rank_processes(process.pid)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (1, "")
    ours = err[: err.index("Traceback")] if "Traceback" in err else err  # torchrun's own report ends in one
    error, hint = (line for line in ours.splitlines() if line.startswith(("error: ", "hint: ")))
    named = re.search(r"(\S+\.safetensors)\b.*\bstep (\d+)\b", error)
    assert named
    assert Path(named[1]) == checkpoints(work)[-1]
    with safe_open(named[1], "pt") as file:
        assert file.metadata() == {"step": named[2], "windows": str(4 * int(named[2]))}
    assert names(hint, "same command")
    assert "scone_cli/" not in err  # no traceback is ours
    assert contents(work / "model") == before

    with started(work) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.startswith(f"train-fgram -> {work / 'model'} (")
    assert was_made(out)
    assert out.count("train-fgram ->") == 1
    begun = next(line for line in err.splitlines() if line.startswith("training: "))
    assert names(begun, f"{int(named[2]) * 4 * 32:,} tokens")
    assert err.count(begun) == 1
    assert forks.run("--workspace", alone, *COMMAND).code == 0
    one, two = (pl.read_parquet(folder / "model" / "log.parquet") for folder in (alone, work))
    assert one["step"].to_list() == two["step"].to_list() == list(range(1, 81))
    assert one["loss"].to_list() == pytest.approx(two["loss"].to_list(), rel=2e-6)
    assert one["gradient_norm"].to_list() == pytest.approx(two["gradient_norm"].to_list(), rel=1e-4)
    looks = [log["held_out_loss"].drop_nulls().to_list() for log in (one, two)]
    assert len(looks[0]) == 27
    assert looks[0] == pytest.approx(looks[1], rel=2e-6)
    assert manifest(alone / "model")["fingerprint"] == manifest(work / "model")["fingerprint"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them")
def test_sigterm_and_then_sigkill_to_one_rank_ends_clearly_and_goes_on(small, tmp_path):
    """As a cluster takes a node away: asked first, then without asking."""
    work = copy_of(small / "work", tmp_path / "work")
    before = contents(work / "model")
    with started(work) as process:
        wait_for_checkpoints(work, process)
        rank = rank_processes(process.pid)[1]
        os.kill(rank, signal.SIGTERM)
        time.sleep(0.1)  # the ranks have agreed to stop, or are about to
        with contextlib.suppress(ProcessLookupError):  # it has ended by the first
            os.kill(rank, signal.SIGKILL)
        out, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert out == ""
    assert "scone_cli/" not in err  # no traceback is ours
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert contents(work / "model") == before
    step = re.search(r"step-(\d+)", checkpoints(work)[-1].name)
    assert step

    with started(work) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert was_made(out)
    assert names(err, f"{int(step[1]) * 4 * 32:,} tokens")
    assert pl.read_parquet(work / "model" / "log.parquet")["step"].to_list() == list(range(1, 81))


# ---- what ranks tell one another ---------------------------------------------------------------------------------

SCRIPT = """
import json, sys, torch
from torch import nn
from scone_cli.errors import SconeError
from scone_cli.runtime.torchrun import launched
from scone_cli.runtime.process_group import join
launch = launched()
told = []
try:
    with join(launch, "cpu") as team:
        name = team.first("name", lambda: f"of rank {launch.rank}")
        both, one, none, rows = (nn.Parameter(torch.zeros(*shape)) for shape in ((2, 2), (3,), (1,), (5, 2)))
        both.grad = torch.full((2, 2), 1.0 + launch.rank)
        if launch.rank == 1:
            one.grad = torch.tensor([2.0, 4.0, 8.0])
        indices = torch.tensor([[0, 3], [3]][launch.rank])
        values = torch.full((len(indices), 2), 10.0 * (1 + launch.rank))
        rows.grad = torch.sparse_coo_tensor(indices[None], values, (5, 2), check_invariants=False)
        sums = team.combine([both, one, none], [rows], [0.25, launch.rank])
        empty = nn.Parameter(torch.zeros(5, 2))
        if launch.rank:
            empty.grad = rows.grad
        team.combine([both], [empty], [])
        found = [name, sums, both.grad.tolist(), one.grad.tolist(), none.grad, rows.grad.to_dense().tolist()]
        print(json.dumps([*found, empty.grad.to_dense().tolist()]), flush=True)
        raise SconeError("wrong")
except SconeError as error:
    print(json.dumps(error.told))
"""


def as_ranks(script: str, *args: object, **shared: object) -> list[tuple[int, str, str]]:
    """Run a script as two ranks; how each ended, and what it said."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *map(str, args)],
            env=environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, **shared),
            cwd=Path(__file__).parents[1] / "helpers",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ended = [process.communicate(timeout=200) for process in processes]
    return [(process.returncode, *said) for process, said in zip(processes, ended, strict=True)]


def both_ranks(script: str, *args: object) -> list[list]:
    """What a script printed as two ranks, a JSON value a line."""
    ended = as_ranks(script, *args, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    assert [code for code, *_ in ended] == [0, 0], ended
    return [[json.loads(line) for line in out.splitlines()] for _, out, _ in ended]


def test_gradients_are_averaged_and_one_rank_tells_what_went_wrong():
    found = both_ranks(SCRIPT)
    for name, sums, both, one, none, rows, empty in (lines[0] for lines in found):
        assert name == "of rank 0"
        assert sums == [0.5, 1.0]
        assert both == [[1.5, 1.5]] * 2
        assert one == [1.0, 2.0, 4.0]  # the rank that has none counts as zeros
        assert none is None
        assert rows == [[5.0, 5.0], [0.0, 0.0], [0.0, 0.0], [15.0, 15.0], [0.0, 0.0]]
        assert empty == [[2.5, 2.5], [0.0, 0.0], [0.0, 0.0], [7.5, 7.5], [0.0, 0.0]]
    assert sorted(lines[1] for lines in found) == [False, True]


LOOK_CUT_SHORT = """
import os, signal, sys
from pathlib import Path
import small_training as runs
from scone_cli.training import gradients, loop
from scone_cli.runtime.signals import Stopped, stop_signals
from scone_cli.runtime.torchrun import launched
from scone_cli.progress import silent
from scone_cli.runtime.process_group import join

def rows(*args, made=gradients.live_rows):
    os.kill(os.getpid(), signal.SIGTERM)
    return made(*args)

gradients.live_rows = rows
with join(launched(), "cpu") as team, stop_signals():
    plan = runs.plan_of(eval_tokens=1000, checkpoint_every=100)
    try:
        loop.train(runs.model_of("scone"), runs.SEEN, plan, Path(sys.argv[1]), silent, team)
    except Stopped as stopped:
        print(stopped.exit_code)
"""


def test_a_signal_to_the_rank_that_looks_stops_both_at_that_step(tmp_path):
    """Rank 1 is at the next step by then, which is not taken."""
    assert both_ranks(LOOK_CUT_SHORT, tmp_path) == [[143], [143]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "step-00000006.safetensors"]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["held_out_loss"] is None


FULL_DISK = """
import sys
from safetensors import SafetensorError
from scone_cli.console import cli
from scone_cli.training import checkpoints

def save_file(*_):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

checkpoints.save_file = save_file
cli.main(sys.argv[1:])
"""


def test_a_full_disk_is_told_once(small, tmp_path):
    """As under torchrun, which keeps the store of the ranks, so that it outlives them."""
    work = copy_of(small / "work", tmp_path / "work")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    ended = as_ranks(FULL_DISK, "--quiet", "--workspace", work, *COMMAND, **shared)
    assert [(code, out) for code, out, _ in ended] == [(74, ""), (1, "")]
    assert ended[0][2].startswith("error: ")
    error_of(ended[0][2], str(work), "No space left on device", hint=("space",))
    assert ended[1][2] == ""


class NeverDone:
    """A transfer to a process that has gone, as GPUs see it."""

    def is_completed(self) -> bool:
        return False


class NobodyLost:
    def check(self) -> None:
        pass

    def lost(self) -> str:
        return ""


def test_a_rank_that_is_asked_to_stop_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(process_group, "_GRACE", 0.05)
    with noting_stops() as stop:
        stop.signum = signal.SIGTERM
        with refusal(LostRank, "process"), process_group._losses():
            process_group.Ranks(Launch(), None, NobodyLost())._wait(NeverDone())
        stop.signum = 0


def test_alone():
    team = Alone()
    assert team.launch == Launch(rank=0, size=1, local_rank=0)
    assert team.first("name", lambda: "made") == "made"
    assert team.gather("name", "one") == ["one"]
    assert team.combine([], [], [0.1, 3]) == [0.1, 3]


VARIABLES = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Launch()),
        (VARIABLES, Launch(3, 4, 1, 4)),
        (VARIABLES | {"LOCAL_WORLD_SIZE": "2"}, Launch(3, 4, 1, 2)),
        (VARIABLES | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}, Launch(3, 4, 1, 2, 1)),
        (VARIABLES | {"RANK": ""}, Launch()),
    ],
)
def test_what_torchrun_says(monkeypatch, values, expected):
    set_variables(monkeypatch, values)
    assert launched() == expected


def set_variables(monkeypatch, values: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            dict.fromkeys(("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"), ""),
            ["RANK=3", "WORLD_SIZE", "MASTER_PORT"],
        ),
        ({"WORLD_SIZE": ""}, ["RANK=3", "WORLD_SIZE"]),
        ({"MASTER_ADDR": ""}, ["RANK=3", "MASTER_ADDR"]),
        ({"MASTER_PORT": "http"}, ["RANK=3", "MASTER_PORT=http"]),
        ({"WORLD_SIZE": "3"}, ["RANK=3", "WORLD_SIZE=3"]),
        ({"RANK": "x"}, ["RANK=x"]),
    ],
)
def test_a_rank_of_nothing(scone, monkeypatch, changes, found):
    set_variables(monkeypatch, VARIABLES | changes)
    code, _, err = scone("train-fgram")
    assert code == 2
    assert err.startswith("error: ")
    error_of(err, *found, hint=("torchrun",))
    assert scone("--workspace", "w", "select-vocab")[0] == 66  # which does not ask
