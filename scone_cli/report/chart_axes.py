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

from rich.cells import cell_len

from scone_cli.formatting import Kind, count_text, harmless, shortened
from scone_cli.report.figures import Axis

# ---- scales: from values to places along an axis, and the round numbers that stand there --------------------------


_LEAST_SPAN = 0.01  # of the values: an axis that shows less of them would make much of nothing
_SHORTENED = 1000  # numbers from here on are written as 1k and so on


@dataclass(frozen=True)
class Scale:
    """Values between `low` and `high` to places between `start` and `end`: pixels, or rows and columns of letters.

    Ticks are `step` apart, from `low` on; those of a logarithmic scale are powers of ten.
    """

    low: float
    high: float
    start: float
    end: float
    step: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """The round values along the scale."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in decades]
        count = int((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + i * self.step, 10) for i in range(count + 1)]

    def labels(self, kind: Kind) -> list[tuple[float, str]]:
        """The places of the ticks, and what stands there: on an even scale all with as many decimals."""
        ticks = self.ticks()
        texts = [f"{100 * tick:.6g}%" if kind == "share" else _tick_text(tick) for tick in ticks]
        if not self.log and max(map(abs, ticks)) < _SHORTENED and kind != "share":
            decimals = max(len(text.partition(".")[2]) for text in texts)
            texts = [f"{tick:.{decimals}f}" for tick in ticks]
        return [(self(tick), text) for tick, text in zip(ticks, texts, strict=True)]


def scale_of(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    """The scale of an axis that shows all `values` (at least one), from the place `start` to `end`."""
    if axis.log:
        low = 10.0 ** math.floor(math.log10(min(values)))
        return Scale(low, max(*values, 10 * low), start, end, step=10, log=True)
    if axis.kind == "share" and axis.ends == "zero" and max(values) > 0.5:
        return Scale(0, 1, start, end, step=0.2)
    least, most = (min(values), max(values)) if axis.ends == "round" else (0.0, max(values) or 1.0)
    if axis.ends == "signed":
        least, most = min(0.0, *values), max(0.0, *values)
    lacking = max(0.0, (_LEAST_SPAN * max(abs(least), abs(most)) or 1.0) - (most - least))
    least, most = least - lacking / 2, most + lacking / 2
    step = _step(most - least)
    if axis.ends == "last":
        return Scale(0, most, start, end, step)
    return Scale(step * math.floor(least / step + 1e-9), step * math.ceil(most / step - 1e-9), start, end, step)


def _step(span: float) -> float:
    """A round step of which four to eight make the span; up to two more where it does not begin at one of them."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 8 >= span * (1 - 1e-9))


def _tick_text(value: float) -> str:
    return count_text(value, _SHORTENED) if abs(value) >= _SHORTENED else f"{value:.6g}"


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
    return _SWATCH + CHARACTER * min(cell_len(name), 40) + _GAP


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
