"""The facts of `scone status` on a terminal: a table of artifacts or versions, then what needs a word."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scone_cli.console.results import NO_WIDTH, drawn
from scone_cli.formatting import bytes_text, days_text, harmless, path_text, plain, seconds_text
from scone_cli.report.status import AT_WORK, ELSEWHERE, ENDED, seconds_of

_NOW = 2  # seconds
_STYLES = {"up to date": "green", "out of date": "yellow", "damaged": "bold red", "missing": "dim"}
Row = Sequence[Text | str]
_NO_ARTIFACT = {"weights", "measured", "held-out"}  # entries of inputs that are hashes and rules


def status_text(facts: Mapping[str, Any]) -> str:
    """What `scone status` prints."""
    draw = {"workspace": _workspace, "name": _name, "registry": _registry}[facts["kind"]]
    return drawn(lambda console: draw(console, facts))


# ---- a workspace -------------------------------------------------------------------------------------------------


def _workspace(console: Console, facts: Mapping[str, Any]) -> None:
    artifacts = facts["artifacts"]
    _line(console, facts["path"], "bold")
    _grid(
        console,
        [
            ("artifact", "left"),
            ("state", "left"),
            ("made", "right"),
            ("size", "right"),
            ("made from", "left"),
            ("holds", "left"),
            ("on", "left"),
        ],
        [
            (
                harmless(each["artifact"]),
                Text(each["state"], _STYLES[each["state"]]),
                _age(each["made"]),
                bytes_text(each["bytes"]) if each["made"] else "",
                ", ".join(name for name in each["made_from"] or () if name not in _NO_ARTIFACT),
                each["holds"] or "",
                _minute(each["made"]),
            )
            for each in artifacts
        ],
    )
    for each in artifacts:
        for why in each["reasons"]:
            _said(console, f"{each['artifact']}/", why, _STYLES[each["state"]])
        for note in each["notes"]:
            _said(console, f"{each['artifact']}/", note)
        if each["unfinished_bytes"]:
            steps = f", {each['unfinished_steps']:,} steps done" if each["unfinished_steps"] is not None else ""
            _said(console, f"{each['artifact']}/", f"unfinished work of {bytes_text(each['unfinished_bytes'])}{steps}")
    if facts["runs"]:
        console.print()
        _runs(console, facts["runs"])
    console.print()
    _said(console, "not compared", _not_compared(facts))
    because, command = facts["next_because"], facts["next"]
    if command:  # not broken, so that it can be copied
        console.print(Text.assemble((f"{'next':13} ", "dim"), (harmless(command), "bold")), soft_wrap=True)
    _said(console, "" if command else "next", because)


def _not_compared(facts: Mapping[str, Any]) -> str:
    if facts["recipe"]:
        return "the corpus"
    made_with = facts["made_with"]
    if made_with is None:
        return "the corpus, and settings, for which a recipe is needed: --config RECIPE"
    recipe = shlex.quote(path_text(made_with["recipe"]))
    changed = ", which has changed since" if made_with["changed"] else ""
    return f"the corpus, and settings, for which --config {recipe} is needed{changed}"


def _runs(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for run in runs:
        code = run["exit_code"]
        if run["state"] == ENDED:
            told = Text("ok", "green") if not code else Text(f"exit code {code}, {run['error']}", "bold red")
        else:
            where = f" on {run['host']}" if run["state"] == ELSEWHERE else ""
            state = "killed, or at work" if where else run["state"]
            told = Text(f"{state}{where}: pid {run['pid']}", "cyan" if run["state"] == AT_WORK else "bold red")
        when = run["ended"] if run["state"] == ENDED else run["began"]
        took = seconds_text(run["seconds"]) if run["state"] == ENDED and run["seconds"] is not None else ""
        rows.append((harmless(run["stage"]), told, _age(when), took, _minute(when)))
    heads = [("last run of", "left"), ("result", "left"), ("when", "right"), ("took", "right"), ("on", "left")]
    _grid(console, heads, rows)


# ---- a registry --------------------------------------------------------------------------------------------------


def _name(console: Console, facts: Mapping[str, Any]) -> None:
    count = len(facts["versions"])
    _line(console, f"{facts['name']}: {count:,} version{'s' * (count != 1)}, {bytes_text(facts['bytes'])}", "bold")
    heads = [("", "left"), ("version", "left"), ("age", "right"), ("perplexity", "right")]
    heads += [("gain", "right"), ("size", "right"), ("rows", "right"), ("model", "left"), ("vocab", "left")]
    _grid(console, heads, [_version(each) for each in reversed(facts["versions"])])
    for each in facts["versions"]:
        if each["problem"]:
            _said(console, each["version"], each["problem"], "bold red")
    if facts["problem"]:
        _said(console, "problem", facts["problem"], "bold red")
    if facts["runs"]:
        console.print()
        _runs(console, facts["runs"])


def _version(each: Mapping[str, Any]) -> Row:
    mark = Text("current", "bold green") if each["current"] else ""
    if each["problem"]:
        return (mark, each["version"], "", Text("damaged", "bold red"), *[""] * 5)
    age, size = _age(each["date"]), bytes_text(each["bytes"])
    if each["encrypted"]:
        return (mark, each["version"], age, Text("encrypted", "dim"), "", size, "", "", "")
    figures, prints = each["figures"], each["made_from"].get("fingerprints", {})
    first: Mapping[str, Any] = next(iter(figures.get("corpora", ())), {})
    rows = f"{figures['rows']:,}" if "rows" in figures else ""
    gain = f"{first['gain']:.4f}" if first.get("gain") is not None else ""
    perplexity = plain(first["perplexity"]) if first.get("perplexity") is not None else ""
    return (
        mark,
        each["version"],
        age,
        perplexity,
        gain,
        size,
        rows,
        (prints.get("model") or "")[:8],
        (prints.get("vocab") or "")[:8],
    )


def _registry(console: Console, facts: Mapping[str, Any]) -> None:
    _line(console, facts["path"], "bold")
    heads = [("name", "left"), ("current", "left"), ("age", "right"), ("versions", "right"), ("size", "right")]
    rows = []
    for each in facts["names"]:
        current: Mapping[str, Any] = next((version for version in each["versions"] if version["current"]), {})
        told = Text(harmless(each["problem"]), "bold red") if each["problem"] else each["current"]
        name = harmless(each["name"].rpartition("/")[2])
        rows.append((name, told, _age(current.get("date")), f"{len(each['versions']):,}", bytes_text(each["bytes"])))
    _grid(console, heads, rows)


# ---- parts -------------------------------------------------------------------------------------------------------


def _grid(console: Console, heads: Sequence[tuple[str, Any]], rows: Sequence[Row]) -> None:
    """A table; where it is too wide, columns are left out from the right, as they matter less and less."""
    for number in range(len(heads), 2, -1):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for title, side in heads[:number]:
            table.add_column(title, justify=side, no_wrap=number > 3, overflow="fold")
        for row in rows:
            table.add_row(*row[:number])
        if console.measure(table, options=console.options.update(width=NO_WIDTH)).maximum <= console.width:
            break
    console.print(table)


def _line(console: Console, text: str, style: str) -> None:
    console.print(Text(harmless(text), style), soft_wrap=True)


def _said(console: Console, about: str, text: str, style: str = "") -> None:
    """Words about something, broken between words, beside its name."""
    told = textwrap.wrap(harmless(text), max(console.width - 14, 20), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(told or [""]):
        name = "" if number else harmless(about)
        console.print(Text.assemble((f"{name:13} ", "dim"), (line, style)), soft_wrap=True)


def _age(date: str | None) -> str:
    seconds = seconds_of(date)
    if seconds is None:
        return ""
    age = time.time() - seconds
    return "now" if age < _NOW else f"{days_text(age / 86400)} ago"


def _minute(date: str | None) -> str:
    return "" if date is None else f"{date[:16].replace('T', ' ')} UTC"
