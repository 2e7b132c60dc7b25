"""Whether a table pays, as the page of an evaluation tells it."""

import re

import pytest
from eval_pages import PAYS, sections_html, sections_of, top_of
from html_tags import charts_of
from messages import names, wording
from report_cases import pays, results

from scone_cli.evaluation.break_even import Prices, contender
from scone_cli.evaluation.payback import payback
from scone_cli.formatting import big, dollars
from scone_cli.report.eval_page import render

PRICES = {
    "after": {},  # Scone is better than every rival there
    "never": {"tokens_a_day": "1M"},
    "at once": {"cheap": True},
}


def paid(outcome):
    """Results of that outcome."""
    changes = dict(PRICES[outcome])
    found = results(("law",))
    cheap = {"training_flops": 1e12} if changes.pop("cheap", False) else {}
    costs = [row | cheap if row["arm"] == "table" else row for row in found["cost"]]
    losses = {row["arm"]: row["value"] for row in found["results"] if row["metric"] == "nats_per_token"}
    found["payback"] = pays(costs, losses, **changes)
    return found


@pytest.mark.parametrize("outcome", PRICES)
def test_whether_it_pays_is_told_for_every_outcome(outcome):
    found = paid(outcome)
    assert found["payback"]["outcome"] == outcome
    html = render(found)
    _, value, note = top_of(html)[1][-1]
    assert names(note, found["payback"]["baseline"]["name"])
    tokens = big(found["payback"]["break_even_tokens"] or 0)
    assert (bool(re.search(r"\d", value)), tokens in value) == ((True, True) if outcome == "after" else (False, False))
    assert found["payback"]["verdict"] in sections_of(html)[PAYS].all("p")[0].text
    assert len(charts_of(sections_html(html)[PAYS])) == (outcome == "after")


def test_outcomes_are_told_apart_at_the_top():
    facts = [top_of(render(paid(outcome)))[1][-1] for outcome in PRICES]
    assert len({wording(value) for _, value, _ in facts}) == len(PRICES)
    assert all(name and value for name, value, _ in facts)


def test_what_it_hinges_on_is_told_as_it_was_worked_out():
    found = results(("law",))
    told, hinge = sections_of(render(found))[PAYS].all("article")[1], found["payback"]["hinges_on"]
    lines = [line for line in told.all("tr") if line.all("td")]
    for row, line in zip(found["payback"]["assumptions"], lines, strict=True):
        text, assumed, halved, doubled = (cell.text for cell in line.all("td"))
        assert text == row["text"]
        assert re.search(r"[$%]|[a-z]$", assumed), "without a unit"
        assert names(halved, big(row["halved"]))
        assert names(doubled, big(row["doubled"]))
        assert ("strong" in line.classes) == (row["assumption"] == hinge)


def test_where_no_assumption_changes_the_answer_none_is_highlighted():
    pages = [sections_of(render(paid(outcome)))[PAYS].all("article")[1] for outcome in ("after", "never")]
    assert [len(page.all("tr", "strong")) for page in pages] == [1, 0]
    assert pages[0].one("p").text != pages[1].one("p").text


def test_what_the_verdict_leaves_open_is_called_so_in_the_facts_and_in_the_table():
    found = paid("never")
    assert found["payback"]["answer"] == "open", found["payback"]["verdict"]
    html = render(found)
    told = sections_of(html)[PAYS]
    cells = [cell.text for cell in told.all("article")[1].all("td")]
    assert (top_of(html)[1][-1][1], "not known" in cells, "never" in cells) == ("not known", True, False)
    assert "not known" in told.all("p")[0].text


def test_the_course_of_costs_falls_through_zero_at_break_even():
    (chart,) = charts_of(sections_html(render(results(("law",))))[PAYS])
    line = next(p for p in chart.iter("path") if p.get("class") == "line")
    (_, first), (middle, zero), (_, last) = (map(float, p.split()) for p in line.get("d")[1:].split("L"))
    assert first < zero < last
    assert zero == pytest.approx((first + last) / 2, abs=0.2)
    mark = next(p for p in chart.iter("path") if p.get("class") == "mark")
    assert mark.get("d").startswith(f"M{middle} ")


def test_prices_without_a_rival():
    found = results(("law",))
    found["payback"] = payback(contender(found["cost"][3], 3.7), [], Prices())
    told = sections_of(render(found))[PAYS]
    assert found["payback"]["verdict"] in told.text
    (prices,) = told.all("article")  # no break-even, and nothing that it hinges on
    assert "$2.00 an hour" in [row[1] for row in prices.rows()]


UPPER = r"latest|at most|no later|within|up to|or (?:sooner|earlier|less)"
LOWER = r"earliest|at least|no earlier|not before|or (?:later|more)"


@pytest.mark.parametrize(
    ("bound", "says"), [(None, (False, False)), ("at least", (True, False)), ("at most", (False, True))]
)
def test_a_bound_on_the_break_even_is_told_as_one(bound, says):
    found = results(("law",))
    found["payback"] = found["payback"] | {"baseline": found["payback"]["baseline"] | {"bound": bound}}
    name, value, _ = top_of(render(found))[1][-1]
    assert tuple(bool(re.search(limit, f"{name} {value}")) for limit in (UPPER, LOWER)) == says
    assert names(value, big(found["payback"]["break_even_tokens"]))
    assert name


def test_what_costs_no_more_to_train_is_not_said_to():
    found = results(("law",))
    figures = [sections_of(render(found))[PAYS].all("article")[0]]
    found["payback"] |= {"extra_training_dollars": -1.0, "outcome": "at once"}
    figures.append(sections_of(render(found))[PAYS].all("article")[0])
    dearer, cheaper = (wording(figure.all("p")[0].text) for figure in figures)
    assert dearer != cheaper
    training = [[row for row in figure.rows() if "training" in row[0]] for figure in figures]
    assert [names(row[0], word) for (row,), word in zip(training, ("more", "less"), strict=True)] == [True, True]
    assert training[1][0][1] == dollars(1.0)
