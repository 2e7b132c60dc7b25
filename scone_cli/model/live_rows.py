"""Rows for a batch without a table: A_f-gram computes them, or they are read from the hashed rows."""

from __future__ import annotations

import torch
from torch import Tensor

from scone_cli.arrays import U32
from scone_cli.model.model import SconeModel
from scone_cli.vocab.trie import FgramTrie, distinct_matches


def live_rows(model: SconeModel, tokens: U32, ids: U32, trie: FgramTrie | None) -> tuple[Tensor | None, Tensor | None]:
    """Slots and rows for `MainModel.embed`; (None, None) for a plain model.

    tokens [B, H + C] start with H = `model.history` tokens of history; ids [B, C] are the matched f-grams.
    """
    if model.hashed is not None:
        return torch.from_numpy(model.hashed.slots(tokens)).to(model.device), model.hashed.weight.detach()
    if trie is None:
        return None, None
    distinct, places = distinct_matches(ids)
    rows = model.rows(trie, distinct) if distinct.size else None
    return torch.from_numpy(places).to(model.device), rows
