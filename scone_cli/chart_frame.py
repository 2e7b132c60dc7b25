"""What all charts are drawn on: the title, the legend, the axes and the lines of a grid, as pieces of SVG.

A chart is about as wide as a phone, so that letters are as large as the page's on any screen; it is as high as it needs to be.
Colours are the page's (`var(--series-0)` and so on), so that a chart is right on a dark screen and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from scone_cli.figures import Axis
from scone_cli.formatting import harmless
from scone_cli.scales import Scale

WIDTH, HEIGHT = 400, 272  # HEIGHT: with a legend of one line at most
RIGHT, BOTTOM = 16, 46  # room beside and below the plot
NUM_COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that curves can be told apart on paper without colours
CHARACTER = 7.4  # width of a letter of the legend, about
DIGIT = 8.0  # width of a digit, about
_LINE = 18  # from one line of text to the next
_SWATCH = 24  # a legend's sample with the gap after it
_GAP = 14  # between entries of a legend


@dataclass(frozen=True)
class Frame:
    """Where the plot lies within the picture."""

    left: float
    top: float
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM

    @property
    def height(self) -> float:
        """Of the whole picture."""
        return self.bottom + BOTTOM


def clean(text: str) -> str:
    """Text as it may stand in SVG."""
    return escape(harmless(text), quote=True)


def shortened(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def picture(title: str, height: float, marks: Sequence[str]) -> str:
    """One well-formed `<svg>` element."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{clean(title)}">'
        f'<text class="name" x="0" y="14">{clean(title)}</text>{"".join(marks)}</svg>'
    )


def frame_of(names: Sequence[str], labels: Sequence[str]) -> Frame:
    """The frame of a plot with these series (one needs no legend), and these numbers along its y axis."""
    lines = len(_legend_lines(names))
    lower = _LINE * max(0, lines - 1)
    left = max(30.0, DIGIT * max(map(len, labels), default=0) + 9)
    return Frame(left, 50 + _LINE * lines, bottom=HEIGHT - BOTTOM + lower)


def legend(names: Sequence[str], swatch: str) -> Iterator[str]:
    """A swatch and a name for every series, below the title and what is measured, in as many lines as are needed."""
    number = 0
    for i, line in enumerate(_legend_lines(names)):
        x, y = 0.0, 51 + _LINE * i
        for name in line:
            colour, dash = number % NUM_COLOURS, DASHES[number % len(DASHES)]
            yield f'<g transform="translate({x:.1f} {y})">{swatch.format(colour=colour, dash=dash)}</g>'
            yield f'<text class="tick" x="{x + _SWATCH:.1f}" y="{y}">{clean(shortened(name, 40))}</text>'
            x += _entry_width(name)
            number += 1


def _legend_lines(names: Sequence[str]) -> list[list[str]]:
    if len(names) < 2:
        return []
    lines: list[list[str]] = [[]]
    for name in names:
        if lines[-1] and sum(map(_entry_width, [*lines[-1], name])) > WIDTH + _GAP:
            lines.append([])
        lines[-1].append(name)
    return lines


def _entry_width(name: str) -> float:
    return _SWATCH + CHARACTER * min(len(name), 40) + _GAP


# ---- axes --------------------------------------------------------------------------------------------------------


def tick_labels(axis: Axis, scale: Scale) -> list[tuple[float, str]]:
    """Places and texts, with a minus that is one."""
    return [(place, "\N{MINUS SIGN}" + text[1:] if text[0] == "-" else text) for place, text in scale.labels(axis.kind)]


def y_axis(axis: Axis, scale: Scale, frame: Frame) -> Iterator[str]:
    """Numbers left of the plot, lines through it, and above all what is measured."""
    for y, text in tick_labels(axis, scale):
        yield f'<path class="grid" d="M{frame.left} {y}H{frame.right}"/>'
        yield f'<text class="tick" x="{frame.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<text class="axis" x="0" y="32">{clean(axis.title)}</text>'


def x_ticks(axis: Axis, scale: Scale, frame: Frame) -> Iterator[str]:
    """Numbers below the plot, 0 and every second, third, ... from it if not all have room, and lines through it."""
    labels = tick_labels(axis, scale)
    room = min((b[0] - a[0] for a, b in pairwise(labels)), default=WIDTH)
    every = math.ceil((DIGIT * max(len(text) for _, text in labels) + 8) / room)
    zero = next((i for i, (x, _) in enumerate(labels) if not scale.log and x == scale(0)), 0)
    for i, (x, text) in enumerate(labels):
        yield f'<path class="grid" d="M{x} {frame.top}V{frame.bottom}"/>'
        if (i - zero) % every == 0:
            yield x_tick(x, text, frame)


def x_tick(x: float, text: str, frame: Frame) -> str:
    """What stands at one place of the x axis."""
    return f'<text class="tick" x="{x}" y="{frame.bottom + 17:g}" text-anchor="middle">{clean(text)}</text>'


def x_title(title: str, frame: Frame) -> str:
    """What is measured along the x axis, and its line; below the plot's middle as far as the title has room there."""
    half = 3.5 * len(title)
    middle = max(half, min(WIDTH - half, (frame.left + frame.right) / 2))
    return (
        f'<path class="base" d="M{frame.left} {frame.bottom}H{frame.right}"/>'
        f'<text class="axis" x="{middle:g}" y="{frame.bottom + 37:g}" text-anchor="middle">{clean(title)}</text>'
    )
