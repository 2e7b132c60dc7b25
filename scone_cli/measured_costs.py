"""What the arms of an evaluation cost: models of ours, by what their shapes say, and the rows that they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scone_cli.settings import Quantity
from scone_cli.shapes import (
    Row,
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
from scone_cli.table.row_formats import row_bytes


@dataclass(frozen=True)
class MeasuredArm:
    """An arm of an evaluation: a model of ours, and where the rows of its f-grams come from.

    name: the arm's. config: the model's `config.json` (`dataclasses.asdict(model.config)`). source: `table`; `live`, where
    A_f-gram runs; `none`, no rows (of a plain or a hashed model it does not matter). num_rows, row_bytes: of the table.
    index_bytes: of the index in which f-grams are looked for (`arm.index().nbytes`). disk_bytes: of the table's files `rows-*`
    and `index.*`. match_shares: of a `live` arm, see `live_flops`. training_flops: of the whole training, as
    `training_record` works them out from the log; those of filling the table are added to them.
    """

    name: str
    config: Mapping[str, Any]
    source: str = "none"
    num_rows: int = 0
    row_bytes: int = 0
    index_bytes: int = 0
    disk_bytes: int = 0
    match_shares: Sequence[float] = ()
    training_flops: float | None = None


def cost_rows(arms: Sequence[MeasuredArm]) -> list[Row]:
    """The section `cost` of an evaluation: a row an arm. Our models have float32 weights."""
    return [_arm_cost(arm) for arm in arms]


def _arm_cost(arm: MeasuredArm) -> Row:
    config = arm.config
    keys = ("dim", "layers", "vocab_size", "context", "tied_head", "fgram_layers", "max_n")
    shape = Shape(name=arm.name, weights="float32", **{key: config[key] for key in keys})
    is_live = config["kind"] == "scone" and arm.source == "live"
    live = live_flops(shape, arm.match_shares) if is_live else 0.0
    training = arm.training_flops
    if training is not None and arm.source == "table" and arm.num_rows:
        training += precompute_flops(replace(shape, fgrams=Quantity(arm.num_rows)))
    parameters = main_parameters(shape) + (fgram_parameters(shape) if is_live else 0)
    return {
        "arm": arm.name,
        "resident_parameters": parameters,
        "resident_bytes": parameters * number_bytes(shape),
        **_offloaded(arm),
        "prefill_flops": round(prefill_flops(shape) + live),
        "decode_flops": round(decode_flops(shape) + live),
        "kv_bytes_a_token": kv_bytes_a_token(shape),
        "training_flops": training,
    }


def _offloaded(arm: MeasuredArm) -> Row:
    """Rows off the accelerator and their bytes: a table's, the hashed ones, or the learned ones of a live model."""
    kind, trained = arm.config["kind"], row_bytes("float32", arm.config["dim"])
    rows = in_ram = on_disk = of_index = 0
    if kind == "hashed":
        rows = _hashed_rows(arm.config)
        in_ram = on_disk = rows * trained
    elif kind == "scone" and arm.source == "table":
        rows, on_disk, of_index = arm.num_rows, arm.disk_bytes, arm.index_bytes
        in_ram = rows * arm.row_bytes + of_index
    elif kind == "scone" and arm.source == "live":
        rows, of_index = arm.config["learned_rows"], arm.index_bytes
        on_disk, in_ram = rows * trained, rows * trained + of_index
    return {
        "offloaded_rows": rows,
        "offloaded_bytes_ram": in_ram,
        "offloaded_bytes_disk": on_disk,
        "index_bytes": of_index,
    }


def _hashed_rows(config: Mapping[str, Any]) -> int:
    from scone_cli.model.direct_rows import hashed_sizes  # noqa: PLC0415 - it loads torch

    return sum(hashed_sizes(config["hashed_rows"], config["vocab_size"], config["max_n"]))
