"""The section "Which size" on the page of an evaluation: quality against the bytes of the table, with the knee marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scone_cli.evaluation.result_types import Results, Rung
from scone_cli.evaluation.results import drawn_corpus, text_of
from scone_cli.formatting import bytes_text, plain, with_error
from scone_cli.report.figures import Axis, Column, Figure, Line, LineChart, Section, Table

_MIB, _GIB = 2**20, 2**30


def ladder_section(results: Results) -> Section | None:
    """Quality and hit rate of smaller tables; None if none was tried. Charts are drawn for one corpus."""
    rows = results.get("ladder", [])
    if not rows:
        return None
    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    drawn = min(corpora, key=lambda corpus: corpus != drawn_corpus(results))
    corpora.sort(key=lambda corpus: corpus != drawn)
    by_corpus = {corpus: [row for row in rows if row["corpus"] == corpus] for corpus in corpora}
    tables = [_table(corpus, rungs, folded=corpus != drawn) for corpus, rungs in by_corpus.items()]
    figure = Figure(f"Smaller tables, on {text_of(drawn)}", "", list(_charts(by_corpus[drawn])), tables)
    says = (
        "The first rows of the table belong to the most frequent f-grams, so a smaller table is the first part of this one and "
        "needs no new training. Beyond the knee, more bytes improve the quality only a little."
    )
    return Section("Which size", says, [figure])


def _charts(rungs: Sequence[Rung]) -> Iterator[LineChart]:
    """Quality and hit rate against bytes; the table without rows is left out, as the axis is logarithmic."""
    drawn = [row for row in rungs if row["bytes"]]
    if len(drawn) < 2:
        return
    unit, name = (_GIB, "GiB") if drawn[-1]["bytes"] >= 100 * _GIB else (_MIB, "MiB")
    x = Axis(f"size of the table ({name})", "measure", log=True)
    sizes = [row["bytes"] / unit for row in drawn]
    knee = next(((row["bytes"] / unit, f"knee: {bytes_text(row['bytes'])}") for row in drawn if row["is_knee"]), None)
    quality, told = [bits for row in drawn if (bits := row["bits_per_byte"]) is not None], "bits per byte"
    if len(quality) < len(drawn):
        quality, told = [row["perplexity"] for row in drawn], "perplexity"
    y = Axis(f"{told} (lower is better)", "measure", ends="round")
    yield LineChart("quality", x, y, [Line("", sizes, quality, dots=True)], knee)
    y, rates = Axis("share of tokens with a match", "share"), [row["hit_rate"] for row in drawn]
    yield LineChart("hit rate", x, y, [Line("", sizes, rates, dots=True)], knee)


def _table(corpus: str, rungs: Sequence[Rung], folded: bool) -> Table:
    columns = [
        *(Column("rows", "count"), Column("size", "written"), Column("perplexity", "written")),
        *(
            Column("bits per byte", "written"),
            Column("nats per token", "written"),
            Column("hit rate", "share", bars=True),
        ),
        Column("", "text"),
    ]
    values = [
        (
            *(row["rows"], bytes_text(row["bytes"]), plain(row["perplexity"]), plain(row["bits_per_byte"])),
            *(with_error(row["nats_per_token"], row["stderr"]), row["hit_rate"], "knee" if row["is_knee"] else ""),
        )
        for row in rungs
    ]
    strong = [i for i, row in enumerate(rungs) if row["is_knee"]]
    return Table(columns, values, f"On {text_of(corpus)}" if folded else "", strong, folded)
