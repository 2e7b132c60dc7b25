"""Figures in a terminal: titles, what they say, tables with shares as bars, curves; and a text in its matches."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from scone_cli.console.results import drawn, result_text
from scone_cli.formatting import Kind, amount_text, count_text, harmless, label, shortened, value_text
from scone_cli.report.chart_axes import Scale, scale_of
from scone_cli.report.figures import Chart, Column, Figure, Line, LineChart, Table
from scone_cli.report.ngram_figures import figures_of

# ---- curves drawn with characters: axes with their numbers, lines of box characters, marks ------------------------
#
# It needs no colour, and no character but ASCII where the encoding has no other.


ROWS = 16  # about: every number of the y axis stands on a row of its own, all as far apart
_NARROWEST = 8  # columns between the axes, however narrow the terminal is
_MARK = "o"
_BOX = "─│╭╮╰╯┤└┬"
_ASCII = "-|..''+++"


def draw(chart: LineChart, width: int, encoding: str = "utf-8") -> list[str]:
    """Lines of at most `width` characters (32 or more); of the chart's lines those with dots are marks, not curves."""
    points = [point for line in chart.lines for point in zip(line.xs, line.ys, strict=True)]
    y = scale_of(chart.y, [point[1] for point in points], 0, 1)
    num_rows = _num_rows(y)
    y = dataclasses.replace(y, start=num_rows - 1, end=0)
    labels = {round(place): text for place, text in y.labels(chart.y.kind)}
    margin = max(map(len, labels.values()))
    num_columns = max(_NARROWEST, width - margin - 2)
    x = scale_of(chart.x, [point[0] for point in points], 0, num_columns - 1)
    cells = [[" "] * num_columns for _ in range(num_rows)]
    for line in sorted(chart.lines, key=lambda line: line.dots):  # marks over curves
        (_mark if line.dots else _draw_curve)(cells, line, x, y)
    ticks = {round(place): text for place, text in x.labels(chart.x.kind)}
    drawn = [
        *_heading(chart, width),
        *(
            f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{''.join(cells[row])}"
            for row in range(num_rows)
        ),
        " " * (margin + 1) + "└" + "".join("┬" if column in ticks else "─" for column in range(num_columns)),
        " " * (margin + 2) + _tick_line(ticks, num_columns),
        " " * (margin + 2) + chart.x.title.center(num_columns),
    ]
    if not encoding.lower().startswith("utf"):
        drawn = [line.translate(str.maketrans(_BOX, _ASCII)) for line in drawn]
    return [line.rstrip() for line in drawn]


def _num_rows(y: Scale) -> int:
    """As many that the numbers along a linear axis are a whole number of rows apart."""
    intervals = len(y.ticks()) - 1
    return (ROWS if y.log else max(1, round(ROWS / intervals)) * intervals) + 1


def _heading(chart: LineChart, width: int) -> list[str]:
    """What is measured, and right of it, or below where there is no room, which line is which."""
    names = "   ".join(f"{_MARK if line.dots else '──'} {line.name}" for line in chart.lines if line.name)
    room = width - len(chart.y.title) - len(names)
    return [chart.y.title + " " * room + names] if room > 2 else [chart.y.title, names]


def _tick_line(ticks: dict[int, str], num_columns: int) -> str:
    """The numbers below their ticks, so far as they have room."""
    line = ""
    for column, text in ticks.items():
        start = max(0, min(column - len(text) // 2, num_columns - len(text)))
        if not line or start >= len(line) + 2:
            line = line.ljust(start) + text
    return line


def _draw_curve(cells: list[list[str]], line: Line, x: Scale, y: Scale) -> None:
    """One row in every column between the curve's ends; where it goes up or down, a line from row to row."""
    places = [x(at) for at in line.xs]
    columns = range(round(places[0]), round(places[-1]) + 1)
    rows = np.interp(columns, places, [y(value) for value in line.ys]).round().astype(int).tolist()
    for column, row, before in zip(columns, rows, [rows[0], *rows], strict=False):
        if row == before:
            cells[row][column] = "─"
            continue
        cells[before][column], cells[row][column] = ("╮", "╰") if row > before else ("╯", "╭")
        for between in range(min(row, before) + 1, max(row, before)):
            cells[between][column] = "│"


def _mark(cells: list[list[str]], line: Line, x: Scale, y: Scale) -> None:
    for at, value in zip(line.xs, line.ys, strict=True):
        cells[round(y(value))][round(x(at))] = _MARK


LINE = 96  # characters of a sentence's line, where there is room
BAR = 12  # characters of a bar that stands for all, where there is room
_SHORTEST_BAR = 4
_GAP = 2  # between columns
_NARROWEST_TEXT = 12
_PROVENANCE = ("artifact", "stage", "code_version", "fingerprint", "token_text", "settings", "files")
_MEANINGLESS = {  # settings that say nothing of a kind of model
    "plain": ("fgram_layers", "combine", "learned_rows", "hashed_rows"),
    "hashed": ("fgram_layers", "learned_rows"),
    "scone": ("hashed_rows",),
}
_EIGHTHS = " ▏▎▍▌▋▊▉"
LONGEST_TEXT = 240  # characters of a corpus shown in one cell
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan")  # by length, from 2


def description_text(path: Path, description: Mapping[str, Any]) -> str:
    """What `inspect` found out, for people; where there are figures, these are instead of the first rows."""
    if "portrait" not in description:
        return result_text(harmless(str(path)), description)
    shown = {key: description[key] for key in _PROVENANCE}
    without = _MEANINGLESS.get(description.get("config", {}).get("kind"), ())
    shown["settings"] = {name: value for name, value in shown["settings"].items() if name not in without}
    return (
        result_text(harmless(str(path)), shown)
        + "\n\n"
        + _figures_text(figures_of(description), description["portrait"]["left_out"])
    )


def _figures_text(figures: Sequence[Figure], notes: Sequence[str]) -> str:
    """The figures one below the other, as wide as the terminal; then what was left out of them."""

    def show(console: Console) -> None:
        for figure in figures:
            console.print(Text(figure.title, style="bold"))
            _sentence(console, figure.caption)
            for table in figure.tables:
                console.print()
                if table.title:
                    _sentence(console, table.title)
                console.print(_grid(table, console))
            for chart in () if figure.tables else figure.charts:
                _curves(chart, console)
            console.print()
        if notes:
            console.print(Text("Left out", style="bold"))
        for note in notes:
            _sentence(console, note)

    return drawn(show)


def _curves(chart: Chart, console: Console) -> None:
    if isinstance(chart, LineChart):
        console.print()
        for line in draw(chart, min(console.width, LINE), console.encoding):
            console.print(Text(line), no_wrap=True)


def _sentence(console: Console, text: str) -> None:
    for line in textwrap.wrap(text, min(console.width, LINE), break_on_hyphens=False):
        console.print(Text(line, style="dim"))


def _grid(table: Table, console: Console) -> Grid:
    """A table whose numbers stay whole: where the terminal is too narrow for them they are rounded, 1.02M."""
    cells = _cells(table, value_text)
    if (room := _room(table, cells, console)) < 0:
        cells = _cells(
            table, lambda kind, value: count_text(value) if _is_long(kind, value) else value_text(kind, value)
        )
        room = _room(table, cells, console)
    bar_width = min(BAR, room - _GAP)
    titled = any(column.title for column in table.columns)
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, show_header=titled, padding=(0, 1, 0, 0), header_style="dim")
    columns: list[Iterable[Text]] = []
    for column, texts, values in zip(table.columns, cells, zip(*table.rows, strict=True), strict=True):
        width = None if room < 0 or column.kind == "literal" else _width(column, texts)
        grid.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold", width=width)
        columns.append(map(Text, texts))
        if column.bars and bar_width >= _SHORTEST_BAR:
            grid.add_column("", no_wrap=True, width=bar_width)
            columns.append(Text(bar(value or 0.0, bar_width, console.encoding), style="cyan") for value in values)
    for row in zip(*columns, strict=True):
        grid.add_row(*row)
    return grid


def _cells(table: Table, written: Callable[[Kind, Any], str]) -> list[list[str]]:
    """The texts of every column."""
    return [
        [shortened(written(column.kind, value), LONGEST_TEXT) for value in values]
        for column, values in zip(table.columns, zip(*table.rows, strict=True), strict=True)
    ]


def _is_long(kind: Kind, value: Any) -> bool:
    return kind == "count" and value is not None and value >= 10_000


def _width(column: Column, texts: Sequence[str]) -> int:
    """What a column needs: its cells unbroken, but for text of a corpus, and the words of its title."""
    return max(
        *(cell_len(word) for word in column.title.split() or [""]),
        *(min(cell_len(text), _NARROWEST_TEXT if column.kind == "literal" else LINE) for text in texts),
        1,
    )


def _room(table: Table, cells: Sequence[Sequence[str]], console: Console) -> int:
    """Characters that are left of a line beside a table."""
    needed = (_width(column, texts) + _GAP for column, texts in zip(table.columns, cells, strict=True))
    return console.width - sum(needed)


def bar(share: float, width: int, encoding: str) -> str:
    """A share of `width` characters as a bar, in eighths of a character where the encoding has them."""
    if not encoding.lower().startswith("utf"):
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


# ---- a text in its matches ---------------------------------------------------------------------------------------


def cut_text(cut: Mapping[str, Any]) -> str:
    """The text with every match in brackets, and below it what is used at each position."""

    def show(console: Console) -> None:
        matched = value_text("share", cut["share_matched"])
        length = value_text("number", cut["mean_match_length"])
        summary = f"{cut['tokens']:,} tokens, {matched} matched, mean match length {length}"
        console.print(Text(summary, style="bold"))
        if not cut["segments"]:
            return
        console.print()
        console.print(_brackets(cut["segments"]), overflow="fold", soft_wrap=False)
        console.print()
        _sentence(
            console,
            "Cut from the end: in brackets the longest f-gram that ends there, then what ends before it. Below, the "
            "longest that ends at each position, whose embedding is used there.",
        )
        console.print()
        console.print(_grid(_matches_table(cut["positions"]), console))

    return drawn(show)


def _brackets(segments: Sequence[Mapping[str, Any]]) -> Text:
    text = Text()
    for segment in segments:
        n = segment["n"]
        if n:
            text.append(f"[{segment['text']}]", style=f"bold {_COLOURS[(n - 2) % len(_COLOURS)]}")
        else:
            text.append(segment["text"], style="dim")
    return text


def _matches_table(positions: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        *(Column("position", "count"), Column("token", "literal"), Column("length", "count")),
        *(Column("id", "count"), Column("count", "count"), Column("f-gram", "literal")),
    ]
    keys = ("position", "text", "n", "id", "count", "fgram")
    return Table(columns, [[row[key] for key in keys] for row in positions])


# ---- the terms of a field ----------------------------------------------------------------------------------------


def terms_text(found: Mapping[str, Any]) -> str:
    """How many terms the vocabulary matches whole, in part and not at all; and a row of each."""
    rows = [
        (row["term"], row["match"], occurrences(row, found), row["tokens"], row["spelling"]) for row in found["terms"]
    ]
    columns = [
        *(Column("term", "text"), Column("matched", "text"), Column("occurrences", "written")),
        *(Column("tokens", "count"), Column("its tokens", "literal")),
    ]

    def show(console: Console) -> None:
        told = ", ".join(f"{label(match)} {count:,}" for match, count in found["matches"].items() if count)
        console.print(Text(f"{amount_text(len(rows), 'terms')}: {told}", style="bold"))
        _sentence(
            console,
            "Matched whole: one f-gram is the term. In part: f-grams are some of its tokens. One token: it has an embedding of "
            "its own and needs no f-gram. Occurrences are those of its tokens in the training text: a longer word that begins "
            "with them counts too. A term is spelled in two ways, after a blank and at the beginning of a text, and both are "
            "counted; of a spelling that is longer than the counted n-grams only an upper bound is known: 26 to 31, at most 31.",
        )
        console.print()
        console.print(_grid(Table(columns, rows), console))
        for note in found["left_out"]:
            _sentence(console, f"left out: {note}")

    return drawn(show)


def occurrences(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How often a term occurs: a number, or between which numbers, as far as it is known."""
    if row["count"] is None:
        return "-"
    least = found["least_count"]
    if row["count"] < least and row["tokens"] > 1:
        return f"less than {least:,}"
    if not row["at_most"]:
        return f"{row['count']:,}"
    return f"{row['exact']:,} to {row['count']:,}" if row["exact"] else f"at most {row['count']:,}"
