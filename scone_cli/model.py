"""T, A_f-gram, A_main and the head: the networks of the paper's section 3, and the one way into the first block.

Decoder-only, pre-norm RMSNorm, rotary positions, SwiGLU, no biases. A_f-gram is the same block with absolute positions
and no token embedding of its own: it reads T. Shapes: B sequences, C context, N trie nodes, R distinct f-grams in a
batch, D = dim, H heads, E = D / H, V tokens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scone_cli.artifacts import write_atomically
from scone_cli.errors import DamagedArtifact
from scone_cli.trie import Trie


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the shape of the weights."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    fgram_layers: int
    max_n: int
    tied_head: bool
    context: int

    @property
    def hidden(self) -> int:
        """Inner width of SwiGLU: 8/3 of the model's, as three matrices then cost what two of 4x would."""
        return -(-8 * self.dim // 3 // 8) * 8


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Norm over the last axis."""
        return F.rms_norm(x, (x.shape[-1],), self.gain, eps=1e-6)


class Block(nn.Module):
    """One pre-norm transformer block; how tokens attend to one another is the caller's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = RMSNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = RMSNorm(config.dim)
        self.gate_up = nn.Linear(config.dim, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [..., H, E] of x [..., D]."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add attention's result [..., H, E] and the MLP to the stream x [..., D]."""
        x = x + self.out(attended.flatten(-2))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        y: Tensor = x + self.down(F.silu(gate) * up)
        return y


class FgramModel(nn.Module):
    """A_f-gram: an f-gram's embedding is the output at its last token (paper, section 3.2). Used in training only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_n, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.fgram_layers))
        self.norm = RMSNorm(config.dim)

    def forward(self, embedded_ND: Tensor, trie: Trie) -> Tensor:
        """Outputs [N, D] of all trie nodes, given the normed token embedding of each node's last token."""
        x = embedded_ND + torch.cat(
            [self.positions.weight[level].expand(end - start, -1) for level, (start, end) in enumerate(_levels(trie))]
        )
        parents = [torch.from_numpy(parents).to(x.device) for parents in trie.parents]
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.finish(x, _attend_to_ancestors(*block.project(x), trie, parents))
        rows: Tensor = self.norm(x)
        return rows


def _levels(trie: Trie) -> list[tuple[int, int]]:
    return list(zip(trie.offsets, trie.offsets[1:], strict=False))


def _attend_to_ancestors(q: Tensor, k: Tensor, v: Tensor, trie: Trie, parents: list[Tensor]) -> Tensor:
    """Causal attention in every f-gram at once: a node attends to its ancestors and to itself. All [N, H, E]."""
    attended = []
    path_k = path_v = torch.empty(0)
    for level, (start, end) in enumerate(_levels(trie)):
        own_k, own_v = k[start:end, None], v[start:end, None]  # [N_l, 1, H, E]
        path_k = torch.cat([path_k.index_select(0, parents[level]), own_k], 1) if level else own_k
        path_v = torch.cat([path_v.index_select(0, parents[level]), own_v], 1) if level else own_v
        scores = (q[start:end, None] * path_k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5  # [N_l, level + 1, H, 1]
        attended.append((scores.softmax(1) * path_v).sum(1))
    return torch.cat(attended)


class MainModel(nn.Module):
    """T, A_main and the head: all that is resident when the model is served."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.embedding_norm = RMSNorm(config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
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

    def embed(self, tokens_BC: Tensor, slots_BC: Tensor | None = None, rows_RD: Tensor | None = None) -> Tensor:
        """What enters the first block [B, C, D]: the row of the matched f-gram REPLACES the token embedding.

        slots[b, c] numbers a row of `rows`, or is -1 where nothing matches. Rows and token embeddings pass the same norm,
        so both have one scale. Training, `precompute`'s check and every arm of `eval` come through here.
        """
        x: Tensor = self.token_embedding(tokens_BC)
        if slots_BC is not None and rows_RD is not None and len(rows_RD):
            rows = rows_RD.to(x.dtype).index_select(0, slots_BC.clamp(min=0).flatten()).view_as(x)
            x = torch.where(slots_BC[..., None] >= 0, rows, x)
        normed: Tensor = self.embedding_norm(x)
        return normed

    def forward(self, x_BCD: Tensor) -> Tensor:
        """Final hidden states [B, C, D] of embedded sequences; the head is applied by the losses below."""
        x = x_BCD
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]  # type: ignore[index]
        for block in self.blocks:
            assert isinstance(block, Block)
            q, k, v = block.project(x)  # [B, C, H, E]
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
            x = block.finish(x, attended.transpose(1, 2))
        hidden: Tensor = self.norm(x)
        return hidden


class SconeModel(nn.Module):
    """The whole: `main` is served, `fgram` (None in a plain model) makes the rows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.main = MainModel(config)
        self.fgram = FgramModel(config) if config.fgram_layers else None
        self._initialise()

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
            elif "embedding" in name or "positions" in name or name.endswith("head.weight"):
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)

    def fgram_rows(self, trie: Trie, rows: Any) -> Tensor:
        """A_f-gram's output [len(rows), D] at the trie's nodes `rows`: the vectors that the table holds."""
        assert self.fgram is not None
        device = self.main.token_embedding.weight.device
        embedded = self.main.embed_tokens(torch.from_numpy(trie.tokens).to(device))
        outputs: Tensor = self.fgram(embedded, trie)
        return outputs.index_select(0, torch.from_numpy(rows).to(device))

    def save(self, folder: Path) -> None:
        """Write `config.json`, `main.safetensors` (what is served) and `fgram.safetensors` (training only)."""
        write_atomically(folder / "config.json", (json.dumps(asdict(self.config), indent=1) + "\n").encode())
        save_file(self.main.state_dict(), folder / "main.safetensors")
        if self.fgram is not None:
            save_file(self.fgram.state_dict(), folder / "fgram.safetensors")

    @classmethod
    def load(cls, folder: Path) -> SconeModel:
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: the files are not a model, or not one model.
        """
        try:
            model = cls(ModelConfig(**json.loads((folder / "config.json").read_bytes())))
            model.main.load_state_dict(load_file(folder / "main.safetensors"))
            if model.fgram is not None:
                model.fgram.load_state_dict(load_file(folder / "fgram.safetensors"))
        except (OSError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise DamagedArtifact(f"{folder}: not a model ({first_line})", "run: scone train-fgram --force") from error
        return model


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: turn each pair (first half, second half) of x [B, C, H, E] by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


# ---- losses ------------------------------------------------------------------------------------------------------

_CHUNK = 512  # rows of logits alive at once: 512 x 8192 float32 are 16 MiB


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of hidden @ head.T, with the gradients worked out in the forward pass.

    The logits of a batch are its largest tensor by far (V floats a token); chunk by chunk they stay in the cache, are
    never written out, and are never computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        grad_hidden, grad_head = torch.empty_like(hidden_ND), torch.zeros_like(head_VD)
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        total = hidden_ND.new_zeros((), dtype=wide)
        for start in range(0, len(hidden_ND), _CHUNK):
            hidden, targets = hidden_ND[start : start + _CHUNK], targets_N[start : start + _CHUNK]
            logits = (hidden @ head_VD.T).to(wide)
            logits -= logits.amax(-1, keepdim=True)
            target_logits = logits.gather(1, targets[:, None])
            weights = logits.exp_()
            sums = weights.sum(-1, keepdim=True)
            total += (sums.log() - target_logits).sum()
            # d loss / d logits = weights / sums - onehot(targets). Dividing the small factor and subtracting the one-hot
            # part by row saves two passes over the logits.
            weights = weights.to(hidden.dtype)
            gradient = torch.mm(weights, head_VD, out=grad_hidden[start : start + _CHUNK])
            gradient.div_(sums).sub_(head_VD[targets])
            grad_head.addmm_(weights.T, (hidden / sums).to(hidden.dtype))
            grad_head.index_add_(0, targets, hidden, alpha=-1)
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_head, None


def training_loss(hidden: Tensor, head_VD: Tensor, targets: Tensor) -> Tensor:
    """Sum over all positions of -ln p(target), in nats; differentiable once in `hidden` and `head`."""
    loss: Tensor = _HeadLoss.apply(hidden.reshape(-1, hidden.shape[-1]), head_VD, targets.reshape(-1))  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, head_VD: Tensor, targets: Tensor) -> Tensor:
    """-ln p(target) in nats of every position [*targets.shape], float32."""
    flat, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    losses = [
        F.cross_entropy((flat[i : i + _CHUNK] @ head_VD.T).float(), flat_targets[i : i + _CHUNK], reduction="none")
        for i in range(0, len(flat), _CHUNK)
    ]
    return torch.cat(losses).view_as(targets)
