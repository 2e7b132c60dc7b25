"""The loss of the head under autocast; that it is cross-entropy, and its gradient, is in `test_model`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scone_cli.model.losses import training_loss


@pytest.mark.parametrize("sharpness", [0.2, 1.5])  # of a model that guesses, and of one that is nearly sure
def test_in_bfloat16_gradients_are_as_near_as_those_of_cross_entropy(sharpness):
    chance = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(1200, 64, generator=chance), torch.randn(300, 64, generator=chance) * sharpness
    targets = (hidden @ head.T).argmax(1)
    gradients = []
    for loss, precision in (
        (lambda h, w: F.cross_entropy(h @ w.T, targets, reduction="sum"), torch.float64),
        (lambda h, w: F.cross_entropy((h @ w.T).float(), targets, reduction="sum"), torch.bfloat16),
        (lambda h, w: training_loss(h, w, targets), torch.bfloat16),
    ):
        wide = torch.float64 if precision == torch.float64 else torch.float32
        leaves = [tensor.clone().to(wide).requires_grad_() for tensor in (hidden, head)]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss(*leaves).backward()
        assert all(leaf.grad.dtype == wide for leaf in leaves)
        gradients.append([leaf.grad.double() for leaf in leaves])
    exact, usual, ours = gradients
    for which in (0, 1):
        errors = [(found[which] - exact[which]).norm() / exact[which].norm() for found in (usual, ours)]
        assert 0 < errors[1] < 1.2 * errors[0] < 0.1
    assert not torch.equal(ours[1], ours[1].bfloat16().double())  # the sum of many products is not rounded again
