"""What is told of what pays: one sentence for every outcome, and a section that is JSON."""

import json
from dataclasses import replace

import pytest
from prices import LARGE, PRICES, SCONE, SMALL

from scone_cli.evaluation.break_even import Contender
from scone_cli.evaluation.payback import payback
from scone_cli.formatting import big
from scone_cli.settings import Quantity

CHEAP = replace(SCONE, training_flops=1e17)
GOOD, BAD = replace(SCONE, nats_per_token=1.7), replace(SCONE, nats_per_token=2.5)
IDLE, BUSY = replace(PRICES, tokens_a_day=Quantity("0")), replace(PRICES, tokens_a_day=Quantity("50G"))
QUIET = replace(PRICES, tokens_a_day=Quantity("20k"))
NO_HINGE = "; no assumption, halved or doubled, changes that."
EQUAL = "a plain model of equal quality (between small and large)"


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
    assert found["verdict"] == (
        f"Scone pays: after 600 million tokens (14 hours at 1 billion a day) it is cheaper than {EQUAL}; that hinges most on the "
        "accelerator's utilisation in inference: at half of it after 300 million tokens, at twice after 1.2 billion tokens."
    )


@pytest.mark.parametrize(
    ("scone", "rivals", "prices", "outcome", "sentence"),
    [
        (SCONE, [], PRICES, "no rivals", "Whether Scone pays is not known: no plain model was measured beside it."),
        (
            CHEAP,
            [SMALL, LARGE],
            PRICES,
            "at once",
            f"Scone pays at once: at 1 billion tokens a day it costs less to train and to run than {EQUAL}",
        ),
        (
            CHEAP,
            [LARGE],
            PRICES,
            "at once",
            "Whether Scone pays is not known: it costs less to train and to run than large",
        ),
        (GOOD, [SMALL, LARGE], PRICES, "after", "Scone pays: at the latest after"),
        (GOOD, [SMALL, LARGE], PRICES, "after", "(none that was measured is as good: large, the best, stands for it)"),
        (SCONE, [LARGE], PRICES, "after", "Scone pays, if at all: at the earliest after"),
        (SCONE, [LARGE], PRICES, "after", "(all that were measured are better: large, the smallest, stands for it)"),
        (
            BAD,
            [SMALL, LARGE],
            PRICES,
            "never",
            "Scone does not pay: small, a plain model, is better and costs no more a",
        ),
        (
            GOOD,
            [SMALL],
            PRICES,
            "never",
            "It is not shown that Scone pays: a token costs it no less than a plain model",
        ),
        (
            SCONE,
            [SMALL, LARGE],
            IDLE,
            "never",
            "Scone does not pay: nothing is served, so nothing is saved; from 100,000",
        ),
        (
            SCONE,
            [SMALL, LARGE],
            QUIET,
            "never",
            (
                "Scone does not pay at 20,000 tokens a day: its table costs $1.00 a day, more than the $0.20 a day that it saves "
                f"over {EQUAL}; from 100,000 a day on it would{NO_HINGE}"
            ),
        ),
        (
            CHEAP,
            [SMALL, LARGE],
            QUIET,
            "at first",
            f"Scone is cheaper for the first 13 years than {EQUAL}: it costs less to train, but its table costs more a day",
        ),
    ],
)
def test_every_outcome_has_its_sentence(scone, rivals, prices, outcome, sentence):
    found = payback(scone, rivals, prices)
    assert found["outcome"] == outcome
    assert sentence in found["verdict"]
    assert found["verdict"].endswith(".")
    assert found["verdict"].count(". ") == 0


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
