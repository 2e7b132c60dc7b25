"""How a result looks to a person: rich blocks and tables, without a cut or a colour where stdout is no terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scone_cli.console import is_terminal, value_text


def result_text(heading: str, result: Mapping[str, Any]) -> str:
    """A result for people: scalars one a line, dicts as indented blocks, lists of flat dicts as tables."""
    on_terminal = is_terminal(sys.stdout)
    encoding = sys.stdout.encoding or "utf-8"
    drawn = io.BytesIO()
    page = io.TextIOWrapper(drawn, encoding, errors="backslashreplace")  # rich draws lines that stdout can show
    console = Console(
        file=page,
        force_terminal=on_terminal,
        width=None if on_terminal else 10_000,  # a pipe has no width: nothing may be cut off
        markup=False,
        emoji=False,
        highlight=False,
    )
    _print(console, heading, result)
    page.flush()
    return "\n".join(line.rstrip() for line in drawn.getvalue().decode(encoding).rstrip().split("\n"))


def _print(console: Console, heading: str, result: Mapping[str, Any]) -> None:
    """The scalars of a result, then what is in its dicts, then its tables."""
    console.print(Text(heading, style="bold"))
    scalars = {key: value for key, value in result.items() if not isinstance(value, dict) and not _is_table(value)}
    if scalars:
        console.print(_block(scalars))
    for key, value in result.items():
        if isinstance(value, dict) and value:
            _print(console, f"\n{_label(key)}", value)
        elif _is_table(value):
            console.print(Text(f"\n{_label(key)}", style="bold"))  # not the table's own title: that wraps at its width
            console.print(_table(value))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _label(key: str) -> str:
    return key.replace("_", " ")


def _block(values: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in values.items():
        grid.add_row(f"  {_label(key)}", value_text(key, value))
    return grid


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        is_number = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(_label(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(value_text(column, row.get(column)) for column in columns))
    return table
