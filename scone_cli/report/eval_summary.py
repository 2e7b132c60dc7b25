"""A summary of an evaluation for the terminal: a few tables, then the verdict. `results.json` and the page have all of it.

Every ± is one standard error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scone_cli.corpus.remarks import flattery
from scone_cli.evaluation.result_types import (
    ArmCost,
    Check,
    Corpus,
    Difference,
    Interval,
    Latency,
    Results,
    Rung,
    TaskDifference,
    TaskScore,
    Term,
    TermDifference,
)
from scone_cli.evaluation.results import LIVE, NONE, TABLE, clusters_of, errors_told, generation_speeds, told_finding
from scone_cli.formatting import listed, signed, term_text, value_text, with_error

Row = dict[str, Any]  # of a table on a terminal: what a column holds, by its heading

MOST_RIVALS = 3  # columns of rivals in one table
_OWN = (LIVE, NONE)  # arms that are the same model as the table's
MOST_TERMS = 12
MOST_ARMS = 5  # columns of arms in one table
_ERROR = "± one standard error"


def summary_of(results: Results) -> Row:
    """The tables and lines by heading, in the form that `console.results.result_text` prints."""
    corpora = [row["corpus"] for row in results["method"]["corpora"]]
    first = corpora[0]
    summary = _read(results, corpora) | _details(results, first)
    speeds = generation_speeds(results)
    heading = "cost (tokens per second of one stream that generates, table mapped from disk)" if speeds else "cost"
    summary[heading] = [_cost(row, speeds.get(row["arm"])) for row in results["cost"]]
    if len(corpora) > 1:
        summary["perplexity by corpus"] = list(_by_corpus(results, corpora))
    summary[f"quality on {first} ({_ERROR})"] = list(_quality(results, first))
    if results["checks"]:
        summary["conditions of --fail-if"] = [_check(row) for row in results["checks"]]
    summary["verdict"] = {"": results["verdict"]}
    return summary


def _read(results: Results, corpora: list[str]) -> Row:
    """The texts that were read, and remarks on them."""
    method = results["method"]
    summary: Row = {
        "corpora": [f"{row['corpus']} ({row['tokens']:,} tokens)" for row in method["corpora"]],
        "window and stride, tokens": method["window"],
    }
    if results["hit_rates"]:
        rates = {row["corpus"]: row["hit_rate"] for row in results["hit_rates"]}
        summary["hit rate"] = [
            f"{corpus} {value_text('share', rates[corpus])}" for corpus in corpora if corpus in rates
        ]
    if few := [f"{corpus}: {told}" for corpus in corpora if (told := errors_told(clusters_of(results, corpus)))]:
        summary["few documents"] = few
    if wordless := [f"{row['corpus']}: {told}" for row in method["corpora"] if (told := no_words_told(row))]:
        summary["perplexity per word"] = wordless
    if method["corpora"][0]["bytes"] is None:
        summary["bits per byte"] = "not known: without a byte-level tokenizer, the tokens have no length in bytes"
    if flattered := [f"{row['corpus']}: {text}" for row in method["corpora"] for text in flattery(row)]:
        summary["why_bits_per_byte_are_too_good"] = flattered
    learned = [row for row in method["corpora"] if row["in_training_split"]]
    if learned:
        summary["documents that the models were trained on"] = [
            {
                "corpus": row["corpus"],
                "documents": row["documents"],
                "also in the training split": row["in_training_split"],
            }
            for row in learned
        ]
    return summary


def _details(results: Results, first: str) -> Row:
    """The tables of what was measured beside the quality, for the first corpus; empty ones are left out."""
    tables: Row = {
        f"loss on {first} by how often the token occurs in training, nats per token ({_ERROR})": _where(results, first),
        "which size of the table": [_rung(row) for row in results["ladder"] if row["corpus"] == first],
        f"terms on {first}, nats per token inside them ({_ERROR})": list(_terms(results["terms"], first)),
        "tasks (largest error: one standard error, the largest of all arms)": list(_tasks(results["tasks"])),
        "remarks on tasks": task_remarks(results),
        f"tasks, example by example: table - other ({_ERROR})": list(_task_differences(results["task_differences"])),
        "latency, milliseconds, of one stream that generates": [_latency(row) for row in results["latency"]],
    }
    return {heading: table for heading, table in tables.items() if table}


def _quality(results: Results, corpus: str) -> Iterable[Row]:
    """One row per arm: its quality, and how the table compares with it."""
    values = {(row["arm"], row["metric"]): row for row in results["results"] if row["corpus"] == corpus}
    compared = {row["against"]: row for row in results["differences"] if row["corpus"] == corpus}
    for arm in dict.fromkeys(row["arm"] for row in results["results"]):
        ppl, bits = values[arm, "perplexity"], values.get((arm, "bits_per_byte"))
        words, row = values.get((arm, "word_perplexity")), compared.get(arm)
        yield {
            "arm": arm,
            "perplexity": with_error(ppl["value"], ppl["stderr"], 3),
            **({"per word": round(words["value"], 1 if words["value"] < 1000 else None)} if words else {}),
            "bits per byte": _rounded(bits["value"], 4) if bits else None,
            "table - arm, nats": _signed(row, 4) if row else "-",
            "the table is": _finding(row) if row else "-",
        }


def _by_corpus(results: Results, corpora: list[str]) -> Iterable[Row]:
    """Perplexities: one row per arm, one column per corpus."""
    ppl = {(row["arm"], row["corpus"]): row["value"] for row in results["results"] if row["metric"] == "perplexity"}
    for arm in dict.fromkeys(arm for arm, _ in ppl):
        yield {"arm": arm} | {corpus: _rounded(ppl[arm, corpus], 2) for corpus in corpora}


def _where(results: Results, corpus: str) -> list[Row]:
    """The table's loss and its difference from rivals, from the rarest tokens to the most frequent."""
    rows = [row for row in results["tail"] if row["corpus"] == corpus and row["differences"]]
    against = [each["against"] for each in (rows[0]["differences"] if rows else [])]
    shown = sorted(against, key=lambda arm: arm in _OWN)[:MOST_RIVALS]
    return [
        {"occurs": f"{row['first']:,} to {row['last']:,} times" if row["last"] else "never"}
        | {"share": value_text("share", row["share"]), TABLE: _rounded(row["losses"].get(TABLE), 3)}
        | {f"- {each['against']}": _signed(each, 3) for each in row["differences"] if each["against"] in shown}
        for row in rows
    ]


def _finding(row: Difference | TermDifference | TaskDifference) -> str:
    """The finding against another arm; the same model without its rows is not a rival, so there is none."""
    if row["against"] == NONE:
        return "(without its rows)"
    return told_finding(row["against"], row["finding"], row["low"], row["high"])


def _signed(row: Interval, digits: int) -> str:
    """A difference with its sign and its error."""
    return signed(row["nats_per_token"], with_error(abs(row["nats_per_token"]), row["stderr"], digits))


def no_words_told(corpus: Corpus) -> str:
    """Why a corpus has no perplexity per word; empty if it has one, or if its text is not known."""
    if corpus["words"] is not None or not corpus.get("characters_a_word"):
        return ""
    share = value_text("share", corpus["unspaced_share"])
    return (
        f"left out, as blanks do not separate words here: {share} of the characters belong to scripts without blanks, "
        f"and there are {corpus['characters_a_word']:.0f} characters between two blanks"
    )


def _terms(everything: list[Term], corpus: str) -> Iterable[Row]:
    """All terms together, then those with most tokens; the table is compared with a rival, or else with `none`."""
    rows = [row for row in everything if row["corpus"] == corpus]
    against = [each["against"] for row in rows[:1] for each in row["differences"]]
    rival = next((arm for arm in against if arm not in _OWN and not arm.startswith(f"{TABLE}:")), NONE)
    for row in rows[: 1 + MOST_TERMS]:
        each = next((each for each in row["differences"] if each["against"] == rival), None)
        yield {
            "term": "all" if row["term"] is None else term_text(row["term"]),
            "occurs": row["occurrences"],
            "tokens": row["n"],
            **{arm: _rounded(row["losses"].get(arm), 3) for arm in dict.fromkeys([TABLE, rival]) if rows[0]["losses"]},
            **({f"table - {rival}": _signed(each, 3) if each else "-"} if against else {}),
            **({"the table is": _finding(each) if each else "-"} if against else {}),
        }
    if len(rows) > 1 + MOST_TERMS:
        yield {"term": f"and {len(rows) - 1 - MOST_TERMS:,} more"}


def _latency(row: Latency) -> Row:
    where = {"ram": ", in RAM", "mmap": ", mapped"}.get(row["placement"] or "", "")
    return {
        "arm": row["arm"] + where,
        "first token": _rounded(row["first_token_ms"], 2),
        f"prompts of {row['prompt_tokens']:,}": row["prompts"],
        "each token": _rounded(row["latency_ms"], 3),
        "99th percentile": _rounded(row["latency_p99_ms"], 3),
        "tokens": row["tokens"],
    }


def _rung(row: Rung) -> Row:
    return {
        "rows": row["rows"],
        "bytes": row["bytes"],
        "perplexity": _rounded(row["perplexity"], 3),
        "bits per byte": _rounded(row["bits_per_byte"], 4),
        "hit rate": _rounded(row["hit_rate"], 3),
        "": "<- knee" if row["is_knee"] else "",
    }


def _tasks(rows: list[TaskScore]) -> Iterable[Row]:
    """One row per task and metric with a column per arm; with too many arms, one row per arm."""
    if len({row["arm"] for row in rows}) > MOST_ARMS:
        for row in rows:
            value = "-" if row["value"] is None else with_error(row["value"], row["stderr"])
            yield {
                "task": row["task"],
                "metric": row["metric"],
                "n": row["n"],
                "arm": row["arm"],
                f"score {_ERROR}": value,
            }
        return
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        here = [row for row in rows if (row["task"], row["metric"]) == (task, metric)]
        values = {row["arm"]: "-" if row["value"] is None else f"{row['value']:.3g}" for row in here}
        errors = [row["stderr"] for row in here if row["stderr"] is not None]
        largest = f"{max(errors):.2g}" if errors else "-"
        yield {"task": task, "metric": metric, "n": here[0]["n"], **values, "largest error": largest}


def task_remarks(results: Results) -> list[str]:
    """Which scores have too large an error to be read, and which are not compared."""
    rows, compared = results.get("tasks", []), results.get("task_differences", [])
    scores = dict.fromkeys((row["task"], row["metric"]) for row in rows)
    vague = dict.fromkeys(
        (row["task"], row["metric"])
        for row in rows
        if row["stderr"] and row["value"] is not None and row["stderr"] > abs(row["value"]) / 2
    )
    left_out = scores.keys() - {(row["task"], row["metric"]) for row in compared} if compared else set()
    remarks = {
        "too few examples, the error is more than half of the score": vague,
        "not compared between models, as the score is not a mean over the examples": [
            score for score in scores if score in left_out
        ],
    }
    return [
        f"{listed([f'{metric} of {task}' for task, metric in found])}: {remark}"
        for remark, found in remarks.items()
        if found
    ]


def _task_differences(rows: list[TaskDifference]) -> Iterable[Row]:
    """The differences from each rival; without rivals, those from the same model read in other ways."""
    rivals = [row for row in rows if row["against"] not in _OWN and not row["against"].startswith(f"{TABLE}:")]
    for row in rivals or rows:
        size = with_error(abs(row["difference"]), row["stderr"], 4)
        yield {
            "task": row["task"],
            "metric": row["metric"],
            "other": row["against"],
            "difference": signed(row["difference"], size),
            "the table is": _finding(row),
        }


def _cost(row: ArmCost, speed: float | None) -> Row:
    shown = {
        "arm": row["arm"],
        "resident parameters": row["resident_parameters"],
        "offloaded rows": row["offloaded_rows"],
        "offloaded bytes": row["offloaded_bytes_ram"],
        "decode FLOPs": round(row["decode_flops"]),
    }
    return shown | ({"tokens/s": round(speed)} if speed else {})


def _check(row: Check) -> Row:
    left, right = _rounded(row["left"], 6), _rounded(row["right"], 6)
    return {"condition": row["condition"], "left": left, "right": right, "holds": row["holds"]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # not -0.0
