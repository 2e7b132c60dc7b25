"""The section Quality on the page of an evaluation: the loss of every arm on every corpus, and the differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scone_cli.evaluation.result_types import Results
from scone_cli.evaluation.results import (
    LIVE,
    NONE,
    TABLE,
    Comparison,
    arms_of,
    comparisons,
    cost_of,
    drawn_corpus,
    headline_of,
    how_much,
    rivals_of,
    text_of,
    told_finding,
    value_of,
)
from scone_cli.formatting import plain, signed_number, with_error
from scone_cli.report.figures import Axis, Column, Dot, DotChart, Figure, Interval, IntervalChart, Section, Table

NAMES = {
    "perplexity": "perplexity per token",
    "word_perplexity": "perplexity per word",
    "bits_per_byte": "bits per byte",
    "nats_per_token": "nats per token",
}
_ACROSS = 8  # corpora side by side: more do not fit on paper


def quality_section(results: Results) -> Section | None:
    """The metrics of every arm and the paired differences; None without metrics."""
    if not results.get("results", []):
        return None
    found = [_differences(results), _by_size(results), _values(results), _itself(results)]
    says = (
        "How well each model predicts text that it was not trained on; for every number here, lower is better. A perplexity of "
        "40 means that a model is as uncertain about the next token, on average, as if 40 tokens were equally likely. Bits per "
        "byte do not depend on the tokenizer. ± is one standard error, over documents or, where these are few, over blocks "
        "of text."
    )
    return Section("Quality", says, [figure for figure in found if figure is not None])


def places_of(results: Results) -> list[str]:
    """The corpora and the folders within them, in the order of the results."""
    return list(dict.fromkeys(row["corpus"] for row in results.get("results", [])))


def interval_of(found: Comparison, name: str) -> Interval:
    """A comparison as a drawn interval: the change of perplexity."""
    low, high = found.interval or (None, None)
    return Interval(name, found.change, low, high, found.finding)


def change_axis(title: str) -> Axis:
    """An axis for changes of perplexity, between round numbers, with 0."""
    return Axis(title, "share", ends="signed")


# ---- differences -------------------------------------------------------------------------------------------------


def _differences(results: Results) -> Figure | None:
    """One chart per corpus with all rivals, or one per rival with all corpora, whichever gives fewer charts."""
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
        "The change of perplexity from each rival to the table: left of the line at 0 the table is better. The bar is the 95% "
        "interval of the change, as both models are compared on the same documents. A filled dot means that a difference is "
        "shown; a hollow dot means that it is not, as the interval covers 0 or there is no interval."
    )
    if all(each.interval is None for each in found):
        caption += " There is too little text for intervals, so no difference is shown."
    return Figure("The table against its rivals", caption, charts, [_difference_table(found)])


def _chart(group: Sequence[Comparison], by_corpus: bool, all_of_them: Sequence[Comparison]) -> IntervalChart:
    title = f"on {text_of(group[0].corpus)}, by rival" if by_corpus else f"against {group[0].against}, by corpus"
    intervals = [interval_of(each, each.against if by_corpus else each.corpus) for each in group]
    beside = [end for each in all_of_them for end in interval_of(each, "").ends]
    return IntervalChart(title, change_axis("change of perplexity"), intervals, beside)


def _difference_table(found: Sequence[Comparison]) -> Table:
    columns = [
        *(Column("corpus", "text"), Column("against", "text"), Column("perplexity", "text")),
        *(Column("nats per token", "written"), Column("finding", "text")),
    ]
    rows = [(each.corpus, each.against, how_much(each), signed_number(each.nats, 4), each.finding) for each in found]
    return Table(columns, rows, "The same in numbers", folded=True)


# ---- against size ------------------------------------------------------------------------------------------------


def _by_size(results: Results) -> Figure | None:
    """Loss against resident size on the first corpus, to compare the table with larger models."""
    headline = headline_of(results)
    if headline is None:
        return None
    corpus = headline.corpus
    metric = "bits_per_byte" if value_of(results, TABLE, corpus, "bits_per_byte") else "perplexity"
    dots = []
    for arm in [arm for arm in arms_of(results) if arm not in (LIVE, NONE)]:
        found, cost = value_of(results, arm, corpus, metric), cost_of(results, arm)
        if found and cost and cost["resident_parameters"]:
            dots.append(Dot(arm, cost["resident_parameters"], found["value"], strong=arm == TABLE))
    sizes = {dot.x for dot in dots}
    if len(sizes) < 2:
        return None
    x = Axis("resident parameters", log=max(sizes) > 20 * min(sizes))
    chart = DotChart(
        f"on {text_of(corpus)}", x, Axis(f"{NAMES[metric]} (lower is better)", "measure", ends="round"), dots
    )
    caption = (
        "Each model by its parameters on the accelerator and by its loss. Further left is smaller, further down is better: a "
        "model that is below and left of another one is better in both."
    )
    return Figure("Quality against resident size", caption, [chart], [])


# ---- values ------------------------------------------------------------------------------------------------------


def _values(results: Results) -> Figure:
    """The metrics of every arm: all of them with errors for one corpus, or a table per metric for several."""
    places, arms = places_of(results), arms_of(results)
    metrics = [metric for metric in NAMES if any(row["metric"] == metric for row in results.get("results", []))]
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
    """A sentence that explains the arms that are not rivals."""
    told = {
        TABLE: "table is Scone as it is served: it reads its rows from the table",
        LIVE: "live is the same model, which computes its rows with the f-gram model",
        NONE: "none is the same model without the rows that it was trained with",
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
    """One metric by arm and corpus, without errors; `_everything` has the errors."""
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
    """The table against the same model with computed rows (the loss by rounding) and without rows."""
    rivals, drawn = rivals_of(results), drawn_corpus(results)
    found = [each for each in comparisons(results) if each.against not in rivals]
    here = [each for each in found if each.corpus == drawn]
    if not here:
        return None
    tables = [_own_table(here)]
    if others := [each for each in found if each.corpus != drawn]:
        tables.append(replace(_own_table(others), title="The same on the other corpora", folded=True))
    caption = (
        "The same model run in other ways; this does not measure a gain. The table should be the same as the f-gram model that "
        "made it, except for the rounding of its rows. Without its rows the model is worse than a plain model would be, as it "
        "was trained with them."
    )
    return Figure(f"The table against its own model, on {text_of(drawn)}", caption, [], tables)


def _own_table(found: Sequence[Comparison]) -> Table:
    told = {LIVE: "the f-gram model itself", NONE: "without its rows"}
    columns = [
        *(Column("against", "text"), Column("corpus", "text"), Column("the table's perplexity is", "text")),
        Column("finding", "text"),
    ]
    rows = [(told.get(each.against, each.against), each.corpus, how_much(each), _own_finding(each)) for each in found]
    return Table(columns, rows)


def _own_finding(found: Comparison) -> str:
    """The finding; a model without the rows that it was trained with is not a rival, so it has none."""
    return "no rival" if found.against == NONE else told_finding(found.against, found.finding, found.low, found.high)
