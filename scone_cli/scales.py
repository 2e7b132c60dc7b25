"""From values to places along an axis, and the round numbers that stand there: for charts as SVG and in characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scone_cli.figures import Axis
from scone_cli.formatting import Kind, short_count

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
    return short_count(value) if abs(value) >= _SHORTENED else f"{value:.6g}"
