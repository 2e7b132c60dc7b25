"""What is reported, each as one short function that says what it divides by what. Pure arithmetic; no files, no networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error (None when there is but one document), and the number of tokens behind it."""

    value: float
    stderr: float | None
    n: int


def ratio_of_totals(numerators: F64, denominators: F64) -> tuple[float, float | None]:
    """sum(numerators) / sum(denominators) over documents [D], with a standard error clustered by document.

    Tokens of one document are not independent, documents nearly are: so the error comes from how far each document's
    total lies from what the overall ratio predicts for its size (the linearised ratio estimator).
    """
    total, count = float(denominators.sum()), len(denominators)
    if total == 0:
        return math.nan, None
    ratio = float(numerators.sum()) / total
    if count < 2:
        return ratio, None
    spread = numerators - ratio * denominators
    return ratio, math.sqrt(float((spread**2).sum()) * count / (count - 1)) / total


def nats_per_token(nats: F64, tokens: F64) -> Estimate:
    """Total -ln p over total tokens; both by document [D]."""
    return Estimate(*ratio_of_totals(nats, tokens), int(tokens.sum()))


def perplexity(nats: F64, tokens: F64) -> Estimate:
    """Exponential of the nats a token; its error by the first-order rule, value * error of the exponent."""
    mean = nats_per_token(nats, tokens)
    value = math.exp(mean.value)
    return Estimate(value, None if mean.stderr is None else value * mean.stderr, mean.n)


def bits_per_byte(nats: F64, num_bytes: F64, tokens: F64) -> Estimate:
    """Total -log2 p over total UTF-8 bytes: comparable between tokenizers."""
    value, stderr = ratio_of_totals(nats / math.log(2), num_bytes)
    return Estimate(value, stderr, int(tokens.sum()))


def per_document(values: npt.NDArray[np.floating], starts: npt.NDArray[np.int64]) -> F64:
    """Sum of `values` [N] over each document [starts[d], starts[d + 1])."""
    sums = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
    totals: F64 = sums[starts[1:]] - sums[starts[:-1]]
    return totals


# ---- cost --------------------------------------------------------------------------------------------------------


def block_parameters(dim: int, hidden: int) -> int:
    """Weights of the matrices of one block: attention's four d x d, SwiGLU's three d x hidden."""
    return 4 * dim * dim + 3 * dim * hidden


def forward_flops(dim: int, hidden: int, layers: int, vocab_size: int, context: int) -> int:
    """Floating-point operations a token of a forward pass over a whole context, the head included.

    Two a weight of every matrix, and four a channel and position of attention, which is counted over the whole context
    (as FLOP counters and the paper do; causal kernels need about half). Norms, rotations and look-ups are left out. A
    table changes nothing here: its cost is the look-up.
    """
    return 2 * layers * block_parameters(dim, hidden) + 4 * layers * context * dim + 2 * dim * vocab_size


def fgram_pass_flops(dim: int, hidden: int, layers: int, nodes: float, asked: float, depth: float) -> float:
    """Floating-point operations of A_f-gram over a trie of `nodes`, of which `asked` give an output.

    In the last block the others need keys and values, but neither attention's projection nor the MLP.
    """
    spared = (nodes - asked) * 2 * (dim * dim + 3 * dim * hidden)
    return nodes * fgram_forward_flops(dim, hidden, layers, depth) - spared


def fgram_forward_flops(dim: int, hidden: int, layers: int, depth: float) -> float:
    """Floating-point operations of A_f-gram for one trie node with `depth` ancestors and itself to attend to."""
    return 2 * layers * block_parameters(dim, hidden) + 4 * layers * depth * dim
