"""Tasks on a Ray cluster: every result once, whatever is killed; and a clear end where that cannot be."""

import os
import socket
import time
from pathlib import Path

import pytest
import ray_tasks
from messages import refusal

pytest.importorskip("ray", reason="needs the extra `ray`")

from ray_clusters import cluster

from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError
from scone_cli.runtime import ray_engine
from scone_cli.runtime.ray_engine import Found, RayEngine

pytestmark = [pytest.mark.ray, pytest.mark.slow]
MEMORY = 100 << 20


@pytest.fixture(scope="module")
def started():
    with cluster() as nodes:
        yield nodes


@pytest.fixture
def nodes(started):
    yield started
    started.complete()


@pytest.fixture
def engine(nodes, tmp_path):
    with RayEngine(nodes.address, tmp_path, []) as engine:
        yield engine


def beats(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def is_at_work(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_for_a_beat(path: Path) -> None:
    while not beats(path):
        time.sleep(0.05)


# ---- all is well -------------------------------------------------------------------------------------------------


def test_every_task_has_its_result_once_and_processes_are_counted(engine):
    assert (engine.num_nodes, engine.num_cores, engine.num_gpus) == (2, 1, 0)
    with engine.pool(1, MEMORY, ["ray_tasks"]) as pool:
        assert (pool.num_workers, pool.num_threads(1), pool.lasting) == (2, 1, True)
        found = dict(pool.run((ray_tasks.square, (number,)) for number in range(100)))
        assert found == {number: number * number for number in range(100)}
        processes = {pid for _, (pid, _) in pool.run([(ray_tasks.process, ())] * 20)}
        assert len(processes) <= 2
    with engine.pool(1, MEMORY) as pool:  # another, after the first
        assert dict(pool.run([(ray_tasks.square, (3,))])) == {0: 9}
    assert not list(pool.run([]))


def test_tasks_run_in_the_folder_of_the_command(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RayEngine(nodes.address, Path("work"), [Path()]) as engine, engine.pool(1, MEMORY) as pool:
        (_, (_, folder)), *_ = pool.run([(ray_tasks.process, ())])
    assert Path(folder) == tmp_path
    assert not list((tmp_path / "work").iterdir())  # the marker is gone


# ---- tasks that fail ---------------------------------------------------------------------------------------------


def test_an_error_of_a_task_is_the_error_of_the_run(nodes, tmp_path):
    for task, expected in ((ray_tasks.refuse, BadData), (ray_tasks.fail, ZeroDivisionError)):
        with (
            RayEngine(nodes.address, tmp_path, []) as engine,
            engine.pool(1, MEMORY) as pool,
            pytest.raises(expected) as caught,
        ):
            list(pool.run([(task, ())]))
    assert str(caught.value) == "a bug"


def test_a_task_whose_process_is_killed_once_runs_again(engine, tmp_path, capfd):
    with engine.pool(1, MEMORY) as pool:
        assert dict(pool.run([(ray_tasks.die_once, (tmp_path / "mark",))])) == {0: "second"}
    assert "run again: its process was killed" in capfd.readouterr().err


def test_a_process_that_cannot_start_ends_the_run_with_the_cause(nodes, tmp_path):
    with (
        RayEngine(nodes.address, tmp_path, []) as engine,
        engine.pool(1, MEMORY, ["no_such_module"]) as pool,
        refusal(SconeError, socket.gethostname(), "no_such_module", hint=("same extras",)),
    ):
        list(pool.run([(ray_tasks.square, (1,))]))


def test_a_task_whose_process_is_killed_three_times_ends_the_run_with_the_reason(engine, capfd):
    with engine.pool(1, MEMORY) as pool, refusal(SconeError, 3, "its process was killed", "die", hint=("--memory",)):
        list(pool.run([(ray_tasks.die, ())]))
    assert capfd.readouterr().err.count("run again") == 2


# ---- nodes that fail ---------------------------------------------------------------------------------------------


def test_what_a_lost_node_did_is_done_again_by_another(nodes, engine, tmp_path, capfd):
    tasks = [(ray_tasks.square, (7,)), *((ray_tasks.attend, (tmp_path, number)) for number in (1, 2))]
    with engine.pool(1, MEMORY) as pool:
        run = pool.run(tasks)
        found = dict([next(run)])
        while len(list(tmp_path.glob("at-*"))) < 2:
            time.sleep(0.05)
        nodes.kill()
        while all(is_at_work(int(path.name.split("-")[2])) for path in tmp_path.glob("at-*")):
            time.sleep(0.05)
        (tmp_path / "go").touch()
        found |= dict(run)
    assert found == {0: 49, 1: 1, 2: 2}
    assert len(list(tmp_path.glob("at-*"))) == 3  # one of the two was begun twice
    assert "run again: its node ended" in capfd.readouterr().err


def test_a_node_that_is_lost_before_work_begins_is_done_without(nodes, engine):
    nodes.kill()
    time.sleep(4)  # until that is noticed
    with engine.pool(1, MEMORY) as pool:
        assert dict(pool.run((ray_tasks.square, (number,)) for number in range(3))) == {0: 0, 1: 1, 2: 4}


def test_the_end_of_a_pool_ends_its_tasks(engine, tmp_path):
    """As after Ctrl-C: nothing of the run is at work any more."""
    path = tmp_path / "beats"
    with engine.pool(1, MEMORY) as pool:
        run = pool.run([(ray_tasks.square, (1,)), (ray_tasks.beat, (path, 60))])
        next(run)
        wait_for_a_beat(path)
    time.sleep(1)
    before = beats(path)
    time.sleep(1)
    assert beats(path) == before
    with pytest.raises(ProcessLookupError):
        os.kill(before[0], 0)


@pytest.mark.long
def test_a_lost_head_ends_the_run_clearly(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # Ray waits a minute
    with cluster() as nodes, RayEngine(nodes.address, tmp_path, []) as engine, engine.pool(1, MEMORY) as pool:
        run = pool.run([(ray_tasks.square, (1,)), (ray_tasks.beat, (tmp_path / "beats", 90))])
        next(run)
        nodes.kill_head()
        with refusal(SconeError, "Ray", hint=("same command",)):
            list(run)


# ---- what is looked at before work begins ------------------------------------------------------------------------


def test_a_file_that_a_node_does_not_see_is_named_with_the_node(nodes, tmp_path):
    with (
        refusal(InputMissing, socket.gethostname(), str(tmp_path / "absent"), hint=("shared folder",)),
        RayEngine(nodes.address, tmp_path, [tmp_path, tmp_path / "absent"]),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_node_that_does_not_see_the_workspace_runs_no_task(engine, tmp_path):
    """It may have joined later."""
    engine._marker.unlink()
    with engine.pool(1, MEMORY) as pool, refusal(InputMissing, str(tmp_path), "workspace", hint=("same path",)):
        list(pool.run([(ray_tasks.square, (1,))]))


def test_a_node_with_other_code_or_too_little_memory_is_refused(engine, monkeypatch):
    with refusal(BadSetting, 1 << 50, hint=("--memory",)):
        engine.pool(1, 1 << 50)
    with refusal(BadSetting, "--workers 3", "1 core", hint=("--workers 1",)):
        engine.pool(3, MEMORY)
    other = Found("far away", 1, 0, 1 << 30, (), "0" * 16)
    monkeypatch.setattr(engine, "_receive", lambda _: ([other], "1" * 16))
    with refusal(SconeError, "far away", "0" * 16, hint=("same version",)):
        engine._look()
    monkeypatch.setattr(engine, "_receive", lambda _: ([], ""))
    with refusal(SconeError, "no node"):
        engine._look()


def test_an_address_that_nobody_answers_is_refused_at_once(tmp_path, monkeypatch):
    """Ray itself takes two minutes, also for the address that a cluster which is gone has left in a file."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    begun = time.monotonic()
    for given in (free, "nowhere.invalid:6379"):
        with refusal(BadSetting, "--ray-address", given, hint=("ray start",)):
            RayEngine(given, tmp_path, [])
    for wrong in ("localhost", "", "ray://127.0.0.1:10001", "localhost:0", "localhost:99999", ":6379"):
        with refusal(BadSetting, f"'{wrong}'", "HOST:PORT"):
            RayEngine(wrong, tmp_path, [])
    with refusal(BadSetting, "no Ray cluster"):
        RayEngine("auto", tmp_path, [])
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(free)
    with refusal(BadSetting, free, "ray_current_cluster"):
        RayEngine("auto", tmp_path, [])
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    with refusal(BadSetting, "RAY_ADDRESS", "localhost:1"):
        RayEngine("auto", tmp_path, [])
    assert time.monotonic() - begun < 30


def test_a_server_that_is_no_cluster_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_ANSWER_SECONDS", 3)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        refusal(BadSetting, "no Ray cluster", server.getsockname()[1]),
        RayEngine(f"127.0.0.1:{server.getsockname()[1]}", tmp_path, []),
    ):
        pass


def test_what_a_killed_run_left_in_the_workspace_is_removed(nodes, tmp_path):
    (tmp_path / ".nodes-0123456789ab").touch()
    with RayEngine(nodes.address, tmp_path, []):
        assert [path.name for path in tmp_path.iterdir()] != [".nodes-0123456789ab"]
    assert not list(tmp_path.iterdir())


def test_auto_is_the_cluster_that_was_started_here(nodes, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(nodes.address)
    assert RayEngine("auto", tmp_path, []).address == nodes.address
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    (tmp_path / "ray" / "ray_current_cluster").unlink()
    assert RayEngine("auto", tmp_path, []).address == nodes.address
