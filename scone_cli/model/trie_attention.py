"""Attention on a trie: each node attends to its ancestors and itself, which is causal attention in all f-grams at once.

There are two implementations. `attend` uses torch only, level by level: it is readable and runs on any device and in any
precision. The CPU has a kernel of its own, because gathering each node's path into a tensor costs more there than
everything else A_f-gram does. Shapes: N nodes, Q of them asked for, H heads, E = D / H, K tokens in the longest f-gram.
"""

# numba infers the types of kernels; torch does not declare the type of `Function.apply`.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scone_cli.model.cpu_kernels import share_out
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.vocab.trie import Trie


def attend_to_ancestors(qkv_N3HE: Tensor, trie: Trie, asked_Q: Tensor) -> Tensor:
    """Attention output [Q, H, E] of the nodes `asked` (int64 [Q]), each over its ancestors and itself."""
    if qkv_N3HE.device.type == "cpu" and qkv_N3HE.dtype in {torch.float32, torch.float64}:
        attended: Tensor = _TrieAttention.apply(qkv_N3HE, trie, asked_Q)
        return attended
    return attend(qkv_N3HE, trie).index_select(0, asked_Q)


def attend(qkv_N3HE: Tensor, trie: Trie) -> Tensor:
    """Attention output [N, H, E] of all nodes, with torch only."""
    q, k, v = qkv_N3HE.unbind(1)
    attended = []
    path_k = path_v = torch.empty(0)
    for level, (start, end) in enumerate(zip(trie.offsets, trie.offsets[1:], strict=False)):
        own_k, own_v = k[start:end, None], v[start:end, None]  # [N_l, 1, H, E]
        if level:
            above = torch.from_numpy(trie.parents[start:end] - trie.offsets[level - 1]).to(q.device)
            path_k = torch.cat([path_k.index_select(0, above), own_k], 1)
            path_v = torch.cat([path_v.index_select(0, above), own_v], 1)
        else:
            path_k, path_v = own_k, own_v
        scores = (q[start:end, None] * path_k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5  # [N_l, level + 1, H, 1]
        attended.append((scores.softmax(1) * path_v).sum(1))
    return torch.cat(attended)


def attend_on_cpu(qkv: Tensor, heads: int, trie: Trie, asked_Q: Tensor, out: Tensor) -> Tensor:
    """Write the attention output of the nodes `asked` into `out` [Q, H E]; qkv is [N, 3 H E].

    Returns the attention weights [Q, H, K], the node itself first, then its ancestors from the parent up.
    """
    weights = qkv.new_empty(len(asked_Q), heads, trie.max_n)
    width = out.shape[1] // heads
    arrays = (qkv.detach().numpy(), trie.parents, asked_Q.numpy(), width, out.numpy(), weights.numpy())
    share_out(_forward, heads, *arrays, fewest=1)  # no two heads write to the same element
    return weights


class _TrieAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, trie: Trie, asked_Q: Tensor) -> Tensor:
        num_nodes, _, heads, width = qkv_N3HE.shape
        flat = qkv_N3HE.contiguous().view(num_nodes, -1)
        out = flat.new_empty(len(asked_Q), heads * width)
        weights = attend_on_cpu(flat, heads, trie, asked_Q, out)
        ctx.save_for_backward(flat, asked_Q, weights)
        ctx.trie = trie
        return out.view(-1, heads, width)

    @staticmethod
    def backward(ctx: Any, grad_QHE: Tensor) -> tuple[Tensor, None, None]:
        flat, asked, weights = ctx.saved_tensors
        _, heads, width = grad_QHE.shape
        grad = torch.zeros_like(flat)
        given = grad_QHE.contiguous().view(len(asked), -1).numpy()
        arrays = (flat.numpy(), ctx.trie.parents, asked.numpy(), width, given, weights.numpy(), grad.numpy())
        share_out(_backward, heads, *arrays, fewest=1)
        return grad.view(-1, 3, heads, width), None, None


@kernel()
def _climb(parents, node, path):
    """Write the node and its ancestors into `path`; returns their number."""
    length = 0
    while node >= 0:
        path[length] = node
        node, length = parents[node], length + 1
    return length


@kernel(fastmath=True, error_model="numpy")
def _forward(first_head, last_head, qkv, parents, asked, width, out, weights):
    dim, longest = qkv.shape[1] // 3, weights.shape[2]
    path = np.empty(longest, np.int64)
    scale = 1.0 / np.sqrt(width)
    for row in range(asked.size):
        length = _climb(parents, asked[row], path)
        for head in range(first_head, last_head):
            at = head * width
            query = qkv[asked[row], at : at + width]
            scores = weights[row, head]
            highest = -np.inf
            for place in range(length):
                key = qkv[path[place], dim + at : dim + at + width]
                total = query[0] * key[0]
                for e in range(1, width):
                    total += query[e] * key[e]
                scores[place] = total * scale
                highest = max(highest, scores[place])
            whole = scores[0] * 0
            for place in range(length):
                scores[place] = np.exp(scores[place] - highest)
                whole += scores[place]
            result = out[row, at : at + width]
            result[:] = 0
            for place in range(length):
                scores[place] /= whole
                weight, value = scores[place], qkv[path[place], 2 * dim + at : 2 * dim + at + width]
                for e in range(width):
                    result[e] += weight * value[e]


@kernel(fastmath=True, error_model="numpy")
def _backward(first_head, last_head, qkv, parents, asked, width, given, weights, grad):
    dim, longest = qkv.shape[1] // 3, weights.shape[2]
    path = np.empty(longest, np.int64)
    of_weights = np.empty(longest, qkv.dtype)
    scale = 1.0 / np.sqrt(width)
    for row in range(asked.size):
        length = _climb(parents, asked[row], path)
        for head in range(first_head, last_head):
            at = head * width
            query, of_query = qkv[asked[row], at : at + width], grad[asked[row], at : at + width]
            of_result = given[row, at : at + width]
            mean = of_result[0] * 0
            for place in range(length):
                value = qkv[path[place], 2 * dim + at : 2 * dim + at + width]
                of_value = grad[path[place], 2 * dim + at : 2 * dim + at + width]
                weight, total = weights[row, head, place], of_result[0] * value[0]
                for e in range(1, width):
                    total += of_result[e] * value[e]
                for e in range(width):
                    of_value[e] += weight * of_result[e]
                of_weights[place] = total
                mean += weight * total
            for place in range(length):
                of_score = weights[row, head, place] * (of_weights[place] - mean) * scale
                key = qkv[path[place], dim + at : dim + at + width]
                of_key = grad[path[place], dim + at : dim + at + width]
                for e in range(width):
                    of_query[e] += of_score * key[e]
                    of_key[e] += of_score * query[e]
