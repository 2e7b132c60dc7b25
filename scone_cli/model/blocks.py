"""The transformer block that A_main and A_f-gram share: pre-norm RMSNorm, SwiGLU, no biases.

The caller computes attention between `project` and `finish`: A_main attends within a sequence, A_f-gram along a trie.
Shapes: B sequences, C context, D = dim, H heads, E = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scone_cli.model import cpu_kernels


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Norm over the last axis."""
        if cpu_kernels.is_for(x):
            return cpu_kernels.norm(x, self.gain)
        return F.rms_norm(x, (x.shape[-1],), self.gain, eps=cpu_kernels.EPSILON)


class Block(nn.Module):
    """One pre-norm transformer block without the attention itself, which the caller computes."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = RMSNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.mlp_norm = RMSNorm(dim)
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """Compute queries, keys and values [..., 3, H, E], in this order, from x [..., D]."""
        if cpu_kernels.is_for(x):
            qkv = cpu_kernels.norm_linear(x, self.attention_norm.gain, self.qkv.weight)
        else:
            qkv = self.qkv(self.attention_norm(x))
        return qkv.view(*x.shape[:-1], 3, self.heads, x.shape[-1] // self.heads)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention output [..., H, E], then the MLP, to the residual stream x [..., D]."""
        x = x + self.out(attended.flatten(-2))
        if cpu_kernels.is_for(x):
            return cpu_kernels.add_mlp(x, self.mlp_norm.gain, self.gate_up.weight, self.down.weight)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        y: Tensor = x + self.down(F.silu(gate) * up)
        return y


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split qkv [B, C, 3, H, E] into queries, keys and values [B, C, H, E], with rotary positions on queries and keys.

    Element i of the first half and element i of the second half are rotated as a pair by the angle of their position;
    cos and sin are [C, 1, E / 2].
    """
    if cpu_kernels.is_for(qkv):
        return cpu_kernels.rotate(qkv, cos, sin)
    q, k, v = qkv.unbind(-3)
    return _turned(q, cos, sin), _turned(k, cos, sin), v


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
