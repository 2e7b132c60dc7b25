"""Rows made again the slow way, before a table is published: whatever went wrong with the fast one, it shows here.

An f-gram runs alone, as a sequence padded to K tokens: no trie, no prefix shared, no neighbours, torch's own causal
attention, and the f-grams that end it are looked up in the index instead of climbed to. What it is compared with is read from
the files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scone_cli.errors import SconeError
from scone_cli.model.blocks import Block
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress
from scone_cli.row_files import RowFiles
from scone_cli.row_formats import FORMATS, decode
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.trie import FgramTrie

SAMPLE = 256  # rows
_ROUNDING = 1e-3  # of a row's largest number: what another order of additions may change


def check_rows(
    model: SconeModel, trie: FgramTrie, index: FgramIndex, files: RowFiles, dtype: str, seed: int, progress: Progress
) -> int:
    """Compare a random sample of the rows in `files` with what `row_alone` gives; returns their number.

    Raises:
        SconeError: naming the first row that differs by more than its format and rounding explain.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for one row, others would cost more than they do
    try:
        return _check_rows(model, trie, index, files, dtype, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _check_rows(
    model: SconeModel, trie: FgramTrie, index: FgramIndex, files: RowFiles, dtype: str, seed: int, progress: Progress
) -> int:
    size = min(SAMPLE, trie.num_fgrams)
    ids = np.sort(np.random.default_rng(seed).choice(trie.num_fgrams, size, replace=False))
    progress("checking rows", 0, size, "rows")
    for done, (i, tokens) in enumerate(zip(ids.tolist(), trie.tokens_of(ids), strict=True)):
        found = decode(files.read(np.array([i])), dtype, model.config.dim)[0].float()
        expected = row_alone(model, index, tokens).cpu()
        room = (FORMATS[dtype].error + _ROUNDING) * float(expected.abs().max())
        apart = (found - expected).abs()
        if not bool((apart <= room).all()):
            at = int(apart.nan_to_num(torch.inf).argmax())
            raise SconeError(
                f"row {i} (tokens {' '.join(map(str, tokens))}) is not what its f-gram gives alone: number {at} of it "
                f"is {float(found[at]):.6g}, expected {float(expected[at]):.6g} within {room:.2g}",
                "give the same command again: it begins anew; if it ends like this again, please report it",
            )
        progress("checking rows", done + 1, size, "rows")
    return size


@torch.inference_mode()
def row_alone(model: SconeModel, index: FgramIndex, tokens: Sequence[int]) -> Tensor:
    """The row [D] of one f-gram, computed by itself."""
    assert model.fgram is not None
    main, fgram, last = model.main, model.fgram, len(tokens) - 1
    device = main.device
    padded = torch.tensor([[*tokens, *[0] * (model.config.max_n - len(tokens))]], device=device)
    x = main.embed_tokens(padded) + fgram.positions.weight  # [1, K, D]
    for block in fgram.blocks:
        assert isinstance(block, Block)
        q, k, v = (part.transpose(1, 2) for part in block.project(x).unbind(-3))  # [1, H, K, E]
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2))
    learned = None
    if model.learned is not None:
        learned = torch.zeros(1, x.shape[-1], device=device)
        for i in _endings(index, tokens):
            if i < len(model.learned.weight):
                learned += model.learned.weight[i]
    return main.row(padded[:, last], fgram.norm(x)[:, last], learned)[0]


def _endings(index: FgramIndex, tokens: Sequence[int]) -> list[int]:
    """The f-grams of two tokens or more that end where the f-gram `tokens` does, itself included."""
    found = []
    for first in range(len(tokens) - 1):
        ids, lengths = index.match(np.array(tokens[first:], np.uint32))
        if lengths[-1] == len(tokens) - first:
            found.append(int(ids[-1]))
    return found
