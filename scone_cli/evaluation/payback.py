"""The section `payback`: whether a table pays, in numbers and in one sentence.

Scone costs more to train, once; a served token costs less than with a plain model of equal quality, which is interpolated
between measured ones. Prices and loads are assumptions: each is also halved and doubled, and the one that changes the answer
most is named. `break_even` has the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict

from scone_cli.evaluation.break_even import (
    DAYS_A_YEAR,
    Baseline,
    Contender,
    Deal,
    Prices,
    Variation,
    deal_of,
    equal_quality,
    hinge_of,
    variations_of,
)
from scone_cli.evaluation.result_types import Assumption, Payback
from scone_cli.evaluation.results import Calls
from scone_cli.formatting import big, days_text, dollars


def payback(
    scone: Contender,
    rivals: Sequence[Contender],
    prices: Prices,
    undecided: Collection[str] = frozenset(),
    calls: Calls = Calls(),  # noqa: B008 - it is frozen
) -> Payback:
    """Whether, and after how many tokens, a model with a table is cheaper than a plain one of equal quality.

    scone: the arm that reads the table. rivals: plain models, measured on the same text. undecided: names of the rivals that
    are not shown to be better or worse. calls: the commands that would tell more.

    Raises:
        BadSetting: see `Prices.check`.
    """
    prices.check()
    baseline = equal_quality(scone, rivals)
    if baseline is None:
        return _without_rivals(scone, prices, calls)
    deal = deal_of(scone, baseline.model, prices)
    missing = _missing(baseline, deal, undecided, calls)
    variations = variations_of(scone, baseline.model, prices)
    hinge = hinge_of(deal, variations)
    return {
        "scone": scone.name,
        "baseline": {
            "name": baseline.model.name,
            "bound": baseline.bound,
            "nats_per_token": baseline.model.nats_per_token,
            "inference_flops": baseline.model.inference_flops,
            "training_flops": baseline.model.training_flops,
        },
        "prices": asdict(prices),
        "outcome": deal.outcome,
        "answer": "open" if missing else "no" if deal.outcome == "never" else "yes",
        "break_even_tokens": _number(deal.tokens),
        "break_even_days": _number(deal.days),
        "least_tokens_a_day": _number(deal.least_load),
        "extra_training_dollars": deal.extra,
        "saving_dollars_a_million_tokens": deal.saving * 1e6,
        "table_dollars_a_month": deal.table_a_day * DAYS_A_YEAR / 12,
        "assumptions": [_told(each) for each in variations],
        "hinges_on": hinge.assumption if hinge else None,
        "verdict": missing or _verdict(baseline, deal, hinge, prices),
    }


def _without_rivals(scone: Contender, prices: Prices, calls: Calls) -> Payback:
    return {
        "scone": scone.name,
        "baseline": None,
        "prices": asdict(prices),
        "outcome": "no rivals",
        "break_even_tokens": None,
        "break_even_days": None,
        "least_tokens_a_day": None,
        "extra_training_dollars": None,
        "saving_dollars_a_million_tokens": None,
        "table_dollars_a_month": None,
        "answer": "open",
        "hinges_on": None,
        "assumptions": [],
        "verdict": f"Whether Scone pays is not known, as no plain model was measured beside it: {calls.for_a_rival()}.",
    }


def _told(variation: Variation) -> Assumption:
    return {
        "assumption": variation.assumption,
        "text": variation.text,
        "value": variation.value,
        "halved": _number(variation.halved.tokens),
        "doubled": _number(variation.doubled.tokens),
        "halved_outcome": variation.halved.outcome,
        "doubled_outcome": variation.doubled.outcome,
    }


def _number(value: float) -> float | None:
    """A number for JSON, which has no infinity."""
    return value if math.isfinite(value) else None


# ---- the sentence ------------------------------------------------------------------------------------------------


def _missing(baseline: Baseline, deal: Deal, undecided: Collection[str], calls: Calls) -> str:
    """What is missing to say whether it pays, and the command that finds it out; empty if nothing is missing."""
    name = baseline.model.name
    if deal.saving <= 0 and name in undecided:
        return (
            f"Whether Scone pays is not known: its tokens cost as much as those of {name} or more, so it pays only if it is "
            "better, and no difference is shown between them."
        )
    if deal.outcome == "never" and baseline.bound == "at least":
        larger = calls.for_a_rival(options=" --dim LARGER")
        return (
            f"Whether Scone pays is not known: {name}, the best plain model that was measured, is not as good, so what a plain "
            f"model of equal quality costs is unknown; to find out, train a larger one ({larger})."
        )
    if deal.outcome == "at once" and baseline.bound == "at most":
        smaller = calls.for_a_rival(options=" --dim SMALLER")
        return (
            f"Whether Scone pays is not known: it costs less to train and to run than {name}, but {name} is better; to find out "
            f"what equal quality costs, train a smaller plain model ({smaller})."
        )
    return ""


def _verdict(baseline: Baseline, deal: Deal, hinge: Variation | None, prices: Prices) -> str:
    if baseline.bound == "at most" and deal.saving <= 0:
        return f"Scone does not pay: {baseline.model.name}, a plain model, is better, and a token of it costs as much or less."
    sentence = _FINDINGS[deal.outcome](baseline, deal, prices)
    by_default = ", by the default prices" * (prices == Prices())
    return f"{sentence}{by_default}{_hinging(hinge)}."


def _after(baseline: Baseline, deal: Deal, prices: Prices) -> str:
    limit = {None: "after", "at least": "at the latest after", "at most": "at the earliest after"}[baseline.bound]
    if_at_all = ", if at all" if baseline.bound == "at most" else ""
    when = f"{limit} {big(deal.tokens)} tokens ({days_text(deal.days)} at {big(prices.load)} a day)"
    return f"Scone pays{if_at_all}: {when} it is cheaper than {_plain(baseline)}"


def _at_once(baseline: Baseline, _deal: Deal, prices: Prices) -> str:
    at_load = f"at {big(prices.load)} tokens a day"  # at fewer its table may cost more than is saved
    return f"Scone pays at once: {at_load} it costs less to train and to run than {_plain(baseline)}"


def _never(baseline: Baseline, deal: Deal, prices: Prices) -> str:
    if deal.saving <= 0:
        return f"Scone does not pay: a token costs the same or more than with {_plain(baseline)}"
    if not prices.load:
        return f"Scone does not pay: nothing is served, so nothing is saved; from {big(deal.least_load)} tokens a day on it pays"
    saved = f"{dollars(deal.saving * prices.load)} a day that it saves over {_plain(baseline)}"
    more = f"its table costs {dollars(deal.table_a_day)} a day, more than the {saved}"
    return (
        f"Scone does not pay at {big(prices.load)} tokens a day: {more}; from {big(deal.least_load)} a day on it pays"
    )


def _at_first(baseline: Baseline, deal: Deal, _prices: Prices) -> str:
    limit = {None: "for", "at least": "for at least", "at most": "for at most"}[baseline.bound]
    why = "it costs less to train, but its table costs more a day than is saved"
    return f"Scone is cheaper {limit} the first {days_text(deal.days)} than {_plain(baseline)}: {why}"


_FINDINGS = {"after": _after, "at once": _at_once, "never": _never, "at first": _at_first}


def _plain(baseline: Baseline) -> str:
    name = baseline.model.name
    if baseline.bound == "at least":
        return f"a plain model of equal quality (none that was measured is as good: {name}, the best, stands for it)"
    if baseline.bound == "at most":
        return (
            f"a plain model of equal quality (all that were measured are better: {name}, the smallest, stands for it)"
        )
    return f"a plain model of equal quality ({name})"


def _hinging(hinge: Variation | None) -> str:
    if hinge is None:
        return "; no assumption, halved or doubled, changes that"
    return (
        f"; that hinges most on {hinge.text}: at half of it {_answer(hinge.halved)}, at twice {_answer(hinge.doubled)}"
    )


def _answer(deal: Deal) -> str:
    return {"after": f"after {big(deal.tokens)} tokens", "at first": "only at first"}.get(deal.outcome, deal.outcome)
