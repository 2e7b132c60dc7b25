"""Parameter counts and FLOPs of a forward pass, computed from the shape of a model alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def swiglu_width(dim: int) -> int:
    """Inner width of SwiGLU: 8/3 of the model's width, so that its three matrices cost as much as two of width 4x."""
    return -(-8 * dim // 3 // 8) * 8


def block_parameters(dim: int, hidden: int, heads_width: int = 0, kv_width: int = 0) -> int:
    """Parameters in the matrices of one block: four in attention, three of d x hidden in SwiGLU.

    heads_width: of all heads together, for queries and the output; kv_width: of those that have keys and values (0: d).
    """
    return 2 * dim * ((heads_width or dim) + (kv_width or dim)) + 3 * dim * hidden


def blocks_parameters(dim: int, hidden: int, layers: int, heads_width: int = 0, kv_width: int = 0) -> int:
    """Parameters of `layers` blocks, norms included."""
    return layers * (block_parameters(dim, hidden, heads_width, kv_width) + 2 * dim)


def main_parameters(
    dim: int, hidden: int, layers: int, vocab_size: int, tied_head: bool, heads_width: int = 0, kv_width: int = 0
) -> int:
    """Parameters that are resident when the model is served: T, A_main and the head, norms included."""
    matrices = vocab_size * dim * (1 if tied_head else 2)
    blocks = blocks_parameters(dim, hidden, layers, heads_width, kv_width)
    return matrices + blocks + 2 * dim  # the embedding norm and the final norm


def fgram_parameters(dim: int, hidden: int, layers: int, max_n: int) -> int:
    """Parameters of A_f-gram: blocks, norms and positions. It has no token embedding of its own."""
    return blocks_parameters(dim, hidden, layers) + (max_n + 1) * dim


def forward_flops(
    dim: int, hidden: int, layers: int, vocab_size: int, context: int, heads_width: int = 0, kv_width: int = 0
) -> int:
    """FLOPs per token of a forward pass over a whole context, head included.

    Two per matrix weight, and four per channel and position in attention. Attention is counted over the whole context, as
    FLOP counters and the paper do; causal kernels need about half. Norms, rotations and look-ups are left out. A table
    does not change this number: its cost is the look-up.
    """
    weights = layers * block_parameters(dim, hidden, heads_width, kv_width)
    return counted_flops(weights, layers, heads_width or dim, dim, vocab_size, context)


def counted_flops(weights: int, layers: int, heads_width: int, dim: int, vocab_size: int, context: int) -> int:
    """The same for blocks of any form, of whose matrices `weights` multiply each token."""
    return 2 * weights + 4 * layers * context * heads_width + 2 * dim * vocab_size


def base_flops(config: Mapping[str, Any]) -> int:
    """The same for a model of transformers, from its shape (`HfConfig` as a mapping)."""
    heads_width = config["heads"] * config["head_dim"]
    shape = (config["dim"], config["output_size"], config["context"])
    return counted_flops(config["block_weights"], config["layers"], heads_width, *shape)


def fgram_pass_flops(dim: int, hidden: int, layers: int, nodes: float, asked: float, depth: float) -> float:
    """FLOPs of A_f-gram over a trie of `nodes` nodes if `asked` of them give an output.

    In the last block the other nodes need keys and values, but neither attention's output projection nor the MLP.
    """
    spared = (nodes - asked) * 2 * (dim * dim + 3 * dim * hidden)
    return nodes * fgram_forward_flops(dim, hidden, layers, depth) - spared


def fgram_forward_flops(dim: int, hidden: int, layers: int, depth: float) -> float:
    """FLOPs of A_f-gram for one trie node that attends to `depth` nodes: its ancestors and itself."""
    return 2 * layers * block_parameters(dim, hidden) + 4 * layers * depth * dim
