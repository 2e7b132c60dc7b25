"""Worker processes: they run every task, and one that is killed costs its task only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import refusal

from scone_cli.errors import BadData, SconeError
from scone_cli.progress import compilation
from scone_cli.runtime import worker_pool
from scone_cli.runtime.worker_pool import Pool

pytestmark = pytest.mark.slow  # most of them start processes


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fail(message: str) -> None:
    raise BadData(message, "hint")


def die_once(folder: Path, number: int, deaths: int = 1) -> int:
    """Kill this process the first times that it is asked for 3."""
    seen = len(list(folder.glob("died-*")))
    if number == 3 and seen < deaths:
        (folder / f"died-{seen}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number * number


def compile_kernels(seconds: float) -> None:
    """Behave as numba does when a kernel is called for the first time, and the parts that it is made of."""
    compilation.begin()
    compilation.begin()
    time.sleep(seconds)
    compilation.end()
    compilation.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_kernels_that_workers_compile_are_told_here(monkeypatch, workers):
    told = []
    monkeypatch.setattr(compilation, "listener", told.append)
    monkeypatch.setattr(worker_pool, "_POLL", 0.02)
    with Pool(workers) as pool:
        list(pool.run([(compile_kernels, (0.3,))]))
        assert told == [True, False]


def compile_and_die() -> None:
    compilation.begin()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_compiles_no_more(monkeypatch):
    told = []
    monkeypatch.setattr(compilation, "listener", told.append)
    with Pool(2) as pool, pytest.raises(SconeError):
        list(pool.run([(compile_and_die, ())]))
    assert told == [True, False] * (len(told) // 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once_and_tasks_are_asked_for_as_they_are_needed(workers):
    asked = []

    def tasks():
        for number in range(20):
            asked.append(number)
            yield square, (number,)

    with Pool(workers) as pool:
        results = pool.run(tasks())
        first = next(results)
        assert len(asked) <= 3 * workers
        found = dict([first, *results])
    assert {number: value for number, (value, _) in found.items()} == {i: i * i for i in range(20)}
    assert (os.getpid() in {process for _, process in found.values()}) == (workers == 1)


def test_the_task_of_a_killed_worker_is_run_again(tmp_path):
    with Pool(2) as pool:
        found = dict(pool.run((die_once, (tmp_path, number)) for number in range(12)))
    assert found == {number: number * number for number in range(12)}
    assert len(list(tmp_path.glob("died-*"))) == 1


def test_workers_that_die_again_and_again_are_an_error(tmp_path):
    with Pool(2) as pool, refusal(SconeError, 3, hint=("--memory",)):
        list(pool.run((die_once, (tmp_path, 3, 100)) for _ in range(4)))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_task_arrives_as_it_is(workers):
    with Pool(workers) as pool, pytest.raises(BadData, match="what was found") as caught:
        list(pool.run([(square, (1,)), (fail, ("what was found",))]))
    assert caught.value.hint == "hint"


def test_workers_end_when_their_owner_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\n"
        "from scone_cli.runtime.worker_pool import Pool\n"
        "def work(number):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        list(pool.run((work, (n,)) for n in range(2)))\n"
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A program whose workers come from a server that is still importing when something happens to it.
PROGRAM = """
import os, sys
from multiprocessing import forkserver
from scone_cli.runtime.worker_pool import Pool
if __name__ == "__main__":
    try:
        with Pool(2, ["slow"]) as pool:
            print(os.getpid(), forkserver._forkserver._forkserver_pid, flush=True)
            print(sorted(pool.run((abs, (n,)) for n in range(5))))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda _, server: os.kill(server, signal.SIGKILL), f"{[(n, n) for n in range(5)]}\n"),
        (lambda owner, _: os.killpg(owner, signal.SIGINT), "interrupted\n"),  # as a terminal sends Ctrl-C
    ],
)
def test_something_happens_before_there_are_workers(tmp_path, harm, said):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "slow.py").write_text("import pathlib, time\npathlib.Path('begun').touch()\ntime.sleep(0.5)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        owner, server = map(int, process.stdout.readline().split())
        deadline = time.monotonic() + 20
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        harm(owner, server)
        out, err = process.communicate()
        assert out == said
        if said == "interrupted\n":
            assert err == ""  # of a killed server, a worker that was half started may complain
