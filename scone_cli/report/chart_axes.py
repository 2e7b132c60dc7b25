"""Titles, legends, axes and grid lines of charts, as pieces of SVG.

A chart is about as wide as a phone, so that its letters are as large as the page's on any screen.
Its colours are CSS variables of the page (`var(--series-0)` and so on), so that it fits a dark screen and paper.
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


_LEAST_SPAN = 0.01  # an axis spans at least this share of its values, so that rounding does not look like a trend
_SHORTENED = 1000  # from here on numbers are written as 1k and so on


@dataclass(frozen=True)
class Scale:
    """Maps values between `low` and `high` to places between `start` and `end`, in pixels or in characters.

    The ticks start at `low` and are `step` apart; on a logarithmic scale they are the powers of ten.
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
        """The round values that are marked along the scale."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in decades]
        count = int((self.high - self.low) / self.step + 1e-9)
        return [round(self.low + i * self.step, 10) for i in range(count + 1)]

    def labels(self, kind: Kind) -> list[tuple[float, str]]:
        """Places and texts of the ticks; on a linear scale all texts have the same number of decimals."""
        ticks = self.ticks()
        texts = [f"{100 * tick:.6g}%" if kind == "share" else _tick_text(tick) for tick in ticks]
        if not self.log and max(map(abs, ticks)) < _SHORTENED and kind != "share":
            decimals = max(len(text.partition(".")[2]) for text in texts)
            texts = [f"{tick:.{decimals}f}" for tick in ticks]
        return [(self(tick), text) for tick, text in zip(ticks, texts, strict=True)]


def scale_of(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    """The scale of an axis that includes all `values` (at least one), from the place `start` to `end`."""
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
    """A round step that divides the span into four to eight parts, or up to ten if the span starts between two steps."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 8 >= span * (1 - 1e-9))


def _tick_text(value: float) -> str:
    return count_text(value, _SHORTENED) if abs(value) >= _SHORTENED else f"{value:.6g}"


WIDTH, HEIGHT = 400, 272  # HEIGHT: with a legend of one line at most
RIGHT, BOTTOM = 16, 46  # space right of the plot and below it
NUM_COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that curves differ on paper without colours
CHARACTER = 7.4  # about the width of a letter of the legend
DIGIT = 8.0  # about the width of a digit
_LINE = 18  # from one line of text to the next
_SWATCH = 24  # the colour sample of a legend and the gap after it
_GAP = 14  # between entries of a legend


@dataclass(frozen=True)
class Frame:
    """The rectangle of the plot within the picture, in pixels."""

    left: float
    top: float
    right: float = WIDTH - RIGHT
    bottom: float = HEIGHT - BOTTOM

    @property
    def height(self) -> float:
        """Height of the whole picture."""
        return self.bottom + BOTTOM


def clean(text: str) -> str:
    """Text escaped for SVG."""
    return escape(harmless(text), quote=True)


def picture(title: str, height: float, marks: Sequence[str]) -> str:
    """Put a title and marks together to one `<svg>` element."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{clean(title)}">'
        f'<text class="name" x="0" y="14">{clean(title)}</text>{"".join(marks)}</svg>'
    )


def frame_of(names: Sequence[str], labels: Sequence[str]) -> Frame:
    """The frame of a plot with a legend of these names (one name needs none) and these labels of the y axis."""
    lines = len(_legend_lines(names))
    lower = _LINE * max(0, lines - 1)
    left = max(30.0, DIGIT * max(map(len, labels), default=0) + 9)
    return Frame(left, 50 + _LINE * lines, bottom=HEIGHT - BOTTOM + lower)


def legend(names: Sequence[str], swatch: str) -> Iterator[str]:
    """Draw the legend: a colour sample and a name for every series, on as many lines as needed."""
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
    """Places and texts of the ticks, with a minus sign instead of a hyphen."""
    return [(place, "\N{MINUS SIGN}" + text[1:] if text[0] == "-" else text) for place, text in scale.labels(axis.kind)]


def y_axis(axis: Axis, scale: Scale, frame: Frame) -> Iterator[str]:
    """Draw the y axis: numbers left of the plot, grid lines, and the title above it."""
    for y, text in tick_labels(axis, scale):
        yield f'<path class="grid" d="M{frame.left} {y}H{frame.right}"/>'
        yield f'<text class="tick" x="{frame.left - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    yield f'<text class="axis" x="0" y="32">{clean(axis.title)}</text>'


def x_ticks(axis: Axis, scale: Scale, frame: Frame) -> Iterator[str]:
    """Draw grid lines and the numbers below the plot; where space is short, every second or third, always 0."""
    labels = tick_labels(axis, scale)
    room = min((b[0] - a[0] for a, b in pairwise(labels)), default=WIDTH)
    every = math.ceil((DIGIT * max(len(text) for _, text in labels) + 8) / room)
    zero = next((i for i, (x, _) in enumerate(labels) if not scale.log and x == scale(0)), 0)
    for i, (x, text) in enumerate(labels):
        yield f'<path class="grid" d="M{x} {frame.top}V{frame.bottom}"/>'
        if (i - zero) % every == 0:
            yield x_tick(x, text, frame)


def x_tick(x: float, text: str, frame: Frame) -> str:
    """Draw one label of the x axis."""
    return f'<text class="tick" x="{x}" y="{frame.bottom + 17:g}" text-anchor="middle">{clean(text)}</text>'


def x_title(title: str, frame: Frame) -> str:
    """Draw the x axis and its title, centred below the plot as far as the picture is wide enough."""
    half = 3.5 * len(title)
    middle = max(half, min(WIDTH - half, (frame.left + frame.right) / 2))
    return (
        f'<path class="base" d="M{frame.left} {frame.bottom}H{frame.right}"/>'
        f'<text class="axis" x="{middle:g}" y="{frame.bottom + 37:g}" text-anchor="middle">{clean(title)}</text>'
    )
