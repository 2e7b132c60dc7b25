"""What is kept of a corpus while it is evaluated, piece by piece: sums over each of its documents, for every arm.

It takes memory by the document, not by the token: errors are clustered by document, so no less will do.
Shapes: D documents, N tokens of a piece, C classes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import F64, I64
from scone_cli.corpus.token_stream import TokenStream, top_folder
from scone_cli.counting.rarity import decades_of
from scone_cli.evaluation import Arm, Losses
from scone_cli.metrics import per_document
from scone_cli.texts import document_digests


class CorpusTally:
    """Sums over the documents of one corpus.

    Attributes:
        folders: top folder of each document.
        digests: how often each document is there.
        seconds: that each arm took.
        lengths: positions of each arm whose match has 0, 1, ... tokens [K + 1].
    """

    def __init__(self, arms: Sequence[Arm], matched_by: str | None, train_counts: I64) -> None:
        """Of these arms; matches are those of the arm `matched_by`; `train_counts` [V] puts tokens into classes."""
        self.folders: list[str] = []
        self.digests: Counter[bytes] = Counter()
        self.seconds: Counter[str] = Counter()
        self.lengths = {arm.name: np.zeros(1 + arm.model.config.max_n) for arm in arms}
        self._arms, self._matched_by = arms, matched_by
        self._decades = decades_of(train_counts)
        self._num_decades = 1 + int(self._decades.max(initial=0))
        self._parts: dict[tuple[str, str], list[F64]] = defaultdict(list)

    def add(self, stream: TokenStream, words: I64, found: Losses) -> None:
        """Take in a piece, with the words [D] of its documents."""
        self.folders += map(top_folder, stream.names)
        self.digests.update(document_digests(stream))
        self._keep("tokens", "", np.diff(stream.starts))
        self._keep("bytes", "", stream.num_bytes)
        self._keep("words", "", words)
        document = np.repeat(np.arange(len(stream.names)), np.diff(stream.starts))
        decade = self._decades[stream.tokens]
        self._keep("tokens by decade", "", by_class(document, decade, len(stream.names), self._num_decades))
        length = found.matches[self._matched_by][1] if self._matched_by else None
        num_lengths = 1 + self._longest()
        if length is not None:
            self._keep("tokens by length", "", by_class(document, length, len(stream.names), num_lengths))
        for arm in self._arms:
            losses = found.losses[arm.name]
            own = self.lengths[arm.name]
            own += np.bincount(found.matches[arm.name][1], minlength=own.size)
            self.seconds[arm.name] += found.seconds[arm.name]  # type: ignore[assignment] # mypy knows counters of int only
            self._keep("nats", arm.name, per_document(losses, stream.starts))
            if arm.prefix:  # of which no more is reported
                self._keep("matched", arm.name, per_document(found.matches[arm.name][1] > 0, stream.starts))
                continue
            self._keep(
                "nats by decade", arm.name, by_class(document, decade, len(stream.names), self._num_decades, losses)
            )
            if length is not None:
                of_lengths = by_class(document, length, len(stream.names), num_lengths, losses)
                self._keep("nats by length", arm.name, of_lengths)

    def __call__(self, what: str, arm: str = "") -> F64:
        """One kind of sums: [D], or [D, C] where it is `by` something."""
        return np.concatenate(self._parts[what, arm])

    def groups(self, name: str) -> dict[str, npt.NDArray[np.bool_]]:
        """Which documents belong to the corpus `name` (all) and to each top folder in it, if there are several [D]."""
        folders = np.array(self.folders)
        groups = {name: np.full(folders.size, True)}
        if (distinct := np.unique(folders)).size > 1:
            groups |= {f"{name}/{folder}": folders == folder for folder in distinct}
        return groups

    def _keep(self, what: str, arm: str, values: npt.NDArray[Any]) -> None:
        self._parts[what, arm].append(values.astype(np.float64))

    def _longest(self) -> int:
        return max((arm.model.config.max_n for arm in self._arms if arm.index is not None), default=0)


def by_class(
    document: I64,
    classes: npt.NDArray[Any],
    num_documents: int,
    num_classes: int,
    weights: npt.NDArray[Any] | None = None,
) -> F64:
    """How many tokens of each document are in each class, or the sum of their weights [D, C]; of documents and classes [N]."""
    place = document * num_classes + classes
    counts = np.bincount(place, weights, num_documents * num_classes)
    return counts.astype(np.float64).reshape(num_documents, num_classes)
