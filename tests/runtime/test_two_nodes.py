"""Two agents of torchrun on loopback, which stand for two machines that share the folder of the workspace."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import polars as pl
import pytest
from messages import error_of, names, was_made
from ranks import C10D, STATIC, checkpoints, rank_processes, two_nodes, wait_for_checkpoints
from safetensors import safe_open
from workspaces import TRAIN, contents, copy_of, manifest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux shows them"),
]

COMMAND = ("train-fgram", *TRAIN, "--steps", "60", "--learning-rate", "1e-3", "--checkpoint-every", "4", "--seed", "1")
HOST = socket.gethostname()
_ENDS_WITHIN = 30  # seconds; what docs/training.md promises, with room for a busy machine


def of(work: Path, *command: object) -> list[object]:
    return ["--workspace", work, *command]


def ended(agents: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """The exit code of each agent, and what it and its process printed."""
    said = [agent.communicate(timeout=200) for agent in agents]
    return [(agent.returncode, *each) for agent, each in zip(agents, said, strict=True)]


def ours(err: str) -> list[str]:
    """The errors and hints that scone printed, without torchrun's own report."""
    assert "scone_cli/" not in err  # no traceback is ours
    return [line for line in err.splitlines() if line.startswith(("error: ", "hint: "))]


def leftovers(work: Path) -> list[Path]:
    """What a run should have removed."""
    return [*work.glob(".*.partial-*"), *work.glob(".shared-*")]


def check_alike(alone: Path, work: Path) -> None:
    """Both runs have learned the same, up to rounding."""
    one, two = (pl.read_parquet(folder / "model" / "log.parquet") for folder in (alone, work))
    assert one["step"].to_list() == two["step"].to_list() == list(range(1, 61))
    assert one["loss"].to_list() == pytest.approx(two["loss"].to_list(), rel=2e-6)
    looks = [log["held_out_loss"].drop_nulls().to_list() for log in (one, two)]
    assert looks[0]
    assert looks[0] == pytest.approx(looks[1], rel=2e-6)
    assert manifest(alone / "model")["fingerprint"] == manifest(work / "model")["fingerprint"]


@pytest.fixture(scope="module")
def alone(forks, small, tmp_path_factory):
    """The workspace in which one process has trained."""
    work = copy_of(small / "work", tmp_path_factory.mktemp("alone") / "work")
    assert forks.run("--workspace", work, *COMMAND).code == 0
    return work


def test_two_nodes_learn_what_one_process_learns(small, alone, tmp_path):
    work = copy_of(small / "work", tmp_path / "work")
    with two_nodes(of(work, *COMMAND), of(work, *COMMAND), form=C10D) as agents:
        both = ended(agents)
    assert [code for code, *_ in both] == [0, 0], both
    assert sum(out.startswith("train-fgram ->") for _, out, _ in both) == 1
    assert sum("training: " in err for *_, err in both) == 1
    check_alike(alone, work)
    assert not leftovers(work)


@pytest.mark.parametrize(
    ("form", "killed", "with_worker"),
    [
        (C10D, 1, True),
        pytest.param(STATIC, 0, True, marks=pytest.mark.long),
        pytest.param(STATIC, 1, False, marks=pytest.mark.long),
    ],
)
def test_a_killed_node_ends_the_other_and_both_go_on_when_started_again(
    small, alone, tmp_path, form, killed, with_worker
):
    """Killed with -9: the agent and its process, or the agent alone."""
    work = copy_of(small / "work", tmp_path / "work")
    before = contents(work / "model")
    with two_nodes(of(work, *COMMAND), of(work, *COMMAND), form=form) as agents:
        wait_for_checkpoints(work, *agents)
        workers = [rank_processes(agent.pid) for agent in agents]
        agents[killed].kill()
        if with_worker:
            for worker in workers[killed].values():
                os.kill(worker, signal.SIGKILL)
        _, err = agents[1 - killed].communicate(timeout=_ENDS_WITHIN)
        assert agents[1 - killed].returncode != 0
    errors = ours(err)
    (lost,) = workers[killed]
    if with_worker:
        assert len(errors) == 2, err
        named = re.search(r"(\S+\.safetensors)\b.*\bstep (\d+)\b", errors[0])
        assert named
        assert Path(named[1]) == checkpoints(work)[-1]
        assert names(errors[0], f"rank {lost} on {HOST}")
        assert names(errors[1], "same command")
    else:
        assert len(errors) == 1, err
        assert names(errors[0], "SIGTERM", "same command")
    with safe_open(checkpoints(work)[-1], "pt") as file:
        step = int(file.metadata()["step"])
        assert all(file.get_tensor(key).isfinite().all() for key in file.keys())  # noqa: SIM118 - not a dict
    assert contents(work / "model") == before

    with two_nodes(of(work, *COMMAND), of(work, *COMMAND), form=form) as agents:
        both = ended(agents)
    assert [code for code, *_ in both] == [0, 0], both
    assert any(out.startswith("train-fgram ->") and was_made(out) for _, out, _ in both)
    assert any(names(err, f"{step * 4 * 32:,} tokens") for *_, err in both)
    check_alike(alone, work)


def test_nodes_that_do_not_share_the_folder_are_refused(small, tmp_path):
    here, there = (copy_of(small / "work", tmp_path / name) for name in ("here", "there"))
    with two_nodes(of(here, *COMMAND), of(there, *COMMAND)) as agents:
        both = ended(agents)
    for code, out, err in both:
        assert (code, out) == (1, "")
        error_of("\n".join(ours(err)) + "\n", f"rank 1 on {HOST}", str(there), str(here), hint=("same file system",))
    assert not checkpoints(here)
    assert not checkpoints(there)
    assert not [*here.glob(".shared-*")]


def test_nodes_with_other_settings_are_refused(small, tmp_path):
    work = copy_of(small / "work", tmp_path / "work")
    with two_nodes(of(work, *COMMAND), of(work, *COMMAND, "--seed", "2")) as agents:
        both = ended(agents)
    for code, out, err in both:
        assert (code, out) == (1, "")
        error_of("\n".join(ours(err)) + "\n", "rank 0", "rank 1", HOST, hint=("same command",))
    assert not checkpoints(work)


@pytest.mark.long
def test_two_nodes_compute_the_same_table(forks, small, tmp_path):
    alone, work = (copy_of(small / "work", tmp_path / name) for name in ("alone", "work"))
    command = ("precompute", "--dtype", "int8")
    assert forks.run("--workspace", alone, *command).code == 0
    with two_nodes(of(work, *command), of(work, *command)) as agents:
        both = ended(agents)
    assert [code for code, *_ in both] == [0, 0], both
    assert sum(out.startswith("precompute ->") for _, out, _ in both) == 1
    assert contents(work / "table") == contents(alone / "table")
    assert not leftovers(work)
