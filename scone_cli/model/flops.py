"""What a forward pass takes: weights and floating-point operations, from the shape of a model alone."""

from __future__ import annotations


def swiglu_width(dim: int) -> int:
    """Inner width of SwiGLU: 8/3 of the model's, as three matrices then cost what two of 4x would."""
    return -(-8 * dim // 3 // 8) * 8


def block_parameters(dim: int, hidden: int) -> int:
    """Weights of the matrices of one block: attention's four d x d, SwiGLU's three d x hidden."""
    return 4 * dim * dim + 3 * dim * hidden


def blocks_parameters(dim: int, hidden: int, layers: int) -> int:
    """Weights of so many blocks, their norms included."""
    return layers * (block_parameters(dim, hidden) + 2 * dim)


def main_parameters(dim: int, hidden: int, layers: int, vocab_size: int, tied_head: bool) -> int:
    """All that is resident when the model is served: T, A_main and the head, norms included."""
    matrices = vocab_size * dim * (1 if tied_head else 2)
    return matrices + blocks_parameters(dim, hidden, layers) + 2 * dim  # the norms of the embeddings and of the end


def fgram_parameters(dim: int, hidden: int, layers: int, max_n: int) -> int:
    """A_f-gram's: blocks, norms and positions. It has no embedding of its own."""
    return blocks_parameters(dim, hidden, layers) + (max_n + 1) * dim


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
