"""The verdict of an evaluation in words: the gain, the cost, and whether that pays; for the page, terminal and results.json.

Where something is not known, the verdict says what is missing and which command measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scone_cli.evaluation.result_types import Results
from scone_cli.evaluation.results import (
    BETTER,
    NONE,
    NOT_SHOWN,
    SAME,
    TABLE,
    TOO_FEW,
    WORSE,
    Calls,
    Comparison,
    arms_of,
    comparisons,
    cost_of,
    generation_speeds,
    headline_of,
    how_much,
    judged_corpora,
    named_text,
    rivals_of,
    times_resident,
)
from scone_cli.formatting import bytes_text, count_text, listed, names_of, percent

_RELATIONS = {BETTER: "the table is better than", WORSE: "the table is worse than", SAME: "the table is the same as"}
_MOST_TIMES = 50  # nobody would look for more times the text


def verdict_of(results: Results) -> str:
    """The whole verdict: the gain, the gain inside terms if there are any, the cost, whether it pays."""
    pays = found["verdict"] if (found := results.get("payback")) else _without_payback(results)
    return " ".join(
        filter(None, [verdict(results), unknown_told(results), terms_told(results), cost_told(results), pays])
    )


def verdict(results: Results) -> str:
    """Whether the table is better than its rivals, by how much, and on which corpora; two sentences at most.

    The rival that counts is the best one of the same resident size, on the first corpus that is not training text. A
    difference is shown if it has a 95% interval that does not cover zero.
    """
    corpora, closest = judged_corpora(results), headline_of(results)
    if closest is None:
        return _without_rivals(results, corpora)
    return " ".join([_against_rivals(results, closest), *_elsewhere(results, closest, corpora)])


# ---- the gain ----------------------------------------------------------------------------------------------------


def _against_rivals(results: Results, closest: Comparison) -> str:
    """The first corpus: the rival that counts, then other rivals of this size, then larger ones."""
    rivals = rivals_of(results)
    others = [
        each
        for each in comparisons(results, corpus=closest.corpus)
        if each.against in rivals and each.against != closest.against
    ]
    times = times_resident(results, closest.against)
    peers = [each for each in others if times is not None and times_resident(results, each.against) == times]
    larger = [each for each in others if each not in peers and (times_resident(results, each.against) or 0) > 1]
    which = "the best rival of the same resident size" if peers else "its rival of the same resident size"
    if times != 1:
        which = "its rival" if times is None else f"which has {times:.2g} times as many resident parameters"
    relation = _RELATIONS.get(closest.finding, "no difference is shown between the table and")
    sentence = f"On {named_text(results, closest.corpus)} {relation} {closest.against}, {which}"
    if closest.finding != SAME:
        whose = "the table's" if closest.finding == NOT_SHOWN else "its"
        sentence += f": {whose} perplexity is {how_much(closest)}"
    clauses = [*_what_would_decide(results, closest), *_about_peers(closest, peers), *_about_larger(results, larger)]
    return "; ".join([sentence, *clauses]) + "."


def _what_would_decide(results: Results, found: Comparison) -> Iterator[str]:
    """How much more text would show the difference, if it stays as it is: an interval shrinks with the root of the text."""
    if found.finding != NOT_SHOWN:
        return
    evaluate = f"{Calls.of(results).evaluate_text} CORPUS"
    if found.low is None or found.high is None:
        yield f"more text would decide it ({evaluate})"
        return
    times = ((found.high - found.low) / 2 / found.nats) ** 2 if found.nats else float("inf")
    if times <= _MOST_TIMES:
        yield f"about {max(2, round(times))} times as much text would decide it ({evaluate})"
    else:
        yield f"they are within {percent(max(map(abs, found.interval or ())))} of one another"


def _about_peers(closest: Comparison, peers: Sequence[Comparison]) -> Iterator[str]:
    """Rivals of the same size that the table beats, if it does not beat the best one."""
    if closest.finding != BETTER and (beaten := [each.against for each in peers if each.finding == BETTER]):
        yield f"it is better than {names_of(beaten, 'rivals')}"


def _about_larger(results: Results, larger: Sequence[Comparison]) -> Iterator[str]:
    told = {
        BETTER: "it beats",
        SAME: "it is the same as",
        NOT_SHOWN: "no difference is shown from",
        WORSE: "it loses to",
    }
    for finding, words in told.items():
        if names := [each.against for each in larger if each.finding == finding]:
            times = [times_resident(results, name) or 0 for name in names]
            size = f"{times[0]:.2g}" if len(times) == 1 else f"up to {max(times):.2g}"
            yield f"{words} the larger {names_of(names, 'rivals')} ({size} times its resident parameters)"


def _elsewhere(results: Results, closest: Comparison, corpora: Sequence[str]) -> Iterator[str]:
    """The findings against the same rival on the other corpora."""
    found = [
        each
        for each in comparisons(results, closest.against)
        if each.corpus in corpora and each.corpus != closest.corpus
    ]
    if not found:
        return
    told = {BETTER: "it is better", WORSE: "it is worse", SAME: "it is the same", NOT_SHOWN: "no difference is shown"}
    by_finding = {
        finding: [named_text(results, each.corpus) for each in found if each.finding == finding] for finding in told
    }
    if len(same := by_finding[closest.finding]) == len(found):
        where = f"all {len(found)} other corpora" if len(found) > 2 else f"{listed(same)} too"
        yield f"Against {closest.against} {told[closest.finding]} on {where}."
        return
    parts = [f"{told[finding]} on {names_of(names, 'corpora')}" for finding, names in by_finding.items() if names]
    yield f"Elsewhere, against {closest.against}, {listed(parts)}."


def _without_rivals(results: Results, corpora: Sequence[str]) -> str:
    """The verdict without a rival; removing the rows of a model that was trained with them measures no gain."""
    for found in comparisons(results, NONE):
        if found.corpus in corpora:
            where = f"its perplexity on {named_text(results, found.corpus)} is {how_much(found)}"
            how = Calls.of(results).for_a_rival()
            return (
                f"What Scone gains is not known, as no rival was measured: {how}. Compared with the same model without its "
                f"rows, which it was trained with, {where}."
            )
    arms = arms_of(results)
    return f"Nothing is compared: there is {'no arm' if not arms else f'no rival beside {listed(arms)}'}."


def unknown_told(results: Results) -> str:
    """A warning of rivals that may have been trained on what is evaluated; empty without one."""
    names = results.get("method", {}).get("training_unknown", [])
    if not names:
        return ""
    what, they = ("it was", "it has") if len(names) == 1 else ("they were", "they have")
    return f"Of {listed(names)} it is not known what {what} trained on: if {they} read this text, the loss is too low."


def terms_told(results: Results) -> str:
    """The comparison with the same rival inside the given terms; empty without terms or without a rival."""
    closest = headline_of(results)
    rows = [row for row in results.get("terms", []) if closest and row["corpus"] == closest.corpus]
    if closest is None or not rows:
        return ""
    if not rows[0]["n"]:
        return f"None of the {len(rows) - 1:,} terms occurs on {named_text(results, closest.corpus)}."
    each = next(each for each in rows[0]["differences"] if each["against"] == closest.against)
    if each["finding"] == TOO_FEW:
        times = f"{rows[0]['occurrences']:,} time{'s' * (rows[0]['occurrences'] != 1)}"
        return f"The terms occur {times} on {named_text(results, closest.corpus)}, in too few places to judge."
    of_terms = replace(
        closest, nats=each["nats_per_token"], low=each["low"], high=each["high"], finding=each["finding"]
    )
    occurrences = f"{rows[0]['occurrences']:,} occurrence{'s' * (rows[0]['occurrences'] != 1)} of the terms"
    not_shown = "; no difference is shown" * (of_terms.finding == NOT_SHOWN)
    return f"Inside the {occurrences} its perplexity is {how_much(of_terms)}{not_shown}."


# ---- the cost, and whether it pays -------------------------------------------------------------------------------


def cost_told(results: Results) -> str:
    """What serving the table costs, compared with the rival that counts; empty if costs are not known."""
    own, closest = cost_of(results, TABLE), headline_of(results)
    if not own:
        return ""
    parts = [f"{own['resident_parameters']:,} resident parameters"] if own["resident_parameters"] else []
    rival = cost_of(results, closest.against) if closest else None
    if closest and parts and rival and rival["resident_parameters"]:
        ratio = own["resident_parameters"] / rival["resident_parameters"]
        is_same = times_resident(results, closest.against) == 1
        parts[0] += (
            f" (as many as {closest.against})" if is_same else f" ({ratio:.2g} times those of {closest.against})"
        )
    if own["offloaded_bytes_ram"]:
        size = bytes_text(own["offloaded_bytes_ram"])
        parts.append(f"{size} of memory outside the accelerator for {count_text(own['offloaded_rows'])} rows")
    if closest and own["training_flops"] and rival and rival["training_flops"]:
        ratio = own["training_flops"] / rival["training_flops"]
        parts.append(f"{ratio:.2g} times the training of {closest.against}")
    cost = f"It costs {listed(parts)}." if parts else ""
    return " ".join(filter(None, [cost, _speed_told(results, closest)]))


def _speed_told(results: Results, closest: Comparison | None) -> str:
    """The speed of one stream that generates, compared with the rival that counts; empty if it was not measured."""
    speeds = generation_speeds(results)
    if TABLE not in speeds:
        return ""
    told = f"It generates {round(speeds[TABLE]):,} tokens per second in one stream"
    if closest and closest.against in speeds:
        told += f", {closest.against} {round(speeds[closest.against]):,}"
    return f"{told}."


def _without_payback(results: Results) -> str:
    """That nobody knows whether it pays; empty if no table was measured or nothing was compared."""
    if not any(row["arm"] == TABLE for row in results.get("cost", [])) or headline_of(results) is None:
        return ""
    which = " whose training cost is known" if results.get("method", {}).get("training_unknown") else ""
    return f"Whether it pays is not known, as no plain model{which} was measured: {Calls.of(results).for_a_rival()}."
