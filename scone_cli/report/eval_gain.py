"""The section "Where the gain is" on the page of an evaluation: by length of match, rareness, corpus, example and term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scone_cli.evaluation.result_types import FgramGain, Gain, Results, Term, TokenClass, TokenGain
from scone_cli.evaluation.results import (
    BETTER,
    NONE,
    NOT_SHOWN,
    TABLE,
    WORSE,
    Comparison,
    comparisons,
    drawn_corpus,
    opponent_of,
    text_of,
)
from scone_cli.formatting import count_text, signed_number, signed_percent, term_text, with_error
from scone_cli.report.eval_quality import change_axis, interval_of
from scone_cli.report.figures import Axis, BarChart, Bars, Column, Dot, DotChart, Figure, IntervalChart, Section, Table

_TO = "\N{EN DASH}"
_SHOWN = 10  # tokens or f-grams per table


def gain_section(results: Results) -> Section | None:
    """The gain by length of match, rareness, corpus, example and term; None without a table."""
    found = [
        _lengths(results),
        _tail(results),
        _hits(results),
        _examples(results, "Tokens", _TOKENS, [(row, _token(row)) for row in results.get("tokens", [])]),
        _examples(results, "F-grams", _FGRAMS, [(row, _fgram(row)) for row in results.get("fgrams", [])]),
        _terms(results),
    ]
    figures = [figure for figure in found if figure is not None]
    against = opponent_of(results)
    who = f"Everything here compares the table with {against}. " if against else ""
    if against == NONE:
        who = "Here the table is compared with the same model without its rows (none), as no rival was measured. "
    says = (
        f"{who}An f-gram is a frequent sequence of tokens. At each token, Scone adds the embedding of the longest f-gram that "
        "ends there, so it can help only where an f-gram is found."
    )
    return Section("Where the gain is", says, figures) if figures else None


# ---- by length of the match --------------------------------------------------------------------------------------


def _lengths(results: Results) -> Figure | None:
    rows, against, corpus = results.get("match_lengths", []), opponent_of(results), drawn_corpus(results)
    here = [row for row in rows if row["corpus"] == corpus]
    if not here:
        return None
    names = [str(row["match_length"] or "none") for row in here]
    x = "tokens of the match"
    series = [arm for arm in (against, TABLE) if arm is not None]
    losses = [Bars(arm, [row["losses"].get(arm) for row in here]) for arm in reversed(series)]
    charts = [
        BarChart("loss by match", x, Axis("nats per token (lower is better)", "measure"), names, losses),
        BarChart(
            "how often", x, Axis("share of the tokens", "share"), names, [Bars("share", [row["share"] for row in here])]
        ),
    ]
    arms = list(here[0]["losses"])
    columns = [
        *([Column("corpus", "text")] if len({row["corpus"] for row in rows}) > 1 else []),
        *(Column("match", "text"), Column("share", "share", bars=True), Column("tokens", "count")),
        *(Column(arm, "written") for arm in arms),
    ]
    values = [
        (str(row["match_length"] or "none"), row["share"], row["n"], *(_nats(row["losses"].get(arm)) for arm in arms))
        for row in rows
    ]
    if columns[0].title == "corpus":
        values = [(row["corpus"], *value) for row, value in zip(rows, values, strict=True)]
    caption = (
        f"The loss of the next token on {text_of(corpus)}, by the length of the f-gram that ends at the current token; none "
        "means that no f-gram ends there. The gain is the difference between the two bars."
    )
    title = "All corpora and models, nats per token"
    return Figure("By length of the match", caption, charts, [Table(columns, values, title, folded=True)])


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


# ---- by rareness -------------------------------------------------------------------------------------------------


def _tail(results: Results) -> Figure | None:
    rows, against, corpus = results.get("tail", []), opponent_of(results), drawn_corpus(results)
    here = [row for row in rows if row["corpus"] == corpus]
    if not here:
        return None
    names = [class_name(row["first"], row["last"]) for row in here]
    found = [(name, each) for name, row in zip(names, here, strict=True) if (each := _comparison(row, against))]
    known = [
        pair for pair in found if pair[1].interval is not None
    ] or found  # a class of one token may change by any factor
    intervals = [interval_of(each, name) for name, each in known]
    charts = (
        [IntervalChart(f"against {against}, by occurrences", change_axis("change of perplexity"), intervals)]
        if intervals
        else []
    )
    caption = (
        f"Tokens of {text_of(corpus)} in classes by how often they occur in the training text, and the change of perplexity in "
        "each class; left of 0 the table is better. There are few rare tokens, so their intervals are wide."
    )
    columns = [
        *(Column("corpus", "text"), Column("in training", "text"), Column("share of tokens", "share", bars=True)),
        *(Column("tokens", "count"), Column("table, nats", "written"), Column(f"{against}, nats", "written")),
        *(Column("change of perplexity", "written"), Column("finding", "text")),
    ]
    values = []
    for row in rows:
        each = _comparison(row, against)
        told = ("-", "-") if each is None else (signed_percent(each.change), each.finding)
        losses = [_nats(row["losses"].get(arm or "")) for arm in (TABLE, against)]
        values.append((row["corpus"], class_name(row["first"], row["last"]), row["share"], row["n"], *losses, *told))
    shown = [value[1:] for row, value in zip(rows, values, strict=True) if row["corpus"] == corpus]
    tables = [Table(columns[1:], shown)]
    if len(shown) < len(values):
        tables.append(Table(columns, values, "The tail of all corpora", folded=True))
    return Figure("The tail: rare and frequent tokens", caption, charts, tables)


def class_name(first: int, last: int | None) -> str:
    """The name of a class by occurrences: never, 1-9, 1k-10k."""
    if last == 0:
        return "never"
    if last is None:
        return f"{count_text(first)} or more"
    return f"{first}{_TO}{last}" if last < 1000 else f"{count_text(first)}{_TO}{count_text(last + 1)}"


def _comparison(row: TokenClass | Term, against: str | None) -> Comparison | None:
    """The table against a rival in one class or inside one term; without a finding, it is made from the interval."""
    found = next((each for each in row["differences"] if each["against"] == against), None)
    if found is None or against is None:
        return None
    low, high = found["low"], found["high"]
    is_shown = low is not None and high is not None and (high < 0 or low > 0)
    finding = (BETTER if found["nats_per_token"] < 0 else WORSE) if is_shown else NOT_SHOWN
    finding = str(found.get("finding", finding))  # a term has its own
    return Comparison(against, row["corpus"], found["nats_per_token"], low, high, finding)


# ---- by term -----------------------------------------------------------------------------------------------------


def _terms(results: Results) -> Figure | None:
    """The terms of the field: all together, then one by one."""
    rows, against, corpus = results.get("terms", []), opponent_of(results), drawn_corpus(results)
    here = [row for row in rows if row["corpus"] == corpus] or rows
    if not here:
        return None
    found = [(_term_name(row), each) for row in here if (each := _comparison(row, against))]
    known = [interval_of(each, name) for name, each in found if each.interval is not None][: 1 + _SHOWN]
    charts = (
        [IntervalChart(f"against {against}, inside terms", change_axis("change of perplexity"), known)] if known else []
    )
    columns = [
        *(Column("corpus", "text"), Column("term", "text"), Column("occurrences", "count"), Column("tokens", "count")),
        *(Column("hit rate", "share"), Column("table, nats", "written"), Column(f"{against}, nats", "written")),
        *(Column("change of perplexity", "written"), Column("finding", "text")),
    ]
    values = [(row["corpus"], *_term_values(row, against)) for row in rows]
    of_one = [value[1:] for row, value in zip(rows, values, strict=True) if row["corpus"] == here[0]["corpus"]]
    tables = [Table(columns[1:], of_one[: 1 + _SHOWN])]
    if len(values) > 1 + _SHOWN or len(of_one) < len(values):
        tables.append(Table(columns, values, "All terms on all corpora", folded=True))
    occurring = sum(row["occurrences"] > 0 for row in here if row["term"] is not None)
    caption = (
        f"The tokens inside the given terms on {text_of(here[0]['corpus'])}, where {occurring:,} of {len(here) - 1:,} terms "
        "occur. Left of 0 the table is better. ± is one standard error."
    )
    return Figure("The terms of the field", caption, charts, tables)


def _term_name(row: Term) -> str:
    return "all terms" if row["term"] is None else term_text(row["term"])


def _term_values(row: Term, against: str | None) -> tuple[Any, ...]:
    each = _comparison(row, against)
    told = ("-", "-") if each is None else (signed_percent(each.change), each.finding)
    losses = [with_error(row["losses"].get(arm or ""), row["stderrs"].get(arm or ""), 3) for arm in (TABLE, against)]
    return _term_name(row), row["occurrences"], row["n"], row["hit_rate"], *losses, *told


# ---- by corpus ---------------------------------------------------------------------------------------------------


def _hits(results: Results) -> Figure | None:
    rows, against = results.get("hit_rates", []), opponent_of(results)
    if not rows:
        return None
    changes = {each.corpus: each for each in comparisons(results, against)} if against else {}
    dots = [
        Dot(row["corpus"], row["hit_rate"], changes[row["corpus"]].change) for row in rows if row["corpus"] in changes
    ]
    charts = []
    if len(dots) > 2:
        x = Axis("share of tokens where an f-gram is matched", "share", ends="round")
        y = Axis(f"change of perplexity against {against}", "share", ends="signed")
        charts.append(DotChart("hit rate and gain", x, y, dots))
    columns = [
        *(Column("corpus", "text"), Column("hit rate", "share", bars=True), Column("mean length of a match", "number")),
        *(Column("tokens", "count"), Column(f"change of perplexity against {against}", "written")),
    ]
    values = [
        (row["corpus"], row["hit_rate"], row["mean_match_length"], row["n"])
        + ((signed_percent(changes[row["corpus"]].change),) if row["corpus"] in changes else ("-",))
        for row in rows
    ]
    caption = (
        "The share of tokens at which an f-gram of the vocabulary ends, and the mean length of these f-grams. They come from "
        "the training text, so a corpus of another domain matches less. If its gain is smaller too, f-grams of that domain "
        "would help."
    )
    return Figure("In the domain and outside", caption, charts, [Table(columns, values)])


# ---- by example --------------------------------------------------------------------------------------------------

_TOKENS = (
    *(Column("token", "literal"), Column("occurrences", "count"), Column("rival, nats each", "written")),
    *(
        Column("table, nats each", "written"),
        Column("nats in total", "written"),
        Column("for example after", "literal"),
    ),
)
_FGRAMS = (
    *(Column("f-gram", "literal"), Column("id = rank", "count"), Column("uses", "count")),
    *(Column("nats per use", "written"), Column("nats in total", "written")),
)
_CAPTIONS = {
    "Tokens": "The tokens that the table predicts better, and worse. Differences are summed over the text, in nats, so a "
    "frequent token with a small gain may come first.",
    "F-grams": "The f-grams whose rows make the next token more likely, and less likely. Differences are summed over all uses, "
    "in nats.",
}


def _examples(
    results: Results, what: str, columns: Sequence[Column], given: Sequence[tuple[Gain, tuple[Any, ...]]]
) -> Figure | None:
    """The tokens (or f-grams) with the largest gains and losses; the tables of all corpora but the first are folded."""
    against, first = opponent_of(results), drawn_corpus(results)
    rows = [(row, values) for row, values in given if row["against"] == against]
    if not rows:
        return None
    places = sorted(dict.fromkeys(row["corpus"] for row, _ in rows), key=lambda place: place != first)
    tables = []
    for place in places:
        for direction, name in (("gain", "gains"), ("loss", "losses")):
            found = [values for row, values in rows if (row["corpus"], row["direction"]) == (place, direction)][:_SHOWN]
            title = f"Largest {name} on {text_of(place)}"
            tables += [Table(columns, found, title, folded=place != first)] if found else []
    caption = _CAPTIONS[what] + r" Blanks are shown as ·, the end of a line as \n."
    return Figure(f"{what} that gain and lose most", caption, [], tables)


def _token(row: TokenGain) -> tuple[Any, ...]:
    losses = (_nats(row["against_loss"]), _nats(row["table"]))
    return (row["text"], row["n"], *losses, signed_number(row["nats"], 0), row["before"] or "")


def _fgram(row: FgramGain) -> tuple[Any, ...]:
    return (row["text"], row["fgram"], row["n"], signed_number(row["nats_per_use"], 3), signed_number(row["nats"], 0))
