"""Finds f-grams in batches as transformers hands them over: some tokens in a cache, new ones, a mask, positions.

An f-gram is matched among the tokens that its last token sees. Shapes: B sequences, P tokens in the cache, C new tokens. A
token below zero is the complement of the first token of a document: no f-gram reaches over it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli.arrays import U32
from scone_cli.vocab.index import NONE, FgramIndex

Tokens = npt.NDArray[np.int64]


def match_rows(
    index: FgramIndex, held: Tokens, tokens: Tokens, mask: Tensor | None, position_ids: Tensor | None
) -> tuple[U32, Tokens]:
    """Match new tokens [B, C] after held ones [B, P], as if those that a mask [B, P + C] hides were not there.

    Returns the ids [B, C], and the new tokens with the first of each document as its complement.

    Raises:
        ValueError: the mask has another shape.
    """
    past, reach = held.shape[1], index.max_n - 1
    is_seen = _is_seen(mask, len(tokens), past + tokens.shape[1])
    marked = np.where(_beginnings(tokens.shape, is_seen[:, past:], position_ids), ~tokens, tokens)
    if is_seen[:, max(0, past - reach) : past].all():
        held = held[:, -reach:]  # nothing that lies further back is in an f-gram
    read, is_seen = np.concatenate([held, marked], axis=1), is_seen[:, past - held.shape[1] :]
    seen, (rows, _) = read[is_seen], np.nonzero(is_seen)
    ids = np.full(read.shape, NONE, np.uint32)
    if seen.size:
        begins = (seen < 0) | (np.diff(rows, prepend=-1) > 0)
        ids[is_seen], _ = index.match(_without_marks(seen), np.append(np.flatnonzero(begins), seen.size))
    return ids[:, held.shape[1] :], marked


def _without_marks(tokens: Tokens) -> npt.NDArray[Any]:
    return np.where(tokens < 0, ~tokens, tokens)


def match_each(index: FgramIndex, held: Tokens, tokens: Tokens, mask: Tensor) -> U32:
    """Match new tokens [B, C] after held ones [B, P], each with the tokens before it that it sees.

    Raises:
        ValueError: the mask is not [B, 1, C, at least P + C].
    """
    (rows, count), read = tokens.shape, np.concatenate([held, tokens], axis=1)
    total = read.shape[1]
    if mask.shape[2] != count or mask.shape[3] < total:
        raise ValueError(f"attention_mask {list(mask.shape)}, expected [{rows}, 1, {count}, at least {total}]")
    lowest = torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
    sees = (mask > lowest / 2 if mask.is_floating_point() else mask != 0)[:, 0, :, :total].cpu().numpy()
    sees = np.array(np.broadcast_to(sees, (rows, count, total)).reshape(-1, total))
    all_of_them, own = np.arange(len(sees)), np.tile(np.arange(total - count, total), rows)
    sees &= np.arange(total) <= own[:, None]
    sees_itself = sees[all_of_them, own]
    places, are_there = np.zeros((2, len(sees), index.max_n), np.int64)
    for n in range(1, index.max_n + 1):  # the last K that are seen, from the end
        at = total - 1 - sees[:, ::-1].argmax(axis=1)
        places[:, -n], are_there[:, -n] = at, sees[all_of_them, at]
        sees[all_of_them, at] = False
    tokens = read[all_of_them[:, None] // count, places][are_there > 0]
    ends = np.cumsum(are_there.sum(axis=1))
    found, _ = index.match(_without_marks(tokens), np.append(0, ends))
    ids: U32 = np.full(len(ends), NONE, np.uint32)
    ids[sees_itself] = found[ends[sees_itself] - 1]
    return ids.reshape(rows, count)


def _is_seen(mask: Tensor | None, rows: int, count: int) -> npt.NDArray[np.bool_]:
    """Which of all tokens [B, P + C] a mask of two dimensions shows; the others are padding.

    Raises:
        ValueError: the mask has another shape.
    """
    if mask is None:
        return np.ones((rows, count), np.bool_)
    if mask.dim() != 2 or mask.shape[1] < count:
        raise ValueError(f"attention_mask {list(mask.shape)}, expected [{rows}, {count}]")
    seen: npt.NDArray[np.bool_] = np.broadcast_to((mask[:, :count] != 0).cpu().numpy(), (rows, count))
    return seen


def _beginnings(
    shape: tuple[int, ...], is_seen: npt.NDArray[np.bool_], position_ids: Tensor | None
) -> npt.NDArray[np.bool_]:
    """Where documents begin among new tokens [B, C]: at position 0, and where positions do not ascend."""
    if position_ids is None:
        return np.zeros(shape, np.bool_)
    if shape[1] == 1:  # as in every step of decoding
        first: npt.NDArray[np.bool_] = np.broadcast_to((position_ids == 0).cpu().numpy(), shape)
        return first
    positions = np.broadcast_to(position_ids.cpu().numpy(), shape)
    last = np.maximum.accumulate(np.where(is_seen, np.arange(shape[1]), -1), axis=1)  # place of the last that is seen
    last = np.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    before = np.where(last < 0, -1, np.take_along_axis(positions, np.maximum(last, 0), axis=1))
    begins: npt.NDArray[np.bool_] = (positions == 0) | (positions <= before)
    return begins
