"""An evaluation in a terminal: what decides comes last, it fits 100 columns, and what is not known is no error."""

import json
import re

import pytest
from report_cases import MANY_ARMS, minimum, results

from scone_cli.console.results import result_text
from scone_cli.report.eval_summary import summary_of
from scone_cli.report.eval_verdict import cost_told

WIDTH = 100


def shown(found):
    found = json.loads(json.dumps(found | {"verdict": "It is better."}, default=list))
    return result_text("eval -> eval (made in 3 s)", summary_of(found))


def test_the_verdict_is_the_last_line_and_quality_comes_before_it():
    lines = shown(results()).splitlines()
    assert lines[-1].strip() == "It is better."
    rows = [line.split() for line in lines]
    order = [
        rows.index(["table", "614,976", "1,411,720", "280.0", "MiB", "1,266,851", "1,717"]),  # its cost
        rows.index(["table", "42.46", "57.32", "77.37"]),  # its perplexity on each corpus
        rows.index(["table", "42.462", "±", "0.382", "2,623", "1.8521", "-", "-"]),  # its quality on the first
        next(i for i, row in enumerate(rows) if row[:5] == ["table.ppl", ">", "live.ppl", "*", "1.001"]),
        len(rows) - 1,
    ]
    assert order == sorted(order)
    for row in rows:
        if row[:1] == ["plain-1x"] and "±" in row:
            assert row[1:9] == ["70.534", "±", "0.635", "7,615", "2.1028", "\N{MINUS SIGN}0.5075", "±", "0.0192"]


def test_the_speed_beside_the_cost_is_that_of_the_mapped_table_as_in_the_verdict():
    found = results()
    found["speed"] = found["speed"][::-1]  # as it is measured, the table in RAM comes after the mapped one
    rows = [line.split() for line in shown(found).splitlines()]
    assert ["table", "614,976", "1,411,720", "280.0", "MiB", "1,266,851", "1,717"] in rows
    assert "generates 1,717 tokens" in cost_told(found)


@pytest.mark.parametrize("arms", [None, MANY_ARMS])
def test_it_fits_a_hundred_columns(arms):
    text = shown(results() if arms is None else results(arms=arms))
    tables = [line for line in text.splitlines() if not line.startswith("    ")]
    assert [line for line in tables if len(line) > WIDTH] == []


def test_what_is_not_known_is_not_shown():
    text = shown(minimum())
    assert ["live", "70.534", "-", "-", "-"] in [line.split() for line in text.splitlines()]
    assert "tokens" in re.findall(r"not known.*", text)[0]  # why there are no bits a byte
    assert "nan" not in text
    assert "None" not in text


def test_scores_that_say_little_and_are_not_compared_are_told():
    found = results()
    assert "remarks" not in shown(found)
    vague = [row | {"metric": "perplexity", "value": 39_130.0, "stderr": 3_460_438.0} for row in found["tasks"][:1]]
    text = shown(found | {"tasks": found["tasks"] + vague})
    assert len(re.findall(r"perplexity of piqa: ", text)) == 2


def test_documents_that_were_learned_from_are_told():
    learned = ["wiki", "646", "2"]
    assert learned in [line.split() for line in shown(results()).splitlines()]
    found = results()
    for row in found["method"]["corpora"]:
        row["in_training_split"] = 0
    assert learned not in [line.split() for line in shown(found).splitlines()]
