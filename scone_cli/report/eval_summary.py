"""An evaluation for a terminal: a few tables, what decides last. All of it is in `results.json`, and on the page.

Every ± is one standard error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scone_cli.corpus.remarks import flattery
from scone_cli.evaluation.results import LIVE, NONE, NOT_SHOWN, TABLE, clusters_of, errors_told, generation_speeds
from scone_cli.formatting import signed, term_text, value_text, with_error

Row = dict[str, Any]

MOST_RIVALS = 3  # beside one another
_OWN = (LIVE, NONE)  # arms that are the same model
LEAST_TOLD = 1e-3  # nats a token: a tenth of a percent of the perplexity
MOST_TERMS = 12
MOST_ARMS = 5  # beside one another
_ERROR = "± one standard error"


def summary_of(results: Row) -> Row:
    """What is shown, as `console.results.result_text` takes it."""
    corpora = [row["corpus"] for row in results["method"]["corpora"]]
    first = corpora[0]
    summary = _read(results, corpora) | _details(results, first)
    speeds = generation_speeds(results)
    heading = "cost (tokens a second: written by one stream, a table mapped from disk)" if speeds else "cost"
    summary[heading] = [_cost(row, speeds.get(row["arm"])) for row in results["cost"]]
    if len(corpora) > 1:
        summary["perplexity by corpus"] = list(_by_corpus(results, corpora))
    summary[f"quality on {first} ({_ERROR})"] = list(_quality(results, first))
    if results["checks"]:
        summary["conditions to fail by"] = [_check(row) for row in results["checks"]]
    summary["verdict"] = {"": results["verdict"]}
    return summary


def _read(results: Row, corpora: list[str]) -> Row:
    """What was read, and what is to be known of it."""
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
        summary["perplexity a word"] = wordless
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
    return summary


def _details(results: Row, first: str) -> Row:
    """The tables of what was asked for, as far as there are any; of the first corpus."""
    tables = {
        f"loss on {first} by how often the token occurs in training, nats a token ({_ERROR})": _where(results, first),
        "which size of the table": [_rung(row) for row in results["ladder"] if row["corpus"] == first],
        f"terms on {first}, nats a token inside them ({_ERROR})": list(_terms(results["terms"], first)),
        "tasks": list(_tasks(results["tasks"])),
        f"tasks, item by item: the table less another ({_ERROR})": list(_task_differences(results["task_differences"])),
        "latency, milliseconds, of one stream that generates": [_latency(row) for row in results["latency"]],
    }
    return {heading: table for heading, table in tables.items() if table}


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
            **({"a word": round(words["value"], 1 if words["value"] < 1000 else None)} if words else {}),
            "bits a byte": _rounded(bits["value"], 4) if bits else None,
            "table - arm, nats": _signed(row, 4) if row else "-",
            "the table is": _finding(row) if row else "-",
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


def _finding(row: Row) -> str:
    """What is found against another model; of the same one without its rows it is no finding."""
    found = str(row["finding"])
    if row["against"] == NONE:
        return "(rows taken away)"
    if found == NOT_SHOWN and row["against"] == LIVE and _is_rounding(row):
        return "the same, rounded"
    return found


def _is_rounding(row: Row) -> bool:
    """Whether a difference of the table from the model that made it is that of rows of half precision."""
    return row["low"] is not None and max(abs(row["low"]), abs(row["high"])) < LEAST_TOLD


def _signed(row: Row, digits: int) -> str:
    """A difference and its error."""
    return signed(row["nats_per_token"], with_error(abs(row["nats_per_token"]), row["stderr"], digits))


def no_words_told(corpus: Row) -> str:
    """Why no perplexity a word is told of a corpus, as `method` describes it; empty where one is, or there is no text."""
    if corpus["words"] is not None or not corpus.get("characters_a_word"):
        return ""
    share = value_text("share", corpus["unspaced_share"])
    return (
        f"left out, as blanks do not tell words apart here: {share} of the characters are of scripts without blanks, "
        f"{corpus['characters_a_word']:.0f} characters stand between two blanks"
    )


def _terms(everything: list[Row], corpus: str) -> Iterable[Row]:
    """All terms together, then those with most tokens; how the table compares with a rival, or else with no rows."""
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


def _latency(row: Row) -> Row:
    where = {"ram": ", in RAM", "mmap": ", mapped"}.get(row["placement"] or "", "")
    return {
        "arm": row["arm"] + where,
        "first token": _rounded(row["first_token_ms"], 2),
        f"prompts of {row['prompt_tokens']:,}": row["prompts"],
        "each token": _rounded(row["latency_ms"], 3),
        "99th percentile": _rounded(row["latency_p99_ms"], 3),
        "tokens": row["tokens"],
    }


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
    """A row a task and metric, with a column each for all arms; where there is no room for that, a row for each."""
    if len({row["arm"] for row in rows}) > MOST_ARMS:
        for row in rows:
            value = "-" if row["value"] is None else with_error(row["value"], row["stderr"])
            yield {
                "task": row["task"],
                "metric": row["metric"],
                "n": row["n"],
                "arm": row["arm"],
                f"value {_ERROR}": value,
            }
        return
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        here = [row for row in rows if (row["task"], row["metric"]) == (task, metric)]
        values = {row["arm"]: "-" if row["value"] is None else f"{row['value']:.3g}" for row in here}
        errors = [row["stderr"] for row in here if row["stderr"] is not None]
        largest = f"{max(errors):.2g}" if errors else "-"
        yield {"task": task, "metric": metric, "n": here[0]["n"], **values, "± at most": largest}


def _task_differences(rows: list[Row]) -> Iterable[Row]:
    """Against each rival; where there is none, against the same model read in other ways."""
    rivals = [row for row in rows if row["against"] not in _OWN and not row["against"].startswith(f"{TABLE}:")]
    for row in rivals or rows:
        size = with_error(abs(row["difference"]), row["stderr"], 4)
        yield {
            "task": row["task"],
            "metric": row["metric"],
            "less": row["against"],
            "difference": signed(row["difference"], size),
            "the table is": _finding(row),
        }


def _cost(row: Row, speed: float | None) -> Row:
    shown = {
        "arm": row["arm"],
        "resident parameters": row["resident_parameters"],
        "offloaded rows": row["offloaded_rows"],
        "offloaded bytes": row["offloaded_bytes_ram"],
        "decode FLOPs": round(row["decode_flops"]),
    }
    return shown | ({"tokens/s": round(speed)} if speed else {})


def _check(row: Row) -> Row:
    left, right = _rounded(row["left"], 6), _rounded(row["right"], 6)
    return {"condition": row["condition"], "left": left, "right": right, "holds": row["holds"]}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # not -0.0
