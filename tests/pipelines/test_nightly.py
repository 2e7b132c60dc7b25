"""nightly.mk, the cron wrapper with it, and the files for systemd, with a fake `scone`."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_scone import ROOT, Rebuild, call

SYSTEMD = ROOT / "pipelines/systemd"


class Nightly(Rebuild):
    """A folder with a recipe, a registry and a fake scone, and nightly.mk called on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = folder / "it's a registry" / "english"
        self.variables.append(f"PUBLISH_TO={self.name}")

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        makefile = ROOT / "pipelines/nightly.mk"
        return call(["make", "-f", str(makefile), *self.variables, "--no-print-directory", *arguments])

    def expected(self, current: Path, keep: int = 7) -> list[str]:
        return [
            "count-ngrams",
            "select-vocab",
            f"precompute --vocab {self.workspace}/vocab",
            f"eval --table current={current}",
            f"publish --to {self.name} --keep {keep}",
        ]


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    return Nightly(tmp_path)


def test_on_the_first_night_the_table_is_compared_with_itself_then_with_the_published_one(nightly):
    assert (shown := nightly.make()).returncode == 0, shown.stderr
    assert nightly.calls() == nightly.expected(nightly.workspace / "table")
    (nightly.name / "versions" / "v1" / "table").mkdir(parents=True)
    (nightly.name / "current").symlink_to("versions/v1")
    assert nightly.make("KEEP=3").returncode == 0
    assert nightly.calls() == nightly.expected(nightly.name / "current" / "table", keep=3)


def test_nothing_is_published_after_a_failure_and_its_exit_code_is_noted(nightly):
    (nightly.workspace / "fail-eval").write_text("1")
    failed = nightly.make(f"EXIT_CODE={nightly.workspace}/code")
    assert (failed.returncode, (nightly.workspace / "code").read_text()) == (2, "1\n")
    assert nightly.calls() == nightly.expected(nightly.workspace / "table")[:-1]


def test_the_place_is_needed(nightly):
    nightly.variables.pop()
    failed = nightly.make()
    assert failed.returncode == 2
    assert "there is no PUBLISH_TO" in failed.stderr


def test_it_is_short():
    assert len((ROOT / "pipelines/nightly.mk").read_text().splitlines()) <= 30


def test_cron_runs_it_where_a_place_is_given(nightly):
    done = nightly.cron("KEEP=2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert nightly.calls() == nightly.expected(nightly.workspace / "table", keep=2)
    (nightly.workspace / "fail-publish").write_text("65")
    assert nightly.cron().returncode == 65
    assert re.search("exit 65$", nightly.log(), re.MULTILINE)


def test_the_service_runs_the_wrapper(nightly):
    """Its command line, with the paths of this test, in a bare environment."""
    started = re.search(r"^ExecStart=(.*)$", (SYSTEMD / "scone-nightly.service").read_text(), re.MULTILINE)[1]
    program, *variables = shlex.split(started)
    assert program == "/opt/scone/pipelines/cron/scone-rebuild"
    given = dict(variable.split("=", 1) for variable in nightly.variables)
    names = [variable.split("=")[0] for variable in variables]
    assert names == ["WORKSPACE", "RECIPE", "PUBLISH_TO"]
    command = [str(ROOT / program.removeprefix("/opt/scone/")), *(f"{name}={given[name]}" for name in names)]
    done = call(["env", "-i", *command, f"SCONE={nightly.scone}"])
    assert done.returncode == 0, done.stderr
    assert nightly.calls() == nightly.expected(nightly.workspace / "table")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_both_files(tmp_path):
    for path in SYSTEMD.iterdir():
        text = path.read_text().replace("/opt/scone/", f"{ROOT}/").replace("User=scone", "User=root")
        (tmp_path / path.name).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.glob("scone-nightly.*"))],
        check=False,
        capture_output=True,
        text=True,
    )
    said = [line for line in checked.stderr.splitlines() if "scone-nightly" in line]
    assert (checked.returncode, said) == (0, []), checked.stderr
