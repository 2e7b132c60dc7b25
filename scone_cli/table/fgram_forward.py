"""Computing many rows fast for `precompute`: the same rows as `SconeModel.rows`, without gradients.

On a CPU, matrix products take about nine tenths of the time, because the rest is kept small: the gains of the norms are
multiplied into the matrices once, not per batch; buffers are reused, so that they stay in the cache; the products also
add the residuals. Several threads may call one `RowMaker`. torch should use one thread in each: the last bit of a row may
depend on how a product is split among threads, and must not depend on the machine. Other devices call `SconeModel.rows`.
"""

from __future__ import annotations

import threading
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli.arrays import I64
from scone_cli.model import cpu_kernels
from scone_cli.model.blocks import Block
from scone_cli.model.model import FgramModel, SconeModel
from scone_cli.model.trie_attention import attend_on_cpu
from scone_cli.table import fgram_kernels
from scone_cli.vocab.trie import FgramTrie, Trie

CPU_FGRAMS = 1024  # per batch on a CPU: its activations stay in the cache of one core
_ALL_ALIKE = np.empty(0, np.uint32)  # the numbers of learned rows are those of their f-grams
GPU_FGRAMS = 65_536  # per batch on a GPU: enough to keep it busy


def fgrams_at_a_time(device: str) -> int:
    """F-grams in a batch on a kind of device; rows depend on it in their last bits."""
    return CPU_FGRAMS if device == "cpu" else GPU_FGRAMS


class RowMaker:
    """Computes the rows of f-grams; fastest for batches of `num_fgrams`."""

    def __init__(self, model: SconeModel, trie: FgramTrie) -> None:
        assert model.fgram is not None
        self._model, self._trie, self._fgram = model, trie, cast("FgramModel", model.fgram)
        weight = model.main.token_embedding.weight
        self.device = weight.device
        self.num_fgrams = fgrams_at_a_time(self.device.type)
        self._is_fused = model.base is None and cpu_kernels.is_for(weight) and weight.dtype == torch.float32
        self._matrices = [_folded(block) for block in self._fgram.blocks] if self._is_fused else []
        self._memory = threading.local()
        if model.learned is not None:  # computed once, before threads start
            numbers = model.learned.numbers(trie)
            self._numbers, self._suffixes = _ALL_ALIKE if numbers is None else numbers, trie.suffixes

    @torch.inference_mode()
    def __call__(self, ids: I64) -> Tensor:
        """Compute the rows [len(ids), D] of distinct f-grams, as the table holds them; fastest in the order of their tokens."""
        if not self._is_fused:
            return self._model.rows(self._trie, ids)
        trie, main, learned = self._trie, self._model.main, self._model.learned
        x = self._outputs(ids)
        rows, gain = torch.empty_like(x), _array(main.embedding_norm.gain)
        fgram_kernels.finish(x.numpy(), _array(self._fgram.norm.gain), gain, rows.numpy())
        if main.adds:
            sums = self._room("sums", *x.shape).numpy()
            if learned is None:
                sums[:] = 0
            else:
                weights = _array(learned.weight)
                fgram_kernels.sum_learned(ids, self._suffixes, trie.num_tokens, self._numbers, weights, sums)
            embeddings = _array(main.token_embedding.weight)
            fgram_kernels.add_embeddings(trie.last_tokens[ids], embeddings, gain, sums, rows.numpy())
        return rows

    def _outputs(self, ids: I64) -> Tensor:
        """A_f-gram's output [len(ids), D] for some f-grams, before its last norm: see `FgramModel.forward`."""
        trie, main = self._trie, self._model.main
        arrays = (trie.prefix_nodes, trie.last_tokens, trie.lengths, trie.num_tokens, trie.max_n)
        tokens, levels, parents, rows = fgram_kernels.neighbours_trie(ids, *arrays)
        x = self._room("x", len(tokens), self._model.config.dim)
        embeddings, gain = _array(main.token_embedding.weight), _array(main.embedding_norm.gain)
        fgram_kernels.embed(tokens, levels, embeddings, gain, _array(self._fgram.positions.weight), x.numpy())
        paths = Trie(tokens, (0,) * (trie.max_n + 1), parents)
        asked = torch.arange(len(x))
        for number, (qkv, out, gate_up, down) in enumerate(self._matrices, 1):
            projected = torch.mm(self._unit(x), qkv, out=self._room("qkv", len(x), qkv.shape[1]))
            if number == len(self._matrices):  # prefixes need only keys and values
                asked = torch.from_numpy(rows)
                x = x.index_select(0, asked)
            attended = self._room("attended", *x.shape)
            attend_on_cpu(projected, self._model.config.heads, paths, asked, attended)
            x.addmm_(attended, out)
            both = torch.mm(self._unit(x), gate_up, out=self._room("both", len(x), gate_up.shape[1]))
            inner = self._room("inner", len(x), len(down))
            fgram_kernels.swiglu(both.numpy(), inner.numpy())
            x.addmm_(inner, down)
        return x

    def _unit(self, x: Tensor) -> Tensor:
        """Divide each row by its root mean square."""
        return cpu_kernels.unit_rows(x, self._room("unit", *x.shape))[0]

    def _room(self, name: str, rows: int, width: int) -> Tensor:
        """Buffer [rows, width] of this name; each thread has its own and reuses it."""
        last = getattr(self._memory, name, None)
        if last is None or len(last) < rows:
            last = torch.empty(rows, width)
            setattr(self._memory, name, last)
        return last[:rows]


def _folded(block: torch.nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four matrices of a block, transposed, with the gains of the preceding norms multiplied in."""
    assert isinstance(block, Block)
    with torch.inference_mode():
        qkv = block.qkv.weight * block.attention_norm.gain
        gate_up = block.gate_up.weight * block.mlp_norm.gain
        return qkv.T, block.out.weight.T, gate_up.T, block.down.weight.T


def _array(parameter: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = parameter.detach().numpy()
    return array
