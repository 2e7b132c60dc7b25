"""Quality on the page of an evaluation: how well every arm predicts every corpus, and what the table is shown to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scone_cli.evaluation.results import (
    LIVE,
    NONE,
    TABLE,
    Comparison,
    Results,
    arms_of,
    comparisons,
    cost_of,
    drawn_corpus,
    headline_of,
    how_much,
    rivals_of,
    rows_of,
    text_of,
    value_of,
)
from scone_cli.formatting import plain, signed_number, with_error
from scone_cli.report.figures import Axis, Column, Dot, DotChart, Figure, Interval, IntervalChart, Section, Table

NAMES = {
    "perplexity": "perplexity a token",
    "word_perplexity": "perplexity a word",
    "bits_per_byte": "bits a byte",
    "nats_per_token": "nats a token",
}
_ACROSS = 8  # corpora side by side: as many as fit on paper


def quality_section(results: Results) -> Section | None:
    """What was measured of every arm, and the paired differences; None where nothing was."""
    if not rows_of(results, "results"):
        return None
    found = [_differences(results), _by_size(results), _values(results), _itself(results)]
    says = (
        "How well each model predicts text that it was not trained on: lower is better in every number here. Perplexity is "
        "between how many equally likely tokens a model hesitates on average; bits a byte do not depend on the tokenizer. "
        "± is one standard error, over documents or, where there are few, over blocks of text."
    )
    return Section("Quality", says, [figure for figure in found if figure is not None])


def places_of(results: Results) -> list[str]:
    """The corpora, and the folders within them, in the order of the results."""
    return list(dict.fromkeys(row["corpus"] for row in rows_of(results, "results")))


def interval_of(found: Comparison, name: str) -> Interval:
    """A comparison as it is drawn: the change of the perplexity."""
    low, high = found.interval or (None, None)
    return Interval(name, found.change, low, high, found.finding)


def change_axis(title: str) -> Axis:
    """The axis of changes of the perplexity, from one round number to another, with 0."""
    return Axis(title, "share", ends="signed")


# ---- differences -------------------------------------------------------------------------------------------------


def _differences(results: Results) -> Figure | None:
    """Rivals below one another for each corpus, or corpora for each rival: whichever needs fewer pictures."""
    rivals = rivals_of(results)
    found = [each for each in comparisons(results) if each.against in rivals]
    if not found:
        return None
    places = list(dict.fromkeys(each.corpus for each in found))
    by_corpus = len(places) < len(rivals)
    groups = [
        [each for each in found if place == (each.corpus if by_corpus else each.against)]
        for place in (places if by_corpus else rivals)
    ]
    charts = [_chart(group, by_corpus, found) for group in groups if group]
    caption = (
        "How much the table changes the perplexity of each rival: left of the line at 0 the table is better. The bar is the "
        "interval that holds the true change in 95 of 100 cases, as both are compared on the same documents. A filled dot: a "
        "difference is shown; a hollow dot: the interval covers 0 or there is none, so no difference is shown."
    )
    if all(each.interval is None for each in found):
        caption += " So little text has no interval: nothing is shown by it."
    return Figure("The table against its rivals", caption, charts, [_difference_table(found)])


def _chart(group: Sequence[Comparison], by_corpus: bool, all_of_them: Sequence[Comparison]) -> IntervalChart:
    title = f"on {text_of(group[0].corpus)}, against" if by_corpus else f"against {group[0].against}, on"
    intervals = [interval_of(each, each.against if by_corpus else each.corpus) for each in group]
    beside = [end for each in all_of_them for end in interval_of(each, "").ends]
    return IntervalChart(title, change_axis("change of perplexity"), intervals, beside)


def _difference_table(found: Sequence[Comparison]) -> Table:
    columns = [
        *(Column("corpus", "text"), Column("against", "text"), Column("perplexity", "text")),
        *(Column("nats a token", "written"), Column("finding", "text")),
    ]
    rows = [(each.corpus, each.against, how_much(each), signed_number(each.nats, 4), each.finding) for each in found]
    return Table(columns, rows, "The same in numbers", folded=True)


# ---- against size ------------------------------------------------------------------------------------------------


def _by_size(results: Results) -> Figure | None:
    """Loss against resident size on the first corpus: whether the table does more than a larger model would."""
    headline = headline_of(results)
    if headline is None:
        return None
    corpus = headline.corpus
    metric = "bits_per_byte" if value_of(results, TABLE, corpus, "bits_per_byte") else "perplexity"
    dots = []
    for arm in [arm for arm in arms_of(results) if arm not in (LIVE, NONE)]:
        found, size = value_of(results, arm, corpus, metric), cost_of(results, arm).get("resident_parameters")
        if found and size:
            dots.append(Dot(arm, size, found["value"], strong=arm == TABLE))
    sizes = {dot.x for dot in dots}
    if len(sizes) < 2:
        return None
    x = Axis("resident parameters", log=max(sizes) > 20 * min(sizes))
    chart = DotChart(
        f"on {text_of(corpus)}", x, Axis(f"{NAMES[metric]} (lower is better)", "measure", ends="round"), dots
    )
    caption = (
        "Each model by what it keeps on the accelerator when it is served, and by how well it predicts. Further left is "
        "cheaper, further down is better: what lies below and left of a rival beats it in both."
    )
    return Figure("Quality against resident size", caption, [chart], [])


# ---- values ------------------------------------------------------------------------------------------------------


def _values(results: Results) -> Figure:
    """The arms by corpus; one corpus leaves room for all metrics and their errors."""
    places, arms = places_of(results), arms_of(results)
    metrics = [metric for metric in NAMES if any(row["metric"] == metric for row in rows_of(results, "results"))]
    strong = [i for i, arm in enumerate(arms) if arm == TABLE]
    if len(places) == 1:
        columns = [Column("", "text"), *(Column(NAMES[metric], "written") for metric in metrics)]
        rows = [(arm, *(_estimate(results, arm, places[0], metric) for metric in metrics)) for arm in arms]
        return Figure(
            f"Every model on {text_of(places[0])}", _arms_told(results), [], [Table(columns, rows, strong=strong)]
        )
    shown = [metric for metric in ("perplexity", "bits_per_byte") if metric in metrics]
    tables = [_matrix(results, metric, part, strong) for metric in shown for part in _parts(places)]
    return Figure("Every model on every corpus", _arms_told(results), [], [*tables, _everything(results, metrics)])


def _estimate(results: Results, arm: str, corpus: str, metric: str) -> str:
    found = value_of(results, arm, corpus, metric)
    return "-" if found is None else with_error(found["value"], found["stderr"])


def _arms_told(results: Results) -> str:
    """What the arms are that are no rivals."""
    told = {
        TABLE: "table is Scone as it is served, reading its rows from the table",
        LIVE: "live is the same model with the f-gram model running",
        NONE: "none is the same model with the table taken away, which it was trained to have",
    }
    arms = arms_of(results)
    if TABLE not in arms:
        return ""
    parts = [text for arm, text in told.items() if arm in arms]
    if any(arm.startswith(f"{TABLE}:") for arm in arms):
        parts.append("table:NAME reads another table made from the same model")
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if parts else ""


def _parts(places: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(places), _ACROSS):
        yield places[first : first + _ACROSS]


def _matrix(results: Results, metric: str, places: Sequence[str], strong: Sequence[int]) -> Table:
    """Values without errors, which stand in the long table."""
    rows = []
    for arm in arms_of(results):
        found = [value_of(results, arm, place, metric) for place in places]
        rows.append((arm, *(plain(each["value"] if each else None) for each in found)))
    columns = [Column("", "text"), *(Column(place, "written") for place in places)]
    return Table(columns, rows, NAMES[metric].capitalize(), strong)


def _everything(results: Results, metrics: Sequence[str]) -> Table:
    columns = [
        Column("corpus", "text"),
        Column("model", "text"),
        *(Column(NAMES[metric], "written") for metric in metrics),
    ]
    rows = [
        (place, arm, *(_estimate(results, arm, place, metric) for metric in metrics))
        for place in places_of(results)
        for arm in arms_of(results)
    ]
    return Table(columns, rows, "Every number with its standard error", folded=True)


# ---- the model against itself ------------------------------------------------------------------------------------


def _itself(results: Results) -> Figure | None:
    """What is lost by reading rows that were computed once and rounded, and what the rows are worth."""
    rivals, drawn = rivals_of(results), drawn_corpus(results)
    found = [each for each in comparisons(results) if each.against not in rivals]
    here = [each for each in found if each.corpus == drawn]
    if not here:
        return None
    tables = [_own_table(here)]
    if others := [each for each in found if each.corpus != drawn]:
        tables.append(replace(_own_table(others), title="The same on the other corpora", folded=True))
    caption = (
        "The same model read in other ways, so this says nothing of what is gained. The table should be the same as the f-gram "
        "model that made it, but for the rounding of its rows. With its rows taken away the model is worse than a plain one "
        "would be, as it was trained to have them."
    )
    return Figure(f"The table against its own model, on {text_of(drawn)}", caption, [], tables)


def _own_table(found: Sequence[Comparison]) -> Table:
    told = {LIVE: "the f-gram model itself", NONE: "its rows taken away"}
    columns = [
        *(Column("against", "text"), Column("corpus", "text"), Column("the table's perplexity is", "text")),
        Column("finding", "text"),
    ]
    rows = [(told.get(each.against, each.against), each.corpus, how_much(each), _own_finding(each)) for each in found]
    return Table(columns, rows)


def _own_finding(found: Comparison) -> str:
    """None of a model without the rows that it was trained to have: it is no rival."""
    return "no rival" if found.against == NONE else found.finding
