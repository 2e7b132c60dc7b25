"""The gradient of a batch: one A_f-gram pass over the trie of the whole batch, micro-batches for the main model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from scone_cli.model import SconeModel, token_losses, training_loss
from scone_cli.ngrams import U32
from scone_cli.packing import PackedText
from scone_cli.trie import FgramTrie, distinct_matches


def accumulate_gradients(
    model: SconeModel, tokens: U32, ids: U32, trie: FgramTrie | None, micro_batch: int
) -> tuple[float, int]:
    """Add the gradient of the batch's mean loss to every parameter; returns that loss and the trie's nodes.

    A_f-gram runs once, over the distinct prefixes of all matches of the whole batch; the micro-batches accumulate the
    gradient of its output rows, a leaf, and its backward runs once. So sharing grows with the batch, not with the
    micro-batch.
    """
    device = model.main.token_embedding.weight.device
    rows, leaf, slots, num_nodes = None, None, None, 0
    if trie is not None:
        distinct, places = distinct_matches(ids)
        if distinct.size:
            subtrie, outputs = trie.subtrie(distinct)
            rows = model.fgram_rows(subtrie, outputs)
            leaf, num_nodes = rows.detach().requires_grad_(), subtrie.num_nodes
        slots = torch.from_numpy(places).to(device)
    inputs = torch.from_numpy(tokens.astype(np.int64)).to(device)
    total = 0.0
    for first in range(0, len(inputs), micro_batch):
        part = slice(first, first + micro_batch)
        embedded = model.main.embed(inputs[part, :-1], slots[part] if slots is not None else None, leaf)
        loss = training_loss(model.main(embedded), model.main.head_weight, inputs[part, 1:]) / ids.size
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    if rows is not None and leaf is not None and leaf.grad is not None:
        rows.backward(leaf.grad)  # type: ignore[no-untyped-call]
    return total, num_nodes


@torch.no_grad()
def mean_loss(model: SconeModel, text: PackedText, trie: FgramTrie | None, max_tokens: int) -> float:
    """Mean nats a token over the first windows of a text: for watching a run, not for reporting (that is `eval`)."""
    count = min(text.num_windows, max(1, max_tokens // text.context))
    total, num_tokens = 0.0, 0
    for first in range(0, count, 16):
        tokens, ids = text.windows(np.arange(first, min(first + 16, count)))
        inputs = torch.from_numpy(tokens.astype(np.int64))
        slots, rows = live_rows(model, ids, trie)
        hidden = model.main(model.main.embed(inputs[:, :-1], slots, rows))
        total += token_losses(hidden, model.main.head_weight, inputs[:, 1:]).sum(dtype=torch.float64).item()
        num_tokens += ids.size
    return total / num_tokens if num_tokens else math.nan


def live_rows(model: SconeModel, ids: U32, trie: FgramTrie | None) -> tuple[Tensor | None, Tensor | None]:
    """Slots and rows for `MainModel.embed`, computed by A_f-gram; (None, None) for a plain model."""
    if trie is None:
        return None, None
    distinct, places = distinct_matches(ids)
    rows = model.fgram_rows(*trie.subtrie(distinct)) if distinct.size else None
    return torch.from_numpy(places), rows
