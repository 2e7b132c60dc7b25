"""Counts of what is in token shards, and of what was left out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.redact import Counts, added
from scone_cli.corpus.token_stream import Encoded, num_documents


@dataclass(frozen=True, slots=True)
class ShardStats:
    """Counts of documents, bytes and tokens in token shards: in total, held out, and left out.

    `num_separators`: places where a separator divided plain text or token ids into documents. `num_left_out`: bytes of text
    without a token. `num_unknown`: occurrences of the unknown token. `redacted`: what `redact.Counts` has; empty without rules.
    `num_excluded`: documents that a list left out; `excluded_by`: the numbers of its entries that named one of them.
    """

    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_held_out_documents: int = 0
    num_held_out_tokens: int = 0
    num_skipped: int = 0
    num_separators: int = 0
    num_left_out: int = 0
    num_unknown: int = 0
    num_excluded: int = 0
    redacted: Counts = ()
    excluded_by: tuple[int, ...] = ()

    @property
    def of_reading(self) -> ShardStats:
        """Those that were counted while files were read; `stats_of` counts the others in documents."""
        return ShardStats(
            num_skipped=self.num_skipped,
            num_separators=self.num_separators,
            num_excluded=self.num_excluded,
            redacted=self.redacted,
            excluded_by=self.excluded_by,
        )

    @classmethod
    def read(cls, raw: dict[str, Any]) -> ShardStats:
        """The counts of a mark, which has lists for tuples."""
        known: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in raw.items()}
        return cls(**known)

    def __add__(self, other: ShardStats) -> ShardStats:
        numbers = [item.name for item in fields(self) if item.name not in ("redacted", "excluded_by")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        excluded_by = tuple(sorted({*self.excluded_by, *other.excluded_by}))
        return ShardStats(**sums, redacted=added(self.redacted, other.redacted), excluded_by=excluded_by)


def stats_of(documents: Sequence[Encoded], unknown: int | None, num_left_out: int = 0) -> ShardStats:
    """The counts of some documents; `unknown`: the id of the unknown token, if there is one."""
    held_out = [document for document in documents if document.split == HELD_OUT]
    return ShardStats(
        num_documents(documents),
        sum(document.num_bytes for document in documents),
        sum(len(document.tokens) for document in documents),
        num_documents(held_out),
        sum(len(document.tokens) for document in held_out),
        num_left_out=num_left_out,
        num_unknown=0 if unknown is None else sum(int((each.tokens == unknown).sum()) for each in documents),
    )
