"""A pretrained model in the place of A_f-gram: the paper's way to give f-grams to a model that exists (appendix, Qwen3).

An f-gram's tokens go through the donor alone; its last hidden state, through a learned projection and a scalar that starts
at zero, is what A_f-gram's output would be. The donor is not trained, so its states are computed once for a vocabulary.
Shapes: R f-grams, S f-grams of a vocabulary, E = width of the donor, D = width of the rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scone_cli.artifacts.publish import fsync, write_atomically
from scone_cli.model.cpu_kernels import EPSILON
from scone_cli.progress import Progress
from scone_cli.vocab.trie import FgramTrie

BATCH = 1024  # f-grams that the donor reads at a time

F16 = npt.NDArray[np.float16]


class DonorRows(nn.Module):
    """Makes outputs [R, D] of a donor's states [R, E]: what is trained in the place of A_f-gram."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, states_RE: Tensor) -> Tensor:
        """Outputs [R, D]; zero before the first step."""
        outputs: Tensor = self.gain * self.project(F.rms_norm(states_RE.float(), (states_RE.shape[-1],), eps=EPSILON))
        return outputs


class Donor:
    """A pretrained model that reads f-grams; `states` keeps what it says of a vocabulary."""

    def __init__(self, inner: Any) -> None:
        """`inner`: a causal language model of transformers."""
        self._decoder, self.device = inner.get_decoder().eval(), inner.device
        self._known: list[tuple[FgramTrie, F16]] = []

    @torch.inference_mode()
    def read(self, fgrams: list[list[int]]) -> Tensor:
        """The last hidden state of each f-gram [R, E], in the donor's type; f-grams of one length are read together."""
        lengths = np.array([len(fgram) for fgram in fgrams])
        states: dict[int, Tensor] = {}
        for length in sorted(set(lengths.tolist())):
            here = np.flatnonzero(lengths == length)
            for some in np.split(here, range(BATCH, here.size, BATCH)):
                tokens = torch.tensor([fgrams[i] for i in some], device=self.device)
                last = self._decoder(input_ids=tokens, use_cache=False).last_hidden_state[:, -1]
                states |= dict(zip(some.tolist(), last, strict=True))
        return torch.stack([states[i] for i in range(len(fgrams))])

    def states(self, trie: FgramTrie, ids: npt.NDArray[np.integer]) -> Tensor:
        """The states of some f-grams of a vocabulary [R, E]: those that are kept, else read now."""
        for known, kept in self._known:
            if known is trie:
                return torch.from_numpy(kept[ids]).to(self.device)
        return self.read(trie.tokens_of(ids)).half()  # as they are kept, so that a row is the same wherever it is made

    def keep(self, trie: FgramTrie, path: Path, progress: Progress) -> None:
        """Read all f-grams of a vocabulary into the file `path` [S, E], or what is missing of it."""
        done = path.with_suffix(".done")
        width = self.read([[0]]).shape[1]
        begun = int(done.read_text()) if done.exists() and path.exists() else 0
        kept = np.memmap(path, np.float16, "r+" if path.exists() else "w+", shape=(trie.num_fgrams, width))
        order = np.argsort(trie.lengths, kind="stable")
        step = 8 * BATCH
        for first in range(begun, trie.num_fgrams, step):
            progress("reading f-grams", first, trie.num_fgrams, "f-grams")
            some = order[first : first + step]
            kept[some] = self.read(trie.tokens_of(some)).half().cpu().numpy()
            kept.flush()
            fsync(path)
            write_atomically(done, str(first + some.size).encode())
        progress("reading f-grams", trie.num_fgrams, trie.num_fgrams, "f-grams")
        self._known = [(trie, kept)]
