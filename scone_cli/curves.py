"""A chart of curves drawn with characters, for a terminal: axes with their numbers, lines of box characters, marks.

It needs no colour, and no character but ASCII where the encoding has no other.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from scone_cli.figures import Line, LineChart
from scone_cli.scales import Scale, scale_of

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
