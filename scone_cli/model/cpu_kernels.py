"""Fused norm, MLP and rotary positions for the CPU: the same mathematics as `blocks.py` with less memory traffic.

With small matrices, everything between two matrix products is bound by memory, and what autograd saves for the backward
pass fills that memory. Here a norm saves only its rows divided by their RMS, and an MLP only gate and up; the backward
pass recomputes the rest while it is in the cache. For a given number of threads, results are bitwise reproducible.
Shapes: N rows, D = dim, F = inner width of the MLP, O outputs, B sequences, C context, H heads, E = D / H.
"""

# numba infers the types of kernels; torch does not declare the type of `Function.apply`.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scone_cli.runtime.kernel_cache import kernel

# ---- our own loops, on as many threads as torch uses -------------------------------------------------------------


_FEWEST = 1024  # rows per thread from which another thread pays


def share_out(kernel: Callable[..., None], count: int, *arrays: Any, fewest: int = _FEWEST) -> None:
    """Run kernel(first, last, *arrays) over [0, count) in parallel parts of at least `fewest`.

    The kernel must release Python's lock (the GIL), and no two parts may write to the same element.
    """
    threads = max(1, min(torch.get_num_threads(), count // fewest))
    if threads == 1:
        kernel(0, count, *arrays)
        return
    cuts = [count * i // threads for i in range(threads + 1)]
    list(_pool(threads).map(lambda i: kernel(cuts[i], cuts[i + 1], *arrays), range(threads)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


EPSILON = 1e-6  # added to the mean square in every norm


def is_for(x: Tensor) -> bool:
    """Whether these kernels can take x: it is on the CPU, in float32 or float64, outside autocast and torch.compile."""
    return (
        x.device.type == "cpu"
        and x.dtype in {torch.float32, torch.float64}
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


# ---- norm and MLP ------------------------------------------------------------------------------------------------
#
# If a matrix follows a norm, the gain is multiplied into the matrix, or into the rows if they are fewer. The backward pass
# then needs only the rows divided by their RMS, and the gradient of the gain follows from the gradient of the matrix.


def norm(x: Tensor, gain_D: Tensor) -> Tensor:
    """RMSNorm: divide each row of x [..., D] by its root mean square and multiply by the gain."""
    result: Tensor = _Norm.apply(x.reshape(-1, x.shape[-1]), gain_D)
    return result.view_as(x)


def norm_linear(x: Tensor, gain_D: Tensor, weight_OD: Tensor) -> Tensor:
    """RMSNorm of x [..., D] followed by a linear layer without bias; returns [..., O]."""
    result: Tensor = _NormLinear.apply(x.reshape(-1, x.shape[-1]), gain_D, weight_OD)
    return result.view(*x.shape[:-1], len(weight_OD))


def add_mlp(x: Tensor, gain_D: Tensor, gate_up: Tensor, down_DF: Tensor) -> Tensor:
    """Add a pre-norm SwiGLU MLP, with matrices [2F, D] and [D, F], to x [..., D]."""
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _AddMLP.apply(flat, gain_D, gate_up, down_DF)
    return result.view_as(x)


def _with_gain(unit_ND: Tensor, gain_D: Tensor, weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply the gain into the rows or into the matrix, whichever is smaller: one token must not copy every matrix."""
    if len(unit_ND) < len(weight_OD):
        return unit_ND * gain_D, weight_OD
    return unit_ND, weight_OD * gain_D


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gain_D: Tensor) -> Tensor:
        unit, scale = unit_rows(x_ND)
        ctx.save_for_backward(unit, scale, gain_D)
        return unit * gain_D

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor]:
        unit, scale, gain = ctx.saved_tensors
        return _unit_backward(unit, scale, grad_ND * gain), (grad_ND * unit).sum(0)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gain_D: Tensor, weight_OD: Tensor) -> Tensor:
        unit, scale = unit_rows(x_ND)
        ctx.save_for_backward(unit, scale, gain_D, weight_OD)
        rows, matrix = _with_gain(unit, gain_D, weight_OD)
        return rows @ matrix.T

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit, scale, gain, weight = ctx.saved_tensors
        of_matrix = grad_NO.T @ unit
        of_x = _unit_backward(unit, scale, grad_NO @ (weight * gain))
        return of_x, (of_matrix * weight).sum(0), of_matrix * gain


class _AddMLP(torch.autograd.Function):
    """Pre-norm SwiGLU MLP. Gate and up are separate tensors: sigmoid on contiguous memory takes two thirds of the time."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gain_D: Tensor, gate_up_2FD: Tensor, down_DF: Tensor) -> Tensor:
        unit, scale = unit_rows(x_ND)
        rows, matrix = _with_gain(unit, gain_D, gate_up_2FD)
        gate, up = (rows @ half.T for half in matrix.chunk(2))
        ctx.save_for_backward(unit, scale, gate, up, gain_D, gate_up_2FD, down_DF)
        return torch.addmm(x_ND, F.silu(gate).mul_(up), down_DF.T)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unit, scale, gate, up, gain, gate_up, down = ctx.saved_tensors
        inner, of_gate, of_up = torch.sigmoid(gate), torch.empty_like(gate), torch.empty_like(up)
        arrays = (gate, up, grad_ND @ down, inner, of_gate, of_up)
        share_out(_swiglu_backward, len(unit), *(array.numpy() for array in arrays))
        of_matrix = torch.cat([of_gate.T @ unit, of_up.T @ unit])
        to_gate, to_up = (gate_up * gain).chunk(2)
        of_x = _unit_backward(unit, scale, torch.addmm(of_gate @ to_gate, of_up, to_up)).add_(grad_ND)
        return of_x, (of_matrix * gate_up).sum(0), of_matrix * gain, grad_ND.T @ inner


# ---- rotary positions --------------------------------------------------------------------------------------------


def rotate(qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate queries and keys of qkv [B, C, 3, H, E] by position; returns queries, keys and values, each [B, C, H, E]."""
    turned: tuple[Tensor, Tensor, Tensor] = _Rotate.apply(qkv, cos, sin)
    return turned


class _Rotate(torch.autograd.Function):
    """Rotary positions. It copies the values too, at little cost: backward then writes all three gradients in one pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sequences, context, _, heads, width = qkv.shape
        ctx.save_for_backward(cos, sin)
        q, k, v = (qkv.new_empty(sequences, context, heads, width) for _ in range(3))
        arrays = [_rows(array) for array in (qkv.detach().contiguous(), cos, sin, q, k, v)]
        share_out(_turn, sequences * context, heads, *arrays)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        sequences, context, heads, width = grads[0].shape
        grad = grads[0].new_empty(sequences, context, 3, heads, width)
        arrays = [_rows(array) for array in (grad, cos, -sin, *(part.contiguous() for part in grads))]
        share_out(_turn_back, sequences * context, heads, *arrays)
        return grad, None, None


def _rows(x: Tensor) -> Any:
    """View a tensor [B, C, ...] or [C, 1, E / 2] as a numpy array with one row per position."""
    return x.flatten(0, 1).flatten(1).numpy()


# ---- loops -------------------------------------------------------------------------------------------------------


def unit_rows(x_ND: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Divide each row by its RMS; returns the rows (written into `out` if given) and 1 / RMS per row [N]."""
    x = x_ND.detach().contiguous()
    unit, scale = torch.empty_like(x) if out is None else out, x.new_empty(len(x))
    share_out(_unit_forward, len(x), x.numpy(), unit.numpy(), scale.numpy())
    return unit, scale


def _unit_backward(unit_ND: Tensor, scale_N: Tensor, grad_ND: Tensor) -> Tensor:
    """Turn the gradient of the normalised rows into the gradient of the original rows, in place."""
    share_out(_unit_backward_rows, len(unit_ND), unit_ND.numpy(), scale_N.numpy(), grad_ND.numpy())
    return grad_ND


@kernel(fastmath=True, error_model="numpy")
def _unit_forward(first, last, x, unit, scale):
    dim = x.shape[1]
    for row in range(first, last):
        total = x[row, 0] * x[row, 0]
        for i in range(1, dim):
            total += x[row, i] * x[row, i]
        of_row = x.dtype.type(1 / np.sqrt(total / dim + EPSILON))
        scale[row] = of_row
        for i in range(dim):
            unit[row, i] = x[row, i] * of_row


@kernel(fastmath=True, error_model="numpy")
def _unit_backward_rows(first, last, unit, scale, grad):
    dim = unit.shape[1]
    for row in range(first, last):
        total = grad[row, 0] * unit[row, 0]
        for i in range(1, dim):
            total += grad[row, i] * unit[row, i]
        mean = total / grad.dtype.type(dim)
        for i in range(dim):
            grad[row, i] = scale[row] * (grad[row, i] - unit[row, i] * mean)


@kernel(fastmath=True, error_model="numpy")
def _swiglu_backward(first, last, gates, ups, grad, inner, of_gates, of_ups):
    """Gradients of gate and up; `inner` holds sigmoid(gate) on entry and SwiGLU's output on return: one pass in all."""
    width = inner.shape[1]
    for row in range(first, last):
        gate, up, of_inner, both = gates[row], ups[row], grad[row], inner[row]
        of_gate, of_up = of_gates[row], of_ups[row]
        for i in range(width):
            sigmoid = both[i]
            silu = gate[i] * sigmoid
            of_up[i] = of_inner[i] * silu
            of_gate[i] = of_inner[i] * up[i] * (sigmoid + silu - silu * sigmoid)
            both[i] = silu * up[i]


@kernel(fastmath=True, error_model="numpy")
def _turn(first, last, heads, qkv, cos, sin, q, k, v):
    dim = v.shape[1]
    for row in range(first, last):
        c, s = cos[row % len(cos)], sin[row % len(cos)]
        for head in range(heads):
            at = head * (dim // heads)
            _turn_head(qkv[row], at, c, s, q[row], at)
            _turn_head(qkv[row], dim + at, c, s, k[row], at)
        _copy(qkv[row, 2 * dim :], v[row])


@kernel(fastmath=True, error_model="numpy")
def _turn_back(first, last, heads, qkv, cos, sin, q, k, v):
    dim = v.shape[1]
    for row in range(first, last):
        c, s = cos[row % len(cos)], sin[row % len(cos)]
        for head in range(heads):
            at = head * (dim // heads)
            _turn_head(q[row], at, c, s, qkv[row], at)
            _turn_head(k[row], at, c, s, qkv[row], dim + at)
        _copy(v[row], qkv[row, 2 * dim :])


@kernel(fastmath=True, error_model="numpy")
def _turn_head(x, at, cos, sin, y, to):
    half = cos.size
    first, second = x[at : at + half], x[at + half : at + 2 * half]
    of_first, of_second = y[to : to + half], y[to + half : to + 2 * half]
    for i in range(half):
        a, b = first[i], second[i]
        of_first[i] = a * cos[i] - b * sin[i]
        of_second[i] = a * sin[i] + b * cos[i]


@kernel()
def _copy(x, y):
    for i in range(y.size):
        y[i] = x[i]
