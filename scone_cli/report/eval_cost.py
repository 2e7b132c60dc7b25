"""The sections Cost (memory, FLOPs, speed, look-ups) and "Does it pay" on the page of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scone_cli.evaluation.result_types import EqualQuality, Payback, Results
from scone_cli.evaluation.results import TABLE, cost_of, is_table, opponent_of
from scone_cli.formatting import (
    big,
    bytes_text,
    cents,
    count_text,
    days_text,
    dollars,
    listed,
    singular,
    value_text,
)
from scone_cli.report.figures import Axis, BarChart, Bars, Column, Figure, Line, LineChart, Section, Table
from scone_cli.settings import parse_count

_PLACES = {"ram": "in RAM", "mmap": "mapped from disk"}


def cost_section(results: Results) -> Section | None:
    """Memory, FLOPs, speed, look-ups and latency; None if none of them is known."""
    found = [_memory(results), _work(results), _speed(results), _lookup(results), _latency(results)]
    figures = [figure for figure in found if figure is not None]
    says = (
        "What each model needs when it is served. Resident is the memory on the accelerator. Offloaded is the table in RAM or "
        "on disk, which is far cheaper."
    )
    return Section("Cost", says, figures) if figures else None


def _strong(arms: Sequence[str]) -> list[int]:
    return [i for i, arm in enumerate(arms) if arm == TABLE]


# ---- what is counted ---------------------------------------------------------------------------------------------


def _memory(results: Results) -> Figure | None:
    rows = results.get("cost", [])
    if not rows:
        return None
    table = cost_of(results, TABLE)
    own = table["resident_parameters"] if table else None
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
    caption = "Parameters and bytes. The table is either in RAM or on disk, not in both."
    if peak := results.get("peak_memory_bytes"):
        caption += f" The evaluation itself, with all its models, needed {bytes_text(peak)} at most."
    return Figure("Memory", caption, [], [Table(columns, values, strong=_strong([row["arm"] for row in rows]))])


def _bytes(value: float | None) -> str:
    return bytes_text(value) if value else "-"


def _count(value: float | None) -> str:
    return "-" if value is None else count_text(value)


def _times(value: float | None, own: float | None) -> str:
    return f"{value / own:.2f}" if value and own else "-"


def _work(results: Results) -> Figure | None:
    rows = [row for row in results.get("cost", []) if row["prefill_flops"] or row["decode_flops"]]
    if not rows:
        return None
    table = cost_of(results, TABLE)
    of_decoding, of_training = (table["decode_flops"], table["training_flops"]) if table else (None, None)
    columns = [
        *(
            Column("", "text"),
            Column("FLOPs per token, prefill", "written"),
            Column("FLOPs per token, decode", "written"),
        ),
        *(Column("times the table's", "written"), Column("key-value cache per token", "written")),
        *(Column("FLOPs of its training", "written"), Column("times the table's", "written")),
    ]
    values = [
        (
            *(row["arm"], _count(row["prefill_flops"]), _count(row["decode_flops"])),
            *(_times(row["decode_flops"], of_decoding), _bytes(row["kv_bytes_a_token"])),
            *(_count(row["training_flops"]), _times(row["training_flops"], of_training)),
        )
        for row in rows
    ]
    caption = (
        "FLOPs are computed from the shapes. Prefill reads the whole context at once; decode reads one token after it. Training "
        "includes the f-gram model and computing the table. Reading the table takes no FLOPs of the accelerator."
    )
    return Figure("Work", caption, [], [Table(columns, values, strong=_strong([row["arm"] for row in rows]))])


# ---- what is measured --------------------------------------------------------------------------------------------


def _speed(results: Results) -> Figure | None:
    rows = results.get("speed", [])
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
            Axis("tokens per second"),
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
        f"Tokens per second of all streams together, measured on the machine of the evaluation ({repeats} or more runs each). "
        "Use them to compare models with one another; another machine has other speeds."
    )
    if lengths:
        told = listed([f"{lengths[batch]:,} (batch {batch})" for batch in batches if batch in lengths])
        caption += f" Prompts have {told} tokens; decode generates the tokens after them."
    return Figure("Measured speed", caption, charts, [Table(columns, values, strong=strong)])


def _series_name(arm: str, placement: str | None) -> str:
    return f"{arm}, {_PLACES.get(placement, placement)}" if is_table(arm) and placement else arm


def _latency(results: Results) -> Figure | None:
    rows = results.get("latency", [])
    if not rows:
        return None
    columns = [
        *(Column("", "text"), Column("first token, median ms", "written"), Column("99th percentile, ms", "written")),
        *(
            Column("prompts", "count"),
            Column("each token, median ms", "written"),
            Column("99th percentile, ms", "written"),
        ),
        Column("tokens", "count"),
    ]
    values = [
        (
            *(
                _series_name(row["arm"], row["placement"]),
                _three_digits(row["first_token_ms"]),
                _three_digits(row["first_token_p99_ms"]),
            ),
            *(row["prompts"], _three_digits(row["latency_ms"]), _three_digits(row["latency_p99_ms"]), row["tokens"]),
        )
        for row in rows
    ]
    caption = (
        f"One stream that generates: the time to read a prompt of {rows[0]['prompt_tokens']:,} tokens and generate the first "
        "token, and the time for each token after it. A 99th percentile needs at least 100 measurements; it includes "
        "delays by other programs on the machine."
    )
    strong = [i for i, row in enumerate(rows) if row["arm"] == TABLE]
    return Figure("Latency", caption, [], [Table(columns, values, strong=strong)])


def _three_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g}"


def _lookup(results: Results) -> Figure | None:
    rows = results.get("lookup", [])
    if not rows:
        return None
    columns = [
        *(Column("the table is", "text"), Column("tokens at once", "count")),
        *(
            Column("median, \N{MICRO SIGN}s per token", "written"),
            Column("99th percentile, \N{MICRO SIGN}s per token", "written"),
        ),
    ]
    values = [
        (
            _PLACES.get(row["placement"] or "", row["placement"]),
            row["batch"],
            _three_digits(row["median_us"]),
            _three_digits(row["p99_us"]),
        )
        for row in rows
    ]
    caption = (
        "The time to match the tokens and fetch their rows, in microseconds per token. The table adds this time to that of the "
        "model. Mapped rows were read from the page cache, not from the disk."
    )
    return Figure("Look-ups", caption, [], [Table(columns, values)])


# ---- does it pay: the break-even, the assumptions, and the prices -------------------------------------------------


_UNITS = (
    *((1e6, "million dollars"), (1e3, "thousand dollars"), (1.0, "dollars")),
    *((1e-3, "thousandths of a dollar"), (1e-6, "millionths of a dollar"), (1e-9, "billionths of a dollar")),
)
_PRICES = {  # what is assumed, and its unit; those of money begin with $
    "accelerator_hour": ("price of an accelerator", "$ an hour"),
    "accelerator_flops": ("peak speed of an accelerator", "FLOPs per second"),
    "training_utilisation": ("share of the peak that training reaches", "%"),
    "inference_utilisation": ("share of the peak that inference reaches", "%"),
    "table_on": ("memory that holds the table", ""),
    "copies": ("machines that hold the table", "machines"),
    "ram_gb": ("price of RAM, bought", "$ a GB"),
    "ssd_gb": ("price of SSD, bought", "$ a GB"),
    "depreciation_years": ("time until bought memory is written off", "years"),
    "ram_gb_month": ("price of RAM, rented", "$ a GB and month"),
    "ssd_gb_month": ("price of SSD, rented", "$ a GB and month"),
    "tokens_a_day": ("load", "tokens a day"),
}
_BOUNDS = {
    "at least": "no rival is as good, so Scone is compared with the best one; the true saving is at least as large",
    "at most": "all rivals are better, so Scone is compared with the cheapest one; the true saving is at most as large",
}


def payback_section(results: Results) -> Section | None:
    """The break-even, the assumptions and the prices; None if it was not computed."""
    found = results.get("payback")
    if not found:
        return None
    figures = [_break_even(found, found["baseline"])] if found["baseline"] else []
    if found["assumptions"]:
        figures.append(_assumptions(found))
    figures.append(_prices(found))
    return Section("Does it pay", found["verdict"], figures)


def _break_even(found: Payback, baseline: EqualQuality) -> Figure:
    rows = [("compared with", baseline["name"])]
    if found["outcome"] in ("after", "at first"):
        word = "cheaper after" if found["outcome"] == "after" else "more expensive after"
        rows += [
            (word, f"{big(known(found['break_even_tokens']))} tokens"),
            ("at this load", days_text(known(found["break_even_days"]))),
        ]
    if found["least_tokens_a_day"] is not None:
        rows.append(("pays from a load of", f"{big(found['least_tokens_a_day'])} tokens a day"))
    extra, saving = known(found["extra_training_dollars"]), known(found["saving_dollars_a_million_tokens"])
    rows += [
        (f"training costs {'less' if extra < 0 else 'more'} by", cents(abs(extra))),
        (f"a million generated tokens cost {'more' if saving < 0 else 'less'} by", cents(abs(saving))),
        ("the table costs a month", cents(known(found["table_dollars_a_month"]))),
    ]
    more = "more" if extra > 0 else "no more"
    caption = (
        f"Training Scone costs {more}, once, and its table costs a little every day. Scone pays if a generated token costs "
        "less than one of a plain model of equal quality, and these savings exceed both costs."
    )
    if bound := _BOUNDS.get(baseline["bound"] or ""):
        caption += f" Here {bound}."
    charts = [_course(found)] if found["outcome"] == "after" else []
    return Figure("Break-even", caption, charts, [Table([Column("", "text"), Column("", "text")], rows)])


def known(value: float | None) -> float:
    """A number of `payback` that is there because there is a plain model to compare with."""
    assert value is not None
    return value


def _course(found: Payback) -> LineChart:
    """The extra cost of Scone against tokens served: it starts at the extra cost of training and falls through zero."""
    tokens, extra = known(found["break_even_tokens"]), known(found["extra_training_dollars"])
    unit, name = next(each for each in _UNITS if extra >= each[0] or each is _UNITS[-1])
    line = Line("", [0.0, tokens, 2 * tokens], [extra / unit, 0.0, -extra / unit])
    y = Axis(f"extra cost of Scone, {name}", "measure", ends="signed")
    return LineChart(
        "cost against tokens served", Axis("tokens served", ends="last"), y, [line], (tokens, "break-even")
    )


def _assumptions(found: Payback) -> Figure:
    rows = [
        (
            each["text"],
            _with_unit(each["assumption"], each["value"]),
            _if(found, each["halved"], each["halved_outcome"]),
            _if(found, each["doubled"], each["doubled_outcome"]),
        )
        for each in found["assumptions"]
    ]
    strong = [i for i, each in enumerate(found["assumptions"]) if each["assumption"] == found["hinges_on"]]
    columns = [
        *(Column("assumption", "text"), Column("assumed", "text"), Column("break-even with half of it", "written")),
        Column("with twice", "written"),
    ]
    caption = "After how many tokens Scone would be cheaper if one assumption were halved, or doubled. " + (
        "The assumption that changes the answer most is highlighted." if strong else "None of them changes the answer."
    )
    return Figure("What the answer depends on", caption, [], [Table(columns, rows, strong=strong)])


def _if(found: Payback, tokens: float | None, outcome: str) -> str:
    """The outcome with an assumption changed; as the verdict has it, "not known" for the outcome that leaves it open."""
    if found["answer"] == "open" and outcome == found["outcome"]:
        return "not known"
    return f"{_big(tokens)} tokens" if outcome == "after" else outcome


def _prices(found: Payback) -> Figure:
    prices = {name: value for name, value in found["prices"].items() if value is not None}
    prices["tokens_a_day"] = load_of(found)
    given = [(_PRICES[name][0], _with_unit(name, value)) for name, value in prices.items()]
    caption = "Each of them can be set in the table [prices] of a recipe."
    return Figure("Prices assumed", caption, [], [Table([Column("", "text"), Column("", "text")], given)])


def _with_unit(name: str, value: Any) -> str:
    """A value of the table [prices]: $2.00 an hour, 40.0%, 1 billion tokens a day, RAM."""
    unit = _PRICES[name][1]
    if unit == "%":
        return value_text("share", value)
    if unit.startswith("$"):
        return dollars(value) + unit[1:]
    return f"{big(value)} {singular(unit) if value == 1 else unit}" if unit else str(value).upper()


def load_of(found: Payback) -> float:
    """Tokens served a day; a recipe may say 500M."""
    given = str(found["prices"]["tokens_a_day"])
    return 0.0 if given == "0" else parse_count(given)


def _big(value: float | None) -> str:
    return "never" if value is None else big(value)
