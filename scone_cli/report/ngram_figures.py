"""Figures of counts and of a vocabulary, and the page of `scone inspect --html`.

`counting.summary` and `vocab.summary` compute the numbers. The figures are the same on a page and in a terminal.
`model_figures` has those of a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scone_cli.errors import BadSetting
from scone_cli.formatting import bytes_text, count_text, value_text
from scone_cli.report.figures import Axis, BarChart, Bars, Column, Figure, Line, LineChart, Table
from scone_cli.report.model_figures import training_figures, training_headline
from scone_cli.report.page import page

Row = Mapping[str, Any]

_TO = "\N{EN DASH}"
_TITLES = {"counts": "N-gram counts", "vocab": "F-gram vocabulary", "model": "Trained model"}
_NAMES = {1: "single tokens", 2: "bigrams", 3: "trigrams"}


def figures_of(description: Row) -> list[Figure]:
    """The figures of an artifact, from a description with a portrait; a figure without numbers is left out."""
    if description["artifact"] == "model":
        return training_figures(description)
    portrait = description["portrait"]
    makers = (_coverage, _lengths, _rank_frequency, _positions, _tail, _examples)
    return [figure for make in makers if (figure := make(portrait, description["artifact"])) is not None]


def portrait_page(path: Path, description: Row) -> str:
    """The page of the counts, the vocabulary or the model at `path`.

    Raises:
        BadSetting: the artifact is of another kind.
    """
    kind = description.get("artifact", "a workspace")
    if "portrait" not in description:
        raise BadSetting(
            f"--html: {path} is not a folder of counts, of a vocabulary or of a model ({kind})",
            "name counts/, vocab/ or model/",
        )
    title = _TITLES[kind]
    given = {name: value for name, value in description["settings"].items() if value not in (None, [])}
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
    about = f"{path}, made by scone {description['stage']} ({settings}); tokenizer {description['tokenizer'][:12]}."
    return page(title, about, _headline(description), figures_of(description), description["portrait"]["left_out"])


def _headline(description: Row) -> dict[str, str]:
    """The headline numbers."""
    if description["artifact"] == "model":
        return training_headline(description)
    portrait = description["portrait"]
    lengths = [row for row in portrait["lengths"] if row["n"] > 1]
    number = f"{sum(row['ngrams'] for row in lengths):,}"
    ends = [curve["count"][-1] for curve in portrait["rank_frequency"] if curve["count"] and curve["n"] > 1]
    facts = {"f-grams" if description["artifact"] == "vocab" else "different n-grams": number}
    facts["length in tokens"] = f"2 to {lengths[-1]['n']}"
    facts["least count"] = value_text("count", min(ends, default=None))
    if matched := portrait.get("matched"):
        facts["held-out positions matched"] = value_text("share", matched["share_matched"])
        facts["mean match length"] = value_text("number", matched["mean_match_length"])
    return facts


def _name(n: int) -> str:
    return _NAMES.get(n, f"{n}-grams")


def _class_name(row: Row) -> str:
    """The name of a class of counts: 0, 1-9, 10-99, 100-999, 1k-10k and so on."""
    first, last = row["first"], row["last"]
    if last < 1000:
        return str(first) if first == last else f"{first}{_TO}{last}"
    return f"{count_text(first)}{_TO}{count_text(last + 1)}"


# ---- size and length ---------------------------------------------------------------------------------------------


def _coverage(portrait: Row, _: str) -> Figure | None:
    ladder: Sequence[Row] | None = portrait.get("ladder")
    if not ladder or ladder[0]["matched"] is None:
        return None
    sizes = [row["size"] for row in ladder]
    x = Axis("f-grams in the vocabulary", log=True)
    chosen = next(((row["size"], f"chosen: {count_text(row['size'])}") for row in ladder if row["chosen"]), None)
    matched, length = ([row[key] or 0.0 for row in ladder] for key in ("matched", "mean_match_length"))
    charts = [
        LineChart("held-out text matched", x, Axis("share of positions", "share"), [Line("", sizes, matched)], chosen),
        LineChart("mean match length", x, Axis("tokens of a match", "number"), [Line("", sizes, length)], chosen),
    ]
    caption = (
        "The share of positions of the held-out text at which an f-gram ends, and the mean length of the longest one there, "
        "if only the most frequent f-grams are kept. Twice the f-grams need twice the memory: choose the size beyond which "
        "the share grows too little. What no size matches is in the tail below."
    )
    longest = max(len(row["fgrams"]) for row in ladder)
    columns = [
        *(Column("f-grams", "count"), Column("least count", "count"), Column("matched", "share", bars=True)),
        *(Column("mean length", "number"), *(Column(f"n={n + 2}", "count") for n in range(longest))),
        *(Column("table", "written"), Column("", "text")),
    ]
    keys = ("size", "cutoff_count", "matched", "mean_match_length")
    rows = [
        (
            *(row[key] for key in keys),
            *row["fgrams"],
            bytes_text(row["table_bytes"]),
            "chosen" if row["chosen"] else "",
        )
        for row in ladder
    ]
    return Figure("How much text they match, by size", caption, charts, [Table(columns, rows)])


def _lengths(portrait: Row, artifact: str) -> Figure:
    rows: Sequence[Row] = portrait["lengths"]
    of_vocabulary = artifact == "vocab"
    gram = "f-grams" if of_vocabulary else "n-grams"
    names = [str(row["n"]) for row in rows]
    charts = [
        BarChart(f"{gram} by length", "length n (tokens)", Axis(gram), names, [Bars(gram, [r["ngrams"] for r in rows])])
    ]
    shares = [row["share_of_positions"] for row in rows]
    if of_vocabulary:
        caption = (
            "For each length: how many f-grams have it, how often they occur in the training text, and at which share of the "
            "positions of the held-out text the longest f-gram has this length, so that its embedding is used. A length "
            "with many f-grams that are seldom used needs rows and gives little."
        )
        title = "held-out positions by length of the match"
    else:
        caption = (
            "For each length: how many different n-grams reach the least count, and at which share of the positions of the "
            "training text one of them ends. If the share falls fast, longer f-grams would seldom be used."
        )
        title = "training positions where one ends"
    if None not in shares:
        y = Axis("share of positions", "share")
        charts.append(BarChart(title, "length n (tokens)", y, names, [Bars("share", shares)]))
    columns = [
        *(Column("n", "count"), Column(gram, "count"), Column("occurrences in training", "count")),
        Column("share of held-out positions" if of_vocabulary else "share of training positions", "share", bars=True),
    ]
    table = Table(columns, [(r["n"], r["ngrams"], r["occurrences"], r["share_of_positions"]) for r in rows])
    return Figure(f"How long the {gram} are", caption, charts, [table])


def _rank_frequency(portrait: Row, artifact: str) -> Figure | None:
    curves = [curve for curve in portrait["rank_frequency"] if curve["rank"]]
    if not curves:
        return None
    chart = LineChart(
        "count against rank",
        Axis("rank among those of the same length (1 = most frequent)", log=True),
        Axis("count in the training text", log=True),
        [Line(f"n = {curve['n']}", curve["rank"], curve["count"]) for curve in curves],
    )
    end = "size of the vocabulary" if artifact == "vocab" else "least count"
    caption = (
        "How often the n-gram of each rank occurs, for each length by itself; both axes are logarithmic. A straight line "
        f"is Zipf's law. A curve ends at the {end}. The flatter its end, the more n-grams a slightly smaller least count "
        "would add."
    )
    ranks = [10**power for power in range(max(len(str(curve["rank"][-1])) for curve in curves))]
    counts = [dict(zip(curve["rank"], curve["count"], strict=True)) for curve in curves]
    rows = [(rank, *(count.get(rank) for count in counts)) for rank in ranks]
    columns = [Column("rank", "count"), *(Column(f"n={curve['n']}", "count") for curve in curves)]
    return Figure("How fast the counts fall", caption, [chart], [Table(columns, rows)])


# ---- matches -----------------------------------------------------------------------------------------------------


def _positions(portrait: Row, _: str) -> Figure | None:
    rows: Sequence[Row] | None = portrait.get("positions")
    if not rows:
        return None
    names = [str(first) if (first := row["first"]) < 1024 else f"{first // 1024}k" for row in rows]
    x = "position in the document (first token of each bar)"
    share = [row["share_matched"] for row in rows]
    length = [row["mean_match_length"] for row in rows]
    charts = [
        BarChart("share matched", x, Axis("share of held-out positions", "share"), names, [Bars("share", share)]),
        BarChart("mean match length", x, Axis("tokens of a match", "number"), names, [Bars("length", length)]),
    ]
    caption = (
        "The share of held-out positions at which an f-gram ends, and the mean length of the longest one there, by the "
        "position in the document. The first token has no match, as there is no token before it. Few documents are very "
        "long, so the last rows may come from one or two documents."
    )
    columns = [
        *(Column("position", "text"), Column("held-out tokens", "count")),
        *(Column("matched", "share", bars=True), Column("mean match length", "number")),
    ]
    spans = [f"{row['first']:,}" + (f"{_TO}{row['last']:,}" if row["last"] > row["first"] else "") for row in rows]
    keys = ("tokens", "share_matched", "mean_match_length")
    table = [(span, *(row[key] for key in keys)) for span, row in zip(spans, rows, strict=True)]
    return Figure("Matches by position in the document", caption, charts, [Table(columns, table)])


def _tail(portrait: Row, artifact: str) -> Figure | None:
    tail = portrait.get("tail")
    if not tail:
        return None
    gram, where = "f-gram" if artifact == "vocab" else "counted n-gram", tail["where"]
    classes: Sequence[Row] = tail["classes"]
    names, firsts = [_class_name(row) for row in classes], [count_text(row["first"]) for row in classes]
    x = "count of the token in training (least of each class)"
    missed = [row["share_unmatched"] for row in classes]
    never = [row["share_never_matched"] for row in classes]
    bars = [Bars("occurrences unmatched", missed), Bars("tokens never matched", never)]
    chart = BarChart(f"what no {gram} reaches", x, Axis("share without a match", "share"), firsts, bars)
    caption = (
        f"Tokens in classes by how often they occur in the training text. For each class: the share of its occurrences in "
        f"the {where} at which no {gram} ends, and the share of its distinct tokens that occur there and are never matched. "
        "A rare word usually consists of several tokens; each of them counts by itself."
    )
    columns = [
        *(Column("count in training", "text"), Column("tokens", "count")),
        *(Column(f"ending no {gram}", "count"), Column("occurrences", "count")),
        Column("unmatched", "share", bars=True),
        *(Column("tokens occurring", "count"), Column("never matched", "share")),
    ]
    keys = ("tokens", "tokens_in_no_fgram", "occurrences", "share_unmatched", "tokens_seen", "share_never_matched")
    rows = [
        (name, *(row[key] for key in keys)) for name, row in zip([*names, "all"], [*classes, tail["all"]], strict=True)
    ]
    examples = [
        (name, "   ".join(f"{row['text']} {row['unmatched']:,}/{row['occurrences']:,}" for row in each["examples"]))
        for name, each in zip(names, classes, strict=True)
        if each["examples"]
    ]
    title = f"Tokens least often matched, with their occurrences in the {where} without a match / in all"
    told = Table([Column("count in training", "text"), Column("tokens", "literal")], examples, title)
    return Figure("The tail: rare tokens", caption, [chart], [Table(columns, rows), told])


# ---- n-grams to read ---------------------------------------------------------------------------------------------


def _examples(portrait: Row, artifact: str) -> Figure | None:
    if not portrait["examples"]:
        return None
    tables = list(_by_rank(portrait["examples"]) if artifact == "vocab" else _by_length(portrait["examples"]))
    caption = (
        "The most frequent ones, some from the middle of the ranks, and the last ones. Blanks are shown as ·, unprintable "
        r"characters as escapes: \n is the end of a line, \xe2 a byte that is only a part of a character."
    )
    return Figure("Examples", caption, [], tables)


def _by_rank(examples: Sequence[Row]) -> Iterator[Table]:
    columns = [
        *(Column("id", "count"), Column("n", "count"), Column("f-gram", "literal")),
        *(Column("count", "count"), Column("documents", "count")),
    ]
    yield Table(columns, [(row["id"], row["n"], row["text"], row["count"], row["docs"]) for row in examples])


def _by_length(examples: Sequence[Row]) -> Iterator[Table]:
    for n in dict.fromkeys(row["n"] for row in examples):
        columns = [
            *(Column("rank", "count"), Column("text", "literal")),
            *(Column("count", "count"), Column("documents", "count")),
        ]
        rows = [(row["rank"], row["text"], row["count"], row["docs"]) for row in examples if row["n"] == n]
        yield Table(columns, rows, _name(n).capitalize())
