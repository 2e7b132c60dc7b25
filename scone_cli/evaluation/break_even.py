"""The arithmetic of whether a table pays: prices, the plain model of equal quality, and the tokens until costs are equal.

Prices are in dollars, a GB is 10**9 bytes. Left out are latency, staff, the network, and that machines come in whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from scone_cli.errors import BadSetting
from scone_cli.evaluation.result_types import ArmCost
from scone_cli.settings import Quantity, parse_count, setting

if TYPE_CHECKING:
    from scone_cli.evaluation.model_cost import ShapeCost  # it loads torch

DAYS_A_YEAR = 365.0
_GB = 1e9
FOREVER = math.inf


@dataclass(frozen=True)
class Prices:
    """Prices, and how many tokens are served: the table [prices] of a recipe. RAM and SSD are as in the paper (section 4.4)."""

    accelerator_hour: float = setting(2.0, "Dollars for an accelerator for an hour.")
    accelerator_flops: float = setting(1e15, "Operations a second that it can do at most.")
    training_utilisation: float = setting(0.4, "Share of these that training reaches.")
    inference_utilisation: float = setting(0.1, "Share of these that inference reaches.")
    table_on: str = setting("ram", "Where the table lies when it is served.", choices=("ram", "ssd"))
    copies: float = setting(1.0, "Machines that hold the table.")
    ram_gb: float = setting(2.0, "Dollars for a GB of RAM, bought.")
    ssd_gb: float = setting(0.1, "Dollars for a GB of SSD, bought.")
    depreciation_years: float = setting(4.0, "Years after which what was bought is worth nothing.")
    ram_gb_month: float | None = setting(None, "Dollars for a GB of RAM a month, instead of buying it.")
    ssd_gb_month: float | None = setting(None, "Dollars for a GB of SSD a month, instead of buying it.")
    tokens_a_day: Quantity = setting(Quantity("1G"), "Tokens served a day, such as 500M; 0: none.")

    @property
    def load(self) -> float:
        """Tokens served a day."""
        given = str(self.tokens_a_day)
        return 0.0 if given == "0" else float(parse_count(given, "[prices] tokens-a-day"))

    def check(self) -> None:
        """Refuse impossible prices.

        Raises:
            BadSetting: a number is negative, or zero where something is divided by it.
        """
        for name, value in asdict(self).items():
            if isinstance(value, float | int):
                divides = name in {"accelerator_flops", "depreciation_years"} or "utilisation" in name
                if value < 0 or not math.isfinite(value) or (divides and value == 0):
                    least = "more than 0" if divides else "0 or more"
                    raise BadSetting(f"[prices] {name.replace('_', '-')} is {value}, expected {least}")
        for name in ("training_utilisation", "inference_utilisation"):
            if getattr(self, name) > 1:
                raise BadSetting(
                    f"[prices] {name.replace('_', '-')} is {getattr(self, name)}, expected a share up to 1"
                )
        _ = self.load


@dataclass(frozen=True)
class Contender:
    """A measured model: its loss, FLOPs per served token, and FLOPs of its whole training.

    ram_bytes, disk_bytes: size of its table in RAM, or on SSD; 0 for a plain model.
    """

    name: str
    nats_per_token: float
    inference_flops: float
    training_flops: float
    ram_bytes: float = 0
    disk_bytes: float = 0


def contender(cost: ArmCost | ShapeCost, nats_per_token: float) -> Contender:
    """The contender that has this cost, with known training FLOPs, and this loss."""
    assert cost["training_flops"] is not None
    return Contender(
        cost["arm"] if "arm" in cost else cost["model"],
        nats_per_token,
        cost["decode_flops"],
        cost["training_flops"],
        cost["offloaded_bytes_ram"],
        cost["offloaded_bytes_disk"],
    )


# ---- the plain model of equal quality ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """The plain model with the loss of Scone: `model` itself, or one that costs at least or at most as much (`bound`)."""

    model: Contender
    bound: str | None = None


def equal_quality(scone: Contender, rivals: Sequence[Contender]) -> Baseline | None:
    """The plain model with the loss of Scone; None without rivals.

    Rivals are left out if another one is better with the same or fewer FLOPs per token. Between two neighbours of the others,
    the logarithm of the FLOPs is interpolated linearly over the loss.
    """
    best = _frontier(rivals)
    if not best:
        return None
    if scone.nats_per_token > best[0].nats_per_token:
        return Baseline(best[0], "at most")
    for worse, better in pairwise(best):
        if worse.nats_per_token > scone.nats_per_token > better.nats_per_token:
            share = (worse.nats_per_token - scone.nats_per_token) / (worse.nats_per_token - better.nats_per_token)
            inference, training = (
                math.exp((1 - share) * math.log(low) + share * math.log(high))
                for low, high in (
                    (worse.inference_flops, better.inference_flops),
                    (worse.training_flops, better.training_flops),
                )
            )
            name = f"interpolated between {worse.name} and {better.name}"
            return Baseline(Contender(name, scone.nats_per_token, inference, training))
    as_good = [rival for rival in best if rival.nats_per_token == scone.nats_per_token]
    return Baseline(as_good[0]) if as_good else Baseline(best[-1], "at least")


def _frontier(rivals: Sequence[Contender]) -> list[Contender]:
    """The rivals that no other beats with the same or fewer FLOPs per token; cheapest first, so the loss falls."""
    best: list[Contender] = []
    for rival in sorted(rivals, key=lambda each: (each.inference_flops, each.nats_per_token)):
        if not best or rival.nats_per_token < best[-1].nats_per_token:
            best.append(rival)
    return best


# ---- the arithmetic ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deal:
    """Scone beside a plain model, in dollars: training costs `extra`, a served token saves `saving`, memory costs `table_a_day`.

    tokens, days: until both have cost the same; infinite if never, 0 if Scone is cheaper at once.
    """

    outcome: str
    extra: float
    saving: float
    table_a_day: float
    tokens: float
    days: float

    @property
    def least_load(self) -> float:
        """Tokens per day at which serving saves as much as the table costs; infinite if it saves nothing."""
        return self.table_a_day / self.saving if self.saving > 0 else FOREVER


def deal_of(scone: Contender, plain: Contender, prices: Prices, load: float | None = None) -> Deal:
    """Compare the costs of Scone and of a plain model; `load` in tokens per day replaces that of the prices."""
    load = prices.load if load is None else load
    a_flop = prices.accelerator_hour / 3600 / prices.accelerator_flops
    extra = (scone.training_flops - plain.training_flops) * a_flop / prices.training_utilisation
    saving = (plain.inference_flops - scone.inference_flops) * a_flop / prices.inference_utilisation
    table_a_day = _table_a_day(scone, prices)
    a_day = load * saving - table_a_day
    if extra <= 0 and a_day >= 0:
        return Deal("at once", extra, saving, table_a_day, 0.0, 0.0)
    if extra < 0 or (extra > 0 and a_day > 0):
        days = extra / a_day
        return Deal("after" if extra > 0 else "at first", extra, saving, table_a_day, days * load, days)
    return Deal("never", extra, saving, table_a_day, FOREVER, FOREVER)


def _table_a_day(scone: Contender, prices: Prices) -> float:
    """Dollars a day for the memory in which the table lies, on all machines that hold it."""
    is_ram = prices.table_on == "ram"
    bought, rented = (prices.ram_gb, prices.ram_gb_month) if is_ram else (prices.ssd_gb, prices.ssd_gb_month)
    a_year = bought / prices.depreciation_years if rented is None else 12 * rented
    size = scone.ram_bytes if is_ram else scone.disk_bytes
    return size / _GB * prices.copies * a_year / DAYS_A_YEAR


# ---- which assumption matters most ---------------------------------------------------------------------------------

_TEXTS = {
    "inference_utilisation": "the accelerator's utilisation in inference",
    "training_utilisation": "the accelerator's utilisation in training",
    "accelerator_hour": "the price of an accelerator hour",
    "accelerator_flops": "the operations a second of an accelerator",
    "tokens_a_day": "the load",
    "ram_gb": "the price of RAM",
    "ram_gb_month": "the price of RAM",
    "ssd_gb": "the price of SSD",
    "ssd_gb_month": "the price of SSD",
    "depreciation_years": "the years in which memory is written off",
    "copies": "the number of machines that hold the table",
}


@dataclass(frozen=True)
class Variation:
    """One assumption with its name in a sentence, and the deals with half and with twice its value."""

    assumption: str
    text: str
    value: float
    halved: Deal
    doubled: Deal


def variations_of(scone: Contender, plain: Contender, prices: Prices) -> list[Variation]:
    """Every assumption that the deal depends on, halved and doubled."""
    memory = prices.table_on + "_gb"
    is_rented = getattr(prices, memory + "_month") is not None
    of_memory = [memory + "_month"] if is_rented else [memory, "depreciation_years"]
    names = ["inference_utilisation", "training_utilisation", "accelerator_hour", "accelerator_flops", "tokens_a_day"]

    def _with(name: str, value: float) -> Deal:
        if name == "tokens_a_day":
            return deal_of(scone, plain, prices, value)
        changed: dict[str, Any] = {name: value}
        return deal_of(scone, plain, replace(prices, **changed))

    found = []
    for name in [*names, *of_memory, "copies"]:
        value = prices.load if name == "tokens_a_day" else getattr(prices, name)
        found.append(Variation(name, _TEXTS[name], value, _with(name, 0.5 * value), _with(name, 2.0 * value)))
    return found


def hinge_of(deal: Deal, variations: Sequence[Variation]) -> Variation | None:
    """The assumption that changes the answer most; None if none of them does."""
    moves = [(_moves(deal, each), each) for each in variations]
    most = max(move for move, _ in moves)
    return None if most == (0.0, 0.0) else next(each for move, each in moves if move == most)


def _moves(deal: Deal, variation: Variation) -> tuple[float, float]:
    """How far the tokens to break even move, in powers of e, the larger of both ways first; infinite for another outcome."""
    ways = [
        FOREVER
        if changed.outcome != deal.outcome
        else abs(math.log(changed.tokens / deal.tokens))
        if 0 < deal.tokens < FOREVER
        else 0.0
        for changed in (variation.halved, variation.doubled)
    ]
    return round(max(ways), 9), round(min(ways), 9)
