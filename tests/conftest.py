"""What tests of the command line share, and a small workspace that the real stages made."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import filelock
import hypothesis
import pytest
from processes import Forks
from workspaces import COUNT, SELECT, TRAIN, commands, rebuilt, texts, write_corpus, write_small_corpus

from scone_cli.console import cli

hypothesis.settings.register_profile("no test is timed", deadline=None)  # machines are shared, and kernels compile
hypothesis.settings.load_profile("no test is timed")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole commands, and those that wait for a whole workspace, are slow, and come first.

    With tests on two cores, the first half of the list goes to one process: that one makes the workspaces, and the
    other does not wait for them.
    """
    for item in items:
        if "commands" in item.path.parts or {"made", "small", "forks"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)

    def place(item: pytest.Item) -> int:
        return 0 if "made" in item.fixturenames else 1 if item.get_closest_marker("slow") else 2

    items.sort(key=place)


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """Work in an empty folder, with no setting coming from outside."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SCONE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def scone(empty_folder, capsys):  # noqa: ARG001
    """Run the command in this process: (exit code, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def forks():
    """Runs the command in processes of its own."""
    with Forks() as running:
        yield running


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, which one of the processes that run the tests makes; the others wait for it."""
    own = factory.getbasetemp()
    of_all = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, whole = of_all / name, of_all / f"{name}.whole"
    with filelock.FileLock(of_all / f"{name}.lock"):
        if not whole.exists():
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory, forks):
    """A folder with a small `corpus` and the `work` made of it, with a `plain` model; to copy, not to change."""

    def make(folder: Path) -> None:
        write_small_corpus(folder / "corpus")
        workspace = folder / "work"
        for args in (
            ("count-ngrams", folder / "corpus", *COUNT),
            ("select-vocab", *SELECT),
            ("train-fgram", *TRAIN),
            ("train-fgram", *TRAIN, "--kind", "plain", "--out", workspace / "plain"),
            ("precompute",),
            ("eval",),
        ):
            ended = forks.run("--workspace", workspace, *args)
            assert ended.code == 0, ended.err
        shutil.copytree(workspace / ".runs", folder / "runs")  # tests that are refused there leave records of their own

    return _made_once(tmp_path_factory, "small", make)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a `corpus` and the `work` that rebuild.mk made of it by tiny.toml; to look at, not to change."""

    def make(folder: Path) -> None:
        write_corpus(folder / "corpus", texts())
        told = re.findall(r"^(\S+) -> (\S+) \((.*)\)$", rebuilt(folder / "corpus", folder / "work"), re.MULTILINE)
        assert [(stage, Path(out).parent) for stage, out, _ in told] == [
            (command[0], folder / "work") for command in commands(folder / "corpus")
        ]
        assert all(re.search(r"\d", how) for _, _, how in told), "made, in what time"

    return _made_once(tmp_path_factory, "made", make)
