"""Figures in a terminal: titles, what they say, tables with shares as bars, curves; and a text in its matches."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from scone_cli.curves import draw
from scone_cli.figures import Chart, Column, Figure, LineChart, Table
from scone_cli.formatting import Kind, short_count, value_text
from scone_cli.tables import drawn, result_text
from scone_cli.views import figures_of

LINE = 96  # characters of a sentence's line, where there is room
BAR = 12  # characters of a bar that stands for all, where there is room
_SHORTEST_BAR = 4
_GAP = 2  # between columns
_NARROWEST_TEXT = 12
_PROVENANCE = ("artifact", "stage", "code_version", "fingerprint", "token_text", "settings", "files")
_EIGHTHS = " ▏▎▍▌▋▊▉"
LONGEST_TEXT = 240  # characters of a corpus shown in one cell
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan")  # by length, from 2


def description_text(path: Path, description: Mapping[str, Any]) -> str:
    """What `inspect` found out, for people; where there are figures, these are instead of the first rows."""
    if "portrait" not in description:
        return result_text(str(path), description)
    shown = {key: description[key] for key in _PROVENANCE}
    return (
        result_text(str(path), shown)
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
            table, lambda kind, value: short_count(value) if _is_long(kind, value) else value_text(kind, value)
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
        [_shortened(written(column.kind, value)) for value in values]
        for column, values in zip(table.columns, zip(*table.rows, strict=True), strict=True)
    ]


def _is_long(kind: Kind, value: Any) -> bool:
    return kind == "count" and value is not None and value >= 10_000


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


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
        if cut["replaced"]:
            _sentence(console, f"{cut['replaced']:,} characters or bytes that are no Unicode were replaced by U+FFFD.")
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
        *(Column("id = rank", "count"), Column("count", "count"), Column("f-gram", "literal")),
    ]
    keys = ("position", "text", "n", "id", "count", "fgram")
    return Table(columns, [[row[key] for key in keys] for row in positions])
