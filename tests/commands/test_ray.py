"""Whole stages on a Ray cluster of two nodes: the same bytes as on one machine, whatever is killed, and continued."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import refusal
from modes import Watch, open_paths
from workspaces import COUNT, SELECT, TRAIN, timeless, write_small_corpus

pytest.importorskip("ray", reason="needs the extra `ray`")

from ray_clusters import cluster

from scone_cli.console import cli
from scone_cli.corpus import shards
from scone_cli.errors import BadSetting, SconeError
from scone_cli.progress import silent
from scone_cli.stages import count_ngrams, precompute
from scone_cli.table import pieces

pytestmark = pytest.mark.ray


class Site:
    """A corpus, a workspace made on this machine, and another one for the cluster."""

    def __init__(self, folder: Path, address: str) -> None:
        self.corpus, self.here, self.there = (folder / name for name in ("corpus", "here", "there"))
        self.on_ray = ("--engine", "ray", "--ray-address", address)
        self.config = {"engine": "ray", "ray_address": address}

    def run(self, workspace: Path, *args: object) -> int:
        with pytest.raises(SystemExit) as stop:
            cli.main(["--quiet", "--workspace", str(workspace), *map(str, args)])
        return int(stop.value.code or 0)

    def same(self, *artifacts: str) -> None:
        for name in artifacts:
            assert timeless(self.there / name) == timeless(self.here / name), name


@pytest.fixture(scope="module")
def nodes():
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def site(nodes, tmp_path_factory):
    """Everything made on one machine; with many small tasks, as a large corpus has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_TASK_BYTES", 20_000)
        patch.setattr(pieces, "PIECE_BYTES", 4096)
        site = Site(tmp_path_factory.mktemp("site"), nodes.address)
        write_small_corpus(site.corpus)
        steps = [
            ("count-ngrams", site.corpus, *COUNT, "--min-count", 2),
            ("select-vocab", *SELECT, "--size", 5000),
            ("train-fgram", *TRAIN),
            ("precompute",),
        ]
        for step in steps:
            assert site.run(site.here, *step) == 0
        yield site


@pytest.fixture(autouse=True)
def complete(nodes):
    yield
    nodes.complete()


def killing(nodes, step: str, least: int = 0):
    """A progress display that kills a node when so much of `step` is done, and not all."""
    killed = []

    def tell(what: str, done: float, total: float | None = None, *_: object, **__: object) -> None:
        if what == step and not killed and total and least <= done < total:
            killed.append(step)
            nodes.kill()

    tell.killed = killed
    return tell


def counting(site: Site, **changes: object) -> count_ngrams.CountNgrams:
    return count_ngrams.CountNgrams(
        **{"vocab_size": 400, "held_out": 0.1, "max_n": 4, "min_count": 2, **site.config, **changes}
    )


def borrow(site: Site, *artifacts: str) -> None:
    """Take artifacts that were made here for the cluster."""
    site.there.mkdir(exist_ok=True)
    for name in artifacts:
        if not (site.there / name).exists():
            (site.there / name).symlink_to(site.here / name)


@pytest.mark.parametrize(
    "step",
    [
        "counting buckets",
        *(
            pytest.param(step, marks=pytest.mark.long)
            for step in ("tokenising", "dealing n-grams into buckets", "putting n-grams in order")
        ),
    ],
)
def test_a_count_whose_node_is_killed_has_the_same_bytes(nodes, site, tmp_path, step):
    site.there = tmp_path
    if step.startswith("dealing"):  # tokens are there, so they are read again
        borrow(site, "tokens")
    tell = killing(nodes, step, least=0 if step in ("counting buckets", "putting n-grams in order") else 1)
    report = count_ngrams.run(counting(site), [site.corpus], tmp_path, tell)
    assert tell.killed
    assert not report.up_to_date
    site.same("tokens", "counts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts", "tokens"]


def test_a_table_whose_node_is_killed_has_the_same_bytes(nodes, site, tmp_path):
    site.there = tmp_path
    borrow(site, "tokens", "vocab", "model")
    tell = killing(nodes, "precomputing", least=1)
    precompute.run(precompute.Precompute(**site.config), tmp_path, tmp_path / "table", tell)
    assert tell.killed
    site.same("table")


@pytest.mark.long
def test_after_the_head_is_killed_the_same_command_continues_on_another_cluster(site, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # Ray waits a minute
    site.there = tmp_path
    killed = []

    def tell(what: str, done: float, *_: object, **__: object) -> None:
        if what == "counting buckets" and done and not killed:
            killed.append(what)
            lost.kill_head()
            time.sleep(10)  # without its head, a cluster goes on for a while

    with cluster() as lost, refusal(SconeError, "Ray", hint=("same command",)):
        count_ngrams.run(counting(site, ray_address=lost.address), [site.corpus], tmp_path, tell)
    left = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.dealt")}
    assert left

    def look(what: str, *_: object, **__: object) -> None:
        if what == "counting buckets":
            assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.dealt")} == left

    count_ngrams.run(counting(site), [site.corpus], tmp_path, look)
    site.same("tokens", "counts")


@pytest.mark.long
def test_what_was_begun_on_a_cluster_is_continued_there_and_here(site, tmp_path):
    class Enough(Exception):
        pass

    def stop_at(step: str):
        def tell(what: str, done: float, *_: object, **__: object) -> None:
            if what == step and done:
                raise Enough

        return tell

    for engine in ("ray", "local"):
        site.there = tmp_path / engine
        site.there.mkdir()
        with pytest.raises(Enough):
            count_ngrams.run(counting(site), [site.corpus], site.there, stop_at("counting buckets"))
        left = sorted(site.there.rglob("*.dealt"))
        assert left
        before = [path.stat().st_mtime_ns for path in left]
        seen = []

        def look(what: str, *_: object, seen=seen, left=left, **__: object) -> None:
            if what == "putting n-grams in order" and not seen:
                seen.extend(path.stat().st_mtime_ns for path in left)

        count_ngrams.run(counting(site, engine=engine), [site.corpus], site.there, look)
        assert seen == before
        site.same("tokens", "counts")
    for first, second in (("ray", "local"), ("local", "ray")):
        site.there = tmp_path / f"{first}-{second}"
        borrow(site, "tokens", "vocab", "model")
        out = site.there / "table"
        steps = {"ray": "putting rows in order", "local": "checking rows"}
        config = precompute.Precompute(**site.config | {"engine": first})
        with pytest.raises(Enough):
            precompute.run(config, site.there, out, stop_at(steps[first]))
        precompute.run(precompute.Precompute(**site.config | {"engine": second}), site.there, out, silent)
        site.same("table")


def test_under_cron_a_stage_on_a_cluster_writes_only_what_it_always_writes(site, tmp_path):
    """A bare environment, no terminal; and a workspace given by a relative path."""
    command = [
        sys.executable,
        "-m",
        "scone_cli",
        "--workspace",
        "work",
        "count-ngrams",
        site.corpus,
        *COUNT,
        *site.on_ray,
    ]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2]), "LANG": "C.UTF-8"}
    run = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = [line for line in run.stderr.splitlines() if not re.match(r"[a-z -]+: (started|done|[\d.]+ )", line)]
    assert [line.split(":")[0] for line in lines] == ["plan"]
    assert "Ray cluster at" in lines[0]
    assert "2 nodes with 1 process each" in lines[0]
    assert run.stdout.startswith("count-ngrams -> work/counts")
    plan = subprocess.run(
        [*map(str, command), "--plan", "--force"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"nodes +2\b", plan.stdout)


@pytest.mark.long
def test_ctrl_c_ends_a_stage_on_a_cluster(site, tmp_path):
    command = [
        sys.executable,
        "-m",
        "scone_cli",
        "--workspace",
        tmp_path,
        "count-ngrams",
        site.corpus,
        *COUNT,
        *site.on_ray,
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        for line in run.stderr:
            if line.startswith("tokenising: started"):
                os.killpg(run.pid, signal.SIGINT)
                break
        rest = run.stderr.read()
        assert run.wait(60) == 130
    assert "Traceback" not in rest
    time.sleep(1)
    assert site.run(tmp_path, "count-ngrams", site.corpus, *COUNT, *site.on_ray) == 0


def test_what_cannot_be_is_refused(site, tmp_path, monkeypatch):
    site.there = tmp_path
    borrow(site, "tokens", "vocab", "model")
    config = precompute.Precompute(**site.config, device="cuda")
    with refusal(BadSetting, "cuda", "GPU", hint=("cpu",)):
        precompute.run(config, tmp_path, tmp_path / "table", silent)
    with refusal(BadSetting, "mps"):
        precompute.run(precompute.Precompute(**site.config, device="mps"), tmp_path, tmp_path / "table", silent)
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_PORT": "1",
        "MASTER_ADDR": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with refusal(BadSetting, "torchrun"):
        precompute.run(precompute.Precompute(**site.config), tmp_path, tmp_path / "table", silent)


def test_what_the_nodes_make_is_private(site, tmp_path):
    """Ray started the processes of the nodes, with its own umask."""
    work = tmp_path / "work"
    count = ["--quiet", "--private", "--workspace", work, "count-ngrams", site.corpus, *COUNT, *site.on_ray]
    with Watch(work) as watch:
        subprocess.run(list(map(str, [sys.executable, "-m", "scone_cli", *count])), umask=0, check=True)
    assert watch.found | open_paths(work) == set()
    assert (work / "counts" / "manifest.json").is_file()
