"""Rows of f-grams, many and fast: what `SconeModel.rows` gives, where nothing is learned from it.

On a CPU the matrix products are all but a tenth of the work once the rest keeps out of their way: norms' gains are multiplied
into the matrices once, not for every piece of work; results go where the last ones lay, memory that the cache knows; sums are
added up by the products. Several threads may call one maker; torch should use no threads of its own in them, as a row's last bit
may depend on how a product is shared out, and must not depend on the machine. Elsewhere `SconeModel.rows` itself is called.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import torch
from numba import njit
from torch import Tensor

from scone_cli import fused
from scone_cli.blocks import Block
from scone_cli.direct_rows import sum_of
from scone_cli.model import SconeModel
from scone_cli.ngrams import I64
from scone_cli.trie import FgramTrie, Trie
from scone_cli.trie_attention import attend_on_cpu

CPU_FGRAMS = 1024  # at a time: what they take stays in a core's cache
GPU_FGRAMS = 65_536  # and so many keep a GPU busy


class RowMaker:
    """Makes the rows of f-grams, best `num_fgrams` at a time."""

    def __init__(self, model: SconeModel, trie: FgramTrie) -> None:
        assert model.fgram is not None
        self._model, self._trie, self._fgram = model, trie, model.fgram
        self.device = model.main.token_embedding.weight.device
        self.num_fgrams = CPU_FGRAMS if self.device.type == "cpu" else GPU_FGRAMS
        weight = model.main.token_embedding.weight
        self._is_fused = fused.is_for(weight) and weight.dtype == torch.float32
        self._matrices = [_folded(block) for block in model.fgram.blocks] if self._is_fused else []
        self._memory = threading.local()
        if model.learned is not None:
            _ = trie.suffixes  # found once, before there are threads

    @torch.inference_mode()
    def __call__(self, ids: I64) -> Tensor:
        """The rows [len(ids), D] of some f-grams (distinct), as the table holds them."""
        if not self._is_fused:
            return self._model.rows(self._trie, ids)
        learned = self._model.learned
        sums = None if learned is None else sum_of(learned.weight, learned.slots(self._trie, ids))
        return self._model.finish_rows(self._trie, ids, self._outputs(*self._trie.subtrie(ids)), sums)

    def _outputs(self, trie: Trie, rows: I64) -> Tensor:
        """A_f-gram's outputs [len(rows), D], see `FgramModel.forward`."""
        x = self._model.main.embed_tokens(torch.from_numpy(trie.tokens))
        for level, position in enumerate(self._fgram.positions.weight):
            x[trie.offsets[level] : trie.offsets[level + 1]] += position
        asked = torch.arange(len(x))
        for number, (qkv, out, gate_up, down) in enumerate(self._matrices, 1):
            projected = torch.mm(self._unit(x), qkv, out=self._room("qkv", len(x), qkv.shape[1]))
            if number == len(self._matrices):  # of prefixes only keys and values are needed
                asked = torch.from_numpy(rows)
                x = x.index_select(0, asked)
            attended = self._room("attended", *x.shape)
            attend_on_cpu(projected, self._model.config.heads, trie, asked, attended)
            x.addmm_(attended, out)
            both = torch.mm(self._unit(x), gate_up, out=self._room("both", len(x), gate_up.shape[1]))
            inner = self._room("inner", len(x), len(down))
            _swiglu(both.numpy(), inner.numpy())
            x.addmm_(inner, down)
        rows_RD: Tensor = self._fgram.norm(x)
        return rows_RD

    def _unit(self, x: Tensor) -> Tensor:
        """The rows divided by their root mean squares."""
        return fused.unit_rows(x, self._room("unit", *x.shape))[0]

    def _room(self, name: str, rows: int, width: int) -> Tensor:
        """Memory [rows, width] for the results so named, the same in each thread as the last time."""
        last = getattr(self._memory, name, None)
        if last is None or len(last) < rows:
            last = torch.empty(rows, width)
            setattr(self._memory, name, last)
        return last[:rows]


def _folded(block: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four matrices of a block, transposed, with the gains of the norms before them."""
    assert isinstance(block, Block)
    with torch.inference_mode():
        qkv = block.qkv.weight * block.attention_norm.gain
        gate_up = block.gate_up.weight * block.mlp_norm.gain
        return qkv.T, block.out.weight.T, gate_up.T, block.down.weight.T


# 2 ** x for x in [-1/2, 1/2]: its series, which ends where float32 does.
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))
_LOG2_E, _ONE, _HALF, _MOST = np.float32(1 / math.log(2)), np.float32(1), np.float32(0.5), np.float32(126)
_BIAS, _FRACTION_BITS = np.int32(127), np.int32(23)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")
def _exp(x):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """As the library's, to a few last bits, but several at a time: a whole power of two is made as the bits of a float."""
    power = min(max(x * _LOG2_E, -_MOST), _MOST)
    whole = np.floor(power + _HALF)
    rest = power - whole
    fraction = _ONE + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * (_C5 + rest * _C6)))))
    return fraction * np.int32((np.int32(whole) + _BIAS) << _FRACTION_BITS).view(np.float32)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _swiglu(both, inner):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Write silu(gate) * up [N, F] of gate and up side by side [N, 2 F]: what is read is read once."""
    width = inner.shape[1]
    for row in range(len(inner)):
        gate, up, out = both[row, :width], both[row, width:], inner[row]
        for i in range(width):
            out[i] = gate[i] * up[i] / (_ONE + _exp(-gate[i]))
