"""Writes a synthetic corpus of any size whose n-grams resemble a small one: a back-off source fitted to a workspace's counts.

    python benchmarks/zipf_source.py --workspace demo/scone-work --tokens 1e9 --out zipf
    scone count-ngrams zipf/*.bin --separator ID        # the ID that the last line names

Model: the context of a token is the longest n-gram in `counts/` (or single token) that the text ends with. The next token
continues this n-gram with the probability that the real continuation was counted; continuations are weighted by their
occurrences at which no longer counted n-gram ends. Otherwise the source backs off to the suffix of the n-gram, and so on
down to the frequencies of single tokens. So n-grams of every length are about as frequent as in the workspace, and new
n-grams keep appearing. Lengths of documents are drawn from the real ones.

Output: flat little-endian uint16 `shard-*.bin`; the separator follows every document and is the first id after the tokens'.
A shard depends only on its number, the seed and the workspace. Left out: topics. In real text a rare n-gram occurs in few
documents; here it occurs in nearly as many documents as it has occurrences. A corpus much smaller than the workspace has
fewer frequent long n-grams than real text, which repeats itself nearby. `README.md` has the figures.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from measuring import arguments, finish
from numba import njit

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import read_tokens

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

LANES = 64  # documents drawn in parallel: while one waits for memory, the others continue
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_STEP = np.uint64(0x9E3779B97F4A7C15)  # the increment of SplitMix64


@dataclass(frozen=True)
class Source:
    """The fitted source: n-grams as nodes of a trie. Node 0 is the empty n-gram, then one token, two, …; children adjacent.

    contexts uint32 [C, 3K - 1], one row (one cache line for K = 5) per n-gram of fewer than K tokens: K - 1 probabilities,
    times 2**32, to back off to its suffix, then to that one's suffix, …; then first child and number of children of the
    n-gram itself, of its suffix, …
    children uint32 [M, 4], one row per n-gram: the probability, times 2**32, to keep it; its last token and that of its
    alias (drawn if it is not kept), 16 bits each; the context after it, and the context after its alias.
    """

    contexts: U32
    children: U32
    lengths: I64  # of the real documents
    separator: int


@dataclass(frozen=True)
class _Level:
    """All counted n-grams of one length, in the order of their tokens.

    keys: index of the prefix in the previous level << 32 | last token. suffixes: index of the suffix in that level.
    """

    keys: U64
    counts: F64
    suffixes: I64

    @property
    def parents(self) -> I64:
        return (self.keys >> _32).astype(np.int64)


def fit(workspace: Path) -> Source:
    """Fit a source to `tokens/` and `counts/` of a workspace."""
    stream = read_tokens(workspace / "tokens", TRAIN)
    lengths = np.diff(stream.starts)
    counts = np.bincount(stream.tokens).astype(np.float64)
    if counts.size >= 2**16:
        sys.exit(f"{workspace}: {counts.size:,} tokens; the shards have 16 bits per token, one id being the separator")
    levels = [_Level(np.arange(counts.size, dtype=np.uint64), counts, np.zeros(counts.size, np.int64))]
    for path in sorted((workspace / "counts").glob("n=[2-8].parquet")):
        levels.append(_read_level(path, levels))
    contexts, children = _lay_out(levels)
    return Source(contexts, children, lengths[lengths > 0], counts.size)


def _read_level(path: Path, shorter: list[_Level]) -> _Level:
    table = pq.read_table(path, columns=["tokens", "count"])
    ngrams = table.column("tokens").combine_chunks().flatten().to_numpy().reshape(len(table), -1).astype(np.uint64)
    prefixes = ngrams[:, 0]
    for n in range(1, ngrams.shape[1] - 1):
        prefixes = np.searchsorted(shorter[n].keys, prefixes << _32 | ngrams[:, n]).astype(np.uint64)
    keys = prefixes << _32 | ngrams[:, -1]
    order = np.argsort(keys)
    keys = keys[order]
    before = shorter[-1].suffixes[(keys >> _32).astype(np.int64)].astype(np.uint64)
    suffixes = np.searchsorted(shorter[-1].keys, before << _32 | keys & _LOW)
    return _Level(keys, table.column("count").to_numpy()[order].astype(np.float64), suffixes)


def _lay_out(levels: list[_Level]) -> tuple[U32, U32]:
    """Build the arrays `contexts` and `children` of a `Source` from the counted n-grams."""
    offsets = np.cumsum([1] + [len(level.keys) for level in levels])
    num_contexts, num_nodes = offsets[-2], offsets[-1]
    suffixes = np.concatenate([[0]] + [level.suffixes + (offsets[n - 1] if n else 0) for n, level in enumerate(levels)])
    alone = [level.counts for level in levels]  # occurrences at which no longer counted n-gram ends
    for n, level in enumerate(levels[1:]):
        alone[n] = alone[n] - np.bincount(level.suffixes, level.counts, alone[n].size)

    first, size, leave = (np.zeros(num_contexts, kind) for kind in (np.int64, np.int64, np.float64))
    first[0], size[0] = 1, len(levels[0].keys)
    for n, (level, longer) in enumerate(pairwise(levels)):
        here = slice(offsets[n], offsets[n + 1])
        bounds = np.searchsorted(longer.parents, np.arange(level.keys.size + 1))
        first[here], size[here] = bounds[:-1] + offsets[n + 1], np.diff(bounds)
        rare = level.counts - np.bincount(longer.parents, longer.counts, level.keys.size)
        known = np.bincount(longer.parents, alone[n + 1], level.keys.size)
        leave[here] = np.divide(rare, rare + known, out=np.ones(rare.size), where=known > 0)

    depth = len(levels)
    contexts = np.empty((num_contexts, 3 * depth - 1), np.uint32)
    at, chance = np.arange(num_contexts), np.ones(num_contexts)
    for n in range(depth):
        contexts[:, depth - 1 + 2 * n], contexts[:, depth + 2 * n] = first[at], size[at]
        if n < depth - 1:
            chance *= leave[at]
            contexts[:, n] = np.minimum(chance * 2**32, 2**32 - 1)
            at = suffixes[at]
    follows = np.where(np.arange(num_nodes) < num_contexts, np.arange(num_nodes), suffixes).astype(np.uint32)
    tokens = np.concatenate([np.zeros(1, np.uint32)] + [(level.keys & _LOW).astype(np.uint32) for level in levels])
    keep, alias = np.full(num_nodes, 0xFFFFFFFF, np.uint32), np.arange(num_nodes)
    _prepare_drawing(first, size, np.concatenate([[1.0], *alone]), keep, alias)
    return contexts, np.stack([keep, tokens | tokens[alias] << np.uint32(16), follows, follows[alias]], axis=1)


@njit(cache=True)
def _prepare_drawing(first, size, weights, keep, alias):  # noqa: ANN001, ANN202 - compiled: numba infers the types
    """Walker's alias method: a draw is one random child and one comparison, whatever the weights."""
    poor = np.empty(size.max() + 1, np.int64)
    rich = np.empty(size.max() + 1, np.int64)
    for context in range(first.size):
        start, end = first[context], first[context] + size[context]
        total = weights[start:end].sum()
        num_poor = num_rich = 0
        for child in range(start, end):
            weights[child] *= (end - start) / total if total else 0
            if weights[child] < 1:
                poor[num_poor] = child
                num_poor += 1
            else:
                rich[num_rich] = child
                num_rich += 1
        while num_poor and num_rich:
            num_poor -= 1
            child, giver = poor[num_poor], rich[num_rich - 1]
            keep[child], alias[child] = np.uint32(weights[child] * 4294967295.0), giver
            weights[giver] -= 1 - weights[child]
            if weights[giver] < 1:
                num_rich -= 1
                poor[num_poor] = giver
                num_poor += 1


# ---- drawing -----------------------------------------------------------------------------------------------------


@njit(cache=True, inline="always")
def _mixed(state):  # noqa: ANN001, ANN202
    """SplitMix64: turn a counter into a random number."""
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@njit(cache=True)
def _draw(contexts, children, starts, seed, out):  # noqa: ANN001, ANN202
    """Draw each document i into out[starts[i] : starts[i + 1] - 1]."""
    depth = (contexts.shape[1] + 1) // 3
    context = np.zeros(LANES, np.uint32)
    state = np.zeros(LANES, np.uint64)
    at = np.zeros(LANES, np.int64)
    end = np.zeros(LANES, np.int64)
    drawn = np.zeros(LANES, np.uint32)
    fraction = np.zeros(LANES, np.uint32)
    num_lanes, next_doc = LANES, 0
    while True:
        lane = 0
        while lane < num_lanes:  # a lane whose document has ended gets a new one, or is dropped
            if at[lane] < end[lane]:
                lane += 1
            elif next_doc < starts.size - 1:
                at[lane], end[lane] = starts[next_doc], starts[next_doc + 1] - 1
                state[lane], context[lane] = _mixed(seed + np.uint64(next_doc) * _STEP), 0
                next_doc += 1
            else:
                num_lanes -= 1
                at[lane], end[lane] = at[num_lanes], end[num_lanes]
                state[lane], context[lane] = state[num_lanes], context[num_lanes]
        if not num_lanes:
            return
        for _ in range((end - at)[:num_lanes].min()):
            for lane in range(num_lanes):  # two passes without a branch, so that the lanes' loads overlap
                state[lane] += _STEP
                random = _mixed(state[lane])
                row = contexts[context[lane]]
                leaves = 0
                for n in range(depth - 1):
                    leaves += (random & _LOW) < np.uint64(row[n])
                spread = (random >> _32) * np.uint64(row[depth + 2 * leaves])
                drawn[lane] = row[depth - 1 + 2 * leaves] + np.uint32(spread >> _32)
                fraction[lane] = np.uint32(spread & _LOW)
            for lane in range(num_lanes):
                child = children[drawn[lane]]
                keep = fraction[lane] < child[0]
                out[at[lane]] = child[1] & 0xFFFF if keep else child[1] >> 16
                context[lane] = child[2] if keep else child[3]
                at[lane] += 1


def draw_shard(source: Source, number: int, num_tokens: int, seed: int) -> U16:
    """Draw shard `number`: documents of `num_tokens` tokens in all, separators not counted."""
    random = np.random.default_rng([seed, number])
    lengths = random.choice(source.lengths, int(2 * num_tokens / source.lengths.mean()) + 1000)
    ends = np.cumsum(lengths)
    num_docs = int(np.searchsorted(ends, num_tokens)) + 1
    lengths = lengths[:num_docs].copy()
    lengths[-1] -= ends[num_docs - 1] - num_tokens  # the last document is cut: all shards have one size
    starts = np.concatenate([[0], np.cumsum(lengths + 1)])
    out = np.empty(starts[-1], np.uint16)
    out[starts[1:] - 1] = source.separator
    _draw(source.contexts, source.children, starts, np.uint64(random.integers(2**63)), out)
    return out


def main() -> None:
    chosen = arguments(__doc__, needs="counts", tokens=1e9, out="zipf", shard_tokens=25_000_000, seed=0)
    out, num_tokens = Path(chosen.out), int(chosen.tokens)
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    source = fit(chosen.workspace)
    draw_shard(source, 0, 1000, chosen.seed)  # compiles
    fitted, drawing = time.perf_counter(), 0.0
    num_shards = -(-num_tokens // chosen.shard_tokens)
    for number in range(num_shards):
        before = time.process_time()
        shard = draw_shard(
            source, number, min(chosen.shard_tokens, num_tokens - number * chosen.shard_tokens), chosen.seed
        )
        drawing += time.process_time() - before
        shard.tofile(out / f"shard-{number:05d}.bin")
    finish(
        "a corpus with the n-grams of another",
        chosen.workspace,
        tokens=num_tokens,
        shards=num_shards,
        separator=source.separator,
        ngrams_in_the_source=len(source.children) - 1,
        seconds_to_fit=fitted - started,
        tokens_drawn_per_cpu_second=num_tokens / drawing,
        tokens_written_per_second=num_tokens / (time.perf_counter() - fitted),
    )


if __name__ == "__main__":
    main()
