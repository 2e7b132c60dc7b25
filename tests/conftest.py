"""What tests of the command line share."""

import os

import pytest

from scone_cli import cli


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
