"""An artifact that is replaced by one with other settings: what is told, and what is refused because a recipe was forgotten."""

import hashlib
import json
import os
import re
import shlex
import shutil

import pytest
from messages import error_of, names
from workspaces import COUNT, TRAIN, contents, copy_of, manifest

RECIPE = "[count-ngrams]\nvocab-size = 400\nheld-out = 0.1\nmax-n = 4\n[select-vocab]\nsize = 600\n"


class Lab:
    """A copy of the small workspace, a recipe, and the command."""

    def __init__(self, forks, small, folder) -> None:
        self.forks, self.small = forks, small
        self.work, self.recipe = copy_of(small / "work", folder / "work"), folder / "r's.toml"
        self.recipe.write_text(RECIPE)
        self.given = ("--config", self.recipe)

    def run(self, *args: object, code: int = 0) -> str:
        """What stands on stderr; options of the group before the name of a stage are allowed."""
        ended = self.forks.run("--workspace", self.work, *args)
        assert ended.code == code, ended.err
        return ended.err

    def made_with_the_recipe(self) -> None:
        """Make the vocabulary again, the same, with the recipe."""
        self.run(*self.given, "select-vocab", "--force")

    def notices(self, err: str) -> dict[str, str]:
        """What is told of each artifact that is replaced."""
        lines = [line.removeprefix("will replace ") for line in err.splitlines() if line.startswith("will replace ")]
        return {line.partition(": ")[0].rpartition("/")[2]: line.partition(": ")[2] for line in lines}


@pytest.fixture
def lab(forks, small, tmp_path):
    return Lab(forks, small, tmp_path)


def test_what_changes_and_what_is_out_of_date_then_is_told(lab):
    err = lab.run("select-vocab", "--size", "500", "--min-docs", "2")
    assert lab.notices(err) == {"vocab": "size 600 -> 500, min-docs 1 -> 2; out of date then: model, table, eval"}
    lab.recipe.write_text("[select-vocab]\n")
    assert lab.notices(lab.run(*lab.given, "select-vocab", "--coverage", "0.3"))["vocab"].startswith(
        "coverage none -> 0.3, "
    )


def test_the_recipe_stands_in_the_manifest(lab):
    lab.made_with_the_recipe()
    sha = hashlib.sha256(lab.recipe.read_bytes()).hexdigest()
    assert manifest(lab.work / "vocab")["recipe"] == {"path": str(lab.recipe), "sha256": sha}
    assert manifest(lab.work / "model")["recipe"] == {}
    shown = json.loads(lab.forks.run("inspect", lab.work / "vocab", "--json").out)
    assert shown["recipe"]["path"] == str(lab.recipe)


def test_the_hint_of_verify_is_a_command_that_mends_it(lab):
    lab.made_with_the_recipe()
    (lab.work / "vocab" / "vocab.parquet").write_bytes(b"spoilt")
    found = json.loads(lab.forks.run("verify", lab.work, "--json").out)
    (wrong,) = [row for row in found["artifacts"] if not row["ok"]]
    shown = lab.forks.run("verify", lab.work).out
    assert wrong["hint"] in shown
    before, _, command = wrong["hint"].partition("scone ")
    assert before == "make it again: "
    ended = lab.forks.run(*shlex.split(command))
    assert (ended.code, lab.forks.run("verify", lab.work).code) == (0, 0), ended.err


def test_without_the_recipe_that_made_it_nothing_is_replaced_unless_that_is_asked_for(lab):
    lab.made_with_the_recipe()
    before = contents(lab.work)
    err = lab.run("select-vocab", code=2)
    _, hint = error_of(err, str(lab.work / "vocab"), str(lab.recipe), "size 600 -> 1,000,000", "model, table, eval")
    assert names(hint, "--config", "select-vocab", "--force")
    assert "r'\"'\"'s.toml" in hint, "as a shell reads it"
    assert contents(lab.work) == before
    assert lab.run("--quiet", "select-vocab", code=2).startswith("error: ")
    forced = lab.run("select-vocab", "--force")
    assert names(lab.notices(forced)["vocab"], "size 600 -> 1,000,000")
    assert manifest(lab.work / "vocab")["recipe"] == {}


def test_a_plan_tells_what_the_run_would_tell_and_refuse(lab):
    lab.made_with_the_recipe()
    before = contents(lab.work)
    planned = lab.forks.run("--quiet", "--workspace", lab.work, "select-vocab", "--size", "500", "--plan", "--json").out
    assert json.loads(planned)["plan"]["replaces"] == {"vocab": "size 600 -> 500; out of date then: model, table, eval"}
    assert lab.run("select-vocab", "--plan", code=2) == lab.run("select-vocab", code=2), "also the note of the recipe"
    counted = ("--quiet", "--workspace", lab.work, "count-ngrams", lab.small / "corpus", *COUNT, "--plan", "--json")
    found = json.loads(lab.forks.run(*counted, "--held-out", "0.2", "--min-count", "6").out)["plan"]["replaces"]
    assert found["tokens"].startswith("held-out 0.1 -> 0.2; ")
    assert found["counts"].startswith("min-count 5 -> 6; ")
    assert "replaces" not in json.loads(lab.forks.run(*counted).out)["plan"]
    for stage, setting in (("train-fgram", "--seed=7"), ("precompute", "--dtype=int8"), ("eval", "--ladder")):
        ended = lab.forks.run("--quiet", "--workspace", lab.work, stage, setting, "--plan", "--json")
        assert names(str(json.loads(ended.out)["plan"]["replaces"]), setting.strip("-").partition("=")[0]), stage
    assert contents(lab.work) == before


def test_the_hint_for_a_baseline_is_the_command_that_makes_it(lab):
    lab.recipe.write_text(
        '[train-fgram]\nsteps = 1\ndim = 8\nlayers = 1\nheads = 1\n[train-fgram.solo]\nkind = "plain"\n'
    )
    lab.run(*lab.given, "train-fgram", "--baseline", "solo")
    assert manifest(lab.work / "solo")["recipe"]["baseline"] == "solo"
    err = lab.run("train-fgram", "--kind", "plain", "--out", lab.work / "solo", code=2)
    assert "plan: " not in err, "of what is refused there is no plan"
    _, hint = error_of(err, str(lab.recipe))
    assert names(hint, f"scone --workspace {lab.work} --config", "train-fgram --baseline solo", "--force")


def test_what_is_given_by_name_is_meant(lab):
    lab.made_with_the_recipe()
    err = lab.run("select-vocab", "--size", "400")
    assert lab.notices(err)["vocab"].startswith("size 600 -> 400; ")
    assert names(next(line for line in err.splitlines() if line.startswith("note: ")), str(lab.recipe), "--config")


def test_a_missing_recipe_is_told_even_where_nothing_changes(lab):
    lab.made_with_the_recipe()
    err = lab.run("select-vocab", "--size", "600")
    assert err.splitlines() == [
        f"note: {lab.work / 'vocab'} was made with the recipe {lab.recipe}; none is given now (--config)"
    ]
    assert lab.run("--quiet", "select-vocab", "--size", "600") == ""
    other = lab.recipe.with_name("other.toml")
    other.write_text(RECIPE + "# another\n")
    assert names(lab.run("--config", other, "select-vocab"), "note", str(lab.recipe), "another")
    assert lab.run(*lab.given, "select-vocab") == ""
    moved = lab.recipe.rename(lab.recipe.with_name("moved.toml"))
    assert lab.run("--config", moved, "select-vocab") == ""


def test_another_corpus_and_other_counts_are_told_apart(lab, tmp_path):
    counted = ("count-ngrams", lab.small / "corpus", *COUNT)
    told = lab.notices(lab.run(*counted, "--min-count", "6"))
    assert told == {"counts": "min-count 5 -> 6; out of date then: vocab, model, table, eval"}
    told = lab.notices(lab.run(*counted, "--held-out", "0.2", "--min-count", "6"))
    assert told == {"tokens": "held-out 0.1 -> 0.2; out of date then: vocab, model, table, eval, plain"}
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/more.txt").write_text("more words of it " * 2000)
    told = lab.notices(lab.run("count-ngrams", lab.small / "corpus", tmp_path / "corpus", *COUNT, "--min-count", "6"))
    assert names(told["tokens"], "held-out 0.2 -> 0.1", "made from other corpus")


def test_an_evaluation_is_replaced_with_a_notice(lab):
    text = "[eval]\nspeed = false\n"
    lab.recipe.write_text(text)
    lab.run(*lab.given, "eval", "--force")
    err = lab.run("eval", "--ladder")
    assert names(lab.notices(err)["eval"], "ladder no -> yes")
    err = lab.run("eval", "--ladder", "--no-speed", "--against", "plain", lab.small / "corpus")
    assert names(lab.notices(err)["eval"], f"corpora none -> {lab.small / 'corpus'}"[:30], "against none -> plain")


def test_unfinished_training_that_is_given_up_is_told(lab):
    """Killed after its last checkpoint; the same command says nothing, one of another seed says what is lost."""
    train = ("--workspace", lab.work, "train-fgram", *TRAIN, "--seed")
    moments = lab.forks.run("--quiet", *train, 1).moments
    late = next(number for number, moment in enumerate(moments, 1) if "log.parquet" in moment)
    lab.forks.run("--quiet", *train, 2, moment=late)
    assert "give" not in lab.forks.run(*train, 2, "--plan").err
    planned = json.loads(lab.forks.run("--quiet", *train, 3, "--plan", "--json").out)["plan"]
    (lost,) = planned["gives_up"].values()
    assert re.fullmatch(r"4 steps, [1-9][\d,]* tokens read; seed 2 -> 3", lost)
    told = f"will give up unfinished training of {lab.work / 'model'}: {lost}"
    assert told in lab.run("train-fgram", *TRAIN, "--seed", "3").splitlines()
    assert "gives_up" not in json.loads(lab.forks.run("--quiet", *train, 4, "--plan", "--json").out)["plan"]


def test_contents_decide_and_not_times(lab, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(lab.small / "corpus", corpus)
    counted = ("--quiet", "--workspace", lab.work, "count-ngrams", corpus, *COUNT, "--json")
    for path in corpus.iterdir():
        os.utime(path, ns=(1, 1))
    assert json.loads(lab.forks.run(*counted).out)["up_to_date"]
    changed = next(path for path in sorted(corpus.iterdir()) if "a" in path.read_text())
    changed.write_text(changed.read_text().replace("a", "b"))  # as long as it was
    os.utime(changed, ns=(1, 1))
    assert not json.loads(lab.forks.run(*counted).out)["up_to_date"]
