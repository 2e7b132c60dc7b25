"""The page of an evaluation, which people decide from: `render` makes it of results.json, `verdict` its first sentence.

What a page says and shows of each question is in `report_quality`, `report_gain`, `report_cost`, `report_payback`,
`report_ladder` and `report_method`; a section without numbers is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from scone_cli.evaluation.results import (
    BETTER,
    TABLE,
    WORSE,
    Results,
    bits_a_byte,
    corpora_of,
    cost_of,
    headline_of,
    rows_of,
    text_of,
    times_resident,
)
from scone_cli.figures import Fact
from scone_cli.formatting import big, bytes_text, count_text, days_text, names_of, signed, signed_percent
from scone_cli.page import verdict_page
from scone_cli.report_cost import cost_section
from scone_cli.report_gain import gain_section
from scone_cli.report_ladder import ladder_section
from scone_cli.report_method import method_section, tasks_section
from scone_cli.report_payback import load_of, payback_section
from scone_cli.report_quality import quality_section
from scone_cli.report_verdict import verdict

__all__ = ["render", "verdict"]

_SECTIONS = (
    *(quality_section, gain_section, cost_section, payback_section, ladder_section, tasks_section),
    method_section,
)


def render(results: Results) -> str:
    """The page: an HTML document that needs nothing beside it, of the results of one evaluation (version 2)."""
    sections = [section for make in _SECTIONS if (section := make(results)) is not None]
    headline = headline_of(results)
    kind = {BETTER: "better", WORSE: "worse"}.get(headline.finding, "") if headline else ""
    sentence = results.get("verdict") or verdict(results)
    return verdict_page(
        "What Scone gains, and what it costs",
        _about(results),
        (sentence, kind),
        list(_facts(results)),
        _notes(results),
        sections,
    )


def _about(results: Results) -> str:
    """What was evaluated, in a line."""
    method, corpora = results.get("method") or {}, corpora_of(results)
    told = method.get("corpora") or []
    tokens = sum(row["tokens"] or 0 for row in told)
    documents = sum(row["documents"] or 0 for row in told)
    size = f": {documents:,} document{'s' * (documents != 1)}, {count_text(tokens)} tokens" if told else ""
    texts = names_of([text_of(corpus) for corpus in corpora], "corpora") if corpora else "nothing"
    version = f", by scone {method['scone']}" if method.get("scone") else ""
    return f"An evaluation of language models on {texts}{size}{version}."


# ---- the figures that a manager reads ----------------------------------------------------------------------------


def _facts(results: Results) -> Iterator[Fact]:
    yield from _gain(results)
    yield from _sizes(results)
    yield from _pays(results)


def _gain(results: Results) -> Iterator[Fact]:
    found = headline_of(results)
    if found is None:
        return
    note = "one document: no interval"
    if found.interval is not None:
        low, high = found.interval
        note = f"95% interval {signed_percent(low)} to {signed_percent(high)}"
    if (bits := bits_a_byte(results, found)) is not None:
        note += f"; {signed(bits, 4)} bits a byte"
    if found.finding not in (BETTER, WORSE):
        note += "; no difference shown"
    yield Fact(f"perplexity against {found.against}", signed_percent(found.change), note)


def _sizes(results: Results) -> Iterator[Fact]:
    own, headline = cost_of(results, TABLE), headline_of(results)
    if not own:
        return
    note = f"{own['resident_parameters']:,} parameters" if own.get("resident_parameters") else ""
    times = times_resident(results, headline.against) if headline else None
    if times is not None and headline is not None:
        note += f"; {headline.against} " + ("as many" if times == 1 else f"{times:.2g} times as many")
    yield Fact("resident, on the accelerator", bytes_text(own["resident_bytes"] or 0), note)
    if own.get("offloaded_rows"):
        disk = own.get("offloaded_bytes_disk")
        note = f"{own['offloaded_rows']:,} rows in RAM" + (f", or {bytes_text(disk)} on disk" if disk else "")
        yield Fact("offloaded, beside it", bytes_text(own["offloaded_bytes_ram"] or 0), note)


def _pays(results: Results) -> Iterator[Fact]:
    found = results.get("payback")
    if not found or not found.get("baseline"):
        return
    tokens, days, bound = found["break_even_tokens"], found["break_even_days"], found["baseline"]["bound"]
    note = f"against {found['baseline']['name']}"
    if found["outcome"] == "after":
        note = f"{days_text(days)} at {big(load_of(found))} tokens a day; {note}"
        limit = {"at least": "pays at the latest after", "at most": "pays, if at all, no earlier than after"}
        yield Fact(limit.get(bound or "", "pays after"), f"{big(tokens)} tokens", note)
        return
    value = {"at once": "at once", "at first": "at first only"}.get(found["outcome"], "never")
    if (found["outcome"], bound) in (("never", "at least"), ("at once", "at most")):
        value, note = "not shown", f"{note}, which is {'worse' if bound == 'at least' else 'better'}"
    yield Fact("pays", value, note)


# ---- what must be known to read it -------------------------------------------------------------------------------


def _notes(results: Results) -> list[str]:
    notes = [
        f"A check failed: {row['condition']} ({row['left']:.6g} against {row['right']:.6g})."
        for row in rows_of(results, "checks")
        if row["holds"]
    ]
    for row in (results.get("method") or {}).get("corpora") or []:
        corpus = text_of(row["corpus"])
        if seen := row.get("in_training_split"):
            notes.append(
                f"{seen:,} of the {row['documents']:,} documents of {corpus} are in the training text too: on those a model only "
                "remembers."
            )
        if row.get("documents") == 1:
            notes.append(f"{corpus[:1].upper()}{corpus[1:]} is one document: no errors, no intervals.")
    return notes
