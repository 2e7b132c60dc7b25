"""An evaluation in a terminal: what decides comes last, it fits 100 columns, and what is not known is no error."""

import json

import pytest
from report_cases import MANY_ARMS, minimum, results

from scone_cli.console.results import result_text
from scone_cli.report.eval_summary import summary_of

WIDTH = 100


def shown(found):
    found = json.loads(json.dumps(found | {"verdict": "It is better."}, default=list))
    return result_text("eval -> eval (made in 3 s)", summary_of(found))


def test_the_verdict_is_the_last_line_and_quality_comes_before_it():
    text = shown(results())
    assert text.splitlines()[-1].strip() == "It is better."
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    order = ["cost", "perplexity by corpus", "quality on held-out", "conditions", "verdict"]
    places = [next(i for i, title in enumerate(titles) if title.startswith(each)) for each in order]
    assert places == sorted(places)


@pytest.mark.parametrize("arms", [None, MANY_ARMS])
def test_it_fits_a_hundred_columns(arms):
    text = shown(results() if arms is None else results(arms=arms))
    tables = [line for line in text.splitlines() if not line.startswith("    ")]
    assert [line for line in tables if len(line) > WIDTH] == []


def test_what_is_not_known_is_not_shown():
    text = shown(minimum())
    assert "not known: no byte-level tokenizer" in text
    assert "nan" not in text
    assert "None" not in text


def test_documents_that_were_learned_from_are_told():
    assert "documents that the models have learned from" in shown(results())
