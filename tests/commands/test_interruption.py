"""Kill -9 at every step of every stage, then the same command again: as if nothing had happened."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import error_of
from processes import Ended
from workspaces import COUNT, TRAIN, WRITES, contents, copy_of, timeless, wait_for_step

# Each stage with another setting than the small workspace was made with: so there is an old artifact, and work to do.
CHANGED = {
    "count-ngrams": (*COUNT, "--min-count", "7", "--held-out", "0.2"),
    "select-vocab": ("--size", "500"),
    "train-fgram": (*TRAIN, "--seed", "1"),
    "precompute": ("--dtype", "float32"),
    "eval": ("--ladder", "--no-speed"),
}
# Moments tried of each stage; half of them are the last, where the new artifact takes the place of the old.
TRIED = 6


class Stage:
    """One stage of the small workspace, run again and again in copies of it."""

    def __init__(self, forks, small: Path, folder: Path, name: str) -> None:
        self.forks, self.small, self.folder, self.name = forks, small, folder, name
        self.work = folder / "work"

    def fresh(self) -> Path:
        return copy_of(self.small / "work", self.work)

    def run(self, **options: int) -> Ended:
        corpus = [self.small / "corpus"] if self.name == "count-ngrams" else []
        return self.forks.run("--quiet", "--workspace", self.work, self.name, *corpus, *CHANGED[self.name], **options)

    def made(self) -> dict[str, dict]:
        return {artifact: timeless(self.work / artifact) for artifact in WRITES[self.name]}

    def readable(self, artifact: str) -> list[dict]:
        """The artifact as a reader finds it; where two folders cannot be swapped in one step, the old one beside it."""
        folders = [self.work / artifact, *self.work.glob(f".{artifact}.partial-*.old")]
        return [timeless(folder) for folder in folders if folder.exists()]


@pytest.fixture
def stage(forks, small, tmp_path, request) -> Stage:
    return Stage(forks, small, tmp_path, request.param)


def some_of(moments: list[str]) -> list[int]:
    """Half of them spread over the whole run, half of them the last ones before its record. Numbered from 1."""
    end = max(number for number, moment in enumerate(moments, 1) if "/.runs/" not in moment)
    last = range(max(1, end - TRIED // 2 + 1), end + 1)
    spread = range(1, last[0], max(1, -(-last[0] // (TRIED // 2))))
    return [*spread, *last]


@pytest.mark.parametrize("stage", WRITES, indirect=True)
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(stage):
    old = {artifact: timeless(stage.fresh() / artifact) for artifact in WRITES[stage.name]}
    moments = stage.run().moments
    new = stage.made()
    assert all(old[artifact] != new[artifact] for artifact in old)
    assert any("manifest.json" in moment for moment in moments)
    for moment in some_of(moments):
        where = f"killed before {moment} of {len(moments)}: {moments[moment - 1]}"
        stage.fresh()
        assert stage.run(moment=moment).code == -signal.SIGKILL, where
        for artifact in WRITES[stage.name]:
            found = stage.readable(artifact)
            assert old[artifact] in found or new[artifact] in found, where
        again = stage.run()
        assert (again.code, again.err) == (0, ""), where
        assert stage.made() == new, where
        assert [path.name for path in stage.work.iterdir() if path.name[0] == "." and path.name != ".runs"] == [
            ".lock"
        ], where


@pytest.mark.parametrize("stage", WRITES, indirect=True)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_stage_in_one_line_and_costs_nothing(stage, signum):
    stage.fresh()
    moments = stage.run().moments
    new = stage.made()
    stage.fresh()
    ended = stage.run(moment=len(moments) // 2, signum=signum)
    assert (ended.code, ended.out) == (128 + signum, "")
    message, hint = error_of(ended.err, signum.name, "kept", "same command")
    assert (ended.err, hint) == (f"error: {message}\n", "")
    assert stage.run().code == 0
    assert stage.made() == new


@pytest.mark.long
def test_a_training_run_killed_from_outside_continues_from_its_checkpoint(forks, small, tmp_path):
    """The installed command, killed as `kill -9` does it, at some step; while it runs, another one is told to come again."""
    step = random.randint(3, 60)
    args = ["train-fgram", *TRAIN, "--steps", "80", "--seed", "1"]
    expected = copy_of(small / "work", tmp_path / "expected")
    assert forks.run("--quiet", "--workspace", expected, *args).code == 0
    work = copy_of(small / "work", tmp_path / "work")
    before = contents(work / "model")
    command = [sys.executable, "-m", "scone_cli", "--workspace", work, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(work, step)
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        second = forks.run("--quiet", "--workspace", work, "select-vocab")
        assert time.monotonic() - started < 5
        assert (second.code, second.out) == (75, "")
        assert second.err.startswith("error: ")
        error_of(second.err, str(work), hint=("again",))
        assert contents(work / "model") == before
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    again = forks.run("--workspace", work, *args)
    assert again.code == 0
    begun = next(line for line in again.err.splitlines() if line.startswith("training: "))
    amounts = re.findall(r"([\d,.]+)(k?) tokens", begun)
    total, done = (float(number.replace(",", "")) * (1000 if kilo else 1) for number, kilo in amounts)
    assert 0 < done < total, begun
    assert timeless(work / "model") == timeless(expected / "model"), f"killed after step {step}"
