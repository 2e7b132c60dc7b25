"""The networks of the paper's section 3: token embedding T, A_f-gram, A_main and the head.

Decoder-only, pre-norm RMSNorm, rotary positions, SwiGLU, no biases. A_f-gram uses the same block with absolute positions;
it has no token embedding of its own and reads T. `MainModel.embed` makes the input of the first block. Shapes:
B sequences, C context, N trie nodes, R distinct f-grams in a batch, D = dim, H heads, E = D / H, V tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from scone_cli.artifacts.manifest import json_of
from scone_cli.artifacts.opening import load_weights
from scone_cli.artifacts.publish import write_atomically
from scone_cli.artifacts.schemas import BASE_FILE, DONOR_FILE, LEARNED_FILE
from scone_cli.errors import DamagedArtifact
from scone_cli.model.blocks import Block, RMSNorm, rotate
from scone_cli.model.direct_rows import HashedRows, LearnedRows, sum_of
from scone_cli.model.donor import DonorRows
from scone_cli.model.flops import swiglu_width
from scone_cli.model.losses import training_loss
from scone_cli.model.trie_attention import attend_to_ancestors
from scone_cli.runtime.resources import memory_shortage
from scone_cli.vocab.trie import FgramTrie, Trie
from scone_cli.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scone_cli.model.base_main import BaseMain
    from scone_cli.model.base_model import Base
    from scone_cli.model.donor import Donor
    from scone_cli.model.hf_model import HfCache


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model, and how its rows enter the first block.

    kind: `scone` has A_f-gram, `plain` has no rows, `hashed` has rows for hashed n-grams (the Over-Encoding baseline).
    combine: `replace`: A_f-gram's output replaces the token embedding (the paper's rule); `add`: it is added to it.
    learned_rows: number of f-grams that also have a directly trained row, which is added to the token embedding.
    fgram_dim, fgram_heads: width and heads of A_f-gram where it is added to a base; 0: those of the main model.
    donor_dim: width of a pretrained model that stands for A_f-gram; 0: there is none. donor_flops: its FLOPs per token.
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
    learned_rows: int = 0
    hashed_rows: int = 0
    end_of_document: int = 0
    fgram_dim: int = 0
    fgram_heads: int = 0
    donor_dim: int = 0
    donor_flops: int = 0

    @property
    def hidden(self) -> int:
        """Inner width of SwiGLU."""
        return swiglu_width(self.dim)

    @property
    def fgram_width(self) -> int:
        """The width of A_f-gram."""
        return self.fgram_dim or self.dim

    def block(self) -> Block:
        """Make one transformer block of the main model."""
        return Block(self.dim, self.heads, self.hidden)

    def fgram_block(self) -> Block:
        """Make one transformer block of A_f-gram."""
        return Block(self.fgram_width, self.fgram_heads or self.heads, swiglu_width(self.fgram_width))


class FgramModel(nn.Module):
    """A_f-gram: an f-gram's embedding is the output at its last token (paper, section 3.2). Used in training only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.fgram_width
        self.positions = nn.Embedding(config.max_n, width)
        self.blocks = nn.ModuleList(config.fgram_block() for _ in range(config.fgram_layers))
        self.norm = RMSNorm(width)
        if config.fgram_dim:  # the base's embeddings come in by a projection, and rows of its width go out by another
            self.reads = nn.Linear(config.dim, width, bias=False)
            self.writes = nn.Linear(width, config.dim, bias=False)

    def enter(self, embedded: Tensor) -> Tensor:
        """What the first block reads of token embeddings [..., D], without positions."""
        x: Tensor = self.reads(embedded) if hasattr(self, "reads") else embedded
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Outputs [..., D] of what the last block gave."""
        normed: Tensor = self.norm(x)
        return self.writes(normed) if hasattr(self, "writes") else normed

    def forward(self, embedded_ND: Tensor, trie: Trie, asked_R: Tensor) -> Tensor:
        """Outputs [R, D] of the nodes `asked`, given the normed token embedding of each node's last token.

        The last block computes only keys and values for the other nodes, which are only prefixes.
        """
        x = self.enter(embedded_ND) + torch.cat(
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
        return self.leave(x)


class NoOutputs(nn.Module):
    """Stands for A_f-gram where learned rows are trained alone."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self._dim = dim

    def forward(self, num_rows: int, device: torch.device) -> Tensor:
        """Outputs of zero [R, D]."""
        return torch.zeros(num_rows, self._dim, device=device)


def _maker_of_outputs(config: ModelConfig) -> FgramModel | DonorRows | NoOutputs:
    if config.donor_dim:
        return DonorRows(config.donor_dim, config.dim)
    return FgramModel(config) if config.fgram_layers else NoOutputs(config.dim)


class KeyValueCache:
    """Keys and values of the tokens that B sequences have read so far, so that each new token is computed alone.

    length: number of tokens held per sequence. To drop drafted tokens, set it to its value before them.
    """

    def __init__(self, config: ModelConfig, batch: int, room: int, device: torch.device | None = None) -> None:
        """Allocate a cache for `room` tokens per sequence, at most the model's context."""
        assert room <= config.context, f"room for {room} tokens, the model's context is {config.context}"
        shape = (config.layers, 2, batch, config.heads, room, config.dim // config.heads)
        self._held = torch.empty(shape, device=device)
        self.room, self.length = room, 0

    def extend(self, layer: int, k_BHCE: Tensor, v_BHCE: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's keys and values [B, H, C, E]; returns all that are held, [B, H, length + C, E] each."""
        held, end = self._held[layer], self.length + k_BHCE.shape[2]
        held[0, :, :, self.length : end] = k_BHCE
        held[1, :, :, self.length : end] = v_BHCE
        return held[0, :, :, :end], held[1, :, :, :end]


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
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.token_embedding.weight.device

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]; T itself if the head is tied."""
        return self.head.weight if hasattr(self, "head") else self.token_embedding.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [..., V] of final hidden states [..., D]."""
        return hidden @ self.head_weight.T

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Normed token embeddings: the input of A_f-gram, and of the first block where no f-gram matches."""
        normed: Tensor = self.embedding_norm(self.token_embedding(tokens))
        return normed

    def for_fgrams(self, tokens: Tensor) -> Tensor:
        """What A_f-gram reads of token ids [...]: their normed embeddings."""
        return self.embed_tokens(tokens)

    def loss(self, hidden_BCD: Tensor, targets_BC: Tensor) -> Tensor:
        """Sum of -ln p(target) over all positions, in nats."""
        return training_loss(hidden_BCD, self.head_weight, targets_BC)

    def row(self, last_tokens_R: Tensor, outputs_RD: Tensor, learned_RD: Tensor | None = None) -> Tensor:
        """Make the rows of the table [R, D], which enter the first block where their f-grams match.

        A_f-gram's output replaces the embedding of the f-gram's last token, or is added to it (`combine`). Both pass the
        same norm first, so they have the same scale. Learned rows are trained on the scale of T: they are added to the
        token embedding before the norm.
        """
        row: Tensor = self.embedding_norm(outputs_RD)
        if self.adds:
            embedded: Tensor = self.token_embedding(last_tokens_R)
            row = row + self.embedding_norm(embedded if learned_RD is None else embedded + learned_RD)
        return row

    def embed(self, tokens_BC: Tensor, slots: Tensor | None = None, rows_RD: Tensor | None = None) -> Tensor:
        """Make the input of the first block [B, C, D].

        slots[b, c] is the index of a row in `rows`, which enters unchanged (`row` made it), or -1 if no f-gram matches:
        then the normed token embedding enters. Hashed rows (slots [B, C, K - 1]) are added to the token embedding before
        the norm. Training and every arm of `eval` come through here; `SconeEmbedding` does the same for streams.
        """
        if slots is None or rows_RD is None or not len(rows_RD):
            return self.embed_tokens(tokens_BC)
        x: Tensor = self.token_embedding(tokens_BC)
        picked = rows_RD.to(x.dtype).index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        is_matched = slots[..., None] >= 0
        if slots.dim() == 3:
            normed: Tensor = self.embedding_norm(x + (picked * is_matched).sum(-2))
            return normed
        return torch.where(is_matched, picked, self.embedding_norm(x))

    def forward(self, x_BCD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Final hidden states [B, C, D] of embedded sequences; `losses` applies the head.

        With a cache, the sequences continue those that the cache holds, and are added to it.
        """
        x, first = x_BCD, cache.length if cache else 0
        last = first + x.shape[1]
        assert cache is None or last <= cache.room, f"{last} tokens, there is room for {cache.room}"
        cos, sin = self.cos[first:last], self.sin[first:last]  # type: ignore[index]
        seen = None  # mask for a piece after cached tokens: it sees all of those, and its own tokens causally
        if first and x.shape[1] > 1:
            seen = torch.ones(last - first, last, dtype=torch.bool, device=x.device).tril(first)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            q, k, v = (part.transpose(1, 2) for part in rotate(block.project(x), cos, sin))  # [B, H, C, E]
            if cache:
                k, v = cache.extend(number, k, v)
            attended = F.scaled_dot_product_attention(q, k, v, seen, is_causal=not first)
            x = block.finish(x, attended.transpose(1, 2))
        if cache:
            cache.length = last
        hidden: Tensor = self.norm(x)
        return hidden


class SconeModel(nn.Module):
    """A whole model. `main` is served; `fgram` and `learned` make a Scone model's rows; `hashed` is the baseline's rows."""

    def __init__(self, config: ModelConfig, main: BaseMain | None = None, base: Base | None = None) -> None:
        """Make a model with new weights. `main`: a pretrained model to which rows are added; `base` names its files."""
        super().__init__()
        self.config, self.base = config, base
        self.main: Any = main or MainModel(config)
        self.donor: Donor | None = None  # the model that `fgram` reads, where that is no A_f-gram
        self.donor_source: Base | None = None  # its files
        self.fgram: FgramModel | DonorRows | NoOutputs | None = None
        if config.kind == "scone":
            self.fgram = _maker_of_outputs(config)
        self.learned = LearnedRows(config.learned_rows, config.dim) if config.learned_rows else None
        self.hashed = (
            HashedRows(config.hashed_rows, config.dim, config.vocab_size, config.max_n, config.end_of_document)
            if config.kind == "hashed"
            else None
        )
        self._initialise()

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        found: torch.device = self.main.device
        return found

    @property
    def history(self) -> int:
        """Number of tokens before a window that its rows depend on: K - 1 for hashed n-grams, else 0."""
        return len(self.hashed.sizes) if self.hashed else 0

    def cache(self, streams: int, room: int) -> KeyValueCache | HfCache:
        """An empty cache for so many sequences of at most `room` tokens each."""
        if self.base is not None:
            empty: HfCache = self.main.cache()
            return empty
        return KeyValueCache(self.config, streams, room, self.device)

    def _initialise(self) -> None:
        """Initialise matrices by fan-in; those that write to the residual stream, learned and hashed rows start at zero.

        At the start, a row is therefore the token embedding of the f-gram's last token (plus a small position): Scone
        begins as the plain model. The learned or hashed row of an n-gram that never occurs in training stays zero. Rows that
        are added to a base are zero as a whole: it begins as it is.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name.startswith("main.inner."):
                continue
            if name.endswith(("out.weight", "down.weight", "learned.weight", "hashed.weight", "writes.weight")):
                nn.init.zeros_(parameter)
            elif any(part in name for part in ("embedding", "positions", "head.weight")):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def rows(self, trie: FgramTrie, ids: npt.NDArray[np.integer]) -> Tensor:
        """Compute the rows [len(ids), D] of some distinct f-grams, as the table holds them."""
        sums = None if self.learned is None else sum_of(self.learned.weight, self.learned.slots(trie, ids))
        outputs = self.fgram_rows(*trie.subtrie(ids)) if self.has_fgram_model else self.given_outputs(trie, ids)
        return self.finish_rows(trie, ids, outputs, sums)

    def finish_rows(
        self, trie: FgramTrie, ids: npt.NDArray[np.integer], outputs_RD: Tensor, learned_RD: Tensor | None
    ) -> Tensor:
        """Make rows from A_f-gram's outputs for some f-grams and the sums of their learned rows: see `MainModel.row`."""
        last_tokens = torch.from_numpy(trie.last_tokens[ids].astype(np.int64))
        rows: Tensor = self.main.row(last_tokens.to(outputs_RD.device), outputs_RD, learned_RD)
        return rows

    @property
    def has_fgram_model(self) -> bool:
        """Whether outputs come from an A_f-gram that is trained, rather than from a donor or nowhere."""
        return isinstance(self.fgram, FgramModel)

    def given_outputs(self, trie: FgramTrie, ids: npt.NDArray[np.integer]) -> Tensor:
        """Outputs [len(ids), D] of what stands in the place of A_f-gram."""
        assert self.fgram is not None
        if self.donor is None:
            nothing: Tensor = self.fgram(len(ids), self.device)
            return nothing
        outputs: Tensor = self.fgram(self.donor.states(trie, ids).to(self.device))
        return outputs

    def fgram_rows(self, trie: Trie, rows: Any) -> Tensor:
        """A_f-gram's output [len(rows), D] at the trie's nodes `rows`."""
        assert isinstance(self.fgram, FgramModel)
        device = self.device
        embedded = self.main.for_fgrams(torch.from_numpy(trie.tokens).to(device))
        outputs: Tensor = self.fgram(embedded, trie, torch.from_numpy(rows).to(device))
        return outputs

    def trained_state(self) -> dict[str, Tensor]:
        """All weights that are trained, by name; a base that is frozen has none."""
        return {name: each.detach() for name, each in self.named_parameters() if each.requires_grad}

    def save(self, folder: Path) -> None:
        """Write `config.json`, `main.safetensors` (the resident part), and one file for each other part.

        Of a model on a base, the base's name is written instead of `main.safetensors`, and what was trained of it.
        """
        write_atomically(folder / "config.json", (json.dumps(asdict(self.config), indent=1) + "\n").encode())
        if self.base is not None:
            self.base.save(self.main, folder)
            if self.donor_source is not None:
                self.donor_source.write(folder / DONOR_FILE)
        else:
            save_file(self.main.state_dict(), folder / "main.safetensors")
        for name, part in self.parts_aside().items():
            save_file(part.state_dict(), folder / f"{name}.safetensors")

    def parts_aside(self) -> dict[str, nn.Module]:
        """The parts that are not resident when the model is served, by name."""
        parts = {"fgram": self.fgram, "learned": self.learned, "hashed": self.hashed}
        return {name: part for name, part in parts.items() if part is not None and any(True for _ in part.parameters())}

    @classmethod
    def load(cls, folder: Path) -> SconeModel:
        """Read what `save` wrote; the f-grams of learned rows are read when a vocabulary is met.

        Raises:
            DamagedArtifact: the files are not a model, or do not belong to one model.
            NotEnoughMemory: the model does not fit into memory.
        """
        try:
            values = dict(json_of((folder / "config.json").read_bytes()))
            values.setdefault("kind", "scone" if values.get("fgram_layers") else "plain")  # older files
            model = _on_base(folder, values) if (folder / BASE_FILE).exists() else cls(ModelConfig(**values))
            if model.base is None:
                model.main.load_state_dict(load_weights(folder / "main.safetensors"))
            for name, part in model.parts_aside().items():
                part.load_state_dict(load_weights(folder / f"{name}.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            if shortage := memory_shortage(error):
                raise shortage from error
            first_line = (str(error).splitlines() or [""])[0]
            raise DamagedArtifact(f"{folder}: not a model ({first_line})", "run: scone train-fgram --force") from error
        if model.learned is not None and (folder / LEARNED_FILE).is_file():
            model.learned.read_fgrams = partial(_learned_fgrams, folder, model.config)
        return model


def _on_base(folder: Path, values: dict[str, Any]) -> SconeModel:
    """A model on a base, with what was trained of the base."""
    from scone_cli.model.base_model import Base  # noqa: PLC0415 - it imports this file
    from scone_cli.model.hf_model import HfConfig  # noqa: PLC0415 - as above

    base, config = Base.read(folder), HfConfig(**values)
    _, main = base.load(config.vocab_size, config.context)
    base.load_trained(main, folder)
    model = SconeModel(config, main, base)
    if config.donor_dim:
        model.donor_source = Base.read(folder, DONOR_FILE)
        model.donor, *_ = model.donor_source.load_donor()
    return model


def _learned_fgrams(folder: Path, config: ModelConfig) -> FgramTrie:
    """The f-grams of a model's learned rows.

    Raises:
        DamagedArtifact: there are not as many as rows.
    """
    trie = Vocabulary.read(folder, config.vocab_size, config.max_n, LEARNED_FILE).trie
    if trie.num_fgrams != config.learned_rows:
        raise DamagedArtifact(
            f"{folder / LEARNED_FILE}: {trie.num_fgrams:,} f-grams, expected {config.learned_rows:,}",
            "run: scone train-fgram --force",
        )
    return trie
