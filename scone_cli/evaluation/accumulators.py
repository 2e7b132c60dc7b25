"""Running sums over a corpus that is evaluated piece by piece: losses by document for every arm, gains by token and f-gram.

Memory grows with the number of documents, not of tokens: errors are clustered by document, so less would not do. Long
documents are kept in parts, because with few documents errors are clustered by blocks of text (`clusters`).
Shapes: D documents, P parts of documents, N tokens of a piece, C classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import F32, F64, I64, U32
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import TokenStream, top_folder
from scone_cli.counting.rarity import decades_of
from scone_cli.evaluation.clusters import Clusters, clusters_of, part_tokens, parts_of
from scone_cli.evaluation.metrics import per_document
from scone_cli.evaluation.result_types import FgramGain, TokenGain
from scone_cli.evaluation.run_arms import Arm, Losses
from scone_cli.evaluation.texts import document_digests
from scone_cli.vocab.index import NONE
from scone_cli.vocab.trie import FgramTrie


class CorpusTally:
    """Sums over the parts of the documents of one corpus.

    Attributes:
        folders: top folder of each document.
        digests: number of copies of each document, by its hash.
        seconds: time of each arm.
        num_left_out: bytes of text for which the tokenizer has no token.
        num_unknown: occurrences of the unknown token.
        lengths: for each arm, positions whose match has 0, 1, ... tokens [K + 1].
    """

    def __init__(self, arms: Sequence[Arm], matched_by: str | None, train_counts: I64, total: int = 0) -> None:
        """Start with empty sums.

        matched_by: the arm whose matches count. train_counts: occurrences of each token in training, by which tokens are put
        into classes [V]. total: tokens to come, roughly.
        """
        self.folders: list[str] = []
        self.digests: Counter[bytes] = Counter()
        self.seconds: Counter[str] = Counter()
        self.num_left_out = self.num_unknown = 0
        self.lengths = {arm.name: np.zeros(1 + arm.model.config.max_n) for arm in arms}
        self._arms, self._matched_by = arms, matched_by
        self._decades = decades_of(train_counts)
        self._num_decades = 1 + int(self._decades.max(initial=0))
        self._part_tokens = part_tokens(total)
        self._documents: list[I64] = []
        self._sums: dict[tuple[str, str], list[F64]] = defaultdict(list)

    def add(self, stream: TokenStream, wording: I64, found: Losses) -> None:
        """Add a piece of text, with the wording of its segments [segments, 3]; a document is in one piece."""
        starts, segment = parts_of(stream.starts, self._part_tokens)
        sizes, document = np.diff(starts), stream.document_of
        part, num_parts = np.repeat(np.arange(sizes.size), sizes), sizes.size
        self._documents.append(document[segment] + len(self.folders))
        self.folders += [top_folder(stream.names[first]) for first in np.unique(document, return_index=True)[1]]
        self.digests.update(document_digests(stream))
        self.num_left_out += stream.num_left_out
        self._keep("tokens", "", sizes)
        # Bytes and words are known per segment, and are shared among its parts by tokens: sums stay exact, errors hardly change.
        share = sizes / np.maximum(1, np.diff(stream.starts))[segment]
        self._keep("bytes", "", stream.num_bytes[segment] * share)
        self._keep("wording", "", wording[segment] * share[:, None])
        decade = self._decades[stream.tokens]
        self._keep("tokens by decade", "", by_class(part, decade, num_parts, self._num_decades))
        length = found.matches[self._matched_by][1] if self._matched_by else None
        num_lengths = 1 + self._longest()
        if length is not None:
            self._keep("tokens by length", "", by_class(part, length, num_parts, num_lengths))
        for arm in self._arms:
            losses = found.losses[arm.name]
            own = self.lengths[arm.name]
            own += np.bincount(found.matches[arm.name][1], minlength=own.size)
            self.seconds[arm.name] += found.seconds[arm.name]  # type: ignore[assignment] # mypy knows counters of int only
            self._keep("nats", arm.name, per_document(losses, starts))
            if arm.prefix:  # nothing more is reported for a prefix of the table
                self._keep("matched", arm.name, per_document(found.matches[arm.name][1] > 0, starts))
                continue
            self._keep("nats by decade", arm.name, by_class(part, decade, num_parts, self._num_decades, losses))
            if length is not None:
                self._keep("nats by length", arm.name, by_class(part, length, num_parts, num_lengths, losses))

    def __call__(self, what: str, arm: str = "") -> F64:
        """One kind of sums: [P], or [P, C] where it is `by` something."""
        return np.concatenate(self._sums[what, arm])

    def groups(self, name: str) -> dict[str, Clusters]:
        """The corpus `name` (all documents) and each top folder in it, if there are several, in clusters."""
        folders, document, tokens = np.array(self.folders), np.concatenate(self._documents), self("tokens")
        inside = {name: np.full(folders.size, True)}
        if (distinct := np.unique(folders)).size > 1:
            inside |= {f"{name}/{folder}": folders == folder for folder in distinct}
        return {group: clusters_of(tokens, document, is_here) for group, is_here in inside.items()}

    def _keep(self, what: str, arm: str, values: npt.NDArray[Any]) -> None:
        self._sums[what, arm].append(values.astype(np.float64))

    def _longest(self) -> int:
        return max((arm.model.config.max_n for arm in self._arms if arm.index is not None), default=0)


def by_class(
    part: I64, classes: npt.NDArray[Any], num_parts: int, num_classes: int, weights: npt.NDArray[Any] | None = None
) -> F64:
    """How many tokens of each part are in each class, or the sum of their weights [P, C]; of parts and classes [N]."""
    place = part * num_classes + classes
    counts = np.bincount(place, weights, num_parts * num_classes)
    return counts.astype(np.float64).reshape(num_parts, num_classes)


# ---- gain and loss by token and by f-gram -------------------------------------------------------------------------
#
# Differences are table - rival, in nats, as everywhere: below zero the table is better. They are summed over a corpus, so a
# frequent token with a small gain may come before a rare one with a large gain.
# Shapes: N tokens of a piece, V tokens of the vocabulary, S f-grams.


SHOWN = 20  # in each direction
BEFORE = 12  # tokens shown before one that is predicted
DIRECTIONS = {"gain": -1.0, "loss": 1.0}


@dataclass
class Example:
    """For every token, its occurrence with the largest difference in one direction.

    most: that difference [V]. before: the 12 tokens before it [V, 12], with NONE where the document does not have so many.
    """

    most: F32
    before: U32


class Gains:
    """Sums of differences between the arm `table` and each rival, by token predicted and by f-gram used."""

    def __init__(self, table: str, rivals: Sequence[str], num_tokens: int, num_fgrams: int) -> None:
        self._table, self._rivals = table, rivals
        self._occurrences = np.zeros(num_tokens, np.int64)
        self._nats = {arm: np.zeros(num_tokens) for arm in (table, *rivals)}
        # Pages of zeros take memory when they are written to: frequent f-grams come first, so those of a large table are few.
        self._uses = np.zeros(num_fgrams, np.int64)
        self._by_fgram = {arm: np.zeros(num_fgrams) for arm in rivals}
        self._examples = {
            (arm, direction): Example(np.zeros(num_tokens, np.float32), np.full((num_tokens, BEFORE), NONE, np.uint32))
            for arm in rivals
            for direction in DIRECTIONS
        }

    def add(self, stream: TokenStream, found: Losses) -> None:
        """Add a piece of text."""
        tokens, ids = stream.tokens, found.matches[self._table][0]
        self._occurrences += np.bincount(tokens, minlength=self._occurrences.size)
        is_used = ids != NONE
        used = ids[is_used]
        np.add.at(self._uses, used, 1)
        for arm in self._nats:
            self._nats[arm] += np.bincount(tokens, found.losses[arm], self._occurrences.size)
        for arm in self._rivals:
            difference = found.losses[self._table] - found.losses[arm]
            np.add.at(self._by_fgram[arm], used, difference[is_used])
            for direction, sign in DIRECTIONS.items():
                _note_most(self._examples[arm, direction], sign * difference, stream)

    def tokens(self, corpus: str, spell: Speller) -> list[TokenGain]:
        """The tokens with the largest total differences, by rival and direction."""
        rows = list[TokenGain]()
        for arm in self._rivals:
            total = self._nats[self._table] - self._nats[arm]
            for direction, sign in DIRECTIONS.items():
                for token in _largest(sign * total):
                    count = int(self._occurrences[token])
                    before = self._examples[arm, direction].before[token]
                    rows.append(
                        {
                            "corpus": corpus,
                            "against": arm,
                            "direction": direction,
                            "token": token,
                            "text": spell([token]),
                            "n": count,
                            "table": float(self._nats[self._table][token] / count),
                            "against_loss": float(self._nats[arm][token] / count),
                            "nats": float(total[token]),
                            "before": spell(before[before != NONE].tolist()) or None,
                        }
                    )
        return rows

    def fgrams(self, corpus: str, trie: FgramTrie, spell: Speller) -> list[FgramGain]:
        """The f-grams at whose use the differences of the next token are largest in total, by rival and direction."""
        rows = list[FgramGain]()
        used = np.flatnonzero(self._uses)  # a text uses few f-grams of a large table
        for arm, totals in self._by_fgram.items():
            total = totals[used]
            for direction, sign in DIRECTIONS.items():
                for place in _largest(sign * total):
                    fgram, nats = int(used[place]), float(total[place])
                    uses = int(self._uses[fgram])
                    rows.append(
                        {
                            "corpus": corpus,
                            "against": arm,
                            "direction": direction,
                            "fgram": fgram,
                            "text": spell(trie.tokens_of(np.array([fgram]))[0]),
                            "n": uses,
                            "nats": nats,
                            "nats_per_use": nats / uses,
                        }
                    )
        return rows


def _largest(values: F64) -> list[int]:
    """Indices of the largest positive values, the largest first."""
    count = min(SHOWN, values.size)
    found = np.argpartition(-values, count - 1)[:count] if count else np.zeros(0, np.int64)
    ordered = found[np.lexsort((found, -values[found]))]
    return [place for place in ordered.tolist() if values[place] > 0]


def _note_most(example: Example, values: F32, stream: TokenStream) -> None:
    """Keep the occurrence of each token with the largest value, if it is larger than any so far."""
    most = example.most.copy()
    np.maximum.at(most, stream.tokens, values)
    places = np.flatnonzero((values == most[stream.tokens]) & (values > example.most[stream.tokens]))
    starts = stream.starts[np.searchsorted(stream.starts, places, side="right") - 1]
    at: I64 = places[:, None] + np.arange(-BEFORE, 0)
    before: npt.NDArray[np.uint32] = np.where(at >= starts[:, None], stream.tokens[np.maximum(at, 0)], np.uint32(NONE))
    example.before[stream.tokens[places]] = before
    example.most = most
