"""`scone cost` from the command line: the table of a recipe's models, JSON, and what it says where it cannot."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from messages import error_of, leanings, names

from scone_cli.evaluation.break_even import Prices
from scone_cli.evaluation.model_cost import Shape

PAPER = Path(__file__).parents[2] / "pipelines" / "paper.toml"
PLAIN = "dim = 8\nlayers = 1\nvocab-size = 50\ncontext = 4\n"
TABLE = PLAIN + "fgrams = '10k'\nfgram-layers = 1\n"


def model(name, lines, perplexity=None):
    known = "" if perplexity is None else f"training-tokens = '1M'\nperplexity = {perplexity}\n"
    return f"[[cost.model]]\nname = '{name}'\n{lines}{known}"


def lines(out):
    """The cells of every line of the tables, without what the lines are called."""
    return [re.split(r"\s{2,}", line.strip())[1:] for line in out.splitlines() if re.match(r"  \S", line)]


def test_the_paper_side_by_side(scone):
    code, out, err = scone("cost", "--config", PAPER)
    assert (code, err) == (0, "")
    shown = lines(out)
    assert shown[0] == ["1.01G", "1.31G", "1.92G", "1.01G", "1.01G", "1.31G"]  # parameters
    lmdb = next(line for line in out.splitlines() if "LMDB" in line)
    assert lines(lmdb) == [["-", "-", "-", "76.7 GiB", "7.5 TiB", "7.5 TiB"]]
    assert ["1.43e13", "1.86e13", "2.72e13", "1.43e13", "1.43e13", "1.86e13"] in shown  # training a plain model
    assert names(out, "266 billion tokens", "374 billion tokens", "646 billion tokens")
    assert names(out, "1 billion tokens", "4 years", "[prices]")


def test_json_has_everything(scone):
    code, out, _ = scone("--config", PAPER, "cost", "--json")
    found = json.loads(out)
    assert code == 0
    assert [each["model"] for each in found["models"]][:3] == ["1B", "1.3B", "1.9B"]
    assert [each["scone"] for each in found["payback"]] == ["1B + 10M f-grams", "1B + 1B f-grams", "1.3B + 1B f-grams"]
    assert found["prices"]["ssd_gb"] == 0.1
    assert found["models"][2]["training_flops_a_sequence_plain"] == pytest.approx(2.73e13, rel=0.03)


def test_a_narrow_terminal_shows_the_models_one_below_the_other(scone, monkeypatch):
    monkeypatch.setattr("scone_cli.console.results.NO_WIDTH", 60)
    _, out, _ = scone("cost", "--config", PAPER)
    assert max(map(len, out.splitlines())) <= 60
    parameters = [cells for cells in lines(out) if set(cells) <= {"1.01G", "1.31G", "1.92G"} and cells]
    assert parameters == [["1.01G", "1.31G"], ["1.92G", "1.01G"], ["1.01G", "1.31G"]]
    assert not re.search(r"\S…|…(?! )", out), "nothing is cut off"


def test_lines_that_say_nothing_are_left_out(scone):
    Path("r.toml").write_text(model("a", PLAIN))
    _, out, _ = scone("cost", "--config", "r.toml")
    assert lines(out)[0] == ["1,664"]
    assert all(cells != ["-"] for cells in lines(out))
    assert not re.search("LMDB|trie|SSD|pay", out)


def test_a_table_without_plain_rivals_is_not_known_to_pay(scone):
    Path("r.toml").write_text(model("a", TABLE, 9.0))
    _, out, _ = scone("cost", "--config", "r.toml")
    verdict = json.loads(scone("cost", "--config", "r.toml", "--json")[1])["payback"][0]["verdict"]
    assert leanings(verdict) == ["unknown"]
    assert names(out, verdict, "trie-nodes", "scone inspect")


def test_rented_memory_is_told_as_such(scone):
    rent = "[prices]\nram-gb-month = 0.5\ncopies = 2\n"
    Path("r.toml").write_text(model("a", PLAIN, 9.0) + model("b", TABLE, 8.0) + rent)
    _, out, _ = scone("cost", "--config", "r.toml")
    assert re.search(r"RAM[^.;]*\$0\.5[^;]*month[^;]*\b2\b", " ".join(out.split()))
    assert "years" not in out


def test_help_explains_every_key(scone):
    _, out, _ = scone("cost", "--help")
    flat = " ".join(out.split())
    for item in (*fields(Shape), *fields(Prices)):
        assert f" {item.name.replace('_', '-')} {' '.join(item.metadata['help'].split())}" in flat
    assert "[default: 1e+15]" in flat


def test_without_a_recipe_it_asks_for_one(scone):
    code, out, err = scone("cost")
    assert (code, out) == (2, "")
    error_of(err, "--config RECIPE")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[precompute]\n", ["r.toml", "[[cost.model]]", "[train-fgram]"]),
        (model("a", PLAIN) + "[prices]\nram-gb = -1\n", ["[prices]", "ram-gb", "-1"]),
        (model("a", PLAIN) + "[prizes]\n", ["r.toml", "'prizes'", "'prices'"]),
    ],
)
def test_a_recipe_that_will_not_do_is_one_line_and_exit_2(scone, text, facts):
    Path("r.toml").write_text(text)
    code, out, err = scone("cost", "--config", "r.toml")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    error_of(err, *facts)
