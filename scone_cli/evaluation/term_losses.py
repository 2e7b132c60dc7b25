"""The loss of every arm on the tokens inside the terms of a field: whether the table helps with its words.

Shapes: N tokens of a piece, P parts of the documents, B clusters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from scone_cli.arrays import F64, I64
from scone_cli.corpus.terms import TokenPlaces
from scone_cli.corpus.token_stream import TokenStream
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.evaluation.clusters import Clusters, parts_of
from scone_cli.evaluation.metrics import LEAST_CLUSTERS, nats_per_token, per_document
from scone_cli.evaluation.result_types import Interval, Term, TermDifference
from scone_cli.evaluation.results import TOO_FEW
from scone_cli.evaluation.run_arms import Losses

# Nats of two arms, and tokens, by cluster [B]: their difference, and what it shows.
Difference = Callable[[F64, F64, F64], tuple[Interval, str]]


class TermLosses:
    """Running sums over the tokens inside terms: of all terms by part of a document, of each term where it occurs."""

    def __init__(
        self, terms: Sequence[str], tokenizer: Tokenizer, arms: Sequence[str], matched_by: str | None, part_tokens: int
    ) -> None:
        """Start with empty sums. matched_by: the arm whose matches count."""
        self._terms, self._arms, self._matched_by = terms, list(arms), matched_by
        self._part_tokens = part_tokens
        self._places = TokenPlaces(terms, tokenizer)
        self._occurrences = Counter[int]()
        self._num_parts = 0
        columns = 2 + len(self._arms)  # tokens, those at which an f-gram is matched, nats by arm
        self._all: list[F64] = [np.zeros((0, columns))]
        self._each: list[tuple[I64, I64, F64]] = []  # term, part, and sums over it

    def add(self, stream: TokenStream, found: Losses) -> None:
        """Add a piece of text."""
        matched = found.matches[self._matched_by][1] > 0 if self._matched_by else np.zeros(stream.tokens.size, np.bool_)
        values = np.stack([np.ones(stream.tokens.size), matched, *(found.losses[arm] for arm in self._arms)], 1)
        starts, _ = parts_of(stream.starts, self._part_tokens)
        inside, numbers, tokens = np.zeros(stream.tokens.size, np.bool_), list[int](), list[int]()
        for start, end in pairwise(stream.starts.tolist()):
            for number, first, last in self._places(stream.tokens[start:end]):
                self._occurrences[number] += 1
                inside[start + first : start + last] = True
                numbers += [number] * (last - first)
                tokens += range(start + first, start + last)
        masked = values * inside[:, None]
        self._all.append(np.stack([per_document(column, starts) for column in masked.T], 1))
        if numbers:
            part = self._num_parts + np.searchsorted(starts, tokens, side="right") - 1
            keys, group = np.unique(np.stack([numbers, part]), axis=1, return_inverse=True)
            sums: F64 = np.stack([np.bincount(group, values[tokens, i]) for i in range(values.shape[1])], 1)
            self._each.append((keys[0], keys[1], sums.astype(np.float64)))
        self._num_parts += starts.size - 1

    def rows(self, corpus: str, clusters: Clusters, num_tokens: int, compare: Difference) -> list[Term]:
        """The section `terms`: all terms together (`term` is null), then each term, those with most tokens first."""
        everything = np.concatenate(self._all)
        about: list[tuple[str | None, int, F64]] = [(None, sum(self._occurrences.values()), clusters.sums(everything))]
        for number, term in enumerate(self._terms):
            sums = np.zeros_like(everything)
            for terms, parts, values in self._each:
                sums[parts[terms == number]] += values[terms == number]
            about.append((term, self._occurrences[number], clusters.sums(sums)))
        about[1:] = sorted(about[1:], key=lambda each: -float(each[2][:, 0].sum()))
        return [self._row(corpus, *each, num_tokens, compare) for each in about]

    def _row(
        self, corpus: str, term: str | None, occurrences: int, sums: F64, num_tokens: int, compare: Difference
    ) -> Term:
        tokens, matched = sums[:, 0], sums[:, 1]
        count = int(tokens.sum())
        nats = {arm: sums[:, 2 + i] for i, arm in enumerate(self._arms)} if count else {}
        means = {arm: nats_per_token(each, tokens) for arm, each in nats.items()}
        return {
            "corpus": corpus,
            "term": term,
            "occurrences": occurrences,
            "n": count,
            "share": count / num_tokens,
            "hit_rate": float(matched.sum()) / count if count and self._matched_by else None,
            "losses": {arm: mean.value for arm, mean in means.items()},
            "stderrs": {arm: mean.stderr for arm, mean in means.items()},
            "differences": [
                _difference(arm, compare(nats[self._matched_by], nats[arm], tokens), tokens)
                for arm in nats
                if self._matched_by and arm != self._matched_by
            ],
        }


def _difference(against: str, found: tuple[Interval, str], tokens: F64) -> TermDifference:
    """The difference; without an error, and with no finding, where too few clusters have such tokens [B]."""
    interval, finding = found
    if np.count_nonzero(tokens) < LEAST_CLUSTERS:
        nats = interval["nats_per_token"]
        return {
            "against": against,
            "nats_per_token": nats,
            "stderr": None,
            "low": None,
            "high": None,
            "finding": TOO_FEW,
        }
    return {"against": against, **interval, "finding": finding}
