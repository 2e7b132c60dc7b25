"""How a result looks to a person: rich blocks and tables, without a cut or a colour where stdout is no terminal."""

from __future__ import annotations

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
    console = Console(
        file=sys.stdout,
        force_terminal=on_terminal,
        width=None if on_terminal else 10_000,  # a pipe has no width: nothing may be cut off
        markup=False,
        emoji=False,
        highlight=False,
    )
    scalars = {key: value for key, value in result.items() if not isinstance(value, dict) and not _is_table(value)}
    with console.capture() as capture:
        console.print(Text(heading, style="bold"))
        if scalars:
            console.print(_block(scalars))
        for key, value in result.items():
            if _is_table(value):
                console.print(_table(_label(key), value))
            elif isinstance(value, dict) and value:
                console.print(Text(f"\n{_label(key)}", style="bold"))
                console.print(_block(value))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


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


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        is_number = all(isinstance(row.get(column), int | float | None) for row in rows)
        table.add_column(_label(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(value_text(column, row.get(column)) for column in columns))
    return table
