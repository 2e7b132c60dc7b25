"""What goes around the stages: the Makefile, rebuild.mk and the cron wrapper, with a fake `scone`."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ["count-ngrams", "select-vocab", "train-fgram", "precompute", "eval"]
RECIPE = "# settings\n" + "".join(f"[{stage}]\nseed = 0\n\n" for stage in STAGES)

# Notes that it was called, and makes a manifest where there is none: as if up to date everywhere else.
FAKE_SCONE = """#!/bin/sh
stage=$5
echo "$stage" >>"$2/calls"
[ "$stage" != "$(cat "$2/hang" 2>/dev/null)" ] || touch "$2/hanging"
case $stage in
    count-ngrams) made='tokens counts' ;; select-vocab) made=vocab ;; train-fgram) made=model ;;
    precompute) made=table ;; eval) made=eval ;;
esac
[ ! -s "$2/fail-$stage" ] || exit "$(cat "$2/fail-$stage")"
for name in $made; do
    mkdir -p "$2/$name"
    [ -e "$2/$name/manifest.json" ] || echo '{}' >"$2/$name/manifest.json"
    [ ! -e "$2/hanging" ] || echo '{"new": 1}' >"$2/$name/manifest.json"
done
for _ in $(seq 500); do [ ! -e "$2/hanging" ] || sleep 0.02; done
"""


class Rebuild:
    """A folder with a corpus, a recipe and a fake scone, and rebuild.mk called on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus, self.workspace = folder, folder / "corpus", folder / "work"
        self.recipe, self.scone = folder / "recipe.toml", folder / "scone"
        (self.corpus / "deep").mkdir(parents=True)
        self.workspace.mkdir()
        (self.corpus / "a.txt").write_text("a")
        (self.corpus / "deep" / "b.txt").write_text("b")
        self.recipe.write_text(RECIPE)
        executable(self.scone, FAKE_SCONE)
        self.variables = [f"CORPUS={self.corpus}", f"WORKSPACE={self.workspace}", f"RECIPE={self.recipe}"]
        self.variables += [f"SCONE={self.scone}"]

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call([*self.make_command(), "--no-print-directory", *arguments])

    def make_command(self) -> list[str]:
        return ["make", "-f", str(ROOT / "pipelines/rebuild.mk"), *self.variables]

    def stages_run(self) -> list[str]:
        """Call make; the stages that it ran, which must be those that `make -n` announced and printed."""
        announced = self.make("-n").stdout
        (self.workspace / "calls").unlink(missing_ok=True)
        done = self.make()
        assert done.returncode == 0, done.stderr
        calls = self.workspace / "calls"
        ran = calls.read_text().split() if calls.exists() else []
        assert commands(announced) == ran == commands(done.stdout)
        return ran

    def change_recipe(self, old: str, new: str) -> None:
        text = self.recipe.read_text()
        assert old in text
        self.recipe.write_text(text.replace(old, new))

    def cron(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return call(self.cron_command(*arguments))

    def cron_command(self, *arguments: str) -> list[str]:
        return ["env", "-i", str(ROOT / "pipelines/cron/scone-rebuild"), *self.variables, *arguments]

    def log(self) -> str:
        (path,) = (self.workspace / "logs").glob(time.strftime("rebuild-%Y-*.log"))
        return path.read_text()


def commands(output: str) -> list[str]:
    """The stages in make's output; a line of another kind, but the one that there is nothing to do, is not expected."""
    lines = [line for line in output.splitlines() if "Nothing to be done" not in line]
    assert all(" --workspace " in line and " --config " in line for line in lines), output
    return [line.split()[5] for line in lines]


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


@pytest.fixture
def built(rebuild: Rebuild) -> Rebuild:
    assert rebuild.stages_run() == STAGES
    return rebuild


# ---- rebuild.mk --------------------------------------------------------------------------------------------------


def test_second_run_does_and_touches_nothing(built):
    before = {path: path.stat().st_mtime_ns for path in built.folder.rglob("*") if path.name != "calls"}
    assert built.make("-n").stdout.splitlines() == ["make: Nothing to be done for 'scone-rebuild'."]
    assert built.make().returncode == 0
    (built.workspace / "calls").unlink()
    assert before.keys() == set(built.folder.rglob("*"))
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items() if path != built.workspace)


def test_dry_run_on_an_empty_workspace_makes_nothing(rebuild):
    assert commands(rebuild.make("-n").stdout) == STAGES
    assert list(rebuild.workspace.iterdir()) == []


@pytest.mark.parametrize("number", range(5))
def test_changed_setting_reruns_its_stage_and_what_follows(built, number):
    built.change_recipe(f"[{STAGES[number]}]\nseed = 0", f"[{STAGES[number]}]\nseed = 1")
    assert built.stages_run() == STAGES[number:]
    assert built.stages_run() == []


def test_table_names_may_have_underscores(built):
    built.change_recipe("[train-fgram]", "[train_fgram]")
    assert built.stages_run() == STAGES[2:]
    built.change_recipe("[train_fgram]\nseed = 0", "[train_fgram]\nseed = 1")
    assert built.stages_run() == STAGES[2:]


def test_prices_are_read_by_the_evaluation_alone(built):
    built.change_recipe("[eval]\n", "[prices]\nram-gb = 2\n\n[eval]\n")
    assert built.stages_run() == ["eval"]
    built.change_recipe("ram-gb = 2", "ram-gb = 3")
    assert built.stages_run() == ["eval"]
    assert built.stages_run() == []


def test_comments_and_blank_lines_of_the_recipe_do_not_count(built):
    built.change_recipe("# settings\n", "# other words\n\n\n")
    built.change_recipe("[eval]\n", "[eval]\n# why\n\n")
    assert built.stages_run() == []


@pytest.mark.parametrize("change", ["edit", "add", "delete", "lose tokens"])
def test_changed_corpus_reruns_everything(built, change):
    if change == "edit":
        (built.corpus / "a.txt").write_text("changed")
    elif change == "add":
        shutil.copy2(built.corpus / "a.txt", built.corpus / "deep" / "c.txt")  # with the old time
    elif change == "delete":
        (built.corpus / "deep" / "b.txt").unlink()
    else:
        (built.workspace / "tokens" / "manifest.json").unlink()
    assert built.stages_run() == STAGES
    assert built.stages_run() == []


def test_hidden_files_are_not_corpus_unless_the_corpus_is_hidden(built):
    (built.corpus / ".cache").mkdir()
    (built.corpus / ".cache" / "x.txt").write_text("x")
    (built.corpus / ".b.tmp").write_text("x")
    assert built.stages_run() == []
    hidden = built.corpus.rename(built.folder / ".corpus")
    built.variables[0] = f"CORPUS={hidden}"
    assert built.stages_run() == STAGES
    (hidden / "a.txt").write_text("changed")
    assert built.stages_run() == STAGES


def test_failed_stage_notes_its_exit_code_and_runs_again(built):
    manifest = built.workspace / "model" / "manifest.json"
    built.change_recipe("[train-fgram]\nseed = 0", "[train-fgram]\nseed = 1")
    (built.workspace / "fail-train-fgram").write_text("74")
    failed = built.make()
    assert (failed.returncode, (built.workspace / ".make" / "exit-code").read_text()) == (2, "74\n")
    assert manifest.read_text() == "{}\n"
    (built.workspace / "fail-train-fgram").unlink()
    assert built.stages_run() == STAGES[2:]


def test_input_changed_while_a_stage_reads_it_counts(built):
    (built.workspace / "hang").write_text("count-ngrams")
    (built.corpus / "a.txt").write_text("changed")
    with subprocess.Popen(built.make_command(), env=environment(), stdout=subprocess.DEVNULL) as running:
        wait_for(built.workspace / "hanging")
        (built.corpus / "a.txt").write_text("changed once more")
        (built.workspace / "hang").unlink()
        (built.workspace / "hanging").unlink()
        assert running.wait(20) == 0
    assert built.stages_run() == STAGES


def test_interrupted_make_leaves_a_manifest_that_was_just_published(built):
    (built.workspace / "hang").write_text("train-fgram")
    built.change_recipe("[train-fgram]\nseed = 0", "[train-fgram]\nseed = 1")
    with subprocess.Popen(
        built.make_command(), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as running:
        manifest = built.workspace / "model" / "manifest.json"
        wait_for(built.workspace / "hanging")
        while "new" not in manifest.read_text():
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(20) != 0
    assert "new" in manifest.read_text()


def test_included_in_another_makefile(rebuild):
    lines = [variable.replace("=", " := ", 1) for variable in rebuild.variables]
    lines += ["mine: scone-rebuild", "\t@echo mine", f"include {ROOT}/pipelines/rebuild.mk"]
    lines += ["$(scone-counts): corpus/new.txt", "corpus/new.txt: ; @echo new >$@"]
    (rebuild.folder / "Makefile").write_text("\n".join(lines) + "\n")
    command = ["make", "--no-print-directory", "-C", str(rebuild.folder)]
    first, second = (call(command).stdout.splitlines() for _ in range(2))
    assert (commands("\n".join(first[:-1])), first[-1]) == (STAGES, "mine")
    assert second == ["mine"]
    assert (rebuild.corpus / "new.txt").exists()


@pytest.mark.parametrize("number", range(3))
def test_missing_variable_is_named(rebuild, number):
    name = rebuild.variables.pop(number).split("=")[0]
    failed = rebuild.make()
    assert failed.returncode == 2
    assert f"there is no {name}" in failed.stderr


def test_corpus_that_is_not_there_is_left_to_scone(rebuild):
    shutil.rmtree(rebuild.corpus)
    assert commands(rebuild.make("-n").stdout) == STAGES


# ---- cron --------------------------------------------------------------------------------------------------------


def test_cron_logs_and_is_silent_when_all_is_well(rebuild):
    done = rebuild.cron()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lines = rebuild.log().splitlines()
    assert lines[0].endswith("start")
    assert commands("\n".join(lines[1:-1])) == STAGES
    assert lines[-1].endswith("exit 0")


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


@pytest.mark.parametrize("bad", ["CORPUS=relative", "typo", "KEEP_LOGS=0"])
def test_cron_refuses_what_it_does_not_understand(rebuild, bad):
    failed = rebuild.cron(bad)
    assert failed.returncode == 2
    assert f"'{bad}'" in failed.stderr


# ---- the Makefile ------------------------------------------------------------------------------------------------


def test_demo_calls_every_stage_each_time_and_shows_the_commands(tmp_path):
    venv = tmp_path / "venv"
    executable(venv / "bin" / "python", f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    executable(venv / "bin" / "scone", f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n')
    (venv / ".installed").touch()
    options = "--workspace demo/work --config pipelines/demo.toml"
    expected = ["pipelines/demo-corpus.py demo/corpus", f"{options} count-ngrams demo/corpus"]
    expected += [f"{options} select-vocab", f"{options} train-fgram"]
    expected += [f"{options} train-fgram --kind plain --out demo/work/plain", f"{options} precompute"]
    expected += [f"{options} eval --against demo/work/plain"]
    for _ in range(2):
        command = ["make", "--no-print-directory", "-C", str(ROOT), f"VENV={venv}", "demo"]
        shown = call(command).stdout
        assert (tmp_path / "calls").read_text().splitlines() == expected
        assert [line.split(" ", 1)[1] for line in shown.splitlines()] == expected
        (tmp_path / "calls").unlink()


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "bench"])
def test_targets_create_the_environment_and_name_a_python_that_is_too_old(tmp_path, target):
    executable(tmp_path / "python", "#!/bin/sh\nexit 1\n")
    command = ["make", "-C", str(ROOT), f"PYTHON={tmp_path}/python", f"VENV={tmp_path}/venv", target]
    failed = call(command)
    assert failed.returncode == 2
    assert f"'{tmp_path}/python' is not Python 3.11 or later" in failed.stderr
