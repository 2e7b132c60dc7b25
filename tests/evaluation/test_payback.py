"""What is told of what pays: one sentence for every outcome, and a section that is JSON."""

import json
import re
from dataclasses import replace

import pytest
from messages import leanings, names, wording
from prices import LARGE, PRICES, SCONE, SMALL

from scone_cli.evaluation.break_even import Contender, Prices
from scone_cli.evaluation.payback import payback
from scone_cli.formatting import big
from scone_cli.settings import Quantity

CHEAP = replace(SCONE, training_flops=1e17)
GOOD, BAD = replace(SCONE, nats_per_token=1.7), replace(SCONE, nats_per_token=2.5)
IDLE, BUSY = replace(PRICES, tokens_a_day=Quantity("0")), replace(PRICES, tokens_a_day=Quantity("50G"))
QUIET = replace(PRICES, tokens_a_day=Quantity("20k"))


def test_worked_by_hand():
    found = payback(SCONE, [SMALL, LARGE], PRICES)
    assert found["outcome"] == "after"
    assert found["break_even_tokens"] == pytest.approx(6000 / 9999 * 1e9)
    assert found["break_even_days"] == pytest.approx(6000 / 9999)
    assert found["extra_training_dollars"] == pytest.approx(6000)
    assert found["saving_dollars_a_million_tokens"] == pytest.approx(10)
    assert found["table_dollars_a_month"] == pytest.approx(365 / 12)
    assert found["least_tokens_a_day"] == pytest.approx(1e5)
    assert found["hinges_on"] == "inference_utilisation"
    told = found["verdict"]
    assert names(told, "small and large", "600 million tokens", "14 hours", "1 billion", "utilisation in inference")
    assert names(told, "300 million tokens", "1.2 billion tokens")
    assert told.index("600 million") < told.index("300 million") < told.index("1.2 billion"), "at half of it, at twice"
    assert bounds_of(told) == set()


BOUNDS = {"at most": r"latest|at most|no later|within", "at least": r"earliest|at least|no earlier|if at all"}


def bounds_of(told):
    """Whether a verdict says of its tokens or days that they are the most, or the least, that it takes."""
    return {bound for bound, words in BOUNDS.items() if re.search(rf"\b({words})\b", told)}


@pytest.mark.parametrize(
    ("scone", "rivals", "prices", "outcome", "facts", "bound"),
    [
        (SCONE, [], PRICES, "no rivals", [], None),
        (CHEAP, [SMALL, LARGE], PRICES, "at once", ["1 billion tokens", "small and large"], None),
        (CHEAP, [LARGE], PRICES, "at once", ["large"], None),
        (GOOD, [SMALL, LARGE], PRICES, "after", ["large", "1 billion"], "at most"),
        (SCONE, [LARGE], PRICES, "after", ["large", "1 billion"], "at least"),
        (BAD, [SMALL, LARGE], PRICES, "never", ["small"], None),
        (GOOD, [SMALL], PRICES, "never", ["small"], None),
        (SCONE, [SMALL, LARGE], IDLE, "never", ["100,000"], None),
        (
            *(SCONE, [SMALL, LARGE], QUIET, "never"),
            ["20,000 tokens", "$1.00", "$0.20", "small and large", "100,000"],
            None,
        ),
        (CHEAP, [SMALL, LARGE], QUIET, "at first", ["13 years", "small and large"], None),
    ],
)
def test_every_outcome_has_its_sentence(scone, rivals, prices, outcome, facts, bound):
    found = payback(scone, rivals, prices)
    told = found["verdict"]
    assert found["outcome"] == outcome
    assert names(told, "Scone", *facts)
    assert bounds_of(told) == ({bound} if bound else set())
    if outcome == "after":
        assert names(told, f"{big(found['break_even_tokens'])} tokens")
    assert told.endswith(".")
    assert told.count(". ") == 0


YES, NO, UNKNOWN = "pays", "does not pay", "unknown"


def answer_of(told):
    """Whether a verdict says that Scone pays."""
    if leanings(told)[:1] == ["unknown"]:
        return UNKNOWN
    return NO if re.search(r"\b(not pay|never pays?|does not|no)\b", told.split(":")[0]) else YES


@pytest.mark.parametrize(
    ("scone", "rivals", "prices", "answer"),
    [
        (SCONE, [], PRICES, UNKNOWN),
        (CHEAP, [SMALL, LARGE], PRICES, YES),
        (CHEAP, [LARGE], PRICES, UNKNOWN),
        (GOOD, [SMALL, LARGE], PRICES, YES),
        (BAD, [SMALL, LARGE], PRICES, NO),
        (GOOD, [SMALL], PRICES, UNKNOWN),
        (SCONE, [SMALL, LARGE], IDLE, NO),
        (SCONE, [SMALL, LARGE], QUIET, NO),
    ],
)
def test_a_verdict_says_yes_no_or_not_known(scone, rivals, prices, answer):
    assert answer_of(payback(scone, rivals, prices)["verdict"]) == answer


def test_outcomes_are_told_in_other_words():
    told = [payback(*case, PRICES)["verdict"] for case in ((SCONE, [SMALL, LARGE]), (CHEAP, [SMALL, LARGE]))]
    told += [payback(*case)["verdict"] for case in ((SCONE, [SMALL, LARGE], QUIET), (CHEAP, [SMALL, LARGE], QUIET))]
    told += [payback(SCONE, [SMALL, LARGE], IDLE)["verdict"]]
    assert len({wording(each.split(";")[0]) for each in told}) == len(told)


def test_the_section_is_json_and_has_the_same_keys_whatever_comes_out():
    cases = [payback(SCONE, [], PRICES), payback(SCONE, [SMALL, LARGE], IDLE), payback(GOOD, [SMALL, LARGE], BUSY)]
    assert len({frozenset(case) for case in cases}) == 1
    for case in cases:
        assert json.loads(json.dumps(case, allow_nan=False)) == case
    assert cases[0]["baseline"] is None
    assert cases[1]["break_even_tokens"] is None
    assert cases[2]["baseline"]["bound"] == "at least"


def test_the_assumption_named_is_one_that_is_told():
    found = payback(SCONE, [SMALL, LARGE], PRICES)
    assert found["hinges_on"] in [row["assumption"] for row in found["assumptions"]]
    assert found["prices"]["accelerator_hour"] == 3.6


def test_default_prices_and_an_interpolated_rival_are_named():
    told = payback(SCONE, [SMALL, LARGE], Prices())["verdict"]
    assert names(told, "by the default prices", "interpolated between small and large")
    assert "default" not in payback(SCONE, [SMALL, LARGE], PRICES)["verdict"]


def test_a_bound_is_one():
    """Whatever the plain model of equal quality costs beyond the best that was measured, it pays no later."""
    bound = payback(GOOD, [SMALL, LARGE], PRICES)["break_even_tokens"]
    for more in (1.1, 2, 10):
        larger = Contender("larger", 1.7, more * LARGE.inference_flops, more * LARGE.training_flops)
        assert payback(GOOD, [SMALL, LARGE, larger], PRICES)["break_even_tokens"] <= bound


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (7, "7"), (1234, "1,234"), (99_999, "99,999"), (2.5e6, "2.5 million"), (1e9, "1 billion")),
        *((123.4e9, "123 billion"), (999.6e9, "1 trillion"), (5e15, "5,000 trillion"), (99.96, "100"), (0.5, "0.5")),
    ],
)
def test_large_numbers_in_words(value, text):
    assert big(value) == text
