"""What a model of a given shape costs, worked out without building it: parameters, bytes, FLOPs, its table.

Exact for the models of `model.py` (the tests build small ones and count), so also for those that do not fit this machine.
The work of A_f-gram depends on the text: a shape says at which share of the positions an f-gram matches, and how many nodes
per position the trie of a batch has. Measured speed is in `speed`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, final

from scone_cli.errors import BadSetting
from scone_cli.model import flops
from scone_cli.model.flops import fgram_forward_flops, fgram_pass_flops, forward_flops, swiglu_width
from scone_cli.settings import ROW_DTYPES, Quantity, parse_count, setting
from scone_cli.table.row_formats import FORMATS, row_bytes
from scone_cli.table.sizes import index_bytes, table_bytes

# ---- the paper's two ways of keeping the rows, beside our table: a Python dictionary, and LMDB --------------------
#
# The paper writes GB and means 2**30 bytes: only so are its 77.3 and 7,665 GB the two pages that LMDB takes for a row of 4,096.


# A dictionary's entry for a tuple of five tokens: the tuple 96, its numbers 5 x 32, the row number 32, its place 34 to 67.
DICTIONARY_BYTES = 345
TOKEN_BYTES = 4  # of a key in LMDB

_PAGE = 4096
_PAGE_HEADER = 16
_NODE_HEADER = 8
_PAGE_NUMBER = 8
_POINTER = 2  # to a node, in its page
_ROOM = _PAGE - _PAGE_HEADER
_LONGEST_NODE = _ROOM // 2 - _POINTER  # at least two must fit: the value of a longer one gets pages of its own
_META_PAGES = 2


def dictionary_bytes(num_rows: int, row_bytes: int) -> int:
    """Bytes in RAM of rows in one matrix and a dictionary that finds them, as in the paper (section 4.4)."""
    return num_rows * (row_bytes + DICTIONARY_BYTES)


def lmdb_bytes(num_rows: int, row_bytes: int, key_bytes: int) -> int:
    """Bytes on disk of rows in LMDB, filled in the order of its keys: in any other, its tree takes up to twice as much.

    A value that is too long for a page in which two must fit lies in whole pages of its own, the first with a header: 4,096
    bytes take two.
    """
    inline = _NODE_HEADER + key_bytes + row_bytes
    own_pages = 0 if inline <= _LONGEST_NODE else -(-(row_bytes + _PAGE_HEADER) // _PAGE)
    node = inline if not own_pages else _NODE_HEADER + key_bytes + _PAGE_NUMBER
    pages = level = -(-num_rows // (_ROOM // _entry(node)))
    while level > 1:
        level = -(-level // (_ROOM // _entry(_NODE_HEADER + key_bytes)))
        pages += level
    return _PAGE * (_META_PAGES + pages + num_rows * own_pages)


def _entry(node_bytes: int) -> int:
    """Bytes that a node takes in a page: it begins at an even offset, and has a pointer."""
    return node_bytes + node_bytes % 2 + _POINTER


_BACKWARD = 2  # times the forward pass


@dataclass(frozen=True)
class Shape:
    """A model, plain or with f-grams, and what is known of its training; one table [[cost.model]] of a recipe."""

    name: str = setting("", "What to call it.")
    dim: int = setting(0, "Width of both models (d).")
    layers: int = setting(0, "Layers of the main model.")
    vocab_size: int = setting(0, "Tokens of the tokenizer.")
    context: int = setting(0, "Context length in tokens.")
    mlp_width: int = setting(0, "Inner width of the MLPs, which have three matrices (0: 8/3 of dim).")
    heads: int = setting(0, "Attention heads of the main model; needed only for grouped queries or a head width.")
    kv_heads: int = setting(0, "Heads that have keys and values, in grouped-query attention (0: all heads).")
    head_dim: int = setting(0, "Width of a head (0: dim / heads).")
    tied_head: bool = setting(False, "Share the token embeddings with the head.")
    weights: str = setting(
        "bfloat16",
        "The numbers of weights, keys and values, as served.",
        choices=("float32", "bfloat16", "float16"),
    )
    fgrams: Quantity | None = setting(None, "F-grams, such as 10M.  [default: none, a plain model]")
    fgram_layers: int = setting(0, "Layers of the f-gram model.")
    max_n: int = setting(5, "Tokens of the longest f-grams (K).")
    dtype: str = setting("float16", "Format of the table's rows.", choices=ROW_DTYPES)
    matched: float = setting(1.0, "Share of the positions where an f-gram matches; 1 is a bound from above.")
    trie_nodes: float | None = setting(
        None, "Nodes a position of the trie of a training batch (`scone inspect` tells)."
    )
    training_tokens: Quantity | None = setting(None, "Tokens of the training, such as 200G.")
    perplexity: float | None = setting(None, "As measured, on the same text for all models; to see whether it pays.")

    @property
    def hidden(self) -> int:
        """Inner width of SwiGLU."""
        return self.mlp_width or swiglu_width(self.dim)

    @property
    def heads_width(self) -> int:
        """Width of all heads of the main model together."""
        return self.heads * self.head_dim if self.head_dim else self.dim

    @property
    def kv_width(self) -> int:
        """Width of the heads that have keys and values."""
        return self.heads_width * self.kv_heads // self.heads if self.kv_heads else self.heads_width

    @property
    def num_fgrams(self) -> int:
        """Rows of the table; 0 of a plain model."""
        return parse_count(str(self.fgrams), "fgrams") if self.fgrams is not None else 0

    def check(self) -> None:
        """Refuse an impossible shape.

        Raises:
            BadSetting: a number is missing or out of its range; f-grams without a model for them, or the reverse.
        """
        where = f"[[cost.model]] {self.name!r}"
        if not self.name:
            raise BadSetting("[[cost.model]]: no name", 'give it one, such as name = "1B"')
        least = {"dim": 1, "layers": 1, "vocab_size": 1, "context": 1, "mlp_width": 0, "max_n": 2, "fgram_layers": 0}
        least |= {"heads": 0, "kv_heads": 0, "head_dim": 0}
        for key, smallest in (least | {"trie_nodes": 0, "perplexity": 1}).items():
            value = getattr(self, key)
            if value is not None and not smallest <= value < math.inf:
                raise BadSetting(f"{where}: {key.replace('_', '-')} is {value}, expected {smallest} or more")
        if (self.kv_heads or self.head_dim) and not self.heads:
            raise BadSetting(f"{where}: kv-heads or head-dim without heads", "add heads")
        for key, whole in (("heads", 0 if self.head_dim else self.dim), ("kv_heads", self.heads)):
            if (part := getattr(self, key)) and whole % part:
                of = "dim" if key == "heads" else "heads"
                raise BadSetting(f"{where}: {key.replace('_', '-')} is {part}, expected a divisor of {of}, {whole}")
        if not 0 <= self.matched <= 1:
            raise BadSetting(f"{where}: matched is {self.matched}, expected a share from 0 to 1")
        if bool(self.num_fgrams) != (self.fgram_layers > 0):
            found = f"fgrams = {self.fgrams or 0}, fgram-layers = {self.fgram_layers}"
            raise BadSetting(f"{where}: {found}: expected both, or neither")

    @property
    def num_training_tokens(self) -> int | None:
        """Tokens of the training; None if not known."""
        return parse_count(str(self.training_tokens), "training-tokens") if self.training_tokens is not None else None


@dataclass(frozen=True)
class Cost:
    """The table [cost] of a recipe."""

    model: tuple[Shape, ...] = setting((), "The models, each in a table [[cost.model]].")


# ---- parts -------------------------------------------------------------------------------------------------------


def main_parameters(shape: Shape) -> int:
    """Parameters of the main model: all that is resident when it is served."""
    widths = shape.heads_width, shape.kv_width
    return flops.main_parameters(shape.dim, shape.hidden, shape.layers, shape.vocab_size, shape.tied_head, *widths)


def fgram_parameters(shape: Shape) -> int:
    """Parameters of A_f-gram."""
    return flops.fgram_parameters(shape.dim, shape.hidden, shape.fgram_layers, shape.max_n)


def kv_bytes_a_token(shape: Shape) -> int:
    """Bytes of the keys and values of one token, in all layers."""
    return 2 * shape.layers * shape.kv_width * number_bytes(shape)


def number_bytes(shape: Shape) -> int:
    """Bytes of a number of the weights, keys and values."""
    return FORMATS[shape.weights].bits // 8


# ---- FLOPs ---------------------------------------------------------------------------------------------------------


def decode_flops(shape: Shape) -> int:
    """FLOPs of the main model to generate one token after a full context."""
    return _without_head(shape) + 2 * shape.dim * shape.vocab_size


def prefill_flops(shape: Shape) -> int:
    """FLOPs of the main model per token of a prompt that fills the context; the head runs for the last token only.

    Attention is counted over the whole context, as in `forward_flops`; causal kernels need about half of that.
    """
    of_head = decode_flops(shape) - _without_head(shape)
    return _without_head(shape) + round(of_head / shape.context)


def _without_head(shape: Shape) -> int:
    widths = shape.heads_width, shape.kv_width
    return forward_flops(shape.dim, shape.hidden, shape.layers, 0, shape.context, *widths)


def plain_training_flops(shape: Shape) -> int:
    """Training FLOPs per sequence of the main model: forward, and twice that backward."""
    return (1 + _BACKWARD) * shape.context * decode_flops(shape)


def padded_training_flops(shape: Shape) -> int:
    """Training FLOPs per sequence of both models as in the paper: each match is computed by itself, padded to K tokens.

    The paper's own 5.57e13 for 1B with 1B f-grams is less than half of that. It does not say how it counts; the number fits
    an A_f-gram that runs over 1.9 tokens per position, although no match is shorter than two.
    """
    return _with_fgrams(shape, shape.max_n * shape.matched)


def trie_training_flops(shape: Shape) -> int | None:
    """The same over the trie of a batch, in which f-grams share their prefixes; None if its nodes are not known."""
    return None if shape.trie_nodes is None else _with_fgrams(shape, shape.trie_nodes)


def _with_fgrams(shape: Shape, nodes: float) -> int:
    """With so many token-forwards of A_f-gram per position, each with an output and at the largest depth: an upper bound."""
    of_fgrams = fgram_pass_flops(shape.dim, shape.hidden, shape.fgram_layers, nodes, nodes, shape.max_n)
    return plain_training_flops(shape) + round((1 + _BACKWARD) * shape.context * of_fgrams)


def precompute_flops(shape: Shape) -> int:
    """FLOPs of the one pass over the vocabulary that fills the table: one token-forward per f-gram."""
    of_each = fgram_forward_flops(shape.dim, shape.hidden, shape.fgram_layers, shape.max_n)
    return round(shape.num_fgrams * of_each)


def live_flops(shape: Shape, match_shares: Sequence[float]) -> float:
    """FLOPs per token of A_f-gram without a table: n token-forwards for a match of n tokens.

    match_shares[n]: the share of positions whose longest match has n tokens.
    """
    of_node = [
        fgram_forward_flops(shape.dim, shape.hidden, shape.fgram_layers, depth) for depth in range(1, shape.max_n + 1)
    ]
    return float(sum(share * sum(of_node[:n]) for n, share in enumerate(match_shares) if n >= 2))


def whole_training_flops(shape: Shape) -> float | None:
    """FLOPs of the whole training, over the trie if its nodes are known, and of filling the table; None without tokens."""
    if shape.num_training_tokens is None:
        return None
    if not shape.num_fgrams:
        a_sequence = plain_training_flops(shape)
    else:
        a_sequence = trie_training_flops(shape) or padded_training_flops(shape)
    return shape.num_training_tokens / shape.context * a_sequence + precompute_flops(shape)


# ---- all costs -----------------------------------------------------------------------------------------------------


@final
class ShapeCost(TypedDict):
    """What a shape costs; bytes in bytes, FLOPs per token or, where the name says so, per sequence."""

    model: str
    resident_parameters: int
    resident_bytes: int
    kv_bytes_a_token: int
    kv_bytes_a_sequence: int
    prefill_flops: int
    decode_flops: int
    offloaded_rows: int
    raw_bytes: int  # rows alone
    index_bytes: int
    offloaded_bytes_ram: int
    offloaded_bytes_disk: int
    dictionary_bytes_ram: int  # the same rows as the paper keeps them in RAM
    lmdb_bytes_disk: int  # and on disk
    fgram_parameters: int
    training_flops_a_sequence_plain: int
    training_flops_a_sequence_padded: int | None
    training_flops_a_sequence_trie: int | None
    precompute_flops: int
    training_flops: float | None


def shape_cost(shape: Shape) -> ShapeCost:
    """Work out all costs of a shape."""
    rows, width = shape.num_fgrams, row_bytes(shape.dtype, shape.dim)
    return {
        "model": shape.name,
        "resident_parameters": main_parameters(shape),
        "resident_bytes": main_parameters(shape) * number_bytes(shape),
        "kv_bytes_a_token": kv_bytes_a_token(shape),
        "kv_bytes_a_sequence": kv_bytes_a_token(shape) * shape.context,
        "prefill_flops": prefill_flops(shape),
        "decode_flops": decode_flops(shape),
        "offloaded_rows": rows,
        "raw_bytes": rows * width,
        "index_bytes": index_bytes(rows, shape.vocab_size),
        "offloaded_bytes_ram": rows * width + index_bytes(rows, shape.vocab_size),
        "offloaded_bytes_disk": table_bytes(rows, shape.dim, shape.dtype, shape.vocab_size) if rows else 0,
        "dictionary_bytes_ram": dictionary_bytes(rows, width),
        "lmdb_bytes_disk": lmdb_bytes(rows, width, shape.max_n * TOKEN_BYTES) if rows else 0,
        "fgram_parameters": fgram_parameters(shape) if rows else 0,
        "training_flops_a_sequence_plain": plain_training_flops(shape),
        "training_flops_a_sequence_padded": padded_training_flops(shape) if rows else None,
        "training_flops_a_sequence_trie": trie_training_flops(shape) if rows else None,
        "precompute_flops": precompute_flops(shape),
        "training_flops": whole_training_flops(shape),
    }
