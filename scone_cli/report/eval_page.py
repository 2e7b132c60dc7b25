"""The page of an evaluation: `render` makes the HTML from results.json.

The sections are made in `eval_quality`, `eval_gain`, `eval_cost` and `eval_ladder`, and here; a section without numbers is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scone_cli.corpus.remarks import flattery
from scone_cli.evaluation.result_types import Method, Results, TaskScore
from scone_cli.evaluation.results import (
    BETTER,
    NOT_SHOWN,
    TABLE,
    WORSE,
    bits_a_byte,
    clusters_of,
    corpora_of,
    cost_of,
    errors_told,
    headline_of,
    rivals_of,
    text_of,
    times_resident,
    told_corpora,
)
from scone_cli.formatting import (
    big,
    bytes_text,
    count_text,
    days_text,
    listed,
    names_of,
    seconds_text,
    signed,
    signed_number,
    signed_percent,
    with_error,
)
from scone_cli.report.eval_cost import cost_section, known, load_of, payback_section
from scone_cli.report.eval_gain import gain_section
from scone_cli.report.eval_ladder import ladder_section
from scone_cli.report.eval_quality import quality_section
from scone_cli.report.eval_summary import no_words_told, task_remarks
from scone_cli.report.eval_verdict import verdict_of
from scone_cli.report.figures import Column, Fact, Figure, Section, Table
from scone_cli.report.page import verdict_page

# ---- zero-shot tasks ----------------------------------------------------------------------------------------------


_ACROSS = 6  # scores side by side: more do not fit on paper
# Parts that an evaluation has only if they were asked for: the key of the results, what is missing, how to ask for it.
_MISSING = (
    ("differences", "comparison with other models", "run scone precompute, and name other models: --against MODEL_DIR"),
    ("speed", "speed", "run scone eval without --no-speed"),
    ("ladder", "smaller tables", "add --ladder"),
    ("tasks", "zero-shot tasks", "add --tasks FILE_OR_DIR"),
    ("terms", "terms of a field", "add --terms FILE with one term per line"),
)


def tasks_section(results: Results) -> Section | None:
    """Scores of every model on every task, with standard errors; None without tasks."""
    rows = results.get("tasks", [])
    if not rows:
        return None
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    scores = list(dict.fromkeys((row["task"], row["metric"]) for row in rows))
    found = {(row["task"], row["metric"], row["arm"]): row for row in rows}
    strong = [i for i, arm in enumerate(arms) if arm == TABLE]
    tables = []
    for first in range(0, len(scores), _ACROSS):
        shown = scores[first : first + _ACROSS]
        columns = [Column("", "text"), *(Column(f"{task}: {metric}", "written") for task, metric in shown)]
        values = [(arm, *(_score(found.get((*score, arm))) for score in shown)) for arm in arms]
        tables.append(Table(columns, values, strong=strong))
    about = [
        *(Column("task", "text"), Column("examples", "count"), Column("version", "written")),
        Column("contexts cut on the left", "count"),
    ]
    cut: dict[str, int] = {}  # by task, the largest number of any model
    for row in rows:
        if row.get("cut") is not None:
            cut[row["task"]] = max(cut.get(row["task"], 0), row["cut"])
    versions = list(
        dict.fromkeys((row["task"], row["n"], str(row["version"] or "-"), cut.get(row["task"])) for row in rows)
    )
    says = (
        "Tasks that the models were not trained for, scored by lm-evaluation-harness. ± is one standard error over the examples. "
        "To see whether two models differ, read the comparison below, which is made example by example."
    )
    remarks = " ".join(f"{remark[:1].upper()}{remark[1:]}." for remark in task_remarks(results))
    scores_of_all = Figure("Scores", remarks, [], [*tables, Table(about, versions, "The tasks")])
    return Section("Tasks", says, [scores_of_all, *_task_differences(results)])


def _task_differences(results: Results) -> Iterator[Figure]:
    rows = [row for row in results.get("task_differences", []) if row["against"] in rivals_of(results)]
    if not rows:
        return
    columns = [
        *(
            Column("task", "text"),
            Column("metric", "text"),
            Column("against", "text"),
            Column("difference", "written"),
        ),
        *(Column("95% interval", "written"), Column("finding", "text")),
    ]
    values = [
        (
            *(row["task"], row["metric"], row["against"]),
            signed(row["difference"], with_error(abs(row["difference"]), row["stderr"], 4)),
            "-"
            if row["low"] is None or row["high"] is None
            else f"{signed_number(row['low'], 4)} to {signed_number(row['high'], 4)}",
            row["finding"],
        )
        for row in rows
    ]
    caption = "How much higher or lower the table scores than a rival on the same examples."
    yield Figure("The table against its rivals, example by example", caption, [], [Table(columns, values)])


def _score(row: TaskScore | None) -> str:
    return "-" if row is None else with_error(row["value"], row["stderr"])


# ---- method ------------------------------------------------------------------------------------------------------


def method_section(results: Results) -> Section:
    """Texts, models, settings and commands of the evaluation."""
    method = results.get("method", {})
    figures = [_texts(method), _models(method), _settings(method), *_checks(results), *_left_out(results)]
    commands = method.get("commands", [])
    says = (
        "Every token of every document is predicted exactly once. Windows overlap only if the stride is shorter than the window; "
        "all models read the same windows. Differences are taken per document, or per block of text if there are fewer than 30 "
        "documents; intervals are 95% intervals."
    )
    if commands:
        says += " These commands repeat the evaluation"
        says += "; replace CORPUS by the training text:" if any(" CORPUS" in each for each in commands) else ":"
    return Section("Method", says, [figure for figure in figures if figure.tables or figure.caption], commands)


def _texts(method: Method) -> Figure:
    columns = [
        *(Column("corpus", "text"), Column("documents", "count"), Column("tokens", "count"), Column("words", "count")),
        *(Column("bytes", "count"), Column("documents also in the training text", "count")),
    ]
    keys = ("documents", "tokens", "words", "bytes", "in_training_split")
    rows = [(row["corpus"], *(row.get(key) for key in keys)) for row in method.get("corpora", [])]
    return Figure("Texts", "", [], [Table(columns, rows)] if rows else [])


def _models(method: Method) -> Figure:
    """Fingerprints of the models, the tables and the tokenizer that were used."""
    models: dict[str, list[str]] = {}
    for arm, mark in method.get("models", {}).items():
        models.setdefault(mark, []).append(arm)
    rows: list[tuple[str, str, str, int | None]]
    rows = [(f"model of {listed(arms)}", mark, "", None) for mark, arms in models.items()]
    rows += [(arm, row["fingerprint"], row["dtype"], row["rows"]) for arm, row in method.get("tables", {}).items()]
    if method.get("tokenizer"):
        rows.append(("tokenizer", method["tokenizer"], "", None))
    columns = [Column("", "text"), Column("fingerprint", "literal"), Column("format", "text"), Column("rows", "count")]
    return Figure("Fingerprints", "", [], [Table(columns, rows)] if rows else [])


def _settings(method: Method) -> Figure:
    told: dict[str, tuple[str, Callable[[Any], str]]] = {
        "scone": ("version of scone", str),
        "window": ("window", "{:,} tokens".format),
        "stride": ("stride", "{:,} tokens".format),
        "seconds": ("time taken", seconds_text),
    }
    rows = [(name, write(value)) for key, (name, write) in told.items() if (value := method.get(key)) is not None]
    return Figure("Settings", "", [], [Table([Column("", "text"), Column("", "written")], rows)] if rows else [])


def _checks(results: Results) -> Iterator[Figure]:
    if rows := results.get("checks"):
        columns = [
            *(Column("fails if", "literal"), Column("left", "measure"), Column("right", "measure"), Column("", "text")),
        ]
        values = [(row["condition"], row["left"], row["right"], "failed" if row["holds"] else "passed") for row in rows]
        yield Figure("Checks", "", [], [Table(columns, values)])


def _left_out(results: Results) -> Iterator[Figure]:
    """One row for each part that this evaluation could have had and does not have."""
    rows = [(text, how) for key, text, how in _MISSING if not results.get(key)]
    if results.get("differences") and not rivals_of(results):
        rows.append(("a rival", "train one (scone train-fgram --kind plain --out DIR) and add --against DIR"))
    if not results.get("payback") and any(row["arm"] == TABLE for row in results.get("cost", [])):
        rows.append(("whether it pays", "add --against MODEL_DIR of a plain model"))
    if rows:
        yield Figure(
            "Not in this evaluation", "", [], [Table([Column("", "text"), Column("how to add it", "text")], rows)]
        )


_SECTIONS = (
    *(quality_section, gain_section, cost_section, payback_section, ladder_section, tasks_section),
    method_section,
)


def render(results: Results) -> str:
    """The page of an evaluation as one HTML document, from its results (version 2)."""
    sections = [section for make in _SECTIONS if (section := make(results)) is not None]
    headline = headline_of(results)
    kind = {BETTER: "better", WORSE: "worse"}.get(headline.finding, "") if headline else ""
    sentence = results.get("verdict") or verdict_of(results)
    return verdict_page(
        "What Scone gains, and what it costs",
        _about(results),
        (sentence, kind),
        list(_facts(results)),
        _notes(results),
        sections,
    )


def _about(results: Results) -> str:
    """One line: the texts, their size, and the version of scone."""
    method, corpora = results.get("method") or {}, corpora_of(results)
    told = method.get("corpora") or []
    tokens = sum(row["tokens"] or 0 for row in told)
    documents = sum(row["documents"] or 0 for row in told)
    size = f": {documents:,} document{'s' * (documents != 1)}, {count_text(tokens)} tokens" if told else ""
    texts = names_of([text_of(corpus) for corpus in corpora], "corpora") if corpora else "nothing"
    version = f", by scone {method['scone']}" if method.get("scone") else ""
    return f"An evaluation of language models on {texts}{size}{version}."


# ---- the headline numbers ----------------------------------------------------------------------------------------


def _facts(results: Results) -> Iterator[Fact]:
    yield from _gain(results)
    yield from _sizes(results)
    yield from _pays(results)


def _gain(results: Results) -> Iterator[Fact]:
    found = headline_of(results)
    if found is None:
        return
    note = "too little text for a 95% interval"
    if found.interval is not None:
        low, high = found.interval
        note = (
            f"95% interval {signed_percent(low)} to {signed_percent(high)}{', for this text only' * found.of_this_text}"
        )
    if (bits := bits_a_byte(results, found)) is not None:
        note += f"; {signed_number(bits, 4)} bits per byte"
    if found.finding == NOT_SHOWN:
        note += "; no difference shown"
    yield Fact(f"perplexity against {found.against}", signed_percent(found.change), note)


def _sizes(results: Results) -> Iterator[Fact]:
    own, headline = cost_of(results, TABLE), headline_of(results)
    if not own:
        return
    note = f"{own['resident_parameters']:,} parameters" if own.get("resident_parameters") else ""
    times = times_resident(results, headline.against) if headline else None
    if times is not None and headline is not None:
        note += f"; {headline.against} has " + ("as many" if times == 1 else f"{times:.2g} times as many")
    yield Fact("resident, on the accelerator", bytes_text(own["resident_bytes"] or 0), note)
    if own.get("offloaded_rows"):
        disk = own.get("offloaded_bytes_disk")
        note = f"{own['offloaded_rows']:,} rows" + (f"; on disk {bytes_text(disk)}" if disk else "")
        yield Fact("offloaded, in RAM or on disk", bytes_text(own["offloaded_bytes_ram"] or 0), note)


def _pays(results: Results) -> Iterator[Fact]:
    found = results.get("payback")
    if not found or not found["baseline"]:
        return
    bound, note = found["baseline"]["bound"], f"against {found['baseline']['name']}"
    if found["answer"] == "open":
        yield Fact("pays", "not known", f"{note}; the verdict says what to measure")
        return
    if found["outcome"] == "after":
        tokens, days = known(found["break_even_tokens"]), known(found["break_even_days"])
        note = f"{days_text(days)} at {big(load_of(found))} tokens a day; {note}"
        limit = {"at least": "pays at the latest after", "at most": "pays, if at all, no earlier than after"}
        yield Fact(limit.get(bound or "", "pays after"), f"{big(tokens)} tokens", note)
        return
    value = {"at once": "at once", "at first": "at first only"}.get(found["outcome"], "never")
    yield Fact("pays", value, note)


# ---- notes -------------------------------------------------------------------------------------------------------


def _notes(results: Results) -> list[str]:
    notes = [
        f"A check failed: {row['condition']} ({row['left']:.6g} against {row['right']:.6g})."
        for row in results.get("checks", [])
        if row["holds"]
    ]
    for row in told_corpora(results):
        corpus = text_of(row["corpus"])
        if seen := row.get("in_training_split"):
            notes.append(
                f"{seen:,} of the {row['documents']:,} documents of {corpus} are in the training text too: the models have seen "
                "them."
            )
        notes += [f"On {corpus}, {text}." for text in flattery(row)]
        if told := no_words_told(row):
            notes.append(f"Perplexity per word of {corpus}: {told}.")
        if told := errors_told(clusters_of(results, row["corpus"])):
            notes.append(f"{corpus[:1].upper()}{corpus[1:]} has few documents ({row['documents']:,}): {told}.")
    return notes
