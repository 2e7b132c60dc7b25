"""An evaluation for a terminal: a few tables, what decides last. All of it is in `results.json`, and on the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scone_cli.corpus.remarks import flattery
from scone_cli.evaluation.results import LIVE, NONE, NOT_SHOWN, TABLE
from scone_cli.formatting import signed, value_text, with_error

Row = dict[str, Any]

MOST_RIVALS = 3  # beside one another
_OWN = (LIVE, NONE)  # arms that are the same model
_FINDINGS = {NOT_SHOWN: "not shown to differ"}


def summary_of(results: Row) -> Row:
    """What is shown, as `console.results.result_text` takes it."""
    method = results["method"]
    corpora = [row["corpus"] for row in method["corpora"]]
    first = corpora[0]
    summary: Row = {
        "corpora": [f"{row['corpus']} ({row['tokens']:,} tokens)" for row in method["corpora"]],
        "window and stride, tokens": method["window"],
    }
    if results["hit_rates"]:
        rates = {row["corpus"]: row["hit_rate"] for row in results["hit_rates"]}
        summary["hit rate"] = [
            f"{corpus} {value_text('share', rates[corpus])}" for corpus in corpora if corpus in rates
        ]
    if method["corpora"][0]["bytes"] is None:
        summary["bits a byte"] = "not known: no byte-level tokenizer says how much text the tokens stand for"
    if flattered := [f"{row['corpus']}: {text}" for row in method["corpora"] for text in flattery(row)]:
        summary["why_bits_per_byte_are_too_good"] = flattered
    learned = [row for row in method["corpora"] if row["in_training_split"]]
    if learned:
        summary["documents that the models have learned from"] = [
            {
                "corpus": row["corpus"],
                "documents": row["documents"],
                "also in the training split": row["in_training_split"],
            }
            for row in learned
        ]
    if where := _where(results, first):
        summary[f"loss on {first} by how often the token occurs in training, nats a token"] = where
    if ladder := [row for row in results["ladder"] if row["corpus"] == first]:
        summary["which size of the table"] = [_rung(row) for row in ladder]
    if results["tasks"]:
        summary["tasks"] = list(_tasks(results["tasks"]))
    timed = {row["arm"]: row for row in results["speed"] if (row["phase"], row["batch"]) == ("decode", 1)}
    heading = "cost (tokens a second: written by one stream)" if timed else "cost"
    summary[heading] = [_cost(row, timed.get(row["arm"])) for row in results["cost"]]
    if len(corpora) > 1:
        summary["perplexity by corpus"] = list(_by_corpus(results, corpora))
    summary[f"quality on {first}"] = list(_quality(results, first))
    if results["checks"]:
        summary["conditions to fail by"] = [_check(row) for row in results["checks"]]
    summary["verdict"] = {"": results["verdict"]}
    return summary


def _quality(results: Row, corpus: str) -> Iterable[Row]:
    """A row an arm: what it is worth, and how the table compares with it."""
    values = {(row["arm"], row["metric"]): row for row in results["results"] if row["corpus"] == corpus}
    compared = {row["against"]: row for row in results["differences"] if row["corpus"] == corpus}
    for arm in dict.fromkeys(row["arm"] for row in results["results"]):
        ppl, bits = values[arm, "perplexity"], values.get((arm, "bits_per_byte"))
        words, row = values.get((arm, "word_perplexity")), compared.get(arm)
        yield {
            "arm": arm,
            "perplexity": with_error(ppl["value"], ppl["stderr"], 3),
            "a word": round(words["value"], 1 if words["value"] < 1000 else None) if words else None,
            "bits a byte": _rounded(bits["value"], 4) if bits else None,
            "table - arm, nats": _signed(row, 4) if row else "-",
            "the table is": _FINDINGS.get(row["finding"], row["finding"]) if row else "-",
        }


def _by_corpus(results: Row, corpora: list[str]) -> Iterable[Row]:
    """A row an arm, a column a corpus."""
    ppl = {(row["arm"], row["corpus"]): row["value"] for row in results["results"] if row["metric"] == "perplexity"}
    for arm in dict.fromkeys(arm for arm, _ in ppl):
        yield {"arm": arm} | {corpus: _rounded(ppl[arm, corpus], 2) for corpus in corpora}


def _where(results: Row, corpus: str) -> list[Row]:
    """The tail: what the table gains on rivals, from the rarest tokens to the most frequent; as many as there is room for."""
    rows = [row for row in results["tail"] if row["corpus"] == corpus and row["differences"]]
    against = [each["against"] for each in (rows[0]["differences"] if rows else [])]
    shown = sorted(against, key=lambda arm: arm in _OWN)[:MOST_RIVALS]
    return [
        {"occurs": f"{row['first']:,} to {row['last']:,} times" if row["last"] else "never"}
        | {"share": value_text("share", row["share"]), TABLE: _rounded(row["losses"].get(TABLE), 3)}
        | {f"- {each['against']}": _signed(each, 3) for each in row["differences"] if each["against"] in shown}
        for row in rows
    ]


def _signed(row: Row, digits: int) -> str:
    """A difference and half of its interval."""
    half = None if row["high"] is None else row["high"] - row["nats_per_token"]
    return signed(row["nats_per_token"], with_error(abs(row["nats_per_token"]), half, digits))


def _rung(row: Row) -> Row:
    return {
        "rows": row["rows"],
        "bytes": row["bytes"],
        "perplexity": _rounded(row["perplexity"], 3),
        "bits a byte": _rounded(row["bits_per_byte"], 4),
        "hit rate": _rounded(row["hit_rate"], 3),
        "": "<- knee" if row["is_knee"] else "",
    }


def _tasks(rows: list[Row]) -> Iterable[Row]:
    """A row a task and metric, a column each for the table and its rivals."""
    compared = [row for row in rows if row["arm"] not in _OWN and not row["arm"].startswith(f"{TABLE}:")]
    rows = compared or rows
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        here = [row for row in rows if (row["task"], row["metric"]) == (task, metric)]
        values = {row["arm"]: "-" if row["value"] is None else f"{row['value']:.3g}" for row in here}
        errors = [row["stderr"] for row in here if row["stderr"] is not None]
        largest = f"{max(errors):.2g}" if errors else "-"
        yield {"task": task, "metric": metric, "n": here[0]["n"], **values, "± at most": largest}


def _cost(row: Row, timed: Row | None) -> Row:
    shown = {
        "arm": row["arm"],
        "resident parameters": row["resident_parameters"],
        "offloaded rows": row["offloaded_rows"],
        "offloaded bytes": row["offloaded_bytes_ram"],
        "decode FLOPs": round(row["decode_flops"]),
    }
    return shown | ({"tokens/s": round(timed["tokens_a_second"])} if timed else {})


def _check(row: Row) -> Row:
    left, right = _rounded(row["left"], 6), _rounded(row["right"], 6)
    return {"condition": row["condition"], "left": left, "right": right, "holds": row["holds"]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # not -0.0
