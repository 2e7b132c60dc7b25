"""Cross-entropy of the next token, computed in chunks so that the logits of a whole batch are never in memory.

Shapes: N positions, V tokens, D = dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 512  # rows of logits alive at once: 512 x 8192 float32 are 16 MiB


class _HeadLoss(torch.autograd.Function):
    """Summed cross-entropy of hidden @ head.T; the forward pass computes the gradients too.

    The logits of a batch are by far its largest tensor (V floats per token). Chunk by chunk they stay in the cache, are
    never written to memory, and are never computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        grad_hidden, grad_head = torch.empty_like(hidden_ND), torch.zeros_like(head_VD, dtype=wide)
        # Cast here, not in the caller: autograd would round the head's gradient to the narrow type of the cast head.
        head_VD = head_VD.to(hidden_ND.dtype)
        total = hidden_ND.new_zeros((), dtype=wide)
        for start in range(0, len(hidden_ND), _CHUNK):
            hidden, targets = hidden_ND[start : start + _CHUNK], targets_N[start : start + _CHUNK]
            logits = (hidden @ head_VD.T).to(wide)
            logits -= logits.amax(-1, keepdim=True)
            target_logits = logits.gather(1, targets[:, None])
            weights = logits.exp_()
            sums = weights.sum(-1, keepdim=True)
            total += (sums.log() - target_logits).sum()
            # d loss / d logits = weights / sums - onehot(targets).
            if hidden.dtype != wide:  # subtract before rounding, as the difference may be small
                slopes = weights.div_(sums).scatter_add_(1, targets[:, None], -torch.ones_like(sums)).to(hidden.dtype)
                grad_hidden[start : start + _CHUNK] = slopes @ head_VD
                grad_head += slopes.T @ hidden
                continue
            # Dividing the smaller factor, and subtracting the one-hot part by row, saves two passes over the logits.
            gradient = torch.mm(weights, head_VD, out=grad_hidden[start : start + _CHUNK])
            gradient.div_(sums).sub_(head_VD[targets])
            grad_head.addmm_(weights.T, hidden / sums)
            grad_head.index_add_(0, targets, hidden, alpha=-1)
        ctx.save_for_backward(grad_hidden, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_head, None


def training_loss(hidden: Tensor, head_VD: Tensor, targets: Tensor) -> Tensor:
    """Sum of -ln p(target) over all positions, in nats; differentiable once in `hidden` and `head`.

    Under autocast its three matrix products use the narrow type; sums and the head's gradient stay float32.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    loss: Tensor = _HeadLoss.apply(hidden.reshape(-1, hidden.shape[-1]), head_VD, targets.reshape(-1))  # type: ignore[no-untyped-call]
    return loss


@torch.no_grad()
def token_losses(hidden: Tensor, logits_of: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """Loss of every position, -ln p(target) in nats [*targets.shape], float32; `logits_of` is the head, as `MainModel.logits`."""
    flat, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    losses = [
        F.cross_entropy(logits_of(flat[i : i + _CHUNK]).float(), flat_targets[i : i + _CHUNK], reduction="none")
        for i in range(0, len(flat), _CHUNK)
    ]
    return torch.cat(losses).view_as(targets)
