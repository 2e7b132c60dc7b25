"""Does it pay, on the page of an evaluation: the break-even, what it hinges on, and the prices assumed."""

from __future__ import annotations

from typing import Any

from scone_cli.evaluation.results import Results, Row
from scone_cli.figures import Axis, Column, Figure, Line, LineChart, Section, Table
from scone_cli.formatting import big, days_text, dollars
from scone_cli.settings import parse_count

_UNITS = (
    *((1e6, "million dollars"), (1e3, "thousand dollars"), (1.0, "dollars")),
    *((1e-3, "thousandths of a dollar"), (1e-6, "millionths of a dollar"), (1e-9, "billionths of a dollar")),
)
_PRICES = {
    "accelerator_hour": "dollars for an accelerator hour",
    "accelerator_flops": "operations a second of an accelerator",
    "training_utilisation": "of which training reaches",
    "inference_utilisation": "of which inference reaches",
    "table_on": "the table lies in",
    "copies": "machines that hold the table",
    "ram_gb": "dollars for a GB of RAM, bought",
    "ssd_gb": "dollars for a GB of SSD, bought",
    "depreciation_years": "years until memory is written off",
    "ram_gb_month": "dollars for a GB of RAM a month",
    "ssd_gb_month": "dollars for a GB of SSD a month",
    "tokens_a_day": "tokens served a day",
}
_BOUNDS = {
    "at least": "no rival is as good: the best is taken, so this is the least that Scone saves",
    "at most": "all rivals are better: the cheapest is taken, so this is the most that Scone saves",
}


def payback_section(results: Results) -> Section | None:
    """None where no prices were applied."""
    found = results.get("payback")
    if not found:
        return None
    figures = [_break_even(found)] if found.get("baseline") else []
    if found.get("assumptions"):
        figures.append(_assumptions(found))
    figures.append(_prices(found))
    return Section("Does it pay", found["verdict"], figures)


def _break_even(found: Row) -> Figure:
    baseline = found["baseline"]
    rows = [("compared with", baseline["name"])]
    if found["outcome"] in ("after", "at first"):
        word = "cheaper after" if found["outcome"] == "after" else "dearer after"
        rows += [
            (word, f"{big(found['break_even_tokens'])} tokens"),
            ("at this load", days_text(found["break_even_days"])),
        ]
    if found["least_tokens_a_day"] is not None:
        rows.append(("least tokens a day to pay", big(found["least_tokens_a_day"])))
    rows += [
        ("training costs more by", dollars(found["extra_training_dollars"])),
        ("saved on a million tokens written", dollars(found["saving_dollars_a_million_tokens"])),
        ("the table costs a month", dollars(found["table_dollars_a_month"])),
    ]
    dearer = "more" if found["extra_training_dollars"] > 0 else "no more"
    caption = (
        f"Scone costs {dearer} to train, once, and its table costs a little every day. It pays if every token that is written "
        "costs so much less than one of a plain model of equal quality that this makes up for it."
    )
    if bound := _BOUNDS.get(baseline["bound"] or ""):
        caption += f" Here {bound}."
    charts = [_course(found)] if found["outcome"] == "after" else []
    return Figure("Break-even", caption, charts, [Table([Column("", "text"), Column("", "written")], rows)])


def _course(found: Row) -> LineChart:
    """What Scone has cost more than its rival after so many tokens: from its training's price down through zero."""
    tokens, extra = found["break_even_tokens"], found["extra_training_dollars"]
    unit, name = next(each for each in _UNITS if extra >= each[0] or each is _UNITS[-1])
    line = Line("", [0.0, tokens, 2 * tokens], [extra / unit, 0.0, -extra / unit])
    y = Axis(f"{name} that Scone has cost more", "measure", ends="signed")
    return LineChart(
        "cost against tokens served", Axis("tokens served", ends="last"), y, [line], (tokens, "break-even")
    )


def _assumptions(found: Row) -> Figure:
    rows = [
        (each["text"], _value(each["value"]), _if(each, "halved"), _if(each, "doubled"))
        for each in found["assumptions"]
    ]
    strong = [i for i, each in enumerate(found["assumptions"]) if each["assumption"] == found["hinges_on"]]
    columns = [
        *(Column("assumption", "text"), Column("assumed", "written"), Column("break-even with half", "written")),
        Column("with twice", "written"),
    ]
    caption = (
        "The tokens after which Scone is cheaper, if one assumption were half or twice what it is; what moves it most "
        "stands out."
    )
    return Figure("What it hinges on", caption, [], [Table(columns, rows, strong=strong)])


def _if(assumption: Row, key: str) -> str:
    outcome = assumption.get(f"{key}_outcome", "after")
    return f"{_big(assumption[key])} tokens" if outcome == "after" else outcome


def _prices(found: Row) -> Figure:
    prices = {name: value for name, value in found["prices"].items() if value is not None}
    prices["tokens_a_day"] = load_of(found)
    given = [(_PRICES.get(name, name.replace("_", " ")), _value(value)) for name, value in prices.items()]
    caption = "Every one can be set in the table [prices] of a recipe."
    return Figure("Prices assumed", caption, [], [Table([Column("", "text"), Column("", "written")], given)])


def _value(value: Any) -> str:
    return value.upper() if isinstance(value, str) else f"{value:,.4g}" if value < 1e6 else big(value)


def load_of(found: Row) -> float:
    """Tokens served a day; a recipe may say 500M."""
    given = str(found["prices"]["tokens_a_day"])
    return 0.0 if given == "0" else parse_count(given)


def _big(value: float | None) -> str:
    return "never" if value is None else big(value)
