"""Charts as SVG that stands inside an HTML page: no script, no font and no file from elsewhere.

Every mark has a title, which browsers show when the pointer rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from scone_cli.chart_frame import (
    CHARACTER,
    DASHES,
    DIGIT,
    HEIGHT,
    NUM_COLOURS,
    WIDTH,
    Frame,
    clean,
    frame_of,
    legend,
    picture,
    tick_labels,
    x_tick,
    x_ticks,
    x_title,
    y_axis,
)
from scone_cli.figures import BarChart, Chart, DotChart, IntervalChart, Line, LineChart
from scone_cli.formatting import short_count, value_text
from scone_cli.point_charts import dot_chart, interval_chart
from scone_cli.scales import Scale, scale_of

__all__ = ["HEIGHT", "WIDTH", "svg"]

_MOST_DOTS = 24  # of a curve whose points are marked


def svg(chart: Chart) -> str:
    """Draw a chart; the result is one well-formed `<svg>` element."""
    match chart:
        case LineChart():
            return _lines(chart)
        case BarChart():
            return _bars(chart)
        case IntervalChart():
            return interval_chart(chart)
        case DotChart():
            return dot_chart(chart)


# ---- curves ------------------------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> str:
    points = [point for line in chart.lines for point in zip(line.xs, line.ys, strict=True)]
    ys, names = [point[1] for point in points], [line.name for line in chart.lines]
    frame = frame_of(names, [text for _, text in tick_labels(chart.y, scale_of(chart.y, ys, 1, 0))])
    x = scale_of(chart.x, [point[0] for point in points], frame.left, frame.right)
    y = scale_of(chart.y, ys, frame.bottom, frame.top)
    swatch = '<path class="line" d="M0 -4h18" style="stroke:var(--series-{colour})" stroke-dasharray="{dash}"/>'
    marks = [
        *y_axis(chart.y, y, frame),
        *x_ticks(chart.x, x, frame),
        x_title(chart.x.title, frame),
        *legend(names, swatch),
        *(_mark(chart, x, y, frame) if chart.mark else ()),
        *(piece for i, line in enumerate(chart.lines) for piece in _line(chart, line, i, x, y)),
    ]
    return picture(chart.title, frame.height, marks)


def _line(chart: LineChart, line: Line, number: int, x: Scale, y: Scale) -> Iterator[str]:
    """The curve, and where it has few points, or they are to be marked, a dot on each of them."""
    places = [(x(at), y(value)) for at, value in zip(line.xs, line.ys, strict=True)]
    path = "L".join(f"{left} {top}" for left, top in places)
    colour = f"var(--series-{number % NUM_COLOURS})"
    yield (
        f'<path class="line" d="M{path}" style="stroke:{colour}" stroke-dasharray="{DASHES[number % len(DASHES)]}">'
        f"<title>{clean(line.name)}</title></path>"
    )
    if line.dots or len(places) <= _MOST_DOTS:
        for (left, top), at, value in zip(places, line.xs, line.ys, strict=True):
            told = f"{value_text(chart.x.kind, at)}: {value_text(chart.y.kind, value)}"
            yield f'<circle cx="{left}" cy="{top}" r="3" style="fill:{colour}"><title>{clean(told)}</title></circle>'


def _mark(chart: LineChart, x: Scale, y: Scale, frame: Frame) -> Iterator[str]:
    """A line at a place of the x axis; its label is at the end of the line that is farther from the curve."""
    assert chart.mark is not None
    at, label = chart.mark
    place, line = x(at), chart.lines[0]
    curve = y(min(zip(line.xs, line.ys, strict=True), key=lambda point: abs(x(point[0]) - place))[1])
    top = frame.bottom - 8 if curve < (frame.top + frame.bottom) / 2 else frame.top + 12
    anchor, shift = ("end", -6) if place + CHARACTER * len(label) > frame.right else ("start", 6)
    yield f'<path class="mark" d="M{place} {frame.top}V{frame.bottom}"/>'
    yield f'<text class="tick" x="{place + shift}" y="{top:g}" text-anchor="{anchor}">{clean(label)}</text>'


# ---- bars --------------------------------------------------------------------------------------------------------


def _bars(chart: BarChart) -> str:
    known = [value for bars in chart.bars for value in bars.values if value is not None] or [0.0]
    names = [bars.name for bars in chart.bars]
    frame = frame_of(names, [text for _, text in tick_labels(chart.y, scale_of(chart.y, known, 1, 0))])
    y = scale_of(chart.y, known, frame.bottom, frame.top)
    swatch = '<rect x="0" y="-10" width="18" height="11" rx="2" style="fill:var(--series-{colour})"/>'
    marks = [*y_axis(chart.y, y, frame), *legend(names, swatch), *_categories(chart, frame, y)]
    return picture(chart.title, frame.height, [*marks, x_title(chart.x, frame)])


def _categories(chart: BarChart, frame: Frame, y: Scale) -> Iterator[str]:
    """The bars of every category, and its name, if names have room; otherwise some are left out."""
    room = (frame.right - frame.left) / max(len(chart.categories), 1)
    width = min(0.76 * room / len(chart.bars), 60.0)
    longest = max(map(len, chart.categories), default=0) * DIGIT
    every = math.ceil((longest + 6) / room)
    texts = [[_digits(chart, value) for value in bars.values] for bars in chart.bars]
    has_room = max(len(text) for each in texts for text in each) * DIGIT <= (room if len(texts) == 1 else width) - 2
    for i, category in enumerate(chart.categories):
        middle = frame.left + (i + 0.5) * room
        if i % every == 0:
            yield x_tick(round(middle, 1), category, frame)
        for k, bars in enumerate(chart.bars):
            if (value := bars.values[i]) is not None:
                left = middle + (k - len(chart.bars) / 2) * width
                top, height = min(y(value), y(0)), abs(y(0) - y(value))
                told = clean(f"{bars.name}, {category}: {value_text(chart.y.kind, value)}")
                yield (
                    f'<rect x="{left + 0.5:.1f}" y="{top}" width="{width - 1:.1f}" height="{height:.1f}" rx="1.5" '
                    f'style="fill:var(--series-{k % NUM_COLOURS})"><title>{told}</title></rect>'
                )
                if has_room:
                    x = left + width / 2
                    yield f'<text class="value" x="{x:.1f}" y="{top - 4:.1f}" text-anchor="middle">{texts[k][i]}</text>'


def _digits(chart: BarChart, value: float | None) -> str:
    """What stands above a bar, where all of them have room."""
    return "" if value is None else short_count(value) if chart.y.kind == "count" else value_text(chart.y.kind, value)
