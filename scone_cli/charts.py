"""Charts as SVG that stands inside an HTML page: no script, no font and no file from elsewhere.

Colours are the page's (`var(--series-0)` and so on), so that a chart is right on a dark screen and on paper. Every
mark has a title, which browsers show when the pointer rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from scone_cli.figures import Axis, BarChart, Chart, Line, LineChart, short_count, value_text
from scone_cli.scales import Scale, scale_of

WIDTH, HEIGHT = 480, 300  # drawn at about its own size, so that letters are as large as the page's
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 40, 52
NUM_COLOURS = 8
_DASHES = ("", "7 3", "2 3", "9 3 2 3")  # so that curves can be told apart on paper without colours
_CHARACTER = 6.7  # width of a letter, about
_DIGIT = 6.2  # width of a digit, about
_MOST_DOTS = 24  # of a curve whose points are marked


def svg(chart: Chart) -> str:
    """Draw a chart; the result is one well-formed `<svg>` element."""
    marks = _lines(chart) if isinstance(chart, LineChart) else _bars(chart)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_clean(chart.title)}">'
        f'<text class="name" x="{LEFT}" y="14">{_clean(chart.title)}</text>{"".join(marks)}</svg>'
    )


def _clean(text: str) -> str:
    return escape(text, quote=True)


# ---- axes --------------------------------------------------------------------------------------------------------


def _y_axis(axis: Axis, scale: Scale) -> Iterator[str]:
    for y, text in scale.labels(axis.kind):
        yield f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        yield f'<text class="tick" x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{text}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield (
        f'<text class="axis" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{_clean(axis.title)}</text>"
    )


def _x_title(title: str) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text class="axis" x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{_clean(title)}</text>'
    )


def _x_tick(x: float, text: str) -> str:
    return f'<text class="tick" x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_clean(text)}</text>'


def _legend(names: Sequence[str], swatch: str) -> Iterator[str]:
    """A swatch and a name for every series, right of the chart's title's line; one series needs none."""
    if len(names) < 2:
        return
    x = WIDTH - RIGHT - sum(_CHARACTER * len(name) + 36 for name in names)
    for i, name in enumerate(names):
        yield swatch.format(x=x, colour=i % NUM_COLOURS, dash=_DASHES[i % len(_DASHES)])
        yield f'<text class="tick" x="{x + 24}" y="31">{_clean(name)}</text>'
        x += _CHARACTER * len(name) + 36


# ---- curves ------------------------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> Iterator[str]:
    points = [point for line in chart.lines for point in zip(line.xs, line.ys, strict=True)]
    x = scale_of(chart.x, [point[0] for point in points], LEFT, WIDTH - RIGHT)
    y = scale_of(chart.y, [point[1] for point in points], HEIGHT - BOTTOM, TOP)
    yield from _y_axis(chart.y, y)
    for place, text in x.labels(chart.x.kind):
        yield f'<path class="grid" d="M{place} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield _x_tick(place, text)
    yield _x_title(chart.x.title)
    yield from _legend(
        [line.name for line in chart.lines],
        '<path class="line" d="M{x} 27h18" style="stroke:var(--series-{colour})" stroke-dasharray="{dash}"/>',
    )
    if chart.mark:
        yield from _mark(x(chart.mark[0]), chart.mark[1])
    for i, line in enumerate(chart.lines):
        yield from _line(chart, line, i, x, y)


def _line(chart: LineChart, line: Line, number: int, x: Scale, y: Scale) -> Iterator[str]:
    """The curve, and where it has few points, or they are to be marked, a dot on each of them."""
    places = [(x(at), y(value)) for at, value in zip(line.xs, line.ys, strict=True)]
    path = "L".join(f"{left} {top}" for left, top in places)
    colour = f"var(--series-{number % NUM_COLOURS})"
    yield (
        f'<path class="line" d="M{path}" style="stroke:{colour}" stroke-dasharray="{_DASHES[number % len(_DASHES)]}">'
        f"<title>{_clean(line.name)}</title></path>"
    )
    if line.dots or len(places) <= _MOST_DOTS:
        for (left, top), at, value in zip(places, line.xs, line.ys, strict=True):
            told = f"{value_text(chart.x.kind, at)}: {value_text(chart.y.kind, value)}"
            yield f'<circle cx="{left}" cy="{top}" r="3" style="fill:{colour}"><title>{_clean(told)}</title></circle>'


def _mark(x: float, label: str) -> Iterator[str]:
    yield f'<path class="mark" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>'
    anchor, shift = ("end", -6) if x > WIDTH / 2 else ("start", 6)
    yield f'<text class="tick" x="{x + shift}" y="{HEIGHT - BOTTOM - 8}" text-anchor="{anchor}">{_clean(label)}</text>'


# ---- bars --------------------------------------------------------------------------------------------------------


def _bars(chart: BarChart) -> Iterator[str]:
    known = [value for bars in chart.bars for value in bars.values if value is not None]
    y = scale_of(chart.y, known or [0.0], HEIGHT - BOTTOM, TOP)
    yield from _y_axis(chart.y, y)
    yield from _legend(
        [bars.name for bars in chart.bars],
        '<rect x="{x}" y="21" width="18" height="11" rx="2" style="fill:var(--series-{colour})"/>',
    )
    room = (WIDTH - RIGHT - LEFT) / max(len(chart.categories), 1)
    width = min(0.76 * room / len(chart.bars), 60.0)
    longest = max(map(len, chart.categories), default=0) * _DIGIT
    every = math.ceil((longest + 6) / room)  # where names have no room, some are left out
    for i, category in enumerate(chart.categories):
        middle = LEFT + (i + 0.5) * room
        if i % every == 0:
            yield _x_tick(round(middle, 1), category)
        for k, bars in enumerate(chart.bars):
            left = middle + (k - len(chart.bars) / 2) * width
            yield from _bar(chart, category, k, bars.values[i], (left, width), y)
    yield _x_title(chart.x)


def _bar(
    chart: BarChart, category: str, number: int, value: float | None, place: tuple[float, float], y: Scale
) -> Iterator[str]:
    """A bar from the axis up, and its value above it where there is room for the digits."""
    if value is None:
        return
    (left, width), top, told = place, y(value), value_text(chart.y.kind, value)
    name = chart.bars[number].name
    yield (
        f'<rect x="{left + 0.5:.1f}" y="{top}" width="{width - 1:.1f}" height="{HEIGHT - BOTTOM - top:.1f}" '
        f'style="fill:var(--series-{number % NUM_COLOURS})"><title>{_clean(f"{name}, {category}: {told}")}</title></rect>'
    )
    text = short_count(value) if chart.y.kind == "count" else told
    if len(text) * _DIGIT <= (width / 0.76 if len(chart.bars) == 1 else width) - 2:
        yield f'<text class="value" x="{left + width / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle">{text}</text>'
