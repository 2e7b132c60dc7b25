"""The block's parts on a CPU (`cpu_kernels.py`) against the readable ones (`blocks.py`) and against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scone_cli.model import cpu_kernels
from scone_cli.model.blocks import Block, RMSNorm, rotate

DIM, HEADS, HIDDEN = 12, 2, 40


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "is_for", lambda _: False)


def results(part: str, x: Tensor) -> list[Tensor]:
    """Value of a part of a block whose weights are all random, and the gradients of its input and its parameters."""
    torch.manual_seed(1)
    block = Block(DIM, HEADS, HIDDEN).to(x.dtype)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, mean=0.3, std=0.5)
    inputs = [x.clone().requires_grad_()]
    if part == "finish":
        inputs.append(random(*x.shape[:-1], HEADS, DIM // HEADS, seed=3, dtype=x.dtype).requires_grad_())
    call = {"norm": block.mlp_norm, "project": block.project, "finish": block.finish}[part]
    value = call(*inputs)
    value.backward(random(*value.shape, seed=2, dtype=x.dtype))
    used = [parameter for parameter in block.parameters() if parameter.grad is not None]
    return [value.detach(), *(leaf.grad for leaf in [*inputs, *used])]


@pytest.mark.parametrize("part", ["norm", "project", "finish"])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5), (0,)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_parts_of_a_block_are_the_readable_ones(part, shape, dtype, tolerance, monkeypatch):
    x = random(*shape, DIM, dtype=dtype) * 3
    fast = results(part, x)
    readable(monkeypatch)
    slow = results(part, x)
    assert len(fast) == len(slow) == {"norm": 3, "project": 4, "finish": 7}[part]
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sequences", [1, 3])
def test_turned_queries_and_keys_are_the_readable_ones(sequences, monkeypatch):
    """With the values beside them; their gradients are put together again."""
    cos, sin = random(5, 1, 3, seed=1), random(5, 1, 3, seed=2)
    found = []
    for _ in range(2):
        qkv = random(sequences, 5, 3, HEADS, 6).requires_grad_()
        parts = rotate(qkv, cos, sin)
        torch.autograd.backward(parts, [random(*part.shape, seed=3 + i) for i, part in enumerate(parts)])
        found.append([*(part.detach() for part in parts), qkv.grad])
        readable(monkeypatch)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


def test_gradients_are_the_differences():
    x, gain = random(3, DIM).requires_grad_(), random(DIM, seed=1).requires_grad_()
    qkv, gate_up, down = (random(*shape, seed=2).requires_grad_() for shape in [(9, DIM), (16, DIM), (DIM, 8)])
    assert torch.autograd.gradcheck(cpu_kernels.norm, (x, gain))
    assert torch.autograd.gradcheck(cpu_kernels.norm_linear, (x, gain, qkv))
    assert torch.autograd.gradcheck(cpu_kernels.add_mlp, (x, gain, gate_up, down))
    cos, sin = random(3, 1, 2, seed=3), random(3, 1, 2, seed=4)
    assert torch.autograd.gradcheck(
        lambda qkv: cpu_kernels.rotate(qkv, cos, sin), random(2, 3, 3, 2, 4).requires_grad_()
    )


def test_a_view_that_is_not_contiguous_is_read_as_it_is():
    norm, x = RMSNorm(DIM), random(DIM, 5, dtype=torch.float32)
    assert torch.equal(norm(x.T), norm(x.T.contiguous()))


def test_a_row_of_zeros_has_a_norm_of_zeros_and_a_gradient():
    x = torch.zeros(1, DIM, dtype=torch.float64, requires_grad=True)
    cpu_kernels.norm(x, torch.ones(DIM, dtype=torch.float64)).sum().backward()
    assert torch.equal(cpu_kernels.norm(x, torch.ones(DIM, dtype=torch.float64)), x)
    torch.testing.assert_close(x.grad, torch.full_like(x, 1e3))


def test_large_gates_do_not_overflow():
    """exp of a gate of -1,000 has no number; its sigmoid has."""
    x = random(4, DIM, dtype=torch.float32)
    gain, down = torch.ones(DIM), random(DIM, 8, dtype=torch.float32)
    gate_up = (random(16, DIM, dtype=torch.float32) * 1e3).requires_grad_()
    result = cpu_kernels.add_mlp(x, gain, gate_up, down)
    result.sum().backward()
    assert result.isfinite().all()
    assert gate_up.grad.isfinite().all()


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 5000])
def test_threads_share_out_every_row_once(count, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found: list[range] = []
    cpu_kernels.share_out(lambda first, last: found.append(range(first, last)), count)
    assert sorted(row for part in found for row in part) == list(range(count))
    assert len(found) == max(1, min(3, count // 1024))


def test_threads_change_no_row(monkeypatch):
    x, gain = random(4096, DIM, dtype=torch.float32), torch.ones(DIM)
    alone = cpu_kernels.norm(x, gain)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(cpu_kernels.norm(x, gain), alone)
