"""Rows of f-grams, many and fast: what `SconeModel.rows` gives, where nothing is learned from it.

On a CPU the matrix products are all but a tenth of the work once the rest keeps out of their way: norms' gains are multiplied
into the matrices once, not for every piece of work; results go where the last ones lay, memory that the cache knows; sums are
added up by the products. Several threads may call one maker; torch should use no threads of its own in them, as a row's last bit
may depend on how a product is shared out, and must not depend on the machine. Elsewhere `SconeModel.rows` itself is called.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scone_cli.arrays import I64
from scone_cli.model import cpu_kernels
from scone_cli.model.blocks import Block
from scone_cli.model.model import SconeModel
from scone_cli.model.trie_attention import attend_on_cpu
from scone_cli.table import fgram_kernels
from scone_cli.vocab.trie import FgramTrie, Trie

CPU_FGRAMS = 1024  # at a time: what they take stays in a core's cache
GPU_FGRAMS = 65_536  # and so many keep a GPU busy


class RowMaker:
    """Makes the rows of f-grams, best `num_fgrams` at a time."""

    def __init__(self, model: SconeModel, trie: FgramTrie) -> None:
        assert model.fgram is not None
        self._model, self._trie, self._fgram = model, trie, model.fgram
        weight = model.main.token_embedding.weight
        self.device = weight.device
        self.num_fgrams = CPU_FGRAMS if self.device.type == "cpu" else GPU_FGRAMS
        self._is_fused = cpu_kernels.is_for(weight) and weight.dtype == torch.float32
        self._matrices = [_folded(block) for block in model.fgram.blocks] if self._is_fused else []
        self._memory = threading.local()
        self._suffixes = None if model.learned is None else trie.suffixes  # found once, before there are threads

    @torch.inference_mode()
    def __call__(self, ids: I64) -> Tensor:
        """The rows [len(ids), D] of some f-grams (distinct), as the table holds them; fastest in the order of their tokens."""
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
                fgram_kernels.sum_learned(ids, self._suffixes, trie.num_tokens, _array(learned.weight), sums)
            embeddings = _array(main.token_embedding.weight)
            fgram_kernels.add_embeddings(trie.last_tokens[ids], embeddings, gain, sums, rows.numpy())
        return rows

    def _outputs(self, ids: I64) -> Tensor:
        """What A_f-gram has for some f-grams before its last norm [len(ids), D], see `FgramModel.forward`."""
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
            if number == len(self._matrices):  # of prefixes only keys and values are needed
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
        """The rows divided by their root mean squares."""
        return cpu_kernels.unit_rows(x, self._room("unit", *x.shape))[0]

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


def _array(parameter: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = parameter.detach().numpy()
    return array
