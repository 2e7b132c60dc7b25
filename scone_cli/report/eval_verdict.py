"""The verdict of an evaluation: one or two plain sentences, for the page, the terminal and results.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scone_cli.evaluation.results import (
    BETTER,
    NONE,
    NOT_SHOWN,
    WORSE,
    Comparison,
    Results,
    arms_of,
    comparisons,
    headline_of,
    how_much,
    judged_corpora,
    rivals_of,
    text_of,
    times_resident,
)
from scone_cli.formatting import listed, names_of


def verdict(results: Results) -> str:
    """Whether the table is better than its rivals, by how much, and on which corpora; two sentences at most.

    The rival that counts is the best of those with the same resident size, on the first corpus that is not training text.
    A difference whose 95% interval covers zero, or that has none, is not shown.
    """
    corpora, closest = judged_corpora(results), headline_of(results)
    if closest is None:
        return _without_rivals(results, corpora)
    return " ".join([_against_rivals(results, closest), *_elsewhere(results, closest, corpora)])


# ---- the sentences -----------------------------------------------------------------------------------------------


def _against_rivals(results: Results, closest: Comparison) -> str:
    """On the first corpus: the rival that counts, then the others of this size, then the larger ones."""
    rivals = rivals_of(results)
    others = [
        each
        for each in comparisons(results, corpus=closest.corpus)
        if each.against in rivals and each.against != closest.against
    ]
    times = times_resident(results, closest.against)
    peers = [each for each in others if times is not None and times_resident(results, each.against) == times]
    larger = [each for each in others if each not in peers and (times_resident(results, each.against) or 0) > 1]
    which = "the best of its rivals of the same resident size" if peers else "its rival of the same resident size"
    if times != 1:
        which = "its rival" if times is None else f"which keeps {times:.2g} times as many parameters resident"
    relation = {BETTER: "better than", WORSE: "worse than"}.get(closest.finding, "not shown to differ from")
    sentence = f"On {text_of(closest.corpus)} the table is {relation} {closest.against}, {which}: "
    sentence += f"its perplexity is {how_much(closest)}"
    clauses = [*_about_peers(closest, peers), *_about_larger(results, larger)]
    return "; ".join([sentence, *clauses]) + "."


def _about_peers(closest: Comparison, peers: Sequence[Comparison]) -> Iterator[str]:
    """Rivals of the same size that the table beats although it does not beat the best of them."""
    if closest.finding != BETTER and (beaten := [each.against for each in peers if each.finding == BETTER]):
        yield f"it is better than {names_of(beaten, 'rivals')}"


def _about_larger(results: Results, larger: Sequence[Comparison]) -> Iterator[str]:
    for finding, words in ((BETTER, "it beats"), (NOT_SHOWN, "it is not shown to differ from"), (WORSE, "it loses to")):
        if names := [each.against for each in larger if each.finding == finding]:
            times = [times_resident(results, name) or 0 for name in names]
            size = f"{times[0]:.2g}" if len(times) == 1 else f"up to {max(times):.2g}"
            yield f"{words} the larger {names_of(names, 'rivals')} ({size} times its resident parameters)"


def _elsewhere(results: Results, closest: Comparison, corpora: Sequence[str]) -> Iterator[str]:
    """What the same comparison finds on the other corpora."""
    found = [
        each
        for each in comparisons(results, closest.against)
        if each.corpus in corpora and each.corpus != closest.corpus
    ]
    if not found:
        return
    by_finding = {
        finding: [text_of(each.corpus) for each in found if each.finding == finding]
        for finding in (BETTER, WORSE, NOT_SHOWN)
    }
    if len(same := by_finding[closest.finding]) == len(found):
        where = f"all {len(found)} other corpora" if len(found) > 2 else f"{listed(same)} too"
        told = {BETTER: "it is better", WORSE: "it is worse"}.get(closest.finding, "no difference is shown")
        yield f"Against {closest.against} {told} on {where}."
        return
    parts = [
        *([f"better on {names_of(by_finding[BETTER], 'corpora')}"] if by_finding[BETTER] else []),
        *([f"worse on {names_of(by_finding[WORSE], 'corpora')}"] if by_finding[WORSE] else []),
        *([f"not shown to differ on {names_of(by_finding[NOT_SHOWN], 'corpora')}"] if by_finding[NOT_SHOWN] else []),
    ]
    yield f"Elsewhere it is, against {closest.against}, {listed(parts)}."


def _without_rivals(results: Results, corpora: Sequence[str]) -> str:
    for found in comparisons(results, NONE):
        if found.corpus in corpora:
            return (
                f"Whether Scone pays is not shown, as no rival was given (--against): on {text_of(found.corpus)} the table's "
                f"perplexity is {how_much(found)} than that of the same model without its rows, which was trained to have them."
            )
    arms = arms_of(results)
    return f"Nothing is compared: there is {'no arm' if not arms else f'no rival beside {listed(arms)}'}."
