"""The sections of `results.json` that come from reading one text: how well the arms predict it, and where the table gains.

Every function makes the rows of one section out of the sums that `accumulators.CorpusTally` has kept.
Shapes: B clusters, K tokens of the longest f-gram.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from scone_cli.arrays import F64
from scone_cli.counting.rarity import bounds_of
from scone_cli.evaluation import metrics
from scone_cli.evaluation.accumulators import CorpusTally
from scone_cli.evaluation.clusters import Clusters
from scone_cli.evaluation.result_types import (
    Clustering,
    Difference,
    HitRate,
    Interval,
    MatchLength,
    Metric,
    Rung,
    Term,
    TokenClass,
)
from scone_cli.evaluation.results import BETTER, NOT_SHOWN, SAME, TABLE, WORSE
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.term_losses import TermLosses
from scone_cli.evaluation.texts import Wording
from scone_cli.table.sizes import table_bytes
from scone_cli.vocab.coverage import knee_of

LEAST_DIFFERENCE = 1e-5  # nats per token: a smaller difference is rounding of the losses, which are float32

Groups = Mapping[str, Clusters]  # the corpus and each folder in it, by name


# ---- how well ----------------------------------------------------------------------------------------------------


def metric_rows(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Metric]:
    """Every metric of every arm, on the corpus and on each folder in it."""
    rows = list[Metric]()
    whole = next(iter(groups))
    for corpus, clusters in groups.items():
        count, num_bytes, wording = (clusters.sums(tally(what)) for what in ("tokens", "bytes", "wording"))
        if not count.sum():
            continue
        for arm in arms:
            nats = clusters.sums(tally("nats", arm.name))
            values = {
                "nats_per_token": metrics.nats_per_token(nats, count),
                "perplexity": metrics.perplexity(nats, count),
            }
            if Wording(*wording.sum(0)).has_words:
                values["word_perplexity"] = metrics.word_perplexity(nats, wording[:, 0], count)
            if num_bytes.any():  # not known for token ids that came without a byte-level tokenizer
                values["bits_per_byte"] = metrics.bits_per_byte(nats, num_bytes, count)
            seconds = tally.seconds[arm.name] if corpus == whole else None  # measured for the corpus only
            rows += [
                {
                    "arm": arm.name,
                    "corpus": corpus,
                    "metric": metric,
                    "value": found.value,
                    "stderr": found.stderr,
                    "n": found.n,
                    "seconds": seconds,
                }
                for metric, found in values.items()
            ]
    return rows


def clusterings(tally: CorpusTally, groups: Groups) -> list[Clustering]:
    """What the errors on each corpus and folder are clustered by, how many there are, and their mean size."""
    rows = list[Clustering]()
    for corpus, clusters in groups.items():
        sizes = clusters.sums(tally("tokens"))
        if number := int((sizes > 0).sum()):
            mean = round(float(sizes.sum()) / number)
            rows.append({"corpus": corpus, "by": clusters.by, "number": number, "mean_tokens": mean})
    return rows


def difference(nats: F64, against: F64, tokens: F64) -> Interval:
    """Nats per token of one arm minus those of another, with the 95% interval; all by cluster [B]."""
    paired = metrics.nats_per_token(nats - against, tokens)
    bounds = metrics.interval(paired, int((tokens > 0).sum()))
    low, high = bounds or (None, None)
    return {"nats_per_token": paired.value, "stderr": paired.stderr, "low": low, "high": high}


def finding(row: Interval) -> str:
    """What a difference shows: better or worse if the whole interval is on one side and it is more than rounding.

    If all of it is no more than rounding, both arms are the same.
    """
    known = [each for each in (row["nats_per_token"], row["low"], row["high"]) if each is not None]
    if max(map(abs, known)) < LEAST_DIFFERENCE:
        return SAME
    if row["low"] is None or row["high"] is None or abs(row["nats_per_token"]) < LEAST_DIFFERENCE:
        return NOT_SHOWN
    return BETTER if row["high"] < 0 else WORSE if row["low"] > 0 else NOT_SHOWN


def differences(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Difference]:
    """The table against every other arm, token by token."""
    rows = list[Difference]()
    for corpus, clusters in groups.items():
        tokens = clusters.sums(tally("tokens"))
        if not tokens.sum():
            continue
        own = clusters.sums(tally("nats", TABLE))
        for arm in arms:
            if arm.name == TABLE:
                continue
            found = difference(own, clusters.sums(tally("nats", arm.name)), tokens)
            rows.append(
                {
                    "arm": TABLE,
                    "against": arm.name,
                    "corpus": corpus,
                    **found,
                    "n": int(tokens.sum()),
                    "finding": finding(found),
                }
            )
    return rows


# ---- where -------------------------------------------------------------------------------------------------------


def match_lengths(arms: Sequence[Arm], tally: CorpusTally, corpus: str) -> list[MatchLength]:
    """Share of positions and mean loss of each arm by the length of the f-gram at the input (0: none matched)."""
    counts = tally("tokens by length").sum(0)
    nats = {arm.name: tally("nats by length", arm.name).sum(0) for arm in arms}
    return [
        {
            "corpus": corpus,
            "match_length": length,
            "share": float(counts[length] / counts.sum()),
            "n": int(counts[length]),
            "losses": {arm: float(each[length] / counts[length]) for arm, each in nats.items()},
        }
        for length in np.flatnonzero(counts).tolist()
    ]


def hit_rates(tally: CorpusTally, groups: Groups) -> list[HitRate]:
    """Share of positions where an f-gram is matched, and its mean length there."""
    rows = list[HitRate]()
    for corpus, clusters in groups.items():
        counts = clusters.sums(tally("tokens by length")).sum(0)
        total, matched = int(counts.sum()), int(counts[1:].sum())
        if total:
            mean = float(counts @ np.arange(counts.size)) / matched if matched else None
            rows.append({"corpus": corpus, "hit_rate": matched / total, "mean_match_length": mean, "n": total})
    return rows


def token_classes(arms: Sequence[Arm], tally: CorpusTally, groups: Groups, rivals: Sequence[str]) -> list[TokenClass]:
    """Mean loss of each arm, and of the table against rivals, by how often the predicted token occurs in training."""
    corpus, clusters = next(iter(groups.items()))
    counts = clusters.sums(tally("tokens by decade"))
    totals = counts.sum(0)
    nats = {arm.name: clusters.sums(tally("nats by decade", arm.name)) for arm in arms}
    rows = list[TokenClass]()
    for decade in np.flatnonzero(totals).tolist():
        here, bounds = counts[:, decade], bounds_of(decade)
        rows.append(
            {
                "corpus": corpus,
                "first": bounds["first"],
                "last": bounds["last"],
                "share": float(totals[decade] / totals.sum()),
                "n": int(totals[decade]),
                "losses": {arm: float(each[:, decade].sum() / totals[decade]) for arm, each in nats.items()},
                "differences": [
                    {"against": arm, **difference(nats[TABLE][:, decade], nats[arm][:, decade], here)} for arm in rivals
                ],
            }
        )
    return rows


def term_rows(terms: TermLosses, tally: CorpusTally, groups: Groups) -> list[Term]:
    """The loss of each arm on the tokens inside terms."""
    corpus, clusters = next(iter(groups.items()))

    def compare(nats: F64, against: F64, tokens: F64) -> tuple[Interval, str]:
        found = difference(nats, against, tokens)
        return found, finding(found)

    return terms.rows(corpus, clusters, int(tally("tokens").sum()), compare)


# ---- which size --------------------------------------------------------------------------------------------------


def rungs(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Rung]:
    """The loss with every prefix of the table, and its size."""
    corpus, clusters = next(iter(groups.items()))
    tokens, num_bytes = clusters.sums(tally("tokens")), clusters.sums(tally("bytes"))
    rows = list[Rung]()
    for arm in sorted(arms, key=lambda arm: arm.prefix.rows if arm.prefix else math.inf):
        table = arm.table
        assert table is not None
        num_rows = arm.prefix.rows if arm.prefix else table.num_rows
        nats = clusters.sums(tally("nats", arm.name))
        mean = metrics.nats_per_token(nats, tokens)
        matched = tally("matched", arm.name) if arm.prefix else tally("tokens by length")[:, 1:].sum(1)
        bits = metrics.bits_per_byte(nats, num_bytes, tokens).value if num_bytes.any() else None
        rows.append(
            {
                "corpus": corpus,
                "rows": num_rows,
                "bytes": table_bytes(num_rows, table.dim, table.format, table.index.num_tokens),
                "nats_per_token": mean.value,
                "stderr": mean.stderr,
                "bits_per_byte": bits,
                "perplexity": metrics.perplexity(nats, tokens).value,
                "hit_rate": float(matched.sum() / tokens.sum()),
                "is_knee": False,
            }
        )
    knee = knee_of([row["bytes"] for row in rows], [row["nats_per_token"] for row in rows])
    if knee is not None:
        rows[knee]["is_knee"] = True
    return rows
