"""The arithmetic of what pays, worked by hand; the plain model of equal quality; what is no price."""

import math
from dataclasses import replace

import pytest
from messages import refusal
from prices import LARGE, PRICES, SCONE, SMALL

from scone_cli.errors import BadSetting
from scone_cli.evaluation.break_even import (
    FOREVER,
    Contender,
    contender,
    deal_of,
    equal_quality,
    hinge_of,
    variations_of,
)
from scone_cli.settings import Quantity

EQUAL = Contender("interpolated between small and large", 2.0, 2e9, 2e18)


# ---- the plain model of equal quality ----------------------------------------------------------------------------


def test_it_lies_between_its_neighbours():
    """Half way down from 2.2 to 1.8 nats: half way up in the logarithms, from 1e9 to 4e9 operations."""
    found = equal_quality(SCONE, [LARGE, SMALL])
    assert found.bound is None
    assert found.model.name == EQUAL.name
    assert found.model.inference_flops == pytest.approx(2e9)
    assert found.model.training_flops == pytest.approx(2e18)


def test_a_rival_as_good_is_it():
    twin = Contender("twin", 2.0, 3e9, 3e18)
    assert equal_quality(SCONE, [SMALL, twin, LARGE]).model == twin


def test_a_rival_that_another_beats_is_left_out():
    """A deeper model was worse than `small` and cost more; a worse twin of `large` does not count either."""
    deep, worse = Contender("deep", 2.3, 2e9, 2e18), Contender("worse", 1.9, 4e9, 9e18)
    assert equal_quality(SCONE, [deep, worse, LARGE, SMALL]) == equal_quality(SCONE, [SMALL, LARGE])


def test_where_none_reaches_it_the_best_is_a_bound():
    assert equal_quality(SCONE, [SMALL]).bound == "at least"
    assert equal_quality(replace(SCONE, nats_per_token=1.7), [SMALL, LARGE]).model == LARGE


def test_where_all_are_better_the_smallest_is_a_bound():
    found = equal_quality(replace(SCONE, nats_per_token=2.5), [LARGE, SMALL])
    assert (found.model, found.bound) == (SMALL, "at most")


def test_without_rivals_there_is_none():
    assert equal_quality(SCONE, []) is None


# ---- the arithmetic ----------------------------------------------------------------------------------------------


def test_worked_by_hand():
    """3e18 operations more cost 6,000 dollars; 1e9 less a token save 10,000 a day, of which the table takes one."""
    deal = deal_of(SCONE, EQUAL, PRICES)
    assert deal.outcome == "after"
    assert deal.extra == pytest.approx(6000)
    assert deal.saving * 1e9 == pytest.approx(10_000)
    assert deal.table_a_day == pytest.approx(1)
    assert deal.days == pytest.approx(6000 / 9999)
    assert deal.tokens == pytest.approx(6000 / 9999 * 1e9)
    assert deal.least_load == pytest.approx(100_000)


def test_at_break_even_both_have_cost_the_same():
    deal = deal_of(SCONE, EQUAL, PRICES)
    scone, plain = (
        each.training_flops * 2e-15 + deal.tokens * each.inference_flops * 1e-14 + (each.ram_bytes > 0) * deal.days
        for each in (SCONE, EQUAL)
    )
    assert scone == pytest.approx(plain)


@pytest.mark.parametrize(
    ("changes", "a_day"),
    [
        ({"table_on": "ssd", "ssd_gb": 1.0}, 1.0),  # twice as many bytes, half the price
        ({"copies": 3}, 3.0),
        ({"depreciation_years": 4.0}, 0.5),
        ({"ram_gb_month": 0.5}, 6.0),  # 365 GB at 6 dollars a year
        ({"table_on": "ssd", "ssd_gb_month": 0.25}, 6.0),
        ({"table_on": "ssd", "ram_gb_month": 99.0, "ssd_gb": 0.0}, 0.0),
    ],
)
def test_memory_is_bought_or_rented(changes, a_day):
    assert deal_of(SCONE, EQUAL, replace(PRICES, **changes)).table_a_day == pytest.approx(a_day)


def test_a_table_that_costs_more_than_it_saves_never_pays():
    deal = deal_of(SCONE, EQUAL, replace(PRICES, tokens_a_day=Quantity("99k")))
    assert (deal.outcome, deal.tokens, deal.days) == ("never", FOREVER, FOREVER)
    assert deal_of(SCONE, EQUAL, replace(PRICES, tokens_a_day=Quantity("101k"))).outcome == "after"


def test_without_load_nothing_is_saved():
    nothing = replace(PRICES, tokens_a_day=Quantity("0"))
    assert deal_of(SCONE, EQUAL, nothing).outcome == "never"
    assert deal_of(replace(SCONE, ram_bytes=0), EQUAL, nothing).outcome == "never"


def test_a_rival_that_costs_no_more_is_never_caught_up_with():
    deal = deal_of(SCONE, replace(EQUAL, inference_flops=1e9), PRICES)
    assert (deal.outcome, deal.least_load) == ("never", FOREVER)


def test_what_costs_less_to_train_and_to_run_pays_at_once():
    deal = deal_of(replace(SCONE, training_flops=1e18), EQUAL, PRICES)
    assert (deal.outcome, deal.tokens, deal.days) == ("at once", 0, 0)


def test_what_costs_less_to_train_and_more_to_run_is_cheaper_at_first():
    """2,000 dollars less; then, of 20,000 tokens a day, 0.2 saved for a dollar of memory."""
    deal = deal_of(replace(SCONE, training_flops=1e18), EQUAL, replace(PRICES, tokens_a_day=Quantity("20k")))
    assert deal.outcome == "at first"
    assert deal.days == pytest.approx(2000 / 0.8)
    assert deal.tokens == pytest.approx(2500 * 20_000)


# ---- what it hinges on -------------------------------------------------------------------------------------------


def hinge(scone, plain, prices):
    return hinge_of(deal_of(scone, plain, prices), variations_of(scone, plain, prices))


def test_every_assumption_is_halved_and_doubled():
    found = {each.assumption: each for each in variations_of(SCONE, EQUAL, PRICES)}
    assert found["training_utilisation"].halved.tokens == pytest.approx(12_000 / 9999 * 1e9)
    assert found["training_utilisation"].doubled.tokens == pytest.approx(3000 / 9999 * 1e9)
    assert found["inference_utilisation"].doubled.tokens == pytest.approx(6000 / 4999 * 1e9)
    assert found["ram_gb"].doubled.tokens == found["copies"].doubled.tokens == pytest.approx(6000 / 9998 * 1e9)
    assert found["depreciation_years"].halved.tokens == pytest.approx(6000 / 9998 * 1e9)
    assert found["tokens_a_day"].doubled.tokens == pytest.approx(6000 / 19_999 * 2e9)
    assert found["accelerator_hour"].doubled.tokens == pytest.approx(12_000 / 19_999 * 1e9)
    assert "ssd_gb" not in found


def test_where_memory_is_rented_its_rent_is_an_assumption():
    names = [each.assumption for each in variations_of(SCONE, EQUAL, replace(PRICES, ram_gb_month=0.5))]
    assert "ram_gb_month" in names
    assert not {"ram_gb", "depreciation_years"} & set(names)


def test_the_one_that_moves_most_is_named():
    """Twice the utilisation in inference: 6,000 / 4,999, which is more than twice; in training twice, exactly."""
    assert hinge(SCONE, EQUAL, PRICES).assumption == "inference_utilisation"


def test_an_answer_that_turns_counts_for_more_than_one_that_moves():
    """The load saves 1.5 times what the table costs: half of it, and Scone never pays."""
    thin = replace(PRICES, tokens_a_day=Quantity("150k"))
    found = hinge(SCONE, EQUAL, thin)
    assert "never" in (found.halved.outcome, found.doubled.outcome)


def test_where_nothing_moves_it_there_is_no_hinge():
    assert hinge(replace(SCONE, training_flops=1e10), EQUAL, PRICES) is None
    assert hinge(SCONE, replace(EQUAL, inference_flops=1e8), PRICES) is None


# ---- what comes in -----------------------------------------------------------------------------------------------


def test_a_row_of_costs_is_a_contender():
    row = {"decode_flops": 7, "training_flops": 8.0, "offloaded_bytes_ram": 9, "offloaded_bytes_disk": 10}
    assert contender({"arm": "a", **row}, 2.5) == Contender("a", 2.5, 7, 8.0, 9, 10)
    assert contender({"model": "m", **row}, 2.5).name == "m"


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"accelerator_hour": -1.0}, ["accelerator-hour", "-1.0", "0"]),
        ({"ram_gb": math.nan}, ["ram-gb", "nan"]),
        ({"ssd_gb_month": math.inf}, ["ssd-gb-month", "inf"]),
        ({"accelerator_flops": 0.0}, ["accelerator-flops", "0.0", "0"]),
        ({"depreciation_years": 0.0}, ["depreciation-years", "0.0", "0"]),
        ({"training_utilisation": 0.0}, ["training-utilisation", "0.0", "0"]),
        ({"inference_utilisation": 40.0}, ["inference-utilisation", "40.0", "share"]),
        ({"tokens_a_day": Quantity("-1")}, ["tokens-a-day", "'-1'"]),
    ],
)
def test_what_is_no_price_is_refused(change, facts):
    with refusal(BadSetting, "[prices]", *facts):
        replace(PRICES, **change).check()


def test_prices_may_be_whole_numbers_and_zero():
    replace(PRICES, ram_gb=0, copies=0, accelerator_hour=2, tokens_a_day=Quantity("0")).check()
    assert replace(PRICES, tokens_a_day=0).load == 0
    assert PRICES.load == 1e9
