"""The gradient of a batch: one pass of A_f-gram over the trie of the whole batch, micro-batches for the main model.

Shapes: B sequences, C context, H tokens of history before each (hashed models only), R distinct rows, D = dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli.arrays import U32
from scone_cli.model import cpu_kernels
from scone_cli.model.direct_rows import TouchedRows, sum_of
from scone_cli.model.flops import swiglu_width
from scone_cli.model.live_rows import live_rows
from scone_cli.model.losses import token_losses
from scone_cli.model.model import FgramModel, SconeModel
from scone_cli.runtime.signals import is_stop_noted
from scone_cli.training.packed_text import PackedText
from scone_cli.vocab.trie import FgramTrie, distinct_matches

CHUNK_FGRAMS = 2048  # f-grams per call of A_f-gram: their activations stay in a CPU's cache
GPU_CHUNK_FGRAMS = 65_536  # enough to keep a GPU busy
GRAPH_BYTES = 4 << 30  # limit for the activations of A_f-gram; beyond it they are computed again in the backward pass


@dataclass(frozen=True)
class BatchRows:
    """The rows that a batch uses, detached from the graph that computed them.

    slots: for each position the number of its row for `MainModel.embed`, or -1. values [R, D]: the rows. finish: takes their
    gradient [R, D] and passes it on to the parameters. num_nodes: token-forwards of A_f-gram.
    """

    slots: Tensor
    values: Tensor
    finish: Callable[[Tensor], None]
    num_nodes: int = 0

    def picked(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """For some sequences of the batch: the numbers of their rows, slots into these rows, and the rows as a leaf.

        The leaf has one row per position: a leaf of all rows would need a gradient of their size in every micro-batch.
        """
        slots = self.slots[part]
        numbers = slots.clamp(min=0).flatten()
        places = torch.arange(slots.numel(), device=slots.device).view_as(slots)
        leaf = self.values.index_select(0, numbers).requires_grad_()
        return numbers, torch.where(slots >= 0, places, -1), leaf


class BatchResult(NamedTuple):
    """Mean loss of a batch in nats per token; token-forwards of A_f-gram; f-grams whose output was used."""

    loss: float
    trie_nodes: int = 0
    fgrams: int = 0


def accumulate_gradients(
    model: SconeModel, tokens: U32, ids: U32, trie: FgramTrie | None, micro_batch: int
) -> BatchResult:
    """Add the gradient of the batch's mean loss to every parameter.

    tokens [B, H + C + 1], ids [B, C]. A_f-gram runs forward once, over the distinct prefixes of all matches of the batch.
    The micro-batches accumulate the gradient of its output rows; then A_f-gram runs backward once. So the number of shared
    prefixes grows with the batch, not with the micro-batch.
    """
    rows = _batch_rows(model, tokens, ids, trie)
    inputs = torch.from_numpy(tokens[:, model.history :].astype(np.int64)).to(model.device)
    of_rows = torch.zeros_like(rows.values) if rows else torch.empty(0)
    total = 0.0
    for first in range(0, len(inputs), micro_batch):
        part = slice(first, first + micro_batch)
        numbers, slots, leaf = rows.picked(part) if rows else (None, None, None)
        hidden = model.main(model.main.embed(inputs[part, :-1], slots, leaf))
        loss = model.main.loss(hidden, inputs[part, 1:]) / ids.size
        loss.backward()
        total += loss.item()
        if numbers is not None and leaf is not None and leaf.grad is not None:
            of_rows.index_add_(0, numbers, leaf.grad)
    if rows:
        rows.finish(of_rows)
    return BatchResult(total, rows.num_nodes, len(rows.values)) if rows and trie else BatchResult(total)


def _batch_rows(model: SconeModel, tokens: U32, ids: U32, trie: FgramTrie | None) -> BatchRows | None:
    if model.hashed is not None:
        return _hashed_rows(model, tokens)
    if trie is None:
        return None
    distinct, places = distinct_matches(ids)
    if not distinct.size:
        return None
    if not model.has_fgram_model:
        return _batch_without_trie(model, trie, distinct, places)
    pieces, order = trie.chunks(distinct, CHUNK_FGRAMS if model.device.type == "cpu" else GPU_CHUNK_FGRAMS)
    place_of = np.empty(distinct.size + 1, np.int64)
    place_of[order], place_of[-1] = np.arange(distinct.size), -1  # -1 (no match) stays -1
    num_nodes = sum(piece.num_nodes for piece, _ in pieces)
    outputs, room = list[Tensor](), GRAPH_BYTES
    for piece in pieces:
        room -= piece[0].num_nodes * _bytes_a_node(model)
        with torch.set_grad_enabled(room >= 0):
            outputs.append(model.fgram_rows(*piece))
    outputs_RD = torch.cat([output.detach() for output in outputs]).requires_grad_()
    learned, finish_learned = _learned_sums(model, trie, distinct[order])
    rows = model.finish_rows(trie, distinct[order], outputs_RD, learned)

    def finish(grad_RD: Tensor) -> None:
        rows.backward(grad_RD)
        finish_learned()
        assert outputs_RD.grad is not None
        start = 0
        for kept, piece in zip(outputs, pieces, strict=True):
            output = kept if kept.requires_grad else model.fgram_rows(*piece)
            output.backward(outputs_RD.grad[start : start + len(output)])
            start += len(output)

    return BatchRows(torch.from_numpy(place_of[places]).to(model.device), rows.detach(), finish, num_nodes)


def _batch_without_trie(
    model: SconeModel, trie: FgramTrie, ids: npt.NDArray[np.integer], places: npt.NDArray[Any]
) -> BatchRows:
    """The same where no A_f-gram is trained: outputs are a projection of a donor's states, or zero."""
    outputs_RD = model.given_outputs(trie, ids)
    learned, finish_learned = _learned_sums(model, trie, ids)
    rows = model.finish_rows(trie, ids, outputs_RD, learned)

    def finish(grad_RD: Tensor) -> None:
        if rows.requires_grad:  # a batch may have no f-gram with a learned row
            rows.backward(grad_RD)
        finish_learned()

    return BatchRows(torch.from_numpy(places).to(model.device), rows.detach(), finish)


def _learned_sums(
    model: SconeModel, trie: FgramTrie, ids: npt.NDArray[np.integer]
) -> tuple[Tensor | None, Callable[[], None]]:
    """The sums of the learned rows of f-grams [R, D], and a function that passes their gradient on to the learned rows."""
    if model.learned is None:
        return None, lambda: None
    weight = model.learned.weight
    touched = TouchedRows.of(weight, model.learned.slots(trie, ids))
    leaf = touched.values.requires_grad_()

    def finish() -> None:
        if leaf.grad is not None:  # None: no f-gram of the batch has a learned row
            touched.give_gradient(weight, leaf.grad)

    return sum_of(leaf, touched.places), finish


def _bytes_a_node(model: SconeModel) -> int:
    """Bytes that autograd keeps per node of the trie: vectors of A_f-gram's width, for each block."""
    assert isinstance(model.fgram, FgramModel)
    config, width = model.config, model.config.fgram_width
    is_fused = cpu_kernels.is_for(model.fgram.positions.weight)
    vectors = 11 if is_fused else 14 + 5 * swiglu_width(width) / width
    return round(4 * config.fgram_layers * vectors * width)


def _hashed_rows(model: SconeModel, tokens: U32) -> BatchRows | None:
    assert model.hashed is not None
    weight = model.hashed.weight
    touched = TouchedRows.of(weight, model.hashed.slots(tokens[:, :-1]))
    if not len(touched.values):
        return None
    slots = torch.from_numpy(touched.places).to(model.device)
    return BatchRows(slots, touched.values, lambda grad_RD: touched.give_gradient(weight, grad_RD))


@torch.no_grad()
def mean_loss(model: SconeModel, text: PackedText, trie: FgramTrie | None, max_tokens: int) -> float | None:
    """Mean loss in nats per token over windows spread over a text; to watch a run, the reported numbers are those of `eval`.

    None if a signal to stop came meanwhile.
    """
    count = min(text.num_windows, max(1, max_tokens // text.context))
    chosen = (
        np.arange(count) * text.num_windows // max(1, count)
    )  # the first windows would all be from one part of the corpus
    total, num_tokens = 0.0, 0
    for first in range(0, count, 16):
        if is_stop_noted():
            return None
        tokens, ids = text.windows(chosen[first : first + 16], before=model.history)
        inputs = torch.from_numpy(tokens[:, model.history :].astype(np.int64)).to(model.device)
        slots, rows = live_rows(model, tokens[:, :-1], ids, trie)
        hidden = model.main(model.main.embed(inputs[:, :-1], slots, rows))
        losses = token_losses(hidden, model.main.logits, inputs[:, 1:]).cpu()  # not every device has float64
        total += losses.sum(dtype=torch.float64).item()
        num_tokens += ids.size
    return total / num_tokens if num_tokens else math.nan
