"""Text whose letters are its tokens, and models over it whose probabilities are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from scone_cli.model.model import ModelConfig, SconeModel


class Letters:
    """A tokenizer in which every letter of an alphabet is a token; with `pair`, these two letters together are one more."""

    def __init__(self, alphabet: str, pair: str = "") -> None:
        self.pieces = [*alphabet, pair] if pair else [*alphabet]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self._ids(text), np.uint32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] if i < len(self.pieces) else "" for i in ids)

    def _ids(self, text: str) -> list[int]:
        ids, at = list[int](), 0
        while at < len(text):
            piece = max((each for each in self.pieces if text.startswith(each, at)), key=len)
            ids.append(self.pieces.index(piece))
            at += len(piece)
        return ids


def bigram_model(probabilities: Sequence[Sequence[float]], context: int = 8) -> SconeModel:
    """A plain model without blocks, in which token j follows token i with probability [i][j]."""
    size = len(probabilities)
    model = SconeModel(ModelConfig(size, size, 0, 1, 0, 2, tied_head=False, context=context, kind="plain"))
    with torch.no_grad():
        model.main.token_embedding.weight.copy_(torch.eye(size))  # normed, a row is that times the root of its length
        model.main.head.weight.copy_(torch.tensor(probabilities).log().T / math.sqrt(size))
    return model


# Rows: after a, b, c, a blank, the end of a document. Columns: how likely each of them follows.
FOLLOWS = [
    [1 / 16, 1 / 2, 1 / 4, 1 / 8, 1 / 16],
    [1 / 4, 1 / 16, 1 / 16, 1 / 2, 1 / 8],
    [1 / 8, 1 / 4, 1 / 16, 1 / 16, 1 / 2],
    [1 / 4, 1 / 8, 1 / 2, 1 / 16, 1 / 16],
    [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8],
]
