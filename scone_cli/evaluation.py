"""Running models over whole documents: every token predicted exactly once, for each of the arms.

A document is read as an end-of-document token and its own tokens, cut into windows of one context that do not overlap
(stride = context): the first token of a window is predicted from the token before it alone. All arms see the same windows.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli import metrics
from scone_cli.corpus import TokenStream, iter_shards, top_folder
from scone_cli.gradients import live_rows
from scone_cli.losses import token_losses
from scone_cli.model import SconeModel
from scone_cli.ngrams import NONE, U8, U32, FgramIndex
from scone_cli.progress import Progress
from scone_cli.schemas import TRAIN
from scone_cli.table import Table
from scone_cli.trie import FgramTrie, distinct_matches

BATCH_TOKENS = 8192
LOOKUP_BATCHES = (1, 16, 4096)


@dataclass(frozen=True)
class Arm:
    """A model and where the rows of its f-grams come from: A_f-gram (`trie`), a table, or nowhere (both None)."""

    name: str
    model: SconeModel
    trie: FgramTrie | None = None
    table: Table | None = None

    def index(self) -> FgramIndex | None:
        """The index that this arm matches with."""
        if self.table is not None:
            return self.table.index
        return self.trie.index() if self.trie is not None else None

    def rows(self, tokens: U32, ids: U32) -> tuple[Tensor | None, Tensor | None]:
        """Slots and rows for `MainModel.embed`: of tokens [B, H + C] with their history first, and their f-gram ids [B, C]."""
        if self.table is None:
            return live_rows(self.model, tokens, ids, self.trie)
        distinct, places = distinct_matches(ids)
        return torch.from_numpy(places), self.table.rows(distinct)


@dataclass(frozen=True)
class ArmLosses:
    """-ln p of every token float32 [N], the length of the f-gram matched at the token that predicts it, the time."""

    losses: npt.NDArray[np.float32]
    matched: U8
    seconds: float


def inputs_of(stream: TokenStream, end_of_document: int, index: FgramIndex | None) -> tuple[U32, U32, U8]:
    """What predicts each token: the token before it (or the end of a document), its f-gram's id and length. All [N].

    The f-gram at an input ends there: nothing of the token to be predicted, or after it, is used.
    """
    ids, lengths = np.full(stream.tokens.size, NONE, np.uint32), np.zeros(stream.tokens.size, np.uint8)
    if index is not None:
        ids, lengths = index.match(stream.tokens, stream.starts)
    first = stream.starts[:-1][np.diff(stream.starts) > 0]
    inputs, ids, lengths = np.roll(stream.tokens, 1), np.roll(ids, 1), np.roll(lengths, 1)
    inputs[first], ids[first], lengths[first] = end_of_document, NONE, 0
    return inputs, ids, lengths


def windows_of(stream: TokenStream, context: int) -> npt.NDArray[np.int64]:
    """First token and length of every window [W, 2], the longest first so that batches need little padding."""
    lengths = np.diff(stream.starts)
    count = -(-lengths // context)
    doc = np.repeat(np.arange(lengths.size), count)
    number = np.arange(doc.size) - np.repeat(np.cumsum(count) - count, count)
    first = stream.starts[doc] + number * context
    size = np.minimum(context, stream.starts[doc + 1] - first)
    order = np.argsort(-size, kind="stable")
    return np.stack([first, size], axis=1)[order]


@torch.inference_mode()
def run_arm(arm: Arm, stream: TokenStream, end_of_document: int, progress: Progress) -> ArmLosses:
    """The loss of every token of `stream` under one arm."""
    started = time.perf_counter()
    inputs, ids, matched = inputs_of(stream, end_of_document, arm.index())
    losses = np.empty(stream.tokens.size, np.float32)
    main, done = arm.model.main, 0
    progress(f"evaluating {arm.name}", done, stream.tokens.size, "tokens")
    for windows in _batches(windows_of(stream, arm.model.config.context)):
        width = int(windows[0, 1])
        inside = np.arange(width) < windows[:, 1:]
        at = np.where(inside, windows[:, :1] + np.arange(width), 0)
        # A window's history may lie in another document, whose end is then between: no rows reach beyond that.
        earlier = np.maximum(windows[:, :1] + np.arange(-arm.model.history, 0), 0)
        tokens = inputs[np.concatenate([earlier, at], axis=1)]
        targets = torch.from_numpy(stream.tokens[at].astype(np.int64))
        slots, rows = arm.rows(tokens, np.where(inside, ids[at], np.uint32(NONE)))
        embedded = main.embed(torch.from_numpy(tokens[:, arm.model.history :].astype(np.int64)), slots, rows)
        found = token_losses(main(embedded), main.head_weight, targets)
        losses[at[inside]] = found.numpy()[inside]
        done += int(inside.sum())
        progress(f"evaluating {arm.name}", done, stream.tokens.size, "tokens")
    return ArmLosses(losses, matched, time.perf_counter() - started)


def _batches(windows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    first = 0
    while first < len(windows):
        last = first + max(1, BATCH_TOKENS // int(windows[first, 1]))
        yield windows[first:last]
        first = last


def documents_trained_on(stream: TokenStream, tokens_folder: Path) -> int:
    """How many documents of `stream` are, token for token, in the training split: on those a model only remembers."""
    wanted = Counter(_digests(stream))
    seen = {digest for _, shard in iter_shards(tokens_folder, TRAIN) for digest in _digests(shard) if digest in wanted}
    return sum(wanted[digest] for digest in seen)


def _digests(stream: TokenStream) -> Iterator[bytes]:
    for start, end in pairwise(stream.starts.tolist()):
        yield hashlib.blake2b(stream.tokens[start:end].tobytes(), digest_size=16).digest()


# ---- what is reported --------------------------------------------------------------------------------------------


def evaluate_corpus(
    name: str, stream: TokenStream, arms: list[Arm], end_of_document: int, progress: Progress
) -> dict[str, list[dict[str, Any]]]:
    """All arms on one corpus: `results` (the whole and each folder of it), paired `differences`, `match_lengths`."""
    losses = {arm.name: run_arm(arm, stream, end_of_document, progress) for arm in arms}
    tokens = np.diff(stream.starts).astype(np.float64)
    nats = {arm: metrics.per_document(found.losses, stream.starts) for arm, found in losses.items()}
    results, differences = [], []
    for corpus, inside in _folders(name, stream).items():
        count, size = tokens[inside], stream.num_bytes[inside].astype(np.float64)
        for arm, found in losses.items():
            for metric, value in (
                ("nats_per_token", metrics.nats_per_token(nats[arm][inside], count)),
                ("perplexity", metrics.perplexity(nats[arm][inside], count)),
                ("bits_per_byte", metrics.bits_per_byte(nats[arm][inside], size, count)),
            ):
                if metric == "bits_per_byte" and not size.any():
                    continue  # of token ids that came without a byte-level tokenizer
                results.append(
                    {
                        "arm": arm,
                        "corpus": corpus,
                        "metric": metric,
                        **asdict(value),
                        "seconds": found.seconds if corpus == name else None,  # measured for the whole only
                    }
                )
            if "table" in losses and arm != "table":
                paired = metrics.nats_per_token(nats["table"][inside] - nats[arm][inside], count)
                differences.append(
                    {
                        "arm": "table",
                        "against": arm,
                        "corpus": corpus,
                        "nats_per_token": paired.value,
                        "stderr": paired.stderr,
                        "n": paired.n,
                    }
                )
    return {"results": results, "differences": differences, "match_lengths": _by_match_length(name, losses)}


def _folders(name: str, stream: TokenStream) -> dict[str, npt.NDArray[np.bool_]]:
    """Which documents belong to the corpus (all) and to each top folder in it, if there are several."""
    folders = np.array([top_folder(document) for document in stream.names])
    groups = {name: np.full(folders.size, True)}
    if (distinct := np.unique(folders)).size > 1:
        groups |= {f"{name}/{folder}": folders == folder for folder in distinct}
    return groups


def _by_match_length(corpus: str, losses: dict[str, ArmLosses]) -> list[dict[str, Any]]:
    """Share of positions and mean loss of each arm by the length of the f-gram at the input (0: none matched)."""
    if "table" not in losses:
        return []
    matched = losses["table"].matched
    rows = []
    for length in np.unique(matched):
        here = matched == length
        row = {"corpus": corpus, "match length": int(length), "share of positions": round(float(here.mean()), 4)}
        rows.append(
            row | {arm: round(float(found.losses[here].mean(dtype=np.float64)), 4) for arm, found in losses.items()}
        )
    return rows


def model_costs(arms: list[Arm], stream: TokenStream) -> list[dict[str, Any]]:
    """What each arm keeps on the accelerator and off it, and what a token of prefill costs it."""
    rows = []
    for arm in arms:
        config, resident = arm.model.config, list(arm.model.main.parameters())
        flops = float(
            metrics.forward_flops(config.dim, config.hidden, config.layers, config.vocab_size, config.context)
        )
        if arm.trie is not None and arm.model.fgram is not None:
            resident += arm.model.fgram.parameters()
            flops += _live_flops(arm, stream)
        num_rows, num_bytes = _offloaded(arm)
        rows.append(
            {
                "arm": arm.name,
                "resident parameters": sum(weight.numel() for weight in resident),
                "resident bytes": sum(weight.numel() * weight.element_size() for weight in resident),
                "offloaded rows": num_rows,
                "offloaded bytes": num_bytes,
                "FLOPs a token": round(flops),
            }
        )
    return rows


def _offloaded(arm: Arm) -> tuple[int, int]:
    """Rows, and bytes of them and of the index, that lie in memory or on disk: a table's, or the learned ones of a live model."""
    if arm.table is not None:
        index = arm.table.index
        return arm.table.num_rows, arm.table.num_rows * arm.table.row_bytes + index.nbytes
    learned = arm.model.learned if arm.trie is not None else None
    return (len(learned.weight), learned.weight.nbytes) if learned is not None else (0, 0)


def _live_flops(arm: Arm, stream: TokenStream) -> float:
    """A_f-gram's cost a token when every match is computed by itself: n token-forwards for an f-gram of n tokens."""
    index, config = arm.index(), arm.model.config
    if index is None or not stream.tokens.size:
        return 0.0
    share = np.bincount(index.match(stream.tokens, stream.starts)[1], minlength=config.max_n + 1) / stream.tokens.size
    nodes = [
        metrics.fgram_forward_flops(config.dim, config.hidden, config.fgram_layers, n)
        for n in range(1, config.max_n + 1)
    ]
    return float(sum(share[n] * sum(nodes[:n]) for n in range(2, config.max_n + 1)))


def lookup_costs(arms: list[Arm], stream: TokenStream, progress: Progress) -> list[dict[str, Any]]:
    """Microseconds a token of matching and fetching rows from the mapped table, page cache warm."""
    rows = []
    for arm in arms:
        if arm.table is None:
            continue
        progress("timing look-ups", 0, len(LOOKUP_BATCHES), "batch sizes")
        for number, batch in enumerate(LOOKUP_BATCHES):
            measured = lookup_microseconds(arm.table, stream.tokens, batch)
            rows.append({"batch": batch, **{name: round(value, 3) for name, value in measured.items()}})
            progress("timing look-ups", number + 1, len(LOOKUP_BATCHES), "batch sizes")
    return rows


def lookup_microseconds(table: Table, tokens: U32, batch: int, seconds: float = 1.0) -> dict[str, float]:
    """Median and 99th percentile of one look-up (match the next `batch` tokens, fetch their rows), a token."""
    matcher, times = table.matcher(), list[float]()
    deadline, at = time.perf_counter() + seconds, 0
    while (begin := time.perf_counter()) < deadline or not times:
        table.rows(matcher.match(tokens[at : at + batch]))
        times.append(time.perf_counter() - begin)
        at = at + batch if at + 2 * batch <= tokens.size else 0
    used = np.array(times[min(len(times) - 1, 5) :]) * 1e6 / batch
    return {"median": float(np.median(used)), "p99": float(np.percentile(used, 99))}
