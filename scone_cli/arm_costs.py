"""What the arms of an evaluation cost, and whether the table pays: from what was opened and measured to `cost` and `payback`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scone_cli.arms import LIVE, TABLE, Opened
from scone_cli.arrays import F64
from scone_cli.artifacts.manifest import Manifest
from scone_cli.break_even import Prices, contender
from scone_cli.evaluation import Arm
from scone_cli.measured_costs import MeasuredArm, cost_rows
from scone_cli.payback import payback
from scone_cli.report_reading import judged_corpora
from scone_cli.training.summary import read_config, training_record

Row = dict[str, Any]


def costs_of(arms: Sequence[Arm], found: Opened, shares: Mapping[str, F64]) -> list[Row]:
    """A row of `cost` for each arm; `shares` [K + 1] are those of its positions whose match has 0, 1, ... tokens."""
    measured = []
    for arm in arms:
        folder, manifest = found.model_of(arm.name)
        table = found.table_of(arm.name)
        measured.append(
            MeasuredArm(
                arm.name,
                asdict(arm.model.config),
                TABLE if arm.table else LIVE if arm.trie else "none",
                num_rows=arm.table.num_rows if arm.table else 0,
                row_bytes=arm.table.row_bytes if arm.table else 0,
                index_bytes=arm.index.nbytes if arm.index else 0,
                disk_bytes=_served_bytes(table[1]) if table else 0,
                match_shares=shares[arm.name].tolist() if arm.trie else (),
                training_flops=_training_flops(folder, manifest),
            )
        )
    return cost_rows(measured)


def _served_bytes(table: Manifest) -> int:
    """Bytes of the files that are read when a table is served."""
    return sum(stamp.bytes for name, stamp in table.files.items() if name.startswith(("rows-", "index.")))


def _training_flops(folder: Path, model: Manifest) -> float | None:
    """Of the whole training; None of a model that has no log of it."""
    if "log.parquet" not in model.files:
        return None
    return float(training_record(folder, read_config(folder))["cost"]["training_flops"])


def payback_of(results: Row, plain: Sequence[str], prices: Prices) -> Row | None:
    """The section `payback`: the table against the rivals named `plain`; None without any of these.

    Their losses are those on the corpus that the verdict rests on: the first that is not training text.
    """
    first = judged_corpora(results)[0]
    nats = {
        row["arm"]: row["value"]
        for row in results["results"]
        if row["corpus"] == first and row["metric"] == "nats_per_token"
    }
    known = {
        row["arm"]: contender(row, nats[row["arm"]]) for row in results["cost"] if row["training_flops"] is not None
    }
    rivals = [known[name] for name in plain if name in known]
    return payback(known[TABLE], rivals, prices) if TABLE in known and rivals else None
