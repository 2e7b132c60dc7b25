"""Standard streams that are closed, full, or pipes that nobody reads: a code and a sentence, and no file is harmed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from messages import error_of

from scone_cli.console.output import say
from scone_cli.progress import notice


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Run a line of the shell in which `scone` is the command: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "SCONE": f"{sys.executable} -m scone_cli"}

    def run(line: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            ["bash", "-c", line.replace("scone", "$SCONE")],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stdout, ended.stderr

    return run


@pytest.mark.parametrize("where", [">&-", "> /dev/full"])
@pytest.mark.parametrize("command", ["--help", "verify --help", "verify WORK"])
def test_a_stdout_that_cannot_be_written_is_exit_74(shell, small, where, command):
    code, _, err = shell(f"scone --quiet {command.replace('WORK', str(small / 'work'))} {where}")
    assert code == 74
    error_of(err, "stdout")


def test_all_three_may_be_closed(shell, tmp_path):
    (tmp_path / "a.txt").write_text("a few words, and the same words again: a few words " * 30)
    line = "scone --workspace work count-ngrams a.txt --vocab-size 260 --min-count 1 --held-out 0 --workers 1"
    assert shell(f"{line} <&- >&- 2>&-")[0] == 74, "the result cannot be told"
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [".lock", ".runs", "counts", "tokens"]
    assert shell("scone verify work 2>&-")[0] == 0, "no file had the number of a closed stream, and was written into"


def test_a_stdin_that_is_closed_is_empty(shell):
    code, _, err = shell("scone --quiet --workspace work count-ngrams - <&-")
    assert code == 66
    error_of(err, "standard input")


def test_a_stderr_that_cannot_be_written_does_not_stop_the_work(monkeypatch):
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        say("a line")
        notice("a notice")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # or closing it would try again
