"""Zero-shot tasks, and all that is needed to repeat an evaluation, on its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scone_cli.evaluation.results import TABLE, Results, Row, rivals_of, rows_of
from scone_cli.figures import Column, Figure, Section, Table
from scone_cli.formatting import listed, seconds_text, with_error

_ACROSS = 6  # scores side by side: as many as fit on paper
# What is not in an evaluation unless it was asked for: the section, what it would tell, and how to ask.
_MISSING = (
    ("differences", "nothing is compared", "run scone precompute, and name rivals: --against MODEL_DIR"),
    ("speed", "no speed was measured", "run scone eval again"),
    ("ladder", "no smaller table was tried", "add --ladder"),
    ("tasks", "no zero-shot task was run", "add --tasks FILE_OR_DIR"),
)


def tasks_section(results: Results) -> Section | None:
    """The models by task, with standard errors."""
    rows = rows_of(results, "tasks")
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
    cut: dict[str, int] = {}  # the most of any model
    for row in rows:
        if row.get("cut") is not None:
            cut[row["task"]] = max(cut.get(row["task"], 0), row["cut"])
    versions = list(
        dict.fromkeys((row["task"], row["n"], str(row["version"] or "-"), cut.get(row["task"])) for row in rows)
    )
    says = (
        "Tasks that the models were not trained for, scored by lm-evaluation-harness, with standard errors over the examples. "
        "Where two scores differ by less than about three of these errors, no difference is shown."
    )
    return Section("Tasks", says, [Figure("Scores", "", [], [*tables, Table(about, versions, "What the tasks are")])])


def _score(row: Row | None) -> str:
    return "-" if row is None else with_error(row["value"], row["stderr"])


# ---- method ------------------------------------------------------------------------------------------------------


def method_section(results: Results) -> Section:
    """What was read, with what, by which commands."""
    method = results.get("method") or {}
    figures = [_texts(method), _models(method), _settings(method), *_checks(results), *_left_out(results)]
    says = (
        "Every token of every document is predicted exactly once, in windows that do not overlap unless the stride is shorter; "
        "all models read the same windows. Differences are taken document by document, and their intervals are of 95%. "
        "These commands repeat it:"
    )
    return Section(
        "Method", says, [figure for figure in figures if figure.tables or figure.caption], method.get("commands") or []
    )


def _texts(method: Row) -> Figure:
    columns = [
        *(Column("corpus", "text"), Column("documents", "count"), Column("tokens", "count"), Column("words", "count")),
        *(Column("bytes", "count"), Column("documents also in the training text", "count")),
    ]
    keys = ("documents", "tokens", "words", "bytes", "in_training_split")
    rows = [(row["corpus"], *(row.get(key) for key in keys)) for row in method.get("corpora") or []]
    return Figure("Texts", "", [], [Table(columns, rows)] if rows else [])


def _models(method: Row) -> Figure:
    """Fingerprints, by which every artifact that took part can be told from any other."""
    models: dict[str, list[str]] = {}
    for arm, mark in (method.get("models") or {}).items():
        models.setdefault(mark, []).append(arm)
    rows = [(f"model of {listed(arms)}", mark, "", None) for mark, arms in models.items()]
    rows += [(arm, row["fingerprint"], row["dtype"], row["rows"]) for arm, row in (method.get("tables") or {}).items()]
    if method.get("tokenizer"):
        rows.append(("tokenizer", method["tokenizer"], "", None))
    columns = [Column("", "text"), Column("fingerprint", "literal"), Column("format", "text"), Column("rows", "count")]
    return Figure("Fingerprints", "", [], [Table(columns, rows)] if rows else [])


def _settings(method: Row) -> Figure:
    told: dict[str, tuple[str, Callable[[Any], str]]] = {
        "scone": ("version of scone", str),
        "window": ("window", "{:,} tokens".format),
        "stride": ("stride", "{:,} tokens".format),
        "seed": ("seed", str),
        "seconds": ("time taken", seconds_text),
    }
    rows = [(name, write(method[key])) for key, (name, write) in told.items() if method.get(key) is not None]
    return Figure("Settings", "", [], [Table([Column("", "text"), Column("", "written")], rows)] if rows else [])


def _checks(results: Results) -> Iterator[Figure]:
    if rows := rows_of(results, "checks"):
        columns = [
            *(Column("fails if", "literal"), Column("left", "measure"), Column("right", "measure"), Column("", "text")),
        ]
        values = [(row["condition"], row["left"], row["right"], "failed" if row["holds"] else "passed") for row in rows]
        yield Figure("Checks", "", [], [Table(columns, values)])


def _left_out(results: Results) -> Iterator[Figure]:
    """One line for each part that this page could have had."""
    rows = [(text, how) for key, text, how in _MISSING if not rows_of(results, key)]
    if rows_of(results, "differences") and not rivals_of(results):
        rows.append(
            ("no rival was measured", "train one (scone train-fgram --kind plain --out DIR) and add --against DIR")
        )
    if not results.get("payback") and any(row["arm"] == TABLE for row in rows_of(results, "cost")):
        rows.append(("whether it pays was not worked out", "add --against MODEL_DIR of a plain model"))
    if rows:
        yield Figure(
            "Not in this evaluation", "", [], [Table([Column("", "text"), Column("to have it", "text")], rows)]
        )
