"""What a recipe may say beside settings: what commands read and write, baselines by name; and variables of several lines."""

from pathlib import Path

import pytest
from messages import error_of

from scone_cli.console import commands
from scone_cli.console.help_texts import STAGES
from scone_cli.console.recipes import read_recipe
from scone_cli.stages import Report, evaluate, train_fgram

pytestmark = pytest.mark.usefixtures("empty_folder")

BASELINES = """
[train-fgram]
dim = 64
heads = 2
out = "elsewhere"
[train-fgram.plain]
kind = "plain"
heads = 1
[train-fgram.deep]
layers = 9
"""


@pytest.fixture
def given(monkeypatch):
    """What the last stage's `run` was given: config, inputs and the folder to write."""
    noted: list = []

    def run(config, inputs, out, *_):
        noted[:] = config, inputs, out
        return Report("stage", out, False, {})

    for stage in STAGES.values():
        monkeypatch.setattr(stage.module(), "run", run)
    return noted


def recipe(text: str, path: str = "lab/r.toml") -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return path


# ---- what commands read and write --------------------------------------------------------------------------------


def test_an_evaluation_stands_in_the_recipe(scone, given):
    text = """
    [eval]
    corpus = ["held-out", "law", "/data/wiki"]
    against = ["plain", "big=../other/model", "wide=deep"]
    table = "int8"
    tasks = ["piqa", "own/", "set.yaml"]
    fail-if = ["table.ppl > live.ppl * 1.001", "table.bpb > 2"]
    """
    assert scone("--workspace", "w", "--config", recipe(text), "eval")[0] == 0
    config, inputs, out = given
    assert (config, out) == (evaluate.Evaluate(), Path("w/eval"))
    assert inputs.corpora == (Path("held-out"), Path("lab/law"), Path("/data/wiki"))
    assert inputs.against == (Path("w/plain"), Path("big=lab/../other/model"), Path("wide=w/deep"))
    assert inputs.tables == (Path("w/int8"),)
    assert inputs.tasks == ("piqa", "lab/own", "lab/set.yaml")
    assert inputs.fail_if == ("table.ppl > live.ppl * 1.001", "table.bpb > 2")


@pytest.mark.parametrize("stage", ["count-ngrams", "train-fgram", "eval"])
@pytest.mark.parametrize(
    ("lines", "facts", "hint"),
    [
        ('against = ["x:y"]\nfail-if = "live.ppl > 1"', ["[eval] against: ", "'x:y' cannot be the name"], []),
        ('against = ["table"]\nfail-if = "table.ppl > "', ["cannot be read"], ["arms: live, table, none; "]),
        ('fail-if = "table.pll > 1"', ["no metric 'pll'"], ["did you mean 'ppl'?"]),
        ('fail-if = "any-2x.word_pl > 1"', ["no metric 'word_pl' of arm 'any-2x'"], ["did you mean 'word_ppl'?"]),
        ('fail-if = "table.ppl >"', ["cannot be read"], []),
        ('fail-if = "table.ppl"', ["comparison"], []),
    ],
)
def test_a_condition_that_can_never_be_told_is_refused_at_every_stage(scone, given, stage, lines, facts, hint):
    path = recipe(f'[count-ngrams]\ncorpus = "a"\n[eval]\n{lines}\n')
    code, _, err = scone("--config", path, stage)
    assert (code, given) == (2, [])
    assert all(fact in err for fact in [f"recipe {path}: [eval] ", *facts, *hint]), err


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('against = ["plain"]\nfail-if = "table.ppl < plian.ppl"', ["'plian'; did you mean 'plain'?", "--against"]),
        ('against = ["a=x"]\nfail-if = "a-1.ppl > 1"', ["no arm 'a-1'", "--against"]),
        ('against = ["big-1x"]\nfail-if = "table.ppl < bgi-1x.ppl"', ["'bgi-1x'; did you mean 'big-1x'?"]),
        ('table = "int8"\nfail-if = "table:int4.ppl > 1"', ["'table:int4'; did you mean 'table:int8'?", "--table"]),
        ('speed = false\nfail-if = "table.latency_ms > 1"', ["speed = false; eval will need --speed"]),
    ],
)
def test_a_condition_that_needs_more_on_the_command_line_is_noted(scone, given, lines, told):
    path = recipe(f'[count-ngrams]\ncorpus = "a"\n[eval]\n{lines}\n')
    code, _, err = scone("--config", path, "count-ngrams")
    assert (code, len(given)) == (0, 3)
    (note,) = err.splitlines()
    assert all(fact in note for fact in [f"note: recipe {path}: [eval] fail-if: ", *told]), note
    assert scone("--quiet", "--config", path, "train-fgram")[2] == ""
    assert scone("--config", path, "eval")[2] == "", "it checks them with what the command line brings"


def test_a_condition_may_be_on_what_only_a_call_names(scone, given):
    conditions = ["any-1x.5.ppl > 2 * (table:int8.ppl - none.ppl)", "table.ppl>1.e5", "-v1.x.bpb[a b]/live.bpb < 1"]
    path = recipe(f"[eval]\nfail-if = {conditions}\n")
    assert scone("--config", path, "eval")[0] == 0
    assert given[1].fail_if == tuple(conditions)
    assert (
        scone("--config", recipe('[eval]\nagainst = []\nfail-if = "table:x.ppl > live.ppl"'), "count-ngrams", "c")[0]
        == 0
    )
    path = recipe('[eval]\nagainst = ["w/model", "b=c/d"]\ntable = "i"\nfail-if = "w.ppl + b.ppl > table:i.ppl"')
    assert scone("--config", path, "eval")[0] == 0


def test_what_is_given_on_the_command_line_takes_the_place_of_the_list(scone, given):
    path = recipe('[count-ngrams]\ncorpus = ["a", "b"]\n[eval]\nagainst = ["plain"]\ntasks = ["x"]\n')
    scone("--config", path, "count-ngrams")
    assert given[1] == (Path("lab/a"), Path("lab/b"))
    scone("--config", path, "count-ngrams", "c")
    assert given[1] == (Path("c"),)
    scone("--config", path, "eval", "--against", "m")
    assert (given[1].against, given[1].tasks) == ((Path("m"),), ("x",))


def test_paths_are_relative_to_the_recipes_folder(scone, given, monkeypatch):
    text = '[count-ngrams]\ntokenizer = "t.json"\ncorpus = ["-", "crawl/**/*.jsonl", "~/c"]\n[precompute]\nout = "t"\n'
    path = recipe(text, "odd [x]/r.toml")
    monkeypatch.setenv("HOME", "/home/me")
    scone("--config", path, "count-ngrams")
    assert given[0].tokenizer == Path("odd [x]/t.json")
    assert given[1] == (Path("-"), Path("odd [[]x]/crawl/**/*.jsonl"), Path("/home/me/c"))
    scone("--config", path, "precompute")
    assert given[2] == Path("odd [x]/t")
    Path("odd [x]/a*").touch()  # a name, not a pattern
    scone("--config", recipe('[count-ngrams]\ncorpus = "a*"', path), "count-ngrams")
    assert given[1] == (Path("odd [x]/a*"),)
    Path("held-out").mkdir()
    scone("--config", recipe('[count-ngrams]\ncorpus = "held-out"', "r.toml"), "count-ngrams")
    assert given[1] == (Path("held-out"),)


def test_a_recipe_that_comes_with_scone_is_found_outside_a_checkout(scone):
    code, _, err = scone("cost", "--config", "pipelines/paper.toml")
    assert code == 2
    error_of(err, "pipelines/paper.toml", hint=("scone recipe --path paper", "scone recipe paper > paper.toml"))
    assert "hint" not in scone("cost", "--config", "mine.toml")[2]


def test_other_commands_have_tables_too(scone):
    path = recipe('[generate]\nmax-tokens = 3\nmodel = "m"\n[lookup]\nnearest = 101\n[inspect]\nrows = 2\n')
    found = read_recipe(Path(path)).tables
    assert found == {
        "generate": {"max_tokens": 3, "model": "lab/m"},
        "lookup": {"nearest": 101},
        "inspect": {"rows": 2},
    }
    code, _, err = scone("--config", path, "lookup", "text")
    assert code == 2
    error_of(err, "--nearest", "101")


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_parameter_is_a_key_but_those_of_a_call(name):
    """Also of options that are added later."""
    of_a_call = {"--force", "--json", "--plan", "--baseline"}
    for param in commands.build_command(name).params:
        key = "corpus" if param.name == "corpus" else param.opts[0].removeprefix("--")
        values = (
            1,
            1.5,
            "true",
            '"x"',
            '["x"]',
            '"8GiB"',
            '"table.ppl > 1"',
            *(f'"{choice}"' for choice in getattr(param.type, "choices", ())),
        )
        taken = []
        for value in values:
            try:
                read_recipe(Path(recipe(f"[{name}]\n{key} = {value}\n")))
                taken.append(value)
            except Exception:  # noqa: BLE001 - one of the values will do
                continue
        assert bool(taken) != (param.opts[0] in of_a_call), param.name


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[eval]\ncorpora = ['a']", ["[eval]", "'corpora'", "'corpus'"]),
        ("[eval]\nagaints = ['a']", ["'againts'", "'against'"]),
        ("[eval]\nfail-if = [1]", ["fail-if", "1", "string", "array"]),
        ("[eval]\nagainst = ['']", ["against", "empty"]),
        ('[count-ngrams]\ncorpus = ["a\\u0000b"]', ["corpus", "NUL"]),
        ("[eval]\nagainst = {a = 'b'}", ["against", "string"]),
        ("[count-ngrams]\ncorpus = true", ["corpus", "path"]),
        ("[eval]\nforce = true", ["[eval]", "force", "call"]),
        ("[precompute]\njson = true", ["[precompute]", "json", "call"]),
        ("[train-fgram]\nbaseline = 'plain'", ["[train-fgram]", "baseline", "call"]),
        ("[select-vocab]\nseed = 0", ["[select-vocab]", "seed", "chance"]),
        ("[eval]\nseed = 0", ["[eval]", "seed", "chance"]),
        ("[eval]\n[eval.plain]\nspeed = true", ["[eval]", "'plain'"]),
        ("[recipe]\nlist = true", ["'recipe'"]),
        ("[train-fgram]\ndim = 1\n[train_fgram]\ndim = 2", ["[train-fgram]", "twice"]),
        ("[train-fgram]\nmixture = {code = 2}", ["mixture", "string"]),
        ("[train-fgram.plain]\nkindd = 'plain'", ["[train-fgram.plain]", "'kindd'", "'kind'"]),
        ("[train-fgram.plain]\nout = 'x'", ["[train-fgram.plain]", "'out'"]),
        ("[train-fgram.plain]\nkind = 'flat'", ["[train-fgram.plain]", "kind", "scone", "plain", "hashed"]),
        ("[train-fgram.model]\nkind = 'plain'", ["[train-fgram.model]", "'model'"]),
        ("[train-fgram.'a/b']\nkind = 'plain'", ["'a/b'"]),
        ("[train-fgram.'.a']\nkind = 'plain'", ["'.a'"]),
    ],
)
def test_what_no_recipe_may_say_is_one_line_and_exit_2(scone, given, text, facts):
    code, out, err = scone("--config", recipe(text), "select-vocab")
    assert (code, out, given) == (2, "", [])
    error_of(err, "lab/r.toml", *facts)


def test_the_width_of_the_table_is_that_of_the_model(scone, given):
    for text, dim in (
        ("[train-fgram]\ndim = 48\nheads = 2\n", 48),
        ("[select-vocab]\nsize = 9\n[train-fgram]\ndim = 48\n", 48),
        ("[select-vocab]\ndim = 7\n[train-fgram]\ndim = 48\n", 7),
        ("[select-vocab]\nsize = 9\n", 128),
    ):
        scone("--config", recipe(text), "select-vocab")
        assert given[0].dim == dim


# ---- baselines ---------------------------------------------------------------------------------------------------


def test_a_baseline_has_its_settings_over_those_of_the_model(scone, given, monkeypatch):
    path = recipe(BASELINES)
    scone("--config", path, "train-fgram")
    assert (given[0], given[2]) == (train_fgram.TrainFgram(dim=64, heads=2), Path("lab/elsewhere"))
    scone("--workspace", "w", "--config", path, "train-fgram", "--baseline", "plain")
    assert (given[0], given[2]) == (train_fgram.TrainFgram(dim=64, heads=1, kind="plain"), Path("w/plain"))
    scone("--workspace", "w", "--config", path, "train-fgram", "--dim", "32", "--baseline", "deep", "--out", "o")
    assert (given[0], given[2]) == (train_fgram.TrainFgram(dim=32, heads=2, layers=9), Path("o"))
    monkeypatch.setenv("SCONE_TRAIN_FGRAM_BASELINE", "deep")
    scone("--config", path, "train-fgram")
    assert (given[0].layers, given[2]) == (9, Path("scone-work/deep"))


def test_a_baseline_that_is_not_there_is_exit_2(scone, given):
    code, _, err = scone("train-fgram", "--baseline", "plain")
    assert code == 2
    error_of(err, "plain", "recipe", hint=("--config RECIPE",))
    path = recipe(BASELINES)
    code, _, err = scone("--config", path, "train-fgram", "--baseline", "plane")
    assert (code, given) == (2, [])
    error_of(err, path, "[train-fgram.plane]", hint=("plain", "deep"))
    code, _, err = scone("--config", recipe("[train-fgram]\n"), "train-fgram", "--baseline", "plain")
    error_of(err, "[train-fgram.plain]", hint=("kind",))


def test_an_evaluation_finds_a_baseline_by_its_name(scone, given):
    path = recipe(BASELINES + '[eval]\nagainst = ["plain"]\n')
    run = ("--workspace", "w", "--config", path)
    code, _, err = scone(*run, "eval")
    assert (code, given) == (66, [])
    error_of(err, "w/plain", "'plain'", hint=(f"scone --workspace w --config {path} train-fgram --baseline plain",))
    Path("w/plain").mkdir(parents=True)
    Path("w/deep").mkdir()
    for args, found in (
        ((), ["w/plain"]),
        (("--against", "deep"), ["w/deep"]),
        (("--against", "nine=deep", "--against", "other"), ["nine=w/deep", "other"]),
    ):
        assert scone(*run, "eval", *args)[0] == 0
        assert given[1].against == tuple(map(Path, found))


# ---- variables ---------------------------------------------------------------------------------------------------


def test_several_values_in_a_variable_stand_one_on_a_line(scone, given, monkeypatch):
    monkeypatch.setenv("SCONE_EVAL_FAIL_IF", "table.ppl > 1\n\n  table.bpb > 2\r\n")
    monkeypatch.setenv("SCONE_EVAL_AGAINST", "a folder/with:colon\nplain")
    monkeypatch.setenv("SCONE_EVAL_TABLE", "int8")
    monkeypatch.setenv("SCONE_EVAL_CORPUS", "law and order\nwiki")
    scone("eval")
    inputs = given[1]
    assert inputs.fail_if == ("table.ppl > 1", "table.bpb > 2")
    assert inputs.against == (Path("a folder/with:colon"), Path("plain"))
    assert inputs.tables == (Path("int8"),)
    assert inputs.corpora == (Path("law and order"), Path("wiki"))
    scone("eval", "c")
    assert given[1].corpora == (Path("c"),)
    monkeypatch.setenv("SCONE_COUNT_NGRAMS_CORPUS", "")
    code, _, err = scone("count-ngrams")
    assert code == 2
    error_of(err, "CORPUS")
