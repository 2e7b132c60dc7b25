"""`scone cost` from the command line: the table of a recipe's models, JSON, and what it says where it cannot."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from scone_cli.evaluation.break_even import Prices
from scone_cli.evaluation.model_cost import Shape

PAPER = Path(__file__).parents[2] / "pipelines" / "paper.toml"
PLAIN = "dim = 8\nlayers = 1\nvocab-size = 50\ncontext = 4\n"
TABLE = PLAIN + "fgrams = '10k'\nfgram-layers = 1\n"


def model(name, lines, perplexity=None):
    known = "" if perplexity is None else f"training-tokens = '1M'\nperplexity = {perplexity}\n"
    return f"[[cost.model]]\nname = '{name}'\n{lines}{known}"


def line(out, label):
    """The cells of a line of the table."""
    found = next(each for each in out.splitlines() if each.strip().startswith(label))
    return re.split(r"\s{2,}", found.strip())[1:]


def test_the_paper_side_by_side(scone):
    code, out, err = scone("cost", "--config", PAPER)
    assert (code, err) == (0, "")
    assert line(out, "parameters") == ["1.01G", "1.31G", "1.92G", "1.01G", "1.01G", "1.31G"]
    assert line(out, "… in LMDB, as the paper") == ["-", "-", "-", "76.7 GiB", "7.5 TiB", "7.5 TiB"]
    assert line(out, "without f-grams") == ["1.43e13", "1.86e13", "2.72e13", "1.43e13", "1.43e13", "1.86e13"]
    assert out.count("Scone pays: ") == 3
    assert "1 billion tokens a day" in out
    assert "written off in 4 years" in out


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
    assert out.count("parameters") == 3
    assert "…" not in out.replace("… of", "").replace("… with", "").replace("… in", "")


def test_lines_that_say_nothing_are_left_out(scone):
    Path("r.toml").write_text(model("a", PLAIN))
    _, out, _ = scone("cost", "--config", "r.toml")
    assert "Table, off the accelerator" not in out
    assert "Does the table pay?" not in out
    assert "trie" not in out
    assert line(out, "parameters") == ["1,664"]


def test_a_table_without_plain_rivals_is_not_known_to_pay(scone):
    Path("r.toml").write_text(model("a", TABLE, 9.0))
    _, out, _ = scone("cost", "--config", "r.toml")
    assert "no plain model was measured beside it" in out
    assert "Without trie-nodes" in out


def test_rented_memory_is_told_as_such(scone):
    rent = "[prices]\nram-gb-month = 0.5\ncopies = 2\n"
    Path("r.toml").write_text(model("a", PLAIN, 9.0) + model("b", TABLE, 8.0) + rent)
    _, out, _ = scone("cost", "--config", "r.toml")
    assert "RAM at $0.5 a GB and month, in 2 copies" in " ".join(out.split())


def test_help_explains_every_key(scone):
    _, out, _ = scone("cost", "--help")
    flat = " ".join(out.split())
    for item in (*fields(Shape), *fields(Prices)):
        assert f" {item.name.replace('_', '-')} {' '.join(item.metadata['help'].split())}" in flat
    assert "[default: 1e+15]" in flat


def test_without_a_recipe_it_asks_for_one(scone):
    code, out, err = scone("cost")
    assert (code, out) == (2, "")
    assert "give --config RECIPE" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[precompute]\n", "describes no model"),
        (model("a", PLAIN) + "[prices]\nram-gb = -1\n", "[prices] ram-gb is -1"),
        (model("a", PLAIN) + "[prizes]\n", "no command 'prizes'; did you mean 'prices'?"),
    ],
)
def test_a_recipe_that_will_not_do_is_one_line_and_exit_2(scone, text, message):
    Path("r.toml").write_text(text)
    code, out, err = scone("cost", "--config", "r.toml")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
