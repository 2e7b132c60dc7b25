"""Prices and models of round numbers, for sums that are worked by hand."""

from __future__ import annotations

from scone_cli.evaluation.break_even import Contender, Prices
from scone_cli.settings import Quantity

# A FLOP of training costs 2e-15 dollars, one of inference 1e-14; a GB of RAM a dollar a year; a billion tokens a day.
PRICES = Prices(
    accelerator_hour=3.6,
    accelerator_flops=1e12,
    training_utilisation=0.5,
    inference_utilisation=0.1,
    ram_gb=2.0,
    depreciation_years=2.0,
    tokens_a_day=Quantity("1G"),
)
SCONE = Contender("table", 2.0, 1e9, 5e18, ram_bytes=365e9, disk_bytes=730e9)  # a dollar a day in RAM
SMALL, LARGE = Contender("small", 2.2, 1e9, 1e18), Contender("large", 1.8, 4e9, 4e18)
