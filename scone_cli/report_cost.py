"""What it costs, on the page of an evaluation: memory, work, speed and look-ups."""

from __future__ import annotations

from collections.abc import Sequence

from scone_cli.evaluation.results import TABLE, Results, Row, cost_of, is_table, opponent_of, rows_of
from scone_cli.figures import Axis, BarChart, Bars, Column, Figure, Section, Table
from scone_cli.formatting import bytes_text, count_text, listed

_PLACES = {"ram": "in RAM", "mmap": "mapped from disk"}


def cost_section(results: Results) -> Section | None:
    """None where nothing was counted and nothing measured."""
    found = [_memory(results), _work(results), _speed(results), _lookup(results)]
    figures = [figure for figure in found if figure is not None]
    says = (
        "What each model takes when it is served. Resident is what the accelerator holds; offloaded is the table, in memory or "
        "on a disk beside it, which is cheaper by far."
    )
    return Section("Cost", says, figures) if figures else None


def _strong(arms: Sequence[str]) -> list[int]:
    return [i for i, arm in enumerate(arms) if arm == TABLE]


# ---- what is counted ---------------------------------------------------------------------------------------------


def _memory(results: Results) -> Figure | None:
    rows = rows_of(results, "cost")
    if not rows:
        return None
    own = cost_of(results, TABLE).get("resident_parameters")
    columns = [
        *(Column("", "text"), Column("resident parameters", "count"), Column("times the table's", "written")),
        *(Column("resident", "written"), Column("offloaded rows", "count"), Column("offloaded, in RAM", "written")),
        *(Column("offloaded, on disk", "written"), Column("of which index", "written")),
    ]
    values = [
        (
            *(
                row["arm"],
                row["resident_parameters"],
                _times(row["resident_parameters"], own),
                _bytes(row["resident_bytes"]),
            ),
            *(row["offloaded_rows"] or None, _bytes(row["offloaded_bytes_ram"]), _bytes(row["offloaded_bytes_disk"])),
            _bytes(row["index_bytes"]),
        )
        for row in rows
    ]
    caption = "Parameters and bytes; the table lies either in RAM or on disk, not in both."
    if peak := results.get("peak_memory_bytes"):
        caption += f" The evaluation itself, with all its models, took {bytes_text(peak)} at most."
    return Figure("Memory", caption, [], [Table(columns, values, strong=_strong([row["arm"] for row in rows]))])


def _bytes(value: float | None) -> str:
    return bytes_text(value) if value else "-"


def _count(value: float | None) -> str:
    return "-" if value is None else count_text(value)


def _times(value: float | None, own: float | None) -> str:
    return f"{value / own:.2f}" if value and own else "-"


def _work(results: Results) -> Figure | None:
    rows = [row for row in rows_of(results, "cost") if row.get("prefill_flops") or row.get("decode_flops")]
    if not rows:
        return None
    own = cost_of(results, TABLE)
    columns = [
        *(Column("", "text"), Column("FLOPs a token, prefill", "written"), Column("FLOPs a token, decode", "written")),
        *(Column("times the table's", "written"), Column("key-value cache a token", "written")),
        *(Column("FLOPs of its training", "written"), Column("times the table's", "written")),
    ]
    values = [
        (
            *(row["arm"], _count(row["prefill_flops"]), _count(row["decode_flops"])),
            *(_times(row["decode_flops"], own.get("decode_flops")), _bytes(row["kv_bytes_a_token"])),
            *(_count(row["training_flops"]), _times(row["training_flops"], own.get("training_flops"))),
        )
        for row in rows
    ]
    caption = (
        "Operations are counted from the shapes: prefill reads the whole context at once, decode one token after it. Training is "
        "once, the f-gram model's part and the filling of the table included; a table that is read takes no operation of the "
        "accelerator."
    )
    return Figure("Work", caption, [], [Table(columns, values, strong=_strong([row["arm"] for row in rows]))])


# ---- what is measured --------------------------------------------------------------------------------------------


def _speed(results: Results) -> Figure | None:
    rows = rows_of(results, "speed")
    if not rows:
        return None
    series = list(dict.fromkeys((row["arm"], row["placement"]) for row in rows))
    batches = sorted({row["batch"] for row in rows})
    phases = [phase for phase in ("prefill", "decode") if any(row["phase"] == phase for row in rows)]
    found = {(row["arm"], row["placement"], row["phase"], row["batch"]): row["tokens_a_second"] for row in rows}
    drawn = [each for each in series if each[0] in (TABLE, opponent_of(results))] or series[:3]
    charts = [
        BarChart(
            phase,
            "streams at once (batch)",
            Axis("tokens a second"),
            [str(batch) for batch in batches],
            [Bars(_series_name(*each), [found.get((*each, phase, batch)) for batch in batches]) for each in drawn],
        )
        for phase in phases
    ]
    columns = [
        Column("", "text"),
        *(Column(f"{phase}, batch {batch}", "written") for phase in phases for batch in batches),
    ]
    values = [
        (
            _series_name(*each),
            *(_count(found.get((*each, phase, batch))) for phase in phases for batch in batches),
        )
        for each in series
    ]
    strong = [i for i, (arm, _) in enumerate(series) if arm == TABLE]
    repeats = min(row["repeats"] for row in rows)
    lengths = {row["batch"]: row["length"] for row in rows if row.get("length")}
    caption = (
        f"Tokens a second of all streams together, measured on the machine of the evaluation ({repeats} or more runs each). "
        "Compare rivals with one another here: another machine has other speeds."
    )
    if lengths:
        told = listed([f"{lengths[batch]:,} (batch {batch})" for batch in batches if batch in lengths])
        caption += f" Prompts have {told} tokens; decode writes what follows them."
    return Figure("Measured speed", caption, charts, [Table(columns, values, strong=strong)])


def _series_name(arm: str, placement: str | None) -> str:
    return f"{arm}, {_PLACES.get(placement, placement)}" if is_table(arm) and placement else arm


def _lookup(results: Results) -> Figure | None:
    rows = rows_of(results, "lookup")
    if not rows:
        return None
    columns = [
        *(Column("the table lies", "text"), Column("tokens at once", "count")),
        *(
            Column("median, \N{MICRO SIGN}s a token", "written"),
            Column("99th percentile, \N{MICRO SIGN}s a token", "written"),
        ),
    ]
    values = [
        (_PLACES.get(row["placement"], row["placement"]), row["batch"], _micro(row, "median_us"), _micro(row, "p99_us"))
        for row in rows
    ]
    caption = (
        "How long it takes to match the tokens and to fetch their rows, in millionths of a second a token: what the table adds "
        "to the time of the model's own work. Mapped rows are those that the system holds in memory already."
    )
    return Figure("Look-ups", caption, [], [Table(columns, values)])


def _micro(row: Row, key: str) -> str:
    return "-" if row[key] is None else f"{row[key]:,.3g}"
