"""T, A_f-gram, A_main and the head: the networks of the paper's section 3, and the one way into the first block.

Decoder-only, pre-norm RMSNorm, rotary positions, SwiGLU, no biases. A_f-gram is the same block with absolute positions
and no token embedding of its own: it reads T. Shapes: B sequences, C context, N trie nodes, R distinct f-grams in a
batch, D = dim, H heads, E = D / H, V tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scone_cli.artifacts import write_atomically
from scone_cli.blocks import Block, RMSNorm, rotate
from scone_cli.errors import DamagedArtifact
from scone_cli.ngrams import U32
from scone_cli.trie import Trie
from scone_cli.trie_attention import attend_to_ancestors


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the shape of the weights, and what they are applied to.

    kind: `scone` has an f-gram model, `plain` nothing, `hashed` rows for hashed n-grams (the baseline of Over-Encoding).
    combine: whether a matched row takes the place of the token embedding (the paper's rule) or is added to it.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: int
    fgram_layers: int
    max_n: int
    tied_head: bool
    context: int
    kind: str = "scone"
    combine: str = "replace"
    hashed_rows: int = 0
    end_of_document: int = 0

    @property
    def hidden(self) -> int:
        """Inner width of SwiGLU: 8/3 of the model's, as three matrices then cost what two of 4x would."""
        return -(-8 * self.dim // 3 // 8) * 8

    def block(self) -> Block:
        """One block of these widths."""
        return Block(self.dim, self.heads, self.hidden)


class FgramModel(nn.Module):
    """A_f-gram: an f-gram's embedding is the output at its last token (paper, section 3.2). Used in training only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_n, config.dim)
        self.blocks = nn.ModuleList(config.block() for _ in range(config.fgram_layers))
        self.norm = RMSNorm(config.dim)

    def forward(self, embedded_ND: Tensor, trie: Trie, asked_R: Tensor) -> Tensor:
        """Outputs [R, D] of the nodes `asked`, given the normed token embedding of each node's last token.

        Of nodes that are prefixes only, the last block needs nothing but keys and values.
        """
        x = embedded_ND + torch.cat(
            [
                self.positions.weight[level].expand(end - start, -1)
                for level, (start, end) in enumerate(pairwise(trie.offsets))
            ]
        )
        every_N = torch.arange(len(x), device=x.device)
        for number, block in enumerate(self.blocks, 1):
            assert isinstance(block, Block)
            asked = asked_R if number == len(self.blocks) else every_N
            attended = attend_to_ancestors(block.project(x), trie, asked)
            x = block.finish(x if asked is every_N else x.index_select(0, asked), attended)
        rows: Tensor = self.norm(x)
        return rows


class HashedRows(nn.Module):
    """Rows for hashed n-grams, one table a length from 2 to K, trained directly: the baseline in the style of Over-Encoding.

    Row = the n-gram as a number in base V, modulo the table's size, which is coprime with V so that every token counts.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_tokens, self.end_of_document = config.vocab_size, config.end_of_document
        self.sizes = hashed_sizes(config.hashed_rows, config.vocab_size, config.max_n)
        self.weight = nn.Parameter(torch.empty(sum(self.sizes), config.dim))

    def slots(self, tokens_BHC: U32) -> npt.NDArray[np.int64]:
        """Row of the n-gram that ends at each position, by length [B, C, K - 1]; -1 where it would reach into another document.

        The first K - 1 tokens of each line are history: nothing is asked about them.
        """
        history = len(self.sizes)
        tokens = tokens_BHC.astype(np.int64)
        before = [tokens[:, history - back : tokens.shape[1] - back] for back in range(history + 1)]
        is_inside = before[0] != self.end_of_document
        slots, first_row = [], 0
        for length, size in enumerate(self.sizes, 2):
            is_inside = is_inside & (before[length - 1] != self.end_of_document)
            number = before[length - 1] % size
            for token in reversed(before[: length - 1]):
                number = (number * self.num_tokens + token) % size
            slots.append(np.where(is_inside, first_row + number, -1))
            first_row += size
        return np.stack(slots, -1)


def hashed_sizes(num_rows: int, num_tokens: int, max_n: int) -> list[int]:
    """Sizes of the tables for n = 2..K, each the largest at hand that is coprime with the vocabulary and unlike the others."""
    sizes: list[int] = []
    for _ in range(2, max_n + 1):
        size = min(num_rows // (max_n - 1), *(taken - 1 for taken in sizes)) if sizes else num_rows // (max_n - 1)
        while math.gcd(size, num_tokens) != 1:
            size -= 1
        sizes.append(size)
    return sizes


class MainModel(nn.Module):
    """T, A_main and the head: all that is resident when the model is served."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.adds = config.combine == "add"
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = RMSNorm(config.dim)
        self.blocks = nn.ModuleList(config.block() for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)
        if not config.tied_head:
            self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        angle = 10_000.0 ** (-torch.arange(0, config.dim // config.heads, 2) / (config.dim // config.heads))
        turns = torch.arange(config.context)[:, None] * angle
        self.register_buffer("cos", turns.cos()[:, None], persistent=False)  # [C, 1, E / 2]
        self.register_buffer("sin", turns.sin()[:, None], persistent=False)

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]; T itself when the head is tied."""
        return self.head.weight if hasattr(self, "head") else self.token_embedding.weight

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Normed token embeddings, what A_f-gram reads and what enters the first block where no f-gram matches."""
        normed: Tensor = self.embedding_norm(self.token_embedding(tokens))
        return normed

    def embed(self, tokens_BC: Tensor, slots: Tensor | None = None, rows_RD: Tensor | None = None) -> Tensor:
        """What enters the first block [B, C, D].

        slots[b, c] numbers a row of `rows`, or is -1 where nothing matches: the row of the matched f-gram replaces the token
        embedding, or is added to it (`combine`); either passes the same norm first, so all have one scale. Hashed rows
        (slots [B, C, K - 1]) are trained beside T and on its scale: they are added before the norm. Training, `precompute`'s
        check and every arm of `eval` come through here.
        """
        x: Tensor = self.token_embedding(tokens_BC)
        if slots is None or rows_RD is None or not len(rows_RD):
            normed: Tensor = self.embedding_norm(x)
            return normed
        picked = rows_RD.to(x.dtype).index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        is_matched = slots[..., None] >= 0
        if slots.dim() == 3:
            normed = self.embedding_norm(x + (picked * is_matched).sum(-2))
        elif self.adds:
            normed = self.embedding_norm(x) + self.embedding_norm(picked) * is_matched
        else:
            normed = self.embedding_norm(torch.where(is_matched, picked, x))
        return normed

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Final hidden states [B, C, D] of embedded sequences; the head is applied by the losses below."""
        x = x_BCD
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]  # type: ignore[index]
        for block in self.blocks:
            assert isinstance(block, Block)
            q, k, v = rotate(block.project(x), cos, sin)  # [B, C, H, E]
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
            x = block.finish(x, attended.transpose(1, 2))
        hidden: Tensor = self.norm(x)
        return hidden


class SconeModel(nn.Module):
    """The whole: `main` is served, `fgram` (of a Scone model alone) makes its rows, `hashed` holds those of that baseline."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.main = MainModel(config)
        self.fgram = FgramModel(config) if config.kind == "scone" else None
        self.hashed = HashedRows(config) if config.kind == "hashed" else None
        self._initialise()

    @property
    def history(self) -> int:
        """Tokens before a window that its rows depend on: those of hashed n-grams are found while the model runs."""
        return len(self.hashed.sizes) if self.hashed else 0

    def _initialise(self) -> None:
        """Matrices by fan-in, and zero for those that write to the residual stream.

        So at the start a row is the token embedding of the f-gram's last token (plus a small position): Scone begins as
        the plain model and departs from it as far as that helps.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            if name.endswith(("out.weight", "down.weight")):
                nn.init.zeros_(parameter)
            elif any(part in name for part in ("embedding", "positions", "hashed", "head.weight")):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def fgram_rows(self, trie: Trie, rows: Any) -> Tensor:
        """A_f-gram's output [len(rows), D] at the trie's nodes `rows`: the vectors that the table holds."""
        assert self.fgram is not None
        device = self.main.token_embedding.weight.device
        embedded = self.main.embed_tokens(torch.from_numpy(trie.tokens).to(device))
        outputs: Tensor = self.fgram(embedded, trie, torch.from_numpy(rows).to(device))
        return outputs

    def save(self, folder: Path) -> None:
        """Write `config.json`, `main.safetensors` (what is resident), and `fgram.safetensors` or `hashed.safetensors`."""
        write_atomically(folder / "config.json", (json.dumps(asdict(self.config), indent=1) + "\n").encode())
        save_file(self.main.state_dict(), folder / "main.safetensors")
        for name, part in self.parts_aside().items():
            save_file(part.state_dict(), folder / f"{name}.safetensors")

    def parts_aside(self) -> dict[str, nn.Module]:
        """What is not resident when the model is served, by name."""
        return {name: part for name, part in (("fgram", self.fgram), ("hashed", self.hashed)) if part is not None}

    @classmethod
    def load(cls, folder: Path) -> SconeModel:
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: the files are not a model, or not one model.
        """
        try:
            model = cls(ModelConfig(**json.loads((folder / "config.json").read_bytes())))
            model.main.load_state_dict(load_file(folder / "main.safetensors"))
            for name, part in model.parts_aside().items():
                part.load_state_dict(load_file(folder / f"{name}.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise DamagedArtifact(f"{folder}: not a model ({first_line})", "run: scone train-fgram --force") from error
        return model
