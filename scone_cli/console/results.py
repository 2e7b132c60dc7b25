"""Results for people: rich blocks and tables; in a pipe without colours, and with nothing cut off."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scone_cli.console.output import is_terminal
from scone_cli.formatting import label, named_value_text, narrow_value_text, with_same_decimals

NO_WIDTH = 10_000  # columns of a pipe: nothing is cut off or folded
LINE = 80  # columns of running text at most: a pipe or a dumb terminal has no width, and is read at 80


def result_text(heading: str, result: Mapping[str, Any]) -> str:
    """A result for people: scalars one per line, dicts as indented blocks, lists of flat dicts as tables."""
    return drawn(lambda console: _print(console, heading, result))


def drawn(draw: Callable[[Console], None]) -> str:
    """The output of `draw`, as wide as stdout, with colours if it is a terminal, in characters of its encoding."""
    on_terminal = is_terminal(sys.stdout)
    encoding = sys.stdout.encoding or "utf-8"
    raw = io.BytesIO()
    page = io.TextIOWrapper(raw, encoding, errors="backslashreplace")  # rich draws its lines in this encoding
    console = Console(
        file=page,
        force_terminal=on_terminal,
        width=None if on_terminal else NO_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )
    draw(console)
    page.flush()
    return "\n".join(line.rstrip() for line in raw.getvalue().decode(encoding).rstrip().split("\n"))


def sentence(console: Console, text: str, style: str = "dim") -> None:
    """Print running text in lines that are not too long to read; nothing for an empty one."""
    if text:
        console.print(Text(text, style=style), width=min(console.width, LINE))


def _print(console: Console, heading: str, result: Mapping[str, Any]) -> None:
    """Print the scalars of a result, then its dicts and tables."""
    console.print(Text(heading, style="bold"))
    scalars = {key: value for key, value in result.items() if not isinstance(value, dict) and not _is_table(value)}
    if scalars:
        console.print(_block(scalars))
    for key, value in result.items():
        if isinstance(value, dict) and value:
            _print(console, f"\n{label(key)}", value)
        elif _is_table(value):
            console.print(Text(f"\n{label(key)}", style="bold"))  # not the table's own title: that wraps at its width
            console.print(_table(console, value))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _block(values: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in values.items():
        grid.add_row(f"  {label(key)}", named_value_text(key, value))
    return grid


def _table(console: Console, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table; if it is wider than the console, with rounded numbers and less space between columns."""
    table = _drawn(rows, named_value_text, 1)
    whole = console.measure(table, options=console.options.update(width=NO_WIDTH)).maximum
    return table if whole <= console.width else _drawn(rows, narrow_value_text, 0, console.width // 2)


def _drawn(rows: Sequence[Mapping[str, Any]], as_text: Callable[[str, Any], str], space: int, kept: int = 0) -> Table:
    """A table; columns of words, of `kept` characters together, are not broken."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, space))
    columns = []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        is_number = all(isinstance(value, int | float | None) for value in values)
        texts = [as_text(name, value) for value in values]
        columns.append(with_same_decimals(texts) if is_number else texts)
        longest = max(map(len, texts))
        is_kept = not is_number and longest <= kept
        kept -= longest * is_kept
        table.add_column(label(name), justify="right" if is_number else "left", overflow="fold", no_wrap=is_kept)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table
