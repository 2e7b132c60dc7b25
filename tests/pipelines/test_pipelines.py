"""What goes around the stages: the Makefile, rebuild.mk and the cron wrapper, with a fake `scone`."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ["count-ngrams", "select-vocab", "train-fgram", "train-fgram --baseline plain", "precompute", "eval"]

# Notes what it was called with; waits in the stage that `hang` names, and fails in those that have a file.
FAKE_SCONE = """#!/bin/sh
echo "$*" >>"$2/calls"
stage=$5
[ ! -s "$2/fail-$stage" ] || exit "$(cat "$2/fail-$stage")"
[ "$stage" != "$(cat "$2/hang" 2>/dev/null)" ] || touch "$2/hanging"
for _ in $(seq 500); do [ ! -e "$2/hanging" ] || sleep 0.02; done
"""


class Rebuild:
    """A folder with a recipe and a fake scone, and rebuild.mk called on it; the paths have blanks and quotes."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.recipe, self.scone = folder / "it's a work", folder / "my recipe.toml", folder / "scone"
        self.workspace.mkdir()
        self.recipe.touch()
        executable(self.scone, FAKE_SCONE)
        self.variables = [f"WORKSPACE={self.workspace}", f"RECIPE={self.recipe}", f"SCONE={self.scone}"]

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        makefile = ROOT / "pipelines/rebuild.mk"
        return call(["make", "-f", str(makefile), *self.variables, "--no-print-directory", *arguments])

    def calls(self) -> list[str]:
        """The stages that were called since the last look, with their arguments."""
        noted = self.workspace / "calls"
        lines = noted.read_text().splitlines() if noted.exists() else []
        noted.unlink(missing_ok=True)
        options = f"--workspace {self.workspace} --config {self.recipe} "
        assert all(line.startswith(options) for line in lines)
        return [line.removeprefix(options) for line in lines]

    def cron(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call(self.cron_command(*arguments))

    def cron_command(self, *arguments: str) -> list[str]:
        return ["env", "-i", str(ROOT / "pipelines/cron/scone-rebuild"), *self.variables, *arguments]

    def log(self) -> str:
        (path,) = (self.workspace / "logs").glob(time.strftime("rebuild-%Y-*.log"))
        return path.read_text()


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def environment() -> dict[str, str]:
    """Ours, without what the make that runs these tests would tell another."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "SCONE"))}


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as cron would, from another folder than ours."""
    return subprocess.run(command, check=False, env=environment(), capture_output=True, text=True, cwd="/")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


@pytest.fixture
def rebuild(tmp_path: Path) -> Rebuild:
    return Rebuild(tmp_path)


# ---- rebuild.mk --------------------------------------------------------------------------------------------------


def test_all_stages_are_called_each_time_in_their_order(rebuild):
    for _ in range(2):
        shown = rebuild.make("-j", "4")
        assert (shown.returncode, rebuild.calls()) == (0, STAGES), shown.stderr
    dry = rebuild.make("-n").stdout.splitlines()
    assert [line.endswith(f" {stage}") for line, stage in zip(dry, STAGES, strict=True)] == [True] * 6
    assert dry == shown.stdout.splitlines()
    assert rebuild.calls() == []


def test_corpora_and_baselines_may_be_named(rebuild):
    rebuild.make("CORPUS='my corpus/' b/", "BASELINES=plain hashed")
    first, _, _, *trained, _, _ = rebuild.calls()
    assert first == "count-ngrams my corpus/ b/"
    assert trained == ["train-fgram --baseline plain", "train-fgram --baseline hashed"]
    rebuild.make("BASELINES=")
    assert rebuild.calls() == [stage for stage in STAGES if "--baseline" not in stage]


def test_what_fails_ends_it_and_its_exit_code_is_shown(rebuild):
    (rebuild.workspace / "fail-precompute").write_text("74")
    failed = rebuild.make(f"EXIT_CODE={rebuild.workspace}/code")
    assert (failed.returncode, (rebuild.workspace / "code").read_text()) == (2, "74\n")
    assert "Error 74" in failed.stderr
    assert rebuild.calls() == STAGES[:-1]
    (rebuild.workspace / "fail-precompute").unlink()
    assert rebuild.make(f"EXIT_CODE={rebuild.workspace}/code").returncode == 0
    assert (rebuild.workspace / "code").read_text() == "0\n"


def test_included_in_another_makefile(rebuild, tmp_path):
    lines = [variable.replace("=", " := ", 1) for variable in rebuild.variables]
    lines += ["mine: scone-rebuild", "\t@echo mine", f"include {ROOT}/pipelines/rebuild.mk", "scone-rebuild: new.txt"]
    lines += ["new.txt: ; @echo new >$@"]
    (tmp_path / "Makefile").write_text("\n".join(lines) + "\n")
    shown = call(["make", "--no-print-directory", "-C", str(tmp_path)]).stdout.splitlines()
    assert (rebuild.calls(), shown[-1]) == (STAGES, "mine")
    assert (tmp_path / "new.txt").exists()


@pytest.mark.parametrize("number", range(2))
def test_missing_variable_is_named(rebuild, number):
    name = rebuild.variables.pop(number).split("=")[0]
    failed = rebuild.make()
    assert failed.returncode == 2
    assert f"there is no {name}" in failed.stderr


# ---- cron --------------------------------------------------------------------------------------------------------


def test_cron_logs_and_is_silent_when_all_is_well(rebuild):
    done = rebuild.cron()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = rebuild.log().splitlines()
    assert (lines[0].split()[-1], lines[-1].split()[-2:], len(lines)) == ("start", ["exit", "0"], 2 + len(STAGES))
    assert rebuild.calls() == STAGES
    assert rebuild.cron("CORPUS='/my corpus' /b", "BASELINES=").returncode == 0
    assert rebuild.calls()[0] == "count-ngrams /my corpus /b"
    for given in ("'s3://bucket/a/**/*.jsonl'", "s3://bucket/a/**/*.jsonl"):
        assert rebuild.cron(f"CORPUS={given}", "BASELINES=").returncode == 0
        assert rebuild.calls()[0] == "count-ngrams s3://bucket/a/**/*.jsonl"


@pytest.mark.parametrize("code", [1, 65, 66, 74, 75])
def test_cron_passes_on_the_exit_code_of_the_stage(rebuild, code):
    (rebuild.workspace / "fail-select-vocab").write_text(str(code))
    failed = rebuild.cron()
    assert failed.returncode == code
    assert f"exit {code}; see {rebuild.workspace}/logs/" in failed.stderr
    assert f"exit {code}\n" in rebuild.log()
    (rebuild.workspace / "fail-select-vocab").unlink()
    assert rebuild.cron().returncode == 0


def test_second_cron_run_exits_75_at_once(rebuild):
    (rebuild.workspace / "hang").write_text("select-vocab")
    with subprocess.Popen(rebuild.cron_command()) as first:
        wait_for(rebuild.workspace / "hanging")
        second = rebuild.cron()
        assert (second.returncode, first.poll()) == (75, None)
        assert "exit 75: another run is at work" in rebuild.log()
        (rebuild.workspace / "hang").unlink()
        (rebuild.workspace / "hanging").unlink()
        assert first.wait(20) == 0
    assert rebuild.cron().returncode == 0


def test_cron_keeps_the_newest_logs(rebuild):
    logs = rebuild.workspace / "logs"
    logs.mkdir()
    for day in range(1, 10):
        (logs / f"rebuild-2001-01-0{day}.log").touch()
    (logs / "notes.txt").touch()
    assert rebuild.cron("KEEP_LOGS=3").returncode == 0
    kept = sorted(path.name for path in logs.iterdir())
    assert kept == ["notes.txt", "rebuild-2001-01-08.log", "rebuild-2001-01-09.log", kept[-1]]
    assert kept[-1] > "rebuild-2020"


@pytest.mark.parametrize("bad", ["CORPUS=relative", "typo", "KEEP_LOGS=0", "RECIPE=r.toml"])
def test_cron_refuses_what_it_does_not_understand(rebuild, bad):
    failed = rebuild.cron(bad)
    assert failed.returncode == 2
    assert f"'{bad}'" in failed.stderr


@pytest.mark.parametrize("missing", ["WORKSPACE", "RECIPE"])
def test_cron_says_what_it_needs(rebuild, missing):
    rebuild.variables = [each for each in rebuild.variables if not each.startswith(missing)]
    failed = rebuild.cron()
    assert failed.returncode == 2
    assert missing in failed.stderr


def test_a_copy_of_the_wrapper_finds_the_makefile_of_the_installed_scone(rebuild, tmp_path):
    copy = tmp_path / "bin" / "scone-rebuild"
    executable(copy, (ROOT / "pipelines/cron/scone-rebuild").read_text())
    executable(
        rebuild.scone,
        FAKE_SCONE.replace("#!/bin/sh", f'#!/bin/sh\n[ "$1" != recipe ] || exec echo {ROOT}/pipelines/$3'),
    )
    done = call(["env", "-i", str(copy), *rebuild.variables])
    assert (done.returncode, done.stderr) == (0, "")
    assert rebuild.calls() == STAGES


# ---- the Makefile ------------------------------------------------------------------------------------------------


def test_demo_is_the_rebuild_of_its_recipe(tmp_path):
    venv = tmp_path / "venv"
    executable(venv / "bin" / "python", f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    executable(venv / "bin" / "scone", f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    (venv / ".installed").touch()
    options = "--workspace demo/scone-work --config pipelines/demo.toml"
    expected = ["pipelines/demo-corpus.py demo/corpus", f"{options} count-ngrams demo/corpus"]
    expected += [f"{options} {stage}" for stage in STAGES[1:]]
    for _ in range(2):
        command = ["make", "--no-print-directory", "-C", str(ROOT), f"VENV={venv}", "demo"]
        shown = call(command).stdout
        assert (tmp_path / "calls").read_text().splitlines() == expected
        assert [line.split(" ", 1)[1].replace("'", "") for line in shown.splitlines()] == expected
        (tmp_path / "calls").unlink()


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "bench"])
def test_targets_create_the_environment_and_name_a_python_that_is_too_old(tmp_path, target):
    executable(tmp_path / "python", "#!/bin/sh\nexit 1\n")
    command = ["make", "-C", str(ROOT), f"PYTHON={tmp_path}/python", f"VENV={tmp_path}/venv", target]
    failed = call(command)
    assert failed.returncode == 2
    assert f"'{tmp_path}/python' is not Python 3.11 or later" in failed.stderr
