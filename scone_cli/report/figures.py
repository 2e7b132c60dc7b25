"""What there is to see, before it is drawn: charts and tables with their titles, alike for a terminal and for a page.

A figure says in its caption what one learns from it. `charts` draws its charts as SVG, `page` makes a page of figures,
`console.figures` shows them in a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scone_cli.formatting import Kind


@dataclass(frozen=True)
class Column:
    """A column of a table. With `bars`, a terminal draws its shares as bars too."""

    title: str
    kind: Kind
    bars: bool = False

    @property
    def is_number(self) -> bool:
        """Whether its values stand right-aligned."""
        return self.kind not in {"text", "literal"}


@dataclass(frozen=True)
class Table:
    """Rows of values, one for every column, shown under the title if there is one.

    A page lets the rows numbered in `strong` stand out, and shows a `folded` table only to who asks for it.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    strong: Sequence[int] = ()
    folded: bool = False


@dataclass(frozen=True)
class Axis:
    """What is measured along an axis, with its unit, and how its numbers are written.

    If it is not logarithmic it goes from 0 to a round number ("zero"), from 0 to the largest value ("last"), between
    round numbers around the values ("round"), or between round numbers around the values and 0 ("signed").
    """

    title: str
    kind: Kind = "count"
    log: bool = False
    ends: Literal["zero", "last", "round", "signed"] = "zero"


@dataclass(frozen=True)
class Line:
    """A curve through the points (xs[i], ys[i]); with `dots` each of them counts by itself, and is marked."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class LineChart:
    """Curves over two axes; `mark` is a place on the x axis to point at, with its label."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Bars:
    """A value for every category; None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class BarChart:
    """Bars side by side over categories."""

    title: str
    x: str
    y: Axis
    categories: Sequence[str]
    bars: Sequence[Bars]


@dataclass(frozen=True)
class Interval:
    """A value that lies between `low` and `high` (None: nobody knows), told as better or worse only if it was shown."""

    name: str
    value: float
    low: float | None
    high: float | None
    finding: str

    @property
    def ends(self) -> list[float]:
        """All that a scale must show."""
        return [end for end in (self.value, self.low, self.high) if end is not None]


@dataclass(frozen=True)
class IntervalChart:
    """Differences below one another, each with its interval, against the line at 0; what is left of it is better.

    Charts that are `beside` one another have one scale: it shows these values too.
    """

    title: str
    x: Axis
    intervals: Sequence[Interval]
    beside: Sequence[float] = ()


@dataclass(frozen=True)
class Dot:
    """A named point; a `strong` one stands out."""

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
    """One of the few figures that say the most, with its name and what must be known to read it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts that belong together, what one learns from them, and their numbers.

    A terminal shows the tables; where there are none, it draws the curves.
    """

    title: str
    caption: str
    charts: Sequence[Chart]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Section:
    """Figures that answer one question, which the title names in a word or two; `commands` are lines of a shell."""

    title: str
    says: str
    figures: Sequence[Figure]
    commands: Sequence[str] = ()

    @property
    def mark(self) -> str:
        """What a link within the page names it by."""
        return "".join(each for each in self.title.lower() if each.isalnum())
