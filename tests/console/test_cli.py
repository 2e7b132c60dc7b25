"""The command line around the stages: help, settings, output, errors, signals. What would do the work is replaced."""

import dataclasses
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from messages import error_of, names

from scone_cli.artifacts.publish import workspace_lock
from scone_cli.console import cli
from scone_cli.console.help_texts import LOOKING, PUBLISHING, STAGES
from scone_cli.console.hints import completed
from scone_cli.errors import BadData, SconeError
from scone_cli.settings import Quantity
from scone_cli.stages import Report, count_ngrams, evaluate, precompute, select_vocab, train_fgram

MODULES = {
    "count-ngrams": count_ngrams,
    "select-vocab": select_vocab,
    "train-fgram": train_fgram,
    "precompute": precompute,
    "eval": evaluate,
}
pytestmark = pytest.mark.usefixtures("empty_folder")

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def calls(monkeypatch):
    """Replace every stage's `run` by one that notes what it was given, in the returned list."""
    noted = []

    def fake(stage: str):
        def run(config, inputs, out, progress, force=False):
            noted.append((config, inputs, out, force))
            progress("work", 1, 1, "bytes")
            summary = {"num_fgrams": 12345678, "share": 0.25, "lengths": [{"n": 2, "rows": 1500}]}
            return Report(stage, out, False, summary)

        return run

    for name, module in MODULES.items():
        monkeypatch.setattr(module, "run", fake(name))
    return noted


def test_a_hint_names_the_workspace_and_the_recipe_that_were_given():
    def hint(text, workspace="my w", recipe="r.toml"):
        return completed(text, Path(workspace), recipe and Path(recipe))

    whole = "scone --workspace 'my w' --config r.toml"
    assert hint("run: scone eval") == f"run: {whole} eval"
    assert hint("run: scone select-vocab && scone train-fgram") == f"run: {whole} select-vocab && {whole} train-fgram"
    assert hint("run: scone --config 'r s.toml' eval") == "run: scone --workspace 'my w' --config 'r s.toml' eval", (
        "what it names itself stays"
    )
    assert hint("or run scone count-ngrams again") == f"or run {whole} count-ngrams again"
    assert hint("run: scone eval", "scone-work", None) == "run: scone eval"
    for other in ("run: scone recipe --list", "give smaller ones, to scone count-ngrams too"):
        assert hint(other) == other


def test_hints_of_commands_are_whole(scone, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_bytes(b'\xef\xbb\xbf[train-fgram.solo]\nkind = "plain"\n')  # with a byte-order mark
    code, _, err = scone("--workspace", tmp_path / "w", "--config", recipe, "select-vocab")
    assert code == 66
    assert names(err, f"scone --workspace {tmp_path / 'w'} --config {recipe} count-ngrams")


def test_the_nearest_command_is_told(scone):
    code, _, err = scone("select-vocb")
    assert code == 2
    error_of(err, "select-vocb", "select-vocab")


@pytest.mark.usefixtures("calls")
def test_a_variable_that_no_option_reads_is_told(scone, monkeypatch):
    monkeypatch.setenv("SCONE_TRAIN_FGRAM_DIMM", "64")
    monkeypatch.setenv("SCONE_TRAIN_FGRAM_DIM", "64")
    monkeypatch.setenv("SCONE_EVAL_DIMM", "64")
    code, _, err = scone("train-fgram")
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("note: ")] == [
        "note: no option of train-fgram reads the variable SCONE_TRAIN_FGRAM_DIMM; did you mean 'SCONE_TRAIN_FGRAM_DIM'?"
    ]
    assert scone("--quiet", "train-fgram")[2] == ""


def fail_with(monkeypatch, error: BaseException) -> None:
    def run(*_):
        raise error

    monkeypatch.setattr(select_vocab, "run", run)


# ---- help --------------------------------------------------------------------------------------------------------


def test_the_groups_help_shows_the_way_of_the_data(scone):
    code, out, _ = scone("--help")
    assert code == 0
    positions = [out.index(f"\n  {name} ") for name in [*STAGES, *LOOKING, *PUBLISHING]]
    assert positions == sorted(positions)
    assert all(stage.flow in out for stage in STAGES.values())
    assert names(out, 65, 66, 74, 75, 130, 143), "exit codes"
    assert "SCONE_<COMMAND>_<OPTION>" in out
    assert scone() == scone("-h") == (0, out, "")


@pytest.mark.parametrize("name", [*STAGES, *LOOKING, *PUBLISHING])
def test_every_command_has_help_with_an_example_that_parses(scone, name):
    code, out, _ = scone(name, "--help")
    assert code == 0
    assert scone(name, "-h")[1] == out
    examples = [
        shlex.split(line) for line in out.split("Example:")[1].split("Options:")[0].splitlines() if line.strip()
    ]
    assert examples
    for prog, command, *args in examples:
        assert (prog, command) == ("scone", name)
        words = args[: args.index(">")] if ">" in args else args
        cli.scone.get_command(click.Context(cli.scone), command).make_context(command, words)


@pytest.mark.parametrize("name", STAGES)
def test_every_setting_is_an_option_with_its_help_and_default(scone, name):
    _, out, _ = scone(name, "--help")
    flat = " ".join(out.split())
    config_class = STAGES[name].config_class()
    for item in dataclasses.fields(config_class):
        assert f"--{item.name.replace('_', '-')}" in flat
        assert "".join(item.metadata["help"].split()) in "".join(out.split())  # lines may end after a hyphen
    assert "--force" in flat
    assert "--json" in flat
    assert ("--seed" in flat) == (name in {"train-fgram", "precompute"})


@pytest.mark.parametrize("name", [*STAGES, *LOOKING, *PUBLISHING])
def test_the_readme_shows_every_command(name):
    assert f"scone {name}" in README.read_text(encoding="utf-8")


def test_help_is_instant():
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "scone_cli", "--help"], check=True, capture_output=True)
    assert time.perf_counter() - start < 1  # 0.1 s on a quiet machine; what it loads is in test_imports


# ---- what a stage is given ---------------------------------------------------------------------------------------


def test_stages_chain_through_the_workspace(scone, calls):
    for args in (["count-ngrams", "a", "b"], ["select-vocab"], ["train-fgram"], ["precompute"], ["eval"]):
        assert scone(*args)[0] == 0
    work = Path("scone-work")
    assert [(inputs, out) for _, inputs, out, _ in calls] == [
        ((Path("a"), Path("b")), work),
        (work, work / "vocab"),
        (work, work / "model"),
        (work, work / "table"),
        (evaluate.Inputs(work), work / "eval"),
    ]
    configs = [getattr(module, STAGES[name].config_name)() for name, module in MODULES.items()]
    assert [config for config, *_ in calls] == configs  # defaults are the dataclass's


def test_a_stage_is_given_its_own_arguments(scone, calls, monkeypatch):
    monkeypatch.setenv("SCONE_WORKSPACE", "elsewhere")
    scone("train-fgram", "--out", "plain", "--kind", "plain", "--no-tied-head", "--learning-rate", "1e-4", "--force")
    config, inputs, out, force = calls.pop()
    assert config == train_fgram.TrainFgram(kind="plain", tied_head=False, learning_rate=1e-4)
    assert (inputs, out, force) == (Path("elsewhere"), Path("plain"), True)
    scone("--workspace", "w", "eval", "books", "wiki.jsonl", "--against", "m1", "--against", "m2", "--no-speed")
    config, inputs, out, force = calls.pop()
    corpora, rivals = (Path("books"), Path("wiki.jsonl")), (Path("m1"), Path("m2"))
    assert (config.speed, inputs, out) == (False, evaluate.Inputs(Path("w"), corpora, rivals), Path("w/eval"))
    assert force is False


def test_the_first_of_flag_variable_recipe_default_wins(scone, calls, monkeypatch):
    Path("r.toml").write_text("[train-fgram]\ndim = 1\nfgram-layers = 2\nheads = 3\n")
    monkeypatch.setenv("SCONE_TRAIN_FGRAM_DIM", "11")
    monkeypatch.setenv("SCONE_TRAIN_FGRAM_HEADS", "12")
    code, _, err = scone("--config", "r.toml", "--verbose", "train-fgram", "--dim", 111)
    assert code == 0
    config = calls.pop()[0]
    assert (config.dim, config.heads, config.fgram_layers, config.layers) == (111, 12, 2, 4)
    shown = {line.split()[0]: line.split()[1:] for line in err.splitlines() if line.startswith("  ")}
    assert shown["dim"] == ["111", "flag"]
    assert shown["heads"] == ["12", "SCONE_TRAIN_FGRAM_HEADS"]
    assert shown["fgram-layers"] == ["2", "r.toml"]
    assert shown["layers"] == ["4", "default"]


def test_a_recipe_gives_every_type_of_setting(scone, calls, monkeypatch):
    text = '[count_ngrams]\nheld_out = 1\ntokenizer = "t.json"\n[train-fgram]\ntied-head = false\nsteps = 9\n'
    text += '[select-vocab]\nsize = 4000\nbudget = "8GiB"\n'
    Path("r.toml").write_text(text)
    monkeypatch.setenv("SCONE_CONFIG", "r.toml")
    scone("count-ngrams", "a")
    assert calls.pop()[0] == count_ngrams.CountNgrams(held_out=1.0, tokenizer=Path("t.json"))
    scone("train-fgram")
    assert calls.pop()[0] == train_fgram.TrainFgram(tied_head=False, steps=9)
    scone("select-vocab")
    assert calls.pop()[0] == select_vocab.SelectVocab(size=Quantity("4000"), budget=Quantity("8GiB"))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[train-fgram]\nfgram-layer = 2", ["train-fgram", "'fgram-layer'", "'fgram-layers'"]),
        ("[precompute]\nqqq = 2", ["precompute", "'qqq'", "dtype", "memory", "device", "seed"]),
        ("[trian-fgram]\ndim = 2", ["'trian-fgram'", "'train-fgram'"]),
        ("qqq = 1", ["'qqq'", "count-ngrams", "select-vocab", "train-fgram", "precompute", "eval"]),
        ("eval = 1", ["'eval'", "table"]),
        ("[train-fgram]\ndim = '128'", ["dim", "'128'", "whole number"]),
        ("[train-fgram]\ndim = 1.5", ["dim", "1.5", "whole number"]),
        ("[train-fgram]\ndim = true", ["dim", "True", "whole number"]),
        ("[train-fgram]\ntied-head = 1", ["tied-head", "1", "true", "false"]),
        ("[count-ngrams]\nheld-out = 'x'", ["held-out", "'x'", "number"]),
        ("[count-ngrams]\ntokenizer = 1", ["tokenizer", "1", "path"]),
        ("[select-vocab]\nsize = 1.5", ["size", "1.5", "whole number", '"8GiB"', '"10k"']),
        ("[precompute]\ndtype = 'int3'", ["dtype", "'int3'", "float32", "float16", "bfloat16"]),
        ("[train-fgram]\neval-every = 1\neval_every = 2", ["train-fgram", "'eval-every'"]),
        ("[train-fgram\n", ["TOML"]),
    ],
)
def test_a_bad_recipe_is_one_line_and_exit_2(scone, calls, text, facts):
    Path("r.toml").write_text(text)
    code, out, err = scone("--config", "r.toml", "select-vocab")
    assert (code, out, calls) == (2, "", [])
    error_of(err, "r.toml", *facts)
    assert len(err.splitlines()) == 1


def test_a_recipe_that_cannot_be_read_is_exit_2(scone):
    code, _, err = scone("--config", "none.toml", "eval")
    assert code == 2
    error_of(err, "none.toml", "No such file or directory")
    assert len(err.splitlines()) == 1
    Path("r.toml").write_bytes(b"\xff\xfe")
    assert scone("--config", "r.toml", "eval")[0] == 2


@pytest.mark.parametrize(
    ("args", "facts", "hint"),
    [
        (["evla"], ["'evla'"], None),
        (["count-ngrams"], ["CORPUS"], None),
        (["select-vocab", "--min-count", "many"], ["--min-count", "'many'"], None),
        (["precompute", "--dtype", "int3"], ["--dtype", "'int3'", "float32"], None),
        (["eval", "--quiet"], ["--quiet"], ["scone --quiet"]),
        (["--quiet", "--verbose", "eval"], ["--quiet", "--verbose"], None),
        (["eval", "--agains", "x"], ["--agains"], ["scone eval --help"]),
    ],
)
def test_wrong_usage_is_exit_2(scone, calls, args, facts, hint):
    code, out, err = scone(*args)
    assert (code, out, calls) == (2, "", [])
    assert err.startswith("error: ")
    error_of(err, *facts, hint=hint and tuple(hint))


def test_a_bad_variable_is_named(scone, calls, monkeypatch):
    monkeypatch.setenv("SCONE_SELECT_VOCAB_MIN_COUNT", "many")
    code, _, err = scone("select-vocab")
    assert (code, calls) == (2, [])
    error_of(err, "SCONE_SELECT_VOCAB_MIN_COUNT", "many")


# ---- what comes out ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("calls")
def test_json_is_one_object_on_stdout(scone):
    code, out, _ = scone("select-vocab", "--json")
    result = json.loads(out)
    assert code == 0
    assert isinstance(result.pop("seconds"), float)
    assert result == {
        "schema_version": 1,
        "stage": "select-vocab",
        "out": "scone-work/vocab",
        "up_to_date": False,
        "num_fgrams": 12345678,
        "share": 0.25,
        "lengths": [{"n": 2, "rows": 1500}],
    }


@pytest.mark.usefixtures("calls")
def test_a_result_reads_well(scone):
    _, out, _ = scone("--quiet", "select-vocab")
    first, *lines = out.splitlines()
    assert first.startswith("select-vocab -> scone-work/vocab (")
    assert "0.0 s" in first
    words = [line.split() for line in lines if "─" not in line]
    assert words == [
        ["num", "f-grams", "12,345,678"],
        ["share", "0.25"],
        [],
        ["lengths"],
        ["n", "rows"],
        ["2", "1,500"],
    ]
    assert lines[0].index("12,345,678") == lines[1].index("0.25"), "values stand below one another"
    assert lines[-3].rindex("s") == lines[-1].rindex("0"), "numbers stand right"


def test_what_is_up_to_date_is_said(scone, monkeypatch):
    monkeypatch.setattr(select_vocab, "run", lambda _c, _i, out, *_: Report("select-vocab", out, True, {}))
    out = scone("select-vocab")[1]
    assert out.startswith("select-vocab -> scone-work/vocab (")
    assert len(out.splitlines()) == 1
    assert names(out, "up to date")
    assert not re.search(r"\d", out), "no time, as nothing was made"
    assert json.loads(scone("select-vocab", "--json")[1])["up_to_date"] is True


@pytest.mark.usefixtures("calls")
def test_quiet_and_verbose(scone):
    assert scone("--quiet", "select-vocab")[2] == ""
    normal = scone("select-vocab")[2]
    assert normal.startswith("work: ")
    assert names(normal, "1 B", "0.0 s")
    assert len(normal.splitlines()) == 1
    verbose = scone("--verbose", "select-vocab")[2]
    assert normal in verbose
    assert ["dim", "128", "default"] in [line.split() for line in verbose.splitlines()]
    heading, seconds = verbose.splitlines()[-2:]
    assert names(heading, "seconds")
    assert seconds.split() == ["0.0", "work"]


# ---- errors and exit codes ---------------------------------------------------------------------------------------


def test_an_error_is_one_line_and_a_hint(scone, monkeypatch):
    fail_with(monkeypatch, BadData("corpus/a.txt: not UTF-8 at byte 7, expected UTF-8 text", "convert it"))
    code, out, err = scone("select-vocab")
    assert (code, out) == (65, "")
    assert err == "error: corpus/a.txt: not UTF-8 at byte 7, expected UTF-8 text\nhint: convert it\n"
    fail_with(monkeypatch, SconeError("failed"))
    assert scone("select-vocab")[::2] == (1, "error: failed\n")


class RustError(Exception):
    """Stands for the exceptions of polars and safetensors, which have the errno in their text only."""


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (OSError(28, "No space left on device"), ["scone-work", "space"]),
        (OSError(122, "Disk quota exceeded", "a.parquet"), ["a.parquet", "space"]),
        (OSError(27, "Error writing bytes to file. Detail: ..."), ["scone-work", "space"]),
        (RustError("parquet: underlying IO error: No space left on device (os error 28)"), ["scone-work", "space"]),
        (PermissionError(13, "Permission denied", "corpus/a"), ["corpus/a", "Permission denied"]),
        (OSError("200000 requested and 0 written"), ["scone-work", "space"]),
        (OSError("a text and no number"), ["a text and no number"]),
    ],
)
def test_what_the_system_says_about_files_is_exit_74(scone, monkeypatch, error, facts):
    fail_with(monkeypatch, error)
    code, _, err = scone("select-vocab")
    assert code == 74
    assert err.startswith("error: ")
    error_of(err, *facts, hint=("space",) if "space" in facts else None)


@pytest.mark.parametrize("error", [ValueError("a bug"), EOFError("a bug"), NotImplementedError("a bug")])
def test_a_bug_shows_its_traceback(monkeypatch, error):
    fail_with(monkeypatch, error)
    with pytest.raises(type(error), match="a bug"):
        cli.main(["select-vocab"])


def test_a_locked_workspace_is_exit_75_at_once(scone, calls):
    with workspace_lock(Path("scone-work")):
        code, _, err = scone("select-vocab")
        assert (code, calls) == (75, [])
        error_of(err, "scone-work")
        assert scone("--workspace", "other", "select-vocab")[0] == 0
    assert scone("select-vocab")[0] == 0


# The real command in a process of its own, with a stage that does what the code in its place says.
DRIVER = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
from scone_cli.console import cli
from scone_cli.stages import Report, select_vocab
def run(config, inputs, out, progress, force=False):
    {body}
    return Report("select-vocab", out, False, {{"text": "x" * 100}})
select_vocab.run = run
cli.main(["select-vocab"])
"""


def start(body: str, **options: object) -> subprocess.Popen[str]:
    code = DRIVER.format(body=body)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)


def test_a_file_size_limit_is_a_full_disk():
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    body = """
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.table({"bytes": [os.urandom(1000) for _ in range(200)]}), inputs / "big.parquet")"""
    with start(body, preexec_fn=limit_file_size) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 74
    assert err.startswith("error: ")
    error_of(err, "scone-work", "space", "File too large", hint=("space",))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_and_says_that_work_is_kept(signum, code):
    body = """
    try:
        progress("ready", 0, 1)
        time.sleep(60)
    finally:
        (inputs / "unwound").touch()"""
    with start(body) as process:
        assert process.stderr.readline().startswith("ready: ")
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    message, hint = error_of(err, signum.name, "kept")
    assert (err, hint) == (f"error: {message}\n", "")
    assert Path("scone-work/unwound").exists()


def test_a_forked_worker_dies_quietly_of_the_signal():
    body = """
    import warnings; warnings.simplefilter("ignore")  # from 3.12 on Python warns of every fork beside threads
    if (child := os.fork()) == 0:
        progress("ready", 0, 1)
        time.sleep(60)
        os._exit(1)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM"""
    with start(body, stdout=subprocess.DEVNULL) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line.split()[0] for line in err.splitlines()] == ["ready:"]


def test_a_reader_that_has_gone_is_not_an_error():
    reading, writing = os.pipe()
    os.close(reading)
    with start("pass", stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_a_result_that_cannot_be_written_is_exit_74():
    with Path("/dev/full").open("w") as full, start("pass", stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 74
    error_of(err, "stdout", "No space left on device")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
