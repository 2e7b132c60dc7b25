"""Figures in a terminal: titles, captions, tables with shares as bars; a text cut into its f-grams; terms of a field."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.bar import Bar
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from scone_cli.console.results import NO_WIDTH, drawn, result_text, sentence
from scone_cli.formatting import Kind, amount_text, count_text, harmless, label, shortened, value_text
from scone_cli.report.figures import Column, Figure, Table
from scone_cli.report.ngram_figures import figures_of

BAR = 12  # columns of the bar for a share of 100%, where there is room
LONGEST_TEXT = 240  # columns of a corpus text shown in one cell
_NARROWEST_TEXT = 12
_PROVENANCE = ("artifact", "stage", "code_version", "fingerprint", "token_text", "settings", "files")
_UNUSED = {  # settings that a kind of model does not use
    "plain": ("fgram_layers", "combine", "learned_rows", "hashed_rows"),
    "hashed": ("fgram_layers", "learned_rows"),
    "scone": ("hashed_rows",),
}
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan")  # by length, from 2


def description_text(path: Path, description: Mapping[str, Any]) -> str:
    """The description of an artifact for people: its provenance, then figures, or else its first rows."""
    if "portrait" not in description:
        return result_text(harmless(str(path)), description)
    unused = _UNUSED.get(description.get("config", {}).get("kind"), ())
    shown = {key: description[key] for key in _PROVENANCE}
    shown["settings"] = {name: value for name, value in shown["settings"].items() if name not in unused}
    page = f"Charts: scone inspect {shlex.quote(str(path))} --html {description['artifact']}.html"
    return (
        result_text(harmless(str(path)), shown)
        + "\n\n"
        + _figures_text(figures_of(description), description["portrait"]["left_out"], page)
    )


def _figures_text(figures: Sequence[Figure], notes: Sequence[str], page: str) -> str:
    """The figures one below the other, what was left out of them, and where their charts are."""

    def show(console: Console) -> None:
        for figure in figures:
            console.print(Text(figure.title, style="bold"))
            sentence(console, figure.caption)
            for table in figure.tables:
                console.print()
                sentence(console, table.title)
                console.print(_grid(table, console))
            console.print()
        if notes:
            console.print(Text("Left out", style="bold"))
        for note in notes:
            sentence(console, note)
        sentence(console, harmless(page))

    return drawn(show)


def _grid(table: Table, console: Console) -> Grid:
    """The table with bars and whole numbers; where that is too wide, without bars, then with rounded numbers (1.02M)."""
    unlimited = console.options.update(width=NO_WIDTH)
    bar = _ascii_bar if unlimited.ascii_only else _bar
    for form in ((value_text, bar), (value_text, None), (_rounded, bar), (_rounded, None)):
        grid = _grid_of(table, *form)
        if console.measure(grid, options=unlimited).minimum <= console.width:
            return grid
    return _grid_of(table, _rounded, None, folds=True)


def _grid_of(
    table: Table,
    written: Callable[[Kind, Any], str],
    bar: Callable[[float | None], RenderableType] | None,
    folds: bool = False,
) -> Grid:
    """Columns keep their cells whole, but for texts of a corpus, or if the table `folds`; bars take what is left."""
    titled = any(column.title for column in table.columns)
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, show_header=titled, padding=(0, 1, 0, 0), header_style="dim")
    columns: list[Iterable[RenderableType]] = []
    for column, values in zip(table.columns, zip(*table.rows, strict=True), strict=True):
        texts = [shortened(written(column.kind, value), LONGEST_TEXT) for value in values]
        is_literal = column.kind == "literal"
        width = None if folds or is_literal else max(map(cell_len, [*column.title.split(), *texts, " "]))
        grid.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold", width=width)
        columns.append(map(_Literal if is_literal else Text, texts))
        if column.bars and bar:
            grid.add_column("", max_width=BAR)
            columns.append(map(bar, values))
    for row in zip(*columns, strict=True):
        grid.add_row(*row)
    return grid


def _bar(share: float | None) -> RenderableType:
    return Bar(1, 0, share or 0, color="cyan")


def _ascii_bar(share: float | None) -> RenderableType:
    """A bar of dashes, where stdout has no blocks; the rest is blank, as a bar of rich differs by its colour only."""
    return Text("-" * round(BAR * (share or 0)))


def _rounded(kind: Kind, value: Any) -> str:
    """The value in a narrow table: of a large count the first three digits."""
    return count_text(value) if kind == "count" and value is not None else value_text(kind, value)


class _Literal(Text):
    """A text of a corpus, which may be broken anywhere: rich asks words for their whole length, and here are no blanks."""

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(_NARROWEST_TEXT, self.cell_len), self.cell_len)


# ---- a text cut into f-grams -------------------------------------------------------------------------------------


def cut_text(cut: Mapping[str, Any]) -> str:
    """The text with every f-gram in brackets, and below it the f-gram that is used at each position."""

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
        sentence(
            console,
            "The text is split from its end: the longest f-gram that ends there is in brackets, then the longest that ends "
            "before it, and so on. Below is the longest f-gram at each position, whose embedding is used there.",
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
    """How many terms the vocabulary matches whole, in part and not at all; and a row per term."""
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
        sentence(
            console,
            "Whole: one f-gram is the term. In part: f-grams cover some of its tokens. One token: it has its own embedding and "
            "needs no f-gram. Occurrences are those of its tokens in the training text, also inside a longer word that begins "
            "with them. A term has two spellings, after a space and at the beginning of a text; both are counted. For a "
            "spelling longer than the counted n-grams only an upper bound is known: 26 to 31, at most 31.",
        )
        console.print()
        console.print(_grid(Table(columns, rows), console))
        for note in found["left_out"]:
            sentence(console, f"left out: {note}")

    return drawn(show)


def occurrences(row: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How often a term occurs: a number, or a range if the exact number is not known."""
    if row["count"] is None:
        return "-"
    least = found["least_count"]
    if row["count"] < least and row["tokens"] > 1:
        return f"less than {least:,}"
    if not row["at_most"]:
        return f"{row['count']:,}"
    return f"{row['exact']:,} to {row['count']:,}" if row["exact"] else f"at most {row['count']:,}"
