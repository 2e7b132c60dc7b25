"""CPU loops of `fgram_forward` between the matrix products: each reads its inputs and writes its outputs once.

`fastmath` lets the compiler add sums in any order, several terms at a time; everything else equals the model's own norms
and embeddings to the last bit. Shapes: N nodes, R f-grams, D = dim, F = inner width of the MLP.
"""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np

from scone_cli.model.cpu_kernels import EPSILON
from scone_cli.runtime.kernel_cache import kernel


@kernel()
def neighbours_trie(ids, prefix_nodes, last_tokens, lengths, num_tokens, longest):
    """Build a trie of the f-grams `ids` and all their prefixes.

    Returns last token, level and parent of each node [N], and the node of each f-gram [R]. If `ids` are in the order of
    their tokens, a shared prefix is one node, near the f-grams that share it. In another order it may become several
    nodes: more work, the same rows.
    """
    most = ids.size * longest
    tokens, levels, parents = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    rows, num_nodes = np.empty(ids.size, np.int64), 0
    node_at, row_at = np.full(longest, -1, np.int64), np.full(longest, -1, np.int64)  # the last node of each level
    path = np.empty(longest, np.int64)
    for i in range(ids.size):
        node, last_level = num_tokens + ids[i], np.int64(lengths[ids[i]]) - 1
        level = last_level
        while level >= 0 and node_at[level] != node:
            path[level] = node
            if level:
                node = np.int64(prefix_nodes[node - num_tokens])
            level -= 1
        for new in range(level + 1, last_level + 1):
            tokens[num_nodes] = last_tokens[path[new] - num_tokens] if new else path[new]
            levels[num_nodes], parents[num_nodes] = new, row_at[new - 1] if new else -1
            node_at[new], row_at[new] = path[new], num_nodes
            num_nodes += 1
        rows[i] = row_at[last_level]
    return tokens[:num_nodes], levels[:num_nodes], parents[:num_nodes], rows


@kernel(fastmath=True, error_model="numpy")
def _inverse_rms(row):
    total = row[0] * row[0]
    for i in range(1, row.size):
        total += row[i] * row[i]
    return row.dtype.type(1 / np.sqrt(total / row.size + EPSILON))


@kernel()
def embed(tokens, levels, embeddings, gain, positions, x):
    """Write A_f-gram's input into x [N, D]: the normed embedding of each node's last token plus the position."""
    for row in range(tokens.size):
        embedding, position, out = embeddings[tokens[row]], positions[levels[row]], x[row]
        scale = _inverse_rms(embedding)
        for i in range(gain.size):
            out[i] = embedding[i] * scale * gain[i] + position[i]


@kernel()
def sum_learned(ids, suffixes, num_tokens, numbers, learned, sums):
    """Write into sums [R, D] the sum of the learned rows of each f-gram and of its suffixes, longest first.

    numbers: the learned row of each f-gram [S]; empty: f-gram i has row i. There is none beyond the end of `learned`.
    """
    for row in range(ids.size):
        total, fgram = sums[row], ids[row]
        total[:] = 0
        while fgram >= 0:
            number = numbers[fgram] if numbers.size else fgram
            if number < len(learned):
                of_fgram = learned[number]
                for i in range(total.size):
                    total[i] += of_fgram[i]
            fgram = np.int64(suffixes[fgram]) - num_tokens


@kernel()
def finish(x, last_gain, gain, rows):
    """Apply A_f-gram's last norm and the embedding norm to x [R, D], into `rows`: see `MainModel.row`."""
    for row in range(len(x)):
        stream, out = x[row], rows[row]
        scale = _inverse_rms(stream)
        for i in range(gain.size):
            out[i] = stream[i] * scale * last_gain[i]
        scale = _inverse_rms(out)
        for i in range(gain.size):
            out[i] = out[i] * scale * gain[i]


@kernel()
def add_embeddings(tokens, embeddings, gain, sums, rows):
    """Add norm(last token's embedding + sum of learned rows) to rows [R, D]; overwrites `sums`."""
    for row in range(tokens.size):
        embedding, total, out = embeddings[tokens[row]], sums[row], rows[row]
        for i in range(gain.size):
            total[i] += embedding[i]
        scale = _inverse_rms(total)
        for i in range(gain.size):
            out[i] += total[i] * scale * gain[i]


# Taylor coefficients of 2 ** x for x in [-1/2, 1/2]; further terms are below the precision of float32.
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))
_LOG2_E, _ONE, _HALF, _MOST = np.float32(1 / math.log(2)), np.float32(1), np.float32(0.5), np.float32(126)
_BIAS, _FRACTION_BITS = np.int32(127), np.int32(23)


@kernel(fastmath=True, error_model="numpy", inline="always")
def _exp(x):
    """exp(x) to within a few last bits, but vectorisable: the whole power of two is written as the exponent of a float."""
    power = min(max(x * _LOG2_E, -_MOST), _MOST)
    whole = np.floor(power + _HALF)
    rest = power - whole
    fraction = _ONE + rest * (_C1 + rest * (_C2 + rest * (_C3 + rest * (_C4 + rest * (_C5 + rest * _C6)))))
    return fraction * np.int32((np.int32(whole) + _BIAS) << _FRACTION_BITS).view(np.float32)


@kernel(fastmath=True, error_model="numpy")
def swiglu(both, inner):
    """Write silu(gate) * up into `inner` [N, F]; `both` [N, 2 F] holds gate and up side by side. One pass over memory."""
    width = inner.shape[1]
    for row in range(len(inner)):
        gate, up, out = both[row, :width], both[row, width:], inner[row]
        for i in range(width):
            out[i] = gate[i] * up[i] / (_ONE + _exp(-gate[i]))
