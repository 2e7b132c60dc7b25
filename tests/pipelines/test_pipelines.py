"""What goes around the stages: the Makefile, rebuild.mk and the cron wrapper, with a fake `scone`."""

import subprocess
import time
from pathlib import Path

import pytest
from fake_scone import FAKE_SCONE, ROOT, Rebuild, call, executable

STAGES = ["count-ngrams", "select-vocab", "train-fgram", "train-fgram --baseline plain", "precompute", "eval"]


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
