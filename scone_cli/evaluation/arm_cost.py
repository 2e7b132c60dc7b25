"""Makes the sections `cost` and `payback` of an evaluation out of its models, tables and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scone_cli.arrays import F64
from scone_cli.artifacts.manifest import Manifest
from scone_cli.evaluation.arms import Opened
from scone_cli.evaluation.break_even import Prices, contender
from scone_cli.evaluation.model_cost import (
    Shape,
    decode_flops,
    fgram_parameters,
    kv_bytes_a_token,
    live_flops,
    main_parameters,
    number_bytes,
    precompute_flops,
    prefill_flops,
)
from scone_cli.evaluation.payback import payback
from scone_cli.evaluation.result_types import ArmCost, Payback, Results
from scone_cli.evaluation.results import LIVE, NONE, NOT_SHOWN, SAME, TABLE, Calls, comparisons, judged_corpora
from scone_cli.evaluation.run_arms import Arm
from scone_cli.model import flops
from scone_cli.model.flops import swiglu_width
from scone_cli.settings import Quantity
from scone_cli.table.row_formats import row_bytes
from scone_cli.training.summary import read_config, training_record

# ---- what the arms cost: by the shapes of their models, and the rows that they read -------------------------------


@dataclass(frozen=True)
class MeasuredArm:
    """What the cost of an arm depends on: its model, and where the rows of its f-grams come from.

    config: the model's `config.json`, or its `HfConfig` (`dataclasses.asdict(model.config)`). source: `table`; `live`, where
    A_f-gram runs; `none`, no rows; ignored for a plain or hashed model. num_rows, row_bytes: of the table. index_bytes: of
    the index that finds f-grams (`arm.index.nbytes`). disk_bytes: of the table's files `rows-*` and `index.*`. match_shares:
    for a `live` arm, see `live_flops`. training_flops: of the whole training, from its log
    (`training.summary.training_record`), without the FLOPs that fill the table.
    """

    name: str
    config: Mapping[str, Any]
    source: str = NONE
    num_rows: int = 0
    row_bytes: int = 0
    index_bytes: int = 0
    disk_bytes: int = 0
    match_shares: Sequence[float] = ()
    training_flops: float | None = None


def cost_rows(arms: Sequence[MeasuredArm]) -> list[ArmCost]:
    """The section `cost`: one row per arm. Our models have float32 weights, those of Hugging Face the type of their files."""
    return [_hf_cost(arm) if "block_weights" in arm.config else _arm_cost(arm) for arm in arms]


def _hf_cost(arm: MeasuredArm) -> ArmCost:
    """Of a model of transformers: its weights were counted when it was loaded, see `HfConfig`. Rows may be added to it."""
    config, is_live = arm.config, arm.config["kind"] == "scone" and arm.source == LIVE
    head = 2 * config["dim"] * config["output_size"]
    blocks, live = flops.base_flops(config) - head, 0.0
    parameters = config["parameters"]
    if is_live and config["donor_dim"]:
        live = config["donor_flops"] * sum(share * length for length, share in enumerate(arm.match_shares))
    elif is_live:
        width = config["fgram_dim"]
        shape = (width, swiglu_width(width), config["fgram_layers"])
        live = sum(
            share * length * flops.fgram_forward_flops(*shape, (length + 1) / 2)
            for length, share in enumerate(arm.match_shares)
        )
        parameters += flops.fgram_parameters(*shape, config["max_n"]) + 2 * width * config["dim"]
    rows, in_ram, on_disk, of_index = _offloaded(arm)
    return {
        "arm": arm.name,
        "resident_parameters": parameters,
        "resident_bytes": config["parameter_bytes"] + row_bytes("float32", parameters - config["parameters"]),
        "offloaded_rows": rows,
        "offloaded_bytes_ram": in_ram,
        "offloaded_bytes_disk": on_disk,
        "index_bytes": of_index,
        "prefill_flops": blocks + round(head / config["context"] + live),
        "decode_flops": blocks + head + round(live),
        "kv_bytes_a_token": config["kv_bytes"],
        "training_flops": arm.training_flops,
    }


def _arm_cost(arm: MeasuredArm) -> ArmCost:
    config = arm.config
    keys = ("dim", "layers", "vocab_size", "context", "tied_head", "fgram_layers", "max_n")
    shape = Shape(name=arm.name, weights="float32", **{key: config[key] for key in keys})
    is_live = config["kind"] == "scone" and arm.source == LIVE
    live = live_flops(shape, arm.match_shares) if is_live else 0.0
    training = arm.training_flops
    if training is not None and arm.source == TABLE and arm.num_rows:
        training += precompute_flops(replace(shape, fgrams=Quantity(arm.num_rows)))
    parameters = main_parameters(shape) + (fgram_parameters(shape) if is_live else 0)
    rows, in_ram, on_disk, of_index = _offloaded(arm)
    return {
        "arm": arm.name,
        "resident_parameters": parameters,
        "resident_bytes": parameters * number_bytes(shape),
        "offloaded_rows": rows,
        "offloaded_bytes_ram": in_ram,
        "offloaded_bytes_disk": on_disk,
        "index_bytes": of_index,
        "prefill_flops": round(prefill_flops(shape) + live),
        "decode_flops": round(decode_flops(shape) + live),
        "kv_bytes_a_token": kv_bytes_a_token(shape),
        "training_flops": training,
    }


def _offloaded(arm: MeasuredArm) -> tuple[int, int, int, int]:
    """Rows beside the accelerator: their number, their bytes in RAM and on disk, and the bytes of their index.

    They are the rows of a table, those of a hashed model, or the learned rows of a live model.
    """
    kind, trained = arm.config["kind"], row_bytes("float32", arm.config["dim"])
    rows = in_ram = on_disk = of_index = 0
    if kind == "hashed":
        rows = _hashed_rows(arm.config)
        in_ram = on_disk = rows * trained
    elif kind == "scone" and arm.source == TABLE:
        rows, on_disk, of_index = arm.num_rows, arm.disk_bytes, arm.index_bytes
        in_ram = rows * arm.row_bytes + of_index
    elif kind == "scone" and arm.source == LIVE:
        rows, of_index = arm.config["learned_rows"], arm.index_bytes
        in_ram = on_disk = rows * trained + of_index  # it matches as the table does
    return rows, in_ram, on_disk, of_index


def _hashed_rows(config: Mapping[str, Any]) -> int:
    from scone_cli.model.direct_rows import hashed_sizes  # noqa: PLC0415 - it loads torch

    return sum(hashed_sizes(config["hashed_rows"], config["vocab_size"], config["max_n"]))


def costs_of(arms: Sequence[Arm], found: Opened, shares: Mapping[str, F64]) -> list[ArmCost]:
    """The section `cost`; `shares`: by arm, the share of positions whose match has 0, 1, ... tokens [K + 1]."""
    measured = []
    for arm in arms:
        folder, manifest = found.model_of(arm.name)
        table = found.table_of(arm.name)
        measured.append(
            MeasuredArm(
                arm.name,
                asdict(arm.model.config),
                TABLE if arm.table is not None else LIVE if arm.trie else NONE,
                num_rows=arm.table.num_rows if arm.table is not None else 0,
                row_bytes=arm.table.row_bytes if arm.table is not None else 0,
                index_bytes=arm.index.nbytes if arm.index else 0,
                disk_bytes=_served_bytes(table[1]) if table else 0,
                match_shares=shares[arm.name].tolist() if arm.trie else (),
                training_flops=_training_flops(folder, manifest),
            )
        )
    return cost_rows(measured)


def _served_bytes(table: Manifest) -> int:
    """Bytes of the files of a table that serving reads."""
    return sum(stamp.bytes for name, stamp in table.files.items() if name.startswith(("rows-", "index.")))


def _training_flops(folder: Path, model: Manifest) -> float | None:
    """FLOPs of the whole training of a model; None if it has no training log."""
    if "log.parquet" not in model.files:
        return None
    return float(training_record(folder, read_config(folder))["cost"]["training_flops"])


def payback_of(results: Results, plain: Sequence[str], prices: Prices) -> Payback | None:
    """The section `payback`: the table against the rivals named `plain`; None without any of these.

    Losses are those on the corpus that decides the verdict: the first that is not training text.
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
    undecided = [each.against for each in comparisons(results, corpus=first) if each.finding in (NOT_SHOWN, SAME)]
    return payback(known[TABLE], rivals, prices, undecided, Calls.of(results)) if TABLE in known and rivals else None
