"""Curves drawn with characters."""

import math
import re

import pytest
from messages import names

from scone_cli.console.figures import draw
from scone_cli.report.figures import Axis, Line, LineChart

TOKENS, LOSS = Axis("tokens", ends="last"), Axis("nats", "measure", ends="round")


def chart(training, held_out=()):
    xs = [1000 * (i + 1) for i in range(len(training))]
    lines = [Line("training", xs, training)]
    if held_out:
        lines.append(Line("held-out", *zip(*held_out, strict=True), dots=True))
    return LineChart("loss", TOKENS, LOSS, lines)


FALLING = chart([8.0, 5.0, 4.0, 4.0, 4.5, 4.0], [(3000, 4.5), (6000, 4.0)])


def test_a_curve_as_it_stands_in_a_terminal():
    """From 8 at 1,000 tokens down to 4 and up and down once; 17 rows, four for every nat; marks over the curve."""
    drawn = draw(FALLING, 40)
    assert max(map(len, drawn)) == 40
    heading, *rows, axis, numbers, title = drawn
    assert len(rows) == 17
    assert [row.split("┤")[0].strip() for row in rows if "┤" in row] == ["8", "7", "6", "5", "4"]
    assert [number for number, row in enumerate(rows) if "┤" in row] == [0, 4, 8, 12, 16]
    assert {row[2] for row in rows} == {"┤", "│"}
    assert (axis[2], axis.count("┬"), set(axis[3:])) == ("└", 7, {"┬", "─"})
    assert numbers.split() == ["0", "1k", "2k", "3k", "4k", "5k", "6k"]
    ticks = [at for at, mark in enumerate(axis) if mark == "┬"]
    labels = [label.span() for label in re.finditer(r"\S+", numbers)]
    assert all(start <= tick < end for tick, (start, end) in zip(ticks, labels, strict=True))
    assert names(heading, "nats", "training", "held-out")
    assert title.strip() == "tokens"
    curve = [{at for at, mark in enumerate(row) if at > 2 and mark in "─│╭╮╰╯"} for row in rows]
    assert all(curve), "it is in every row between its ends"
    down = [min(columns) for columns in curve]
    assert down == sorted(down), "it falls from left to right"
    assert min(curve[0]) == 9  # 1,000 tokens are a sixth of the width
    assert min(curve[16]) < max(curve[14]) < max(curve[16]), "and rises once"
    assert [(number, at) for number, row in enumerate(rows) for at, mark in enumerate(row) if mark == "o"] == [
        (14, 21),
        (16, 39),
    ]


def test_the_same_in_ascii():
    drawn = draw(FALLING, 40, "ascii")
    assert "".join(drawn).isascii()
    assert drawn == [line.translate(str.maketrans("─│╭╮╰╯┤└┬", "-|..''+++")) for line in draw(FALLING, 40)]


def test_one_step_is_a_dash_and_a_mark():
    drawn = draw(chart([7.0], [(1000, 6.0)]), 32)
    shown = [line for line in drawn[1:] if line.endswith(("─", "o"))]
    assert shown == [f"7.0 ┤{'─':>27}", f"6.0 ┤{'o':>27}"]


@pytest.mark.parametrize("width", [12, 32, 60, 96])
@pytest.mark.parametrize(
    "shown",
    [FALLING, chart([7.63]), chart([7.63, 7.62], [(2000, 7.6)]), chart([9 - i / 1000 for i in range(5000)])],
    ids=["falling", "one step", "two steps", "many"],
)
def test_every_point_is_where_the_numbers_beside_it_say(shown, width):
    drawn = draw(shown, width)
    assert max(map(len, drawn)) <= max(width, 27)
    bottom = next(i for i, line in enumerate(drawn) if "└" in line)
    top, margin = next(i for i, line in enumerate(drawn) if "┤" in line), drawn[bottom].index("└") + 1
    high, low = (float(drawn[row][: margin - 1]) for row in (top, bottom - 1))
    num_columns = len(drawn[bottom]) - margin
    last = max(x for line in shown.lines for x in line.xs)
    for line in shown.lines:
        characters = "o" if line.dots else "─│╭╮╰╯o"
        for x, y in list(zip(line.xs, line.ys, strict=True))[:: max(1, len(line.xs) // 20)]:
            column, row = x / last * (num_columns - 1), (high - y) / (high - low) * (bottom - 1 - top)
            near = [drawn[top + r].ljust(200)[margin + c] for r in _around(row) for c in _around(column)]
            assert set(near) & set(characters), (x, y)


def _around(place):
    """The cells that a place may be rounded to; it is rounded twice."""
    return range(max(0, math.floor(place - 0.1)), math.ceil(place + 0.1) + 1)
