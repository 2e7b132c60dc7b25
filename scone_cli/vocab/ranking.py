"""Ranks the counted n-grams of all lengths by a rule, so that any first S of them are closed under prefixes and suffixes.

A rule gives every n-gram a score. The score is then limited to that of its prefix and of its suffix, and the shorter n-gram
wins a tie. So every n-gram ranks after its prefix and its suffix, and the first S n-grams are closed for every S. Time is
linear except for the sort. The peak memory is 70 bytes per n-gram.

Not here: ranking more n-grams than fit in memory (`disk_ranking`), how many n-grams are kept (`coverage`), and how they are
written (`vocabulary`).
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from scone_cli.arrays import F32, F64, I64, U8, U32, U64
from scone_cli.artifacts.opening import scan, to_read
from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.vocab.index import NONE

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_32 = np.uint64(32)
_ONE = np.uint64(1)
_OWN_WORTH = 1.0  # nats per occurrence: found by training, see benchmarks/LOG.md
_AT_ONCE = 64


@dataclass(frozen=True)
class Counted:
    """M counted n-grams of all lengths, shortest first; those of one length by (count desc, tokens asc).

    N-grams of n tokens are the rows offsets[n - 2] to offsets[n - 1]. Columns: occurrences uint64 [M], documents uint32 [M],
    last tokens uint32 [M]; `prefixes` and `suffixes` uint32 [M] are the rows of the n-gram without its last token and without
    its first token (for a bigram they are token ids instead).
    """

    folder: Path
    num_tokens: int
    offsets: tuple[int, ...]
    counts: U64
    docs: U32
    last_tokens: U32
    prefixes: U32
    suffixes: U32

    @property
    def max_n(self) -> int:
        """The number of tokens of the longest n-grams."""
        return len(self.offsets)

    def level(self, n: int) -> slice:
        """The rows of the n-grams of n tokens."""
        return slice(self.offsets[n - 2], self.offsets[n - 1])


@dataclass(frozen=True)
class Ranking:
    """The columns of all n-grams in rank order: prefix node (see `FgramTrie`), last token, length, occurrences, documents."""

    prefix_nodes: U32
    last_tokens: U32
    lengths: U8
    counts: U64
    docs: U32


def rank(counted: Counted, by: str) -> Ranking:
    """Sort n-grams by (score desc, n asc, count desc, tokens asc), with scores limited to those of prefix and suffix.

    `counted` needs its suffixes only for rules that are not closed.
    """
    scores = RULES[by].score(counted).copy()
    for n in range(3, counted.max_n + 1) if not RULES[by].is_closed else ():
        here = counted.level(n)
        limit = np.minimum(scores[counted.prefixes[here]], scores[counted.suffixes[here]])
        np.minimum(scores[here], limit, out=scores[here])
    return in_order(counted, scores)


def in_order(counted: Counted, scores: U64) -> Ranking:
    """Sort n-grams by (score desc, n asc, count desc, tokens asc); the scores [M] are limited, and are overwritten."""
    order = np.argsort(np.invert(scores, out=scores), kind="stable")  # merges sorted runs, as counts are
    del scores
    nodes = _prefix_nodes(counted, order)
    lengths = np.repeat(np.arange(2, counted.max_n + 1, dtype=np.uint8), np.diff(counted.offsets))
    return Ranking(nodes, counted.last_tokens[order], lengths[order], counted.counts[order], counted.docs[order])


def _prefix_nodes(counted: Counted, order: I64) -> U32:
    nodes = np.empty(order.size, np.uint32)  # by row: the node of each n-gram itself
    nodes[order] = np.arange(counted.num_tokens, counted.num_tokens + order.size, dtype=np.uint32)
    longer = slice(counted.offsets[1], None)
    prefixes = counted.prefixes.copy()
    prefixes[longer] = nodes[prefixes[longer]]
    return prefixes[order]


# ---- rules -------------------------------------------------------------------------------------------------------


def count_score(counted: Counted) -> U64:
    """Score n-grams by their occurrences: the paper's rule."""
    return counted.counts


def prediction_score(counted: Counted) -> U64:
    """Score n-grams by the nats they save: occurrences times what an n-gram tells about the next token beyond its suffix.

    The row of an f-gram serves to predict the next token; without it, the row of its suffix is read. The loss, in nats per
    occurrence, is the KL divergence of the next-token distribution after the n-gram w from that after its suffix s:
    sum over x of p(x | w) log(p(x | w) / p(x | s)). Times the occurrences of w, it is half the G^2 statistic of w against s.
    p(x | w) is known only if the n-gram w x was counted. All other tokens x are taken as one, which can only make the
    divergence smaller. For the longest n-grams no p(x | w) is known. _OWN_WORTH nats per occurrence are added for what a row
    learns itself: without them, long n-grams displace frequent ones.
    """
    unigrams = token_counts(counted.folder, counted.num_tokens).astype(np.float64)
    scores = own_worth(counted.counts)
    for n in range(2, counted.max_n):
        here, longer = counted.level(n), counted.level(n + 1)
        counts = counted.counts[here].astype(np.float64)
        of_suffix = unigrams[counted.suffixes[here]] if n == 2 else counted.counts[counted.suffixes[here]].astype(float)
        parents = counted.prefixes[longer] - here.start
        followed, suffix_followed = counted.counts[longer], counted.counts[counted.suffixes[longer]]
        terms = nats_of(followed, suffix_followed, counts[parents], of_suffix[parents])
        known, followed_by, suffix_followed_by = (
            np.bincount(parents, weights, counts.size).astype(np.float64)  # bincount of an empty array gives integers
            for weights in (terms, followed, suffix_followed)
        )
        add_divergence(scores[here], counts, of_suffix, known, followed_by, suffix_followed_by)
    # The bits of non-negative floats sort like their values. float32, so that scores that differ only by rounding are equal
    # on every machine, and such a tie goes by count.
    return scores.view(np.uint32).astype(np.uint64)


# The arithmetic of `prediction_score`: `disk_scores` does the same piece by piece, and must get the same bits.


def own_worth(counts: U64) -> F32:
    """What rows learn themselves, in nats [M]: the least that n-grams score."""
    return (_OWN_WORTH * counts).astype(np.float32)


def nats_of(followed: U64, suffix_followed: U64, counts: F64, of_suffix: F64) -> F64:
    """The terms of the divergence for next tokens that were counted, an entry for each n-gram w x: in nats.

    The arguments are the occurrences of w x, of its suffix s x, of w and of s.
    """
    logs: F64 = np.log(followed * of_suffix / (counts * suffix_followed))
    return np.multiply(followed, logs, dtype=np.float64)


def add_divergence(
    scores: F32, counts: F64, of_suffix: F64, known: F64, followed_by: F64, suffix_followed_by: F64
) -> None:
    """Add the divergence to the scores of n-grams [M]; `known` is the sum of its terms, and is overwritten.

    The others are the occurrences of n-grams w and of their suffixes s, and the sums of those of w x and of s x.
    """
    others = counts - followed_by
    others_of_suffix = np.maximum(of_suffix - suffix_followed_by, others)
    some = others > 0
    ratios = others[some] * of_suffix[some] / (counts[some] * others_of_suffix[some])
    known[some] += others[some] * np.log(ratios)
    scores += np.maximum(known, 0)


@dataclass(frozen=True)
class Rule:
    """A ranking rule: a function that scores every n-gram (uint64 [M]).

    `is_closed`: no n-gram ever scores more than its prefix or its suffix, so scores need not be limited.
    """

    score: Callable[[Counted], U64]
    is_closed: bool


RULES: Mapping[str, Rule] = {
    "count": Rule(count_score, is_closed=True),
    "prediction": Rule(prediction_score, is_closed=False),
}


def token_counts(folder: Path, num_tokens: int) -> U64:
    """Occurrences of every token in the counted text [num_tokens]."""
    found = np.zeros(num_tokens, np.uint64)
    level = _read_level(folder, 1, 1, 1)
    found[level["tokens"].to_numpy()[:, 0]] = level["count"].to_numpy()
    return found


# ---- reading -----------------------------------------------------------------------------------------------------


def read_counts(
    folder: Path, max_n: int, min_count: int, min_docs: int, num_tokens: int, with_suffixes: bool = True
) -> Counted:
    """Read the n-grams of `n=2.parquet` to `n=<max_n>.parquet` with `min_count` occurrences in `min_docs` documents.

    Both minimums keep the n-grams closed: a prefix and a suffix occur wherever the n-gram does. Hashes of the files have been
    checked.

    Raises:
        BadSetting: more n-grams than there are ids.
        DamagedArtifact: an n-gram whose prefix or suffix was not counted.
    """
    room = sum(pq.read_metadata(to_read(folder / f"n={n}.parquet")).num_rows for n in range(2, max_n + 1))
    levels = (_columns(_read_level(folder, n, min_count, min_docs)) for n in range(2, max_n + 1))
    return linked(folder, levels, room, num_tokens, with_suffixes)


Level = tuple[U32, U64, U32]  # tokens [M, n], occurrences [M] and documents [M] of the n-grams of one length


def _columns(level: pl.DataFrame) -> Level:
    return level["tokens"].to_numpy(), level["count"].to_numpy(), level["docs"].to_numpy()


def linked(folder: Path, levels: Iterable[Level], room: int, num_tokens: int, with_suffixes: bool) -> Counted:
    """Put n-grams of 2, 3, ... tokens together, at most `room`, and find the prefixes (and suffixes) of all.

    Raises:
        BadSetting, DamagedArtifact: as `read_counts`, with `folder` as the place of the counts.
    """
    counts = np.empty(room, np.uint64)  # the unused end is never touched, so it takes no memory
    docs, last_tokens, prefixes = (np.empty(room, np.uint32) for _ in range(3))
    suffixes = np.empty(room if with_suffixes else 0, np.uint32)
    offsets, shorter = [0], np.empty((0, 1), np.uint32)
    for tokens, level_counts, level_docs in levels:
        n = len(offsets) + 1
        here = slice(offsets[-1], offsets[-1] + len(tokens))
        check_ids(here.stop, num_tokens)  # before rows of 32 bits are written
        counts[here], docs[here] = level_counts, level_docs
        del level_counts, level_docs
        last_tokens[here] = tokens[:, -1]
        parts = {"prefix": (prefixes, tokens[:, :-1])}
        if with_suffixes:
            parts["suffix"] = (suffixes, tokens[:, 1:])
        slots = hash_table(shorter)
        for name, (rows, part) in parts.items():
            if n == 2:
                rows[here] = part[:, 0]
            elif find_rows(part, shorter, slots, np.uint32(offsets[-2]), rows[here]):
                raise not_closed(folder, n, name)
        offsets.append(here.stop)
        shorter = tokens
    end = offsets[-1]
    others = (column[:end] for column in (docs, last_tokens, prefixes, suffixes))
    return Counted(folder, num_tokens, tuple(offsets), counts[:end], *others)


def check_ids(num_ngrams: int, num_tokens: int) -> None:
    """Refuse more n-grams than there are ids, which have 32 bits; the largest stands for no f-gram.

    Raises:
        BadSetting: there are more.
    """
    if num_tokens + num_ngrams > NONE:
        raise BadSetting(
            f"{num_ngrams:,} n-grams and {num_tokens:,} tokens: expected at most {NONE:,}, as ids have 32 bits",
            "give a larger --min-count, or a smaller --max-n",
        )


def not_closed(folder: Path, n: int, name: str) -> DamagedArtifact:
    """The error to raise when an n-gram's prefix or suffix (`name`) was not counted."""
    return DamagedArtifact(
        f"{folder / f'n={n}.parquet'}: an n-gram whose {name} is not in n={n - 1}.parquet",
        "run: scone count-ngrams CORPUS --force",
    )


def _read_level(folder: Path, n: int, min_count: int, min_docs: int) -> pl.DataFrame:
    """Read the n-grams of one length with at least `min_count` occurrences in `min_docs` documents."""
    ngrams = scan(folder / f"n={n}.parquet")
    return ngrams.filter(pl.col("count") >= min_count, pl.col("docs") >= min_docs).collect()


def hash_table(tokens: U32) -> U64:
    """A hash table from token lists [L, n] to their rows: 16 bytes per list."""
    slots = np.full(2 * len(tokens) + 8, _EMPTY, np.uint64)
    _index_rows(tokens, slots)
    return slots


# The low half of a row's hash gives its slot. The slot stores the high half of the hash, and the row. Tokens are compared only
# if the high halves are equal; then the tokens differ in about one case in billions.


@kernel(inline="always")
def _hash_row(tokens, row):
    mixed = np.uint64(0)
    for i in range(tokens.shape[1]):
        mixed = (mixed ^ tokens[row, i]) * _MIX
        mixed ^= mixed >> _32
    return mixed * _MIX


@kernel()
def _index_rows(tokens, slots):
    capacity = np.uint64(slots.size)
    for row in range(tokens.shape[0]):
        mixed = _hash_row(tokens, row)
        at = (mixed & _LOW) * capacity >> _32
        while slots[at] != _EMPTY:
            at += _ONE
            if at == capacity:
                at = np.uint64(0)
        slots[at] = mixed & ~_LOW | np.uint64(row)


@kernel(inline="always")
def _is_same(wanted, i, tokens, row):
    same = True
    for k in range(wanted.shape[1]):
        same &= wanted[i, k] == tokens[row, k]
    return same


@kernel()
def find_rows(wanted, tokens, slots, first_row, found):
    """Set found[i] to first_row + the row of `tokens` that equals wanted[i]; returns how many of `wanted` are missing."""
    capacity = np.uint64(slots.size)
    hashes, places = np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint64)
    entries, touched = np.empty(_AT_ONCE, np.uint64), np.empty(_AT_ONCE, np.uint32)
    missing = 0
    if tokens.shape[0] == 0:
        return wanted.shape[0]
    last = np.uint64(tokens.shape[0] - 1)
    for begin in range(0, wanted.shape[0], _AT_ONCE):
        # Each loop starts many independent reads, so that they wait for memory at the same time, not one after the other.
        size = min(_AT_ONCE, wanted.shape[0] - begin)
        for j in range(size):
            hashes[j] = _hash_row(wanted, begin + j)
            places[j] = (hashes[j] & _LOW) * capacity >> _32
        for j in range(size):
            entries[j] = slots[places[j]]
        for j in range(size):
            touched[j] = tokens[min(entries[j] & _LOW, last), 0]
        for j in range(size):
            at, entry = places[j], entries[j]
            while entry != _EMPTY:
                row = entry & _LOW
                if entry ^ hashes[j] <= _LOW and _is_same(wanted, begin + j, tokens, row):
                    found[begin + j] = first_row + np.uint32(row)
                    break
                at += _ONE
                if at == capacity:
                    at = np.uint64(0)
                entry = slots[at]
            missing += entry == _EMPTY
    return missing
