"""Runs all arms over documents, in one pass: every arm predicts every token exactly once.

A document is read as an end-of-document token and its own tokens, cut into windows of one context that do not overlap
(stride = context): the first token of a window is predicted from the token before it alone. Arms of one context see the same
windows: a piece of text is matched once for every index, and its batches are built once for every context.
Shapes: N tokens of a piece, B windows of a batch, C its context, H tokens of history before each (hashed models alone).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli.arrays import F32, I64, U8, U32
from scone_cli.corpus.token_stream import TokenStream
from scone_cli.model.hf_model import HfModel
from scone_cli.model.live_rows import live_rows
from scone_cli.model.losses import token_losses
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress
from scone_cli.table.table import Table
from scone_cli.vocab.coverage import Prefix
from scone_cli.vocab.index import NONE, FgramIndex
from scone_cli.vocab.trie import FgramTrie, distinct_matches

BATCH_TOKENS = 8192

Matches = tuple[U32, U8]  # id and length of the f-gram that ends at each place


@dataclass(frozen=True)
class Arm:
    """A model and where the rows of its f-grams come from: A_f-gram (`trie`), a table, or nowhere (both None).

    `found_by` is another arm's index of the same f-grams, so that a text need not be matched again. With a `prefix` only the
    first rows of the table are there.
    """

    name: str
    model: SconeModel | HfModel
    trie: FgramTrie | None = None
    table: Table | None = None
    found_by: FgramIndex | None = None
    prefix: Prefix | None = None

    @cached_property
    def index(self) -> FgramIndex | None:
        """The index that this arm matches with."""
        if self.found_by is not None:
            return self.found_by
        if self.table is not None:
            return self.table.index
        return self.trie.index() if self.trie is not None else None

    @property
    def most_tokens(self) -> int:
        """Tokens of a batch, about."""
        return BATCH_TOKENS if isinstance(self.model, SconeModel) else min(BATCH_TOKENS, self.model.most_tokens)

    def rows(self, tokens: U32, ids: U32) -> tuple[Tensor | None, Tensor | None]:
        """Slots and rows for `MainModel.embed`: of tokens [B, H + C] with their history first, and their f-gram ids [B, C]."""
        if isinstance(self.model, HfModel):
            return None, None
        if self.table is None:
            return live_rows(self.model, tokens, ids, self.trie)
        distinct, places = distinct_matches(ids)
        device = self.model.device
        return torch.from_numpy(places).to(device), self.table.rows(distinct).to(device)

    def losses(self, tokens: U32, ids: U32, targets: Tensor) -> Tensor:
        """-ln p of the targets [B, C], of tokens and ids as above."""
        main = self.model.main
        inputs = torch.from_numpy(tokens[:, self.model.history :].astype(np.int64)).to(targets.device)
        return token_losses(main(main.embed(inputs, *self.rows(tokens, ids))), main.logits, targets)


@dataclass(frozen=True)
class Batch:
    """Windows that are read at once.

    at: positions of their tokens in the piece int64 [B, C]. inside: which of these are tokens, not padding [B, C].
    earlier: positions of their history [B, H].
    """

    at: I64
    inside: npt.NDArray[np.bool_]
    earlier: I64


@dataclass(frozen=True)
class Losses:
    """The losses of one piece, by arm.

    losses: -ln p of every token float32 [N]. matches: the f-gram at the token that predicts it. seconds: time taken.
    """

    losses: dict[str, F32]
    matches: dict[str, Matches]
    seconds: dict[str, float]


@dataclass(frozen=True)
class ArmLosses:
    """-ln p of every token float32 [N], the length of the f-gram matched at the token that predicts it, the time."""

    losses: F32
    matched: U8
    seconds: float


def inputs_of(stream: TokenStream, end_of_document: int) -> U32:
    """What predicts each token: the token before it, or the end of a document [N]."""
    inputs = np.roll(stream.tokens, 1)
    inputs[_firsts(stream)] = end_of_document
    return inputs


def matches_of(stream: TokenStream, index: FgramIndex | None) -> Matches:
    """Id and length of the f-gram that ends at the input of each token, so before the token itself."""
    if index is None:
        return np.full(stream.tokens.size, NONE, np.uint32), np.zeros(stream.tokens.size, np.uint8)
    ids, lengths = index.match(stream.tokens, stream.starts)
    ids, lengths = np.roll(ids, 1), np.roll(lengths, 1)
    first = _firsts(stream)
    ids[first], lengths[first] = NONE, 0
    return ids, lengths


def _firsts(stream: TokenStream) -> I64:
    return stream.starts[:-1][np.diff(stream.starts) > 0]


def windows_of(stream: TokenStream, context: int) -> I64:
    """First token and length of every window [W, 2], the longest first so that batches need little padding."""
    lengths = np.diff(stream.starts)
    count = -(-lengths // context)
    doc = np.repeat(np.arange(lengths.size), count)
    number = np.arange(doc.size) - np.repeat(np.cumsum(count) - count, count)
    first = stream.starts[doc] + number * context
    size = np.minimum(context, stream.starts[doc + 1] - first)
    order = np.argsort(-size, kind="stable")
    return np.stack([first, size], axis=1)[order]


def batches_of(stream: TokenStream, context: int, history: int, most_tokens: int) -> Iterator[Batch]:
    """All windows of a piece, in batches of about `most_tokens`."""
    windows, start = windows_of(stream, context), 0
    while start < len(windows):
        width = int(windows[start, 1])
        end = start + max(1, most_tokens // width)
        firsts, sizes = windows[start:end, :1], windows[start:end, 1:]
        inside = np.arange(width) < sizes
        # A window's history may lie in another document, whose end is then between: no rows reach beyond that.
        earlier = np.maximum(firsts + np.arange(-history, 0), 0)
        yield Batch(np.where(inside, firsts + np.arange(width), 0), inside, earlier)
        start = end


@torch.inference_mode()
def run_arms(
    arms: Sequence[Arm], stream: TokenStream, end_of_document: int, told: Callable[[float], None] = lambda _: None
) -> Losses:
    """The loss of every token of a piece under every arm; `told` is given the share of the work that is done."""
    inputs, matches = inputs_of(stream, end_of_document), _match_all(arms, stream)
    losses = {arm.name: np.empty(stream.tokens.size, np.float32) for arm in arms}
    seconds = {arm.name: 0.0 for arm in arms}
    done, total = 0, max(1, stream.tokens.size * len(arms))
    for context, most in dict.fromkeys((arm.model.config.context, arm.most_tokens) for arm in arms):
        readers = [arm for arm in arms if (arm.model.config.context, arm.most_tokens) == (context, most)]
        history = max(arm.model.history for arm in readers)
        for batch in batches_of(stream, context, history, most):
            tokens = inputs[np.concatenate([batch.earlier, batch.at], axis=1)]
            targets = torch.from_numpy(stream.tokens[batch.at].astype(np.int64))
            places = batch.at[batch.inside]
            for arm in readers:
                begun = time.perf_counter()
                ids = np.where(batch.inside, matches[arm.name][0][batch.at], np.uint32(NONE))
                device = arm.model.device
                found = arm.losses(tokens[:, history - arm.model.history :], ids, targets.to(device))
                losses[arm.name][places] = found.cpu().numpy()[batch.inside]
                seconds[arm.name] += time.perf_counter() - begun
                done += places.size
                told(done / total)
    return Losses(losses, matches, seconds)


def _match_all(arms: Sequence[Arm], stream: TokenStream) -> dict[str, Matches]:
    """The matches of every arm. Each index is searched once; a prefix of the table cuts down what it found."""
    found: dict[int, Matches] = {}
    matches = {}
    for arm in arms:
        key = id(arm.index)
        if key not in found:
            found[key] = matches_of(stream, arm.index)
        matches[arm.name] = arm.prefix.cut(*found[key]) if arm.prefix else found[key]
    return matches


def run_arm(arm: Arm, stream: TokenStream, end_of_document: int, progress: Progress) -> ArmLosses:
    """The loss of every token of `stream`, held in memory, under one arm."""
    size = stream.tokens.size
    what = f"evaluating {arm.name}"
    progress(what, 0, size, "tokens")
    found = run_arms([arm], stream, end_of_document, lambda share: progress(what, round(share * size), size, "tokens"))
    return ArmLosses(found.losses[arm.name], found.matches[arm.name][1], found.seconds[arm.name])
