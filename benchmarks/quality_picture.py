"""The picture of `bench_quality.py`: bits per byte against resident parameters, plain as a line, the others as points.

The result is one self-contained SVG: its own background, light and dark colours, no script and no embedded font.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from quality_report import Outcome

from scone_cli.formatting import count_text
from scone_cli.report.chart_axes import Scale, scale_of
from scone_cli.report.figures import Axis

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 46, 58
NAMES = 190  # pixels left of the smallest model, for the names of points of its size
_LINE = 15  # pixels between two names
_ROUND = (1, 1.5, 2, 3, 5, 7)  # ticks of the size axis: these numbers times powers of ten
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2127; --soft: #5c6670; --hair: #e3e7eb;
 --plain: #2b6cb0; --scone: #d5761c; --hashed: #2f8f5b; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9aa4ad; --hair: #2c3238;
 --plain: #6aa9e9; --scone: #f0a25a; --hashed: #63c08d; } }
text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
.name { font-weight: 600; font-size: 14px; }
.soft { fill: var(--soft); }
.grid { stroke: var(--hair); fill: none; }
.base, .lead { stroke: var(--soft); fill: none; }
.lead { stroke-width: .7; }
.line { stroke: var(--plain); stroke-width: 2.2; fill: none; }
.spread { stroke-width: 1.4; fill: none; }
"""


@dataclass(frozen=True)
class Point:
    """One arm in the picture: size, bits per byte, seeds and label; `on_line`: the line of plain models goes through it."""

    kind: str
    on_line: bool
    label: str
    size: float
    bits: float
    seeds: tuple[float, ...]


def picture(outcomes: Mapping[str, Outcome]) -> str:
    """Draw all arms (at least one) as a complete SVG file."""
    points = [_point(outcome) for outcome in outcomes.values()]
    sizes = [point.size for point in points]
    x = Scale(0.95 * min(sizes), 1.4 * max(sizes), LEFT + NAMES, WIDTH - RIGHT, step=10, log=True)
    values = [value for point in points for value in point.seeds]
    y = scale_of(Axis("bits per byte", "number", ends="round"), values, HEIGHT - BOTTOM, TOP)
    plain = sorted((point for point in points if point.kind == "plain"), key=lambda point: point.size)
    joined = [point for point in plain if point.on_line]
    others = [point for point in points if point.kind != "plain"]
    title = "Bits per byte of held-out text against resident parameters"
    marks = [*_axes(x, y), *_line(joined, x, y), *(mark for point in points for mark in _dot(point, x, y))]
    marks += [*_names_of_line(plain, x, y), *_names_of_points(others, x, y)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{title}">\n<style>{_STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" style="fill:var(--paper)"/>\n'
        f'<text class="name" x="{LEFT}" y="24">{title}</text>\n' + "\n".join(marks) + "\n</svg>\n"
    )


def _point(outcome: Outcome) -> Point:
    size = outcome.facts["resident_non_embedding_parameters"]
    kind, bits = outcome.findings[0].run.config.kind, outcome.bits(outcome.nats).value
    is_variant = not outcome.arm.name.endswith("x")  # such as plain-2.5x-deeper: a second model of a size
    return Point(
        kind, kind == "plain" and not is_variant, outcome.arm.label, size, bits, tuple(outcome.seeds().values())
    )


def _axes(x: Scale, y: Scale) -> Iterator[str]:
    for place, text in y.labels("number"):
        yield f'<path class="grid" d="M{LEFT} {place}H{WIDTH - RIGHT}"/>'
        yield f'<text class="soft" x="{LEFT - 8}" y="{place + 4}" text-anchor="end">{text}</text>'
    ticks = [factor * 10.0**power for power in range(2, 13) for factor in _ROUND]
    for tick in (tick for tick in ticks if x.low <= tick <= x.high):
        yield f'<path class="grid" d="M{x(tick)} {TOP}V{HEIGHT - BOTTOM}"/>'
        yield f'<text class="soft" x="{x(tick)}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{count_text(tick)}</text>'
    yield f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
    across, up = (x.start + x.end) / 2, (TOP + HEIGHT - BOTTOM) / 2
    named = "resident parameters without embeddings"
    yield f'<text class="soft" x="{across}" y="{HEIGHT - 14}" text-anchor="middle">{named}</text>'
    yield f'<text class="soft" x="16" y="{up}" text-anchor="middle" transform="rotate(-90 16 {up})">bits per byte</text>'


def _line(plain: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    if len(plain) > 1:
        yield f'<path class="line" d="M{"L".join(f"{x(point.size)} {y(point.bits)}" for point in plain)}"/>'


def _dot(point: Point, x: Scale, y: Scale) -> Iterator[str]:
    """Draw an arm as a dot, with a stroke from its best to its worst seed if there are several."""
    colour, left = f"var(--{point.kind})", x(point.size)
    if len(point.seeds) > 1:
        yield f'<path class="spread" d="M{left} {y(min(point.seeds))}V{y(max(point.seeds))}" style="stroke:{colour}"/>'
    told = escape(f"{point.label}: {point.bits:.4f}")
    yield f'<circle cx="{left}" cy="{y(point.bits)}" r="4" style="fill:{colour}"><title>{told}</title></circle>'


def _names_of_line(plain: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    """Draw the names of plain models: right of the points and above, as the line falls; variants left and below."""
    for point in plain:
        shift, drop, anchor = (9, -5, "start") if point.on_line else (-7, 14, "end")
        place = f'x="{x(point.size) + shift:.1f}" y="{y(point.bits) + drop:.1f}" text-anchor="{anchor}"'
        yield f'<text {place} style="fill:var(--plain)">{escape(point.label)}</text>'


def _names_of_points(others: Sequence[Point], x: Scale, y: Scale) -> Iterator[str]:
    """Draw the names of the other arms, left of their points; close names are moved apart, with a stroke to the point."""
    ordered = sorted(others, key=lambda point: y(point.bits))
    tops = _apart([y(point.bits) for point in ordered], TOP + 8, HEIGHT - BOTTOM - 8)
    for point, top in zip(ordered, tops, strict=True):
        right, colour = x(point.size) - 22, f"var(--{point.kind})"
        yield f'<path class="lead" d="M{right + 3} {top}L{x(point.size) - 5} {y(point.bits)}"/>'
        text = escape(point.label)
        yield f'<text x="{right}" y="{top + 4:.1f}" text-anchor="end" style="fill:{colour}">{text}</text>'


def _apart(places: Sequence[float], first: float, last: float) -> list[float]:
    """Move ascending positions so that all are at least a line apart, and within `first` and `last` if there is room."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + _LINE if moved else first))
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - _LINE if i + 1 < len(moved) else last)
    return moved
