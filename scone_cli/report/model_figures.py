"""Figures of a trained model: its shape, its parts and their cost, the loss, and the course of training.

`training.summary` computes the numbers. The figures are the same on a page and in a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scone_cli.formatting import count_text, seconds_text, value_text
from scone_cli.report.figures import Axis, Column, Figure, Line, LineChart, Table

Row = Mapping[str, Any]

_KINDS = {
    "plain": "plain: token embeddings only",
    "hashed": "hashed: trained rows for hashed n-grams",
    "scone": "scone: f-gram embeddings made by an f-gram model",
}
_SIZES = ("parameters", "bytes")
_MOST_LOSSES = 10  # rows of the curve in numbers
_TOKENS = Axis("tokens of training", ends="last")


def training_figures(description: Row) -> list[Figure]:
    """The figures of a model."""
    portrait, config = description["portrait"], description["config"]
    return [_shape(config), _parts(portrait), _loss(portrait), _course(portrait)]


def training_headline(description: Row) -> dict[str, str]:
    """The headline numbers."""
    training, parts = description["portrait"]["training"], description["portrait"]["parameters"]
    facts = {"kind": str(description["config"]["kind"])}
    for where in dict.fromkeys(row["where"] for row in parts):
        number = sum(row["parameters"] for row in parts if row["where"] == where)
        facts[f"parameters, {where}"] = count_text(number)
    facts["tokens of training"] = count_text(training["tokens"])
    facts["duration"] = seconds_text(training["seconds"])
    facts["training loss"] = value_text("measure", training["training_loss"])
    facts["held-out loss"] = value_text("measure", training["held_out_loss"])
    return facts


# ---- what it is --------------------------------------------------------------------------------------------------


def _shape(config: Row) -> Figure:
    rows = [
        ("kind", _KINDS.get(config["kind"], config["kind"])),
        ("layers", f"{config['layers']:,}"),
        ("width", f"{config['dim']:,}"),
        ("heads", f"{config['heads']:,}"),
        ("context", f"{config['context']:,} tokens"),
        ("vocabulary", f"{config['vocab_size']:,} tokens"),
        ("head", "the token embeddings (tied)" if config["tied_head"] else "its own matrix"),
        *_extras(config),
    ]
    caption = "The main model is what is served. What else was trained with it is not on the accelerator then."
    return Figure("The model", caption, [], [Table([Column("", "text"), Column("", "text")], rows)])


def _extras(config: Row) -> Iterator[tuple[str, str]]:
    """What was trained beside the main model."""
    combined = {"replace": "replaces the token embedding", "add": "is added to the token embedding"}
    if config["kind"] == "scone":
        yield "layers of A_f-gram", f"{config['fgram_layers']:,}"
        yield "longest f-gram", f"{config['max_n']:,} tokens"
        yield "a matched f-gram", str(combined.get(config["combine"], config["combine"]))
        yield (
            "learned rows",
            f"{config['learned_rows']:,}, for the most frequent f-grams" if config["learned_rows"] else "none",
        )
    if config["kind"] == "hashed":
        yield "hashed rows", f"about {config['hashed_rows']:,}, for n-grams of 2 to {config['max_n']:,} tokens"


def _parts(portrait: Row) -> Figure:
    cost, parts = portrait["cost"], portrait["parameters"]
    caption = (
        "Resident parameters are on the accelerator when the model is served; parameters of training only made the rows of "
        "the table; offloaded ones are in RAM or on disk. FLOPs include the matrices, attention over the whole context and "
        "the head. A backward pass counts as two forward passes; A_f-gram does one forward pass per node of its trie, as "
        "logged. Times plain means relative to a plain model with the same resident parameters."
    )
    wheres = dict.fromkeys(row["where"] for row in parts)
    totals = [
        (f"all {where}", where, *(sum(row[key] for row in parts if row["where"] == where) for key in _SIZES))
        for where in wheres
        if sum(row["where"] == where for row in parts) > 1
    ]
    rows = [(row["part"], row["where"], *(row[key] for key in _SIZES)) for row in parts]
    columns = [Column("part", "text"), Column("where", "text"), Column("parameters", "count"), Column("bytes", "count")]
    times = cost["training_times_plain"]
    work = [("inference", cost["inference_flops_a_token"], 1.0), ("training", cost["training_flops_a_token"], times)]
    if fgram := cost["fgram_training_flops_a_token"]:
        work.append(("of which A_f-gram", fgram, times - 1))
    flops = [Column("", "text"), Column("FLOPs", "count"), Column("times plain", "number")]
    return Figure(
        "Size and cost", caption, [], [Table(columns, [*rows, *totals]), Table(flops, work, "Work for one token")]
    )


# ---- how its training went ---------------------------------------------------------------------------------------


def _loss(portrait: Row) -> Figure:
    curve: Sequence[Row] = portrait["curve"]
    looks: Sequence[Row] = portrait["held_out"]
    lines = [_line("training", curve, "loss")]
    if looks:
        lines.append(_line("held-out", looks, "loss", dots=True))
    chart = LineChart("loss", _TOKENS, Axis("nats per token", "measure", ends="round"), lines)
    steps = portrait["training"]["steps"]
    caption = (
        f"The loss on the training text{_grouped(steps, len(curve))}, and on held-out text whenever it was measured. "
        "If the held-out loss rises while the training loss falls, the model overfits."
    )
    return Figure("How the loss fell", caption, [chart], [_losses(curve, looks)])


def _losses(curve: Sequence[Row], looks: Sequence[Row]) -> Table:
    """Some points of the curve, the last among them, each beside the held-out loss that was known then."""
    some = curve[:: -math.ceil(len(curve) / _MOST_LOSSES)][::-1]
    rows = []
    for point in some:
        known = [look["loss"] for look in looks if look["step"] <= point["step"]]
        rows.append((point["step"], point["tokens"], _nats(point["loss"]), _nats(known[-1] if known else None)))
    columns = [
        Column("step", "count"),
        Column("tokens of training", "count"),
        Column("training, nats per token", "written"),
        Column("held-out, at the last look", "written"),
    ]
    return Table(columns, rows, "The curve in numbers", folded=True)


def _grouped(steps: int, points: int) -> str:
    per_point = round(steps / points)
    return f", averaged over {per_point:,} steps per point" if per_point > 1 else ""


def _course(portrait: Row) -> Figure:
    training, curve = portrait["training"], portrait["curve"]
    watched = [
        ("learning rate", "learning_rate", 1000, Axis("learning rate (thousandths)", "measure")),
        ("gradient norm", "gradient_norm", 1, Axis("norm before clipping", "measure")),
        ("speed", "tokens_a_second", 1, Axis("tokens per second")),
        ("A_f-gram's work", "trie_nodes_a_token", 1, Axis("trie nodes per token", "measure")),
    ]
    charts = [
        LineChart(title, _TOKENS, y, [_line("", curve, key, factor)])
        for title, key, factor, y in watched
        if any(row[key] for row in curve)
    ]
    caption = (
        "The gradient norm is the largest one in each group of steps. If it jumps often, use a lower learning rate or a "
        "longer warm-up. If the speed falls, look for other programs on the machine. The duration is that of all sessions "
        "together, with the measurements of the held-out loss."
    )
    table = Table([Column("", "text"), Column("", "text")], list(_ending(training)))
    return Figure("How training went", caption, charts, [table])


def _ending(training: Row) -> Iterator[tuple[str, str]]:
    """The last values of training, and the extreme ones."""
    last = training["loss_averaged_over_steps"]
    yield "steps", f"{training['steps']:,}"
    yield "tokens", f"{training['tokens']:,}"
    yield "duration", seconds_text(training["seconds"])
    yield "tokens per second", value_text("count", training["tokens_a_second"])
    yield (
        f"training loss, last {last:,} steps" if last > 1 else "training loss, last step",
        _nats(training["training_loss"]),
    )
    yield "held-out loss, last", _nats(training["held_out_loss"])
    yield "held-out loss, lowest", _nats(training["lowest_held_out_loss"])
    yield "learning rate, peak", value_text("measure", training["peak_learning_rate"])
    yield "gradient norm, largest", value_text("measure", training["largest_gradient_norm"])
    if nodes := training["trie_nodes_a_token"]:
        yield "trie nodes per token", value_text("measure", nodes)


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(name: str, rows: Sequence[Row], key: str, factor: int = 1, dots: bool = False) -> Line:
    known = [row for row in rows if row[key] is not None]
    return Line(name, [row["tokens"] for row in known], [factor * row[key] for row in known], dots)
