"""`--private`: nobody but the owner can read what is made, at any moment, even if the umask is 000."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from messages import error_of
from modes import Watch, open_paths
from workspaces import COUNT, SELECT, TRAIN, copy_of, write_small_corpus

STAGES = (
    ("count-ngrams", "corpus", *COUNT, "--workers", "2"),
    ("select-vocab", *SELECT),
    ("train-fgram", *TRAIN),
    ("precompute",),
    ("eval", "--no-speed"),
)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a corpus; the corpus is not ours to close."""
    monkeypatch.chdir(tmp_path)
    write_small_corpus(tmp_path / "corpus")
    return tmp_path


@pytest.mark.slow
def test_all_that_is_made_is_private(home, forks):
    """All stages, and all that publishes, encrypts, fetches, exports and draws."""
    pyrage = pytest.importorskip("pyrage")
    identity, name = pyrage.x25519.Identity.generate(), home / "registry" / "english"
    (home / "key").write_text(f"{identity}\n")
    work, made = ("--quiet", "--private", "--workspace", home / "work"), (home / "work", home / "registry")
    out = [home / name for name in ("fetched", "exported", "page.html")]
    rest = [
        ("publish", "--to", name),
        ("publish", "--to", name, "--recipient", identity.to_public()),
        ("fetch", name, out[0], "--identity", home / "key"),
        ("rollback", name),
        ("fetch", name, out[0]),
        ("export", out[1], "--to", "safetensors"),
        ("inspect", home / "work" / "vocab", "--html", out[2]),
        ("select-vocab", "--size", "500"),
    ]
    out[2].touch(mode=0o644)  # an earlier page
    stages = [(name, *(home / arg if arg == "corpus" else arg for arg in args)) for name, *args in STAGES]
    with Watch(*made) as watch:
        for command in [*stages, *rest]:
            ended = forks.run(*work, *command, umask=0)
            assert ended.code == 0, (command, ended.err)
    assert watch.looks > 100
    assert watch.found | open_paths(*made, *out) == set()
    assert (home / "corpus").stat().st_mode & 0o077


def test_a_version_made_of_files_that_others_may_read_is_a_copy(home, forks, small):
    """A hard link would have the rights of the workspace's file."""
    work = copy_of(small / "work", home / "work")
    subprocess.run(["chmod", "-R", "go=", work], check=True)
    table = next((home / "work" / "table").glob("rows-*"))
    table.chmod(0o644)
    to = ("--to", home / "registry" / "english")
    ended = forks.run("--private", "--workspace", home / "work", "publish", *to, umask=0)
    assert ended.code == 0, ended.err
    assert open_paths(home / "registry") == set()
    assert table.stat().st_mode & 0o777 == 0o644
    version = home / "registry" / "english" / "current" / "table"
    assert [(version / name).stat().st_nlink for name in ("index.bin", table.name)] == [2, 1]


def test_a_folder_that_is_open_is_refused_with_the_command_that_closes_it(home, forks):
    (home / "my work").mkdir(mode=0o755)
    count = ("--private", "--workspace", home / "my work", "count-ngrams", home / "corpus", *COUNT)
    for more in ((), ("--plan",)):
        ended = forks.run(*count, *more, umask=0)
        _, hint = error_of(ended.err, str(home / "my work"), "0755", "--private")
        assert ended.code == 2
    assert [path.name for path in (home / "my work").iterdir()] == []
    subprocess.run(hint[hint.index("chmod") :].partition(";")[0], shell=True, check=True)
    assert forks.run(*count, umask=0).code == 0


@pytest.mark.slow
def test_work_that_a_public_run_left_is_closed(home):
    """The variable, in a process of its own that is killed in the middle; the next run is private, and continues."""
    args = ["--workspace", str(home / "work"), "count-ngrams", str(home / "corpus"), *COUNT, "--workers", "2"]
    environment = os.environ | {"SCONE_PRIVATE": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "scone_cli", *args], env=environment, umask=0, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list((home / "work").glob(".*.partial-*/work/*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert open_paths(home / "work")
    (home / "work").chmod(0o700)
    subprocess.run(
        [sys.executable, "-m", "scone_cli", *args], env=environment | {"SCONE_PRIVATE": "1"}, umask=0, check=True
    )
    assert open_paths(home / "work" / "tokens", home / "work" / "counts") == set()
