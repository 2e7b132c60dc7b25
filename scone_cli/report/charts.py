"""Draws charts as SVG elements for an HTML page, without scripts, fonts or other files.

Every point and bar has a title, which browsers show under the mouse pointer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from scone_cli.evaluation.results import BETTER, NOT_SHOWN, SAME, WORSE
from scone_cli.formatting import Kind, count_text, shortened, signed, value_text
from scone_cli.report.chart_axes import (
    BOTTOM,
    CHARACTER,
    DASHES,
    DIGIT,
    HEIGHT,
    NUM_COLOURS,
    RIGHT,
    WIDTH,
    Frame,
    Scale,
    clean,
    frame_of,
    legend,
    picture,
    scale_of,
    tick_labels,
    x_tick,
    x_ticks,
    x_title,
    y_axis,
)
from scone_cli.report.figures import BarChart, Chart, Dot, DotChart, Interval, IntervalChart, Line, LineChart

# ---- single values: differences with their intervals against zero, and named points over two axes -----------------


_ROW = 25  # height of an interval's line
_LONGEST = 20  # characters of a name beside the plot
_CLASSES = {BETTER: "better", WORSE: "worse", NOT_SHOWN: "unshown", SAME: "unshown"}  # of CSS

_FAR = 16.0  # pixels: nobody takes a point that far from a name for the named one

Place = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def _signed(kind: Kind, value: float) -> str:
    return signed(value, value_text(kind, abs(value)))


# ---- intervals ---------------------------------------------------------------------------------------------------


def interval_chart(chart: IntervalChart) -> str:
    """Draw one line per interval: its name, a bar with a dot at the value, and the value as a number."""
    names = [shortened(each.name, _LONGEST) for each in chart.intervals]
    values = [_signed(chart.x.kind, each.value) for each in chart.intervals]
    left = CHARACTER * max(map(cell_len, names)) + 12
    right = WIDTH - CHARACTER * max(6, *map(len, values)) - 10
    frame = Frame(left, 44, right, 44 + _ROW * len(names) + 4)
    ends = [end for each in chart.intervals for end in each.ends]
    x = scale_of(chart.x, [*ends, *chart.beside], frame.left + 6, frame.right - 6)
    marks = [
        *_directions(x),
        *x_ticks(chart.x, x, frame),
        f'<path class="base" d="M{x(0)} {frame.top - 4}V{frame.bottom}"/>',
        x_title(chart.x.title, frame),
    ]
    for i, (each, name, value) in enumerate(zip(chart.intervals, names, values, strict=True)):
        y = frame.top + _ROW * (i + 0.5) + 2
        marks.append(f'<text x="0" y="{y + 4:g}">{clean(name)}</text>')
        marks += _interval(each, chart.x.kind, x, y)
        marks.append(f'<text class="value" x="{WIDTH}" y="{y + 4:g}" text-anchor="end">{value}</text>')
    return picture(chart.title, frame.bottom + BOTTOM, marks)


def _directions(x: Scale) -> Iterator[str]:
    """Arrows above the plot that say which side of 0 is better, where there is room."""
    better, worse = "\N{LEFTWARDS ARROW} better", "worse \N{RIGHTWARDS ARROW}"
    if x(0) - CHARACTER * len(better) > 0:
        yield f'<text class="tick" x="{x(0) - 8:g}" y="34" text-anchor="end">{better}</text>'
    if x(0) + CHARACTER * len(worse) < WIDTH:
        yield f'<text class="tick" x="{x(0) + 8:g}" y="34">{worse}</text>'


def _interval(each: Interval, kind: Kind, x: Scale, y: float) -> Iterator[str]:
    """Draw an interval: a filled dot if a difference is shown, a hollow one if not, as not everybody sees colours."""
    told = f"{each.name}: {_signed(kind, each.value)}"
    if each.low is not None and each.high is not None:
        told += f" ({_signed(kind, each.low)} to {_signed(kind, each.high)}), {each.finding}"
        yield f'<path class="interval {_CLASSES[each.finding]}" d="M{x(each.low)} {y}H{x(each.high)}"/>'
    yield (
        f'<circle class="{_CLASSES[each.finding]}" cx="{x(each.value)}" cy="{y}" r="4.5"><title>{clean(told)}</title></circle>'
    )


# ---- points ------------------------------------------------------------------------------------------------------


def dot_chart(chart: DotChart) -> str:
    """Draw points with their names beside them, where there is free space; strong points lie on top."""
    dots = sorted(chart.dots, key=lambda dot: dot.strong)
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    room = 0.07 * (max(ys) - min(ys))  # for names above and below the points
    ends = [min(ys) - room, max(ys) + room]
    frame = frame_of([], [text for _, text in tick_labels(chart.y, scale_of(chart.y, ends, 1, 0))])
    x, y = scale_of(chart.x, xs, frame.left, frame.right), scale_of(chart.y, ends, frame.bottom, frame.top)
    marks = [*y_axis(chart.y, y, frame), *x_ticks(chart.x, x, frame), x_title(chart.x.title, frame)]
    places = [(x(dot.x), y(dot.y)) for dot in dots]
    for dot, (left, top) in zip(dots, places, strict=True):
        told = f"{dot.name}: {value_text(chart.x.kind, dot.x)}, {value_text(chart.y.kind, dot.y)}"
        kind, radius = ("strong", 6.0) if dot.strong else ("plain", 4.5)
        marks.append(
            f'<circle class="{kind}" cx="{left}" cy="{top}" r="{radius}"><title>{clean(told)}</title></circle>'
        )
    return picture(chart.title, frame.height, [*marks, *_names(dots, places, frame)])


def _names(dots: Sequence[Dot], places: Sequence[Place], frame: Frame) -> Iterator[str]:
    """Place the names, those of strong points first; a name without free space is left out, its point has a title."""
    taken: list[Box] = [(left - 5, top - 5, left + 5, top + 5) for left, top in places]
    for dot, place in reversed(list(zip(dots, places, strict=True))):
        name = shortened(dot.name, _LONGEST)
        width = CHARACTER * cell_len(name) * (1.08 if dot.strong else 1)
        others = [other for other in places if other != place]
        free = [each for each in _beside(place, width) if _is_free(each[2], taken, frame)]
        if free:
            anchor, at, box = max(free, key=lambda each: _distance(each[2], others))
            taken.append(box)
            weight = ' style="font-weight:600"' if dot.strong else ""
            yield f'<text x="{at:g}" y="{box[3] - 3:g}" text-anchor="{anchor}"{weight}>{clean(name)}</text>'


def _beside(place: Place, width: float) -> Iterator[tuple[str, float, Box]]:
    """Places for a name, the best first: the text anchor, its x, and the box that the name fills."""
    left, top = place
    for anchor, at, low in (
        *(
            ("start", left + 9, top + 4),
            ("end", left - 9, top + 4),
            ("middle", left, top - 11),
            ("middle", left, top + 20),
        ),
        *(
            ("start", left + 7, top - 8),
            ("start", left + 7, top + 17),
            ("end", left - 7, top - 8),
            ("end", left - 7, top + 17),
        ),
    ):
        begin = at - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
        yield anchor, at, (begin, low - 12, begin + width, low + 3)


def _is_free(box: Box, taken: Sequence[Box], frame: Frame) -> bool:
    left, top, right, bottom = box
    if left < frame.left or right > frame.right + RIGHT or top < frame.top - 8 or bottom > frame.bottom:
        return False
    return all(right < other[0] or left > other[2] or bottom < other[1] or top > other[3] for other in taken)


def _distance(box: Box, others: Sequence[Place]) -> float:
    """Distance from a name to the nearest other point, at most `_FAR`; a name close to two points is ambiguous."""
    return min((_gap(box, other) for other in others), default=_FAR)


def _gap(box: Box, point: Place) -> float:
    across, down = max(box[0] - point[0], point[0] - box[2], 0), max(box[1] - point[1], point[1] - box[3], 0)
    return min(_FAR, math.hypot(across, down))


__all__ = ["HEIGHT", "WIDTH", "svg"]

_MOST_DOTS = 24  # a curve with more points is drawn without dots


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
    """Draw a curve, with a dot on every point if there are few or `line.dots` says so."""
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
    """Draw a vertical line at the marked place; its label is at the end that is farther from the curve."""
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
    """Draw the bars and names of the categories; names are thinned out where they would overlap."""
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
    """The number above a bar."""
    return "" if value is None else count_text(value) if chart.y.kind == "count" else value_text(chart.y.kind, value)
