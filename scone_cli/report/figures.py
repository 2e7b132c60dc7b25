"""Charts, tables and figures as data, before they are drawn: the same for a page and for a terminal.

`charts` draws a chart as SVG, `page` writes figures as an HTML page, `console.figures` shows them in a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scone_cli.formatting import Kind


@dataclass(frozen=True)
class Column:
    """A column of a table. With `bars`, its shares are drawn as bars beside the numbers."""

    title: str
    kind: Kind
    bars: bool = False

    @property
    def is_number(self) -> bool:
        """Whether its values are right-aligned."""
        return self.kind not in {"text", "literal"}


@dataclass(frozen=True)
class Table:
    """Rows of values, one value per column, with an optional title.

    A page highlights the rows whose numbers are in `strong`. It folds a `folded` table: a click on the title opens it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    strong: Sequence[int] = ()
    folded: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, how its numbers are written, and where it ends.

    A linear axis goes from 0 to a round number ("zero"), from 0 to the largest value ("last"), between round numbers
    around the values ("round"), or between round numbers around the values and 0 ("signed").
    """

    title: str
    kind: Kind = "count"
    log: bool = False
    ends: Literal["zero", "last", "round", "signed"] = "zero"


@dataclass(frozen=True)
class Line:
    """A curve through the points (xs[i], ys[i]); with `dots` every point is marked."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class LineChart:
    """Curves over two axes; `mark` is a place on the x axis that is marked, with its label."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Bars:
    """A series of bars: one value per category, None where it is unknown."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class BarChart:
    """Series of bars side by side over categories."""

    title: str
    x: str
    y: Axis
    categories: Sequence[str]
    bars: Sequence[Bars]


@dataclass(frozen=True)
class Interval:
    """A value with the interval from `low` to `high` (None: not known), and the finding: better, worse or not shown."""

    name: str
    value: float
    low: float | None
    high: float | None
    finding: str

    @property
    def ends(self) -> list[float]:
        """The values that a scale must include."""
        return [end for end in (self.value, self.low, self.high) if end is not None]


@dataclass(frozen=True)
class IntervalChart:
    """Differences, one per line, each with its interval, against a line at 0; left of 0 is better.

    The scale includes the values in `beside`, so that several charts have the same scale.
    """

    title: str
    x: Axis
    intervals: Sequence[Interval]
    beside: Sequence[float] = ()


@dataclass(frozen=True)
class Dot:
    """A named point; a `strong` one is highlighted."""

    name: str
    x: float
    y: float
    strong: bool = False


@dataclass(frozen=True)
class DotChart:
    """Named points over two axes."""

    title: str
    x: Axis
    y: Axis
    dots: Sequence[Dot]


Chart = LineChart | BarChart | IntervalChart | DotChart


@dataclass(frozen=True)
class Fact:
    """A headline number at the top of a page: its name, its value, and a note that explains it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts and tables that belong together, with a title and a caption that says how to read them.

    A page shows both, a terminal the tables.
    """

    title: str
    caption: str
    charts: Sequence[Chart]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Section:
    """A part of a page: a title, a paragraph, shell commands if there are any, and figures."""

    title: str
    says: str
    figures: Sequence[Figure]
    commands: Sequence[str] = ()

    @property
    def mark(self) -> str:
        """The id that links within the page refer to."""
        return "".join(each for each in self.title.lower() if each.isalnum())
