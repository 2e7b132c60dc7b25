"""The f-grams that two vocabularies of one tokenizer share: which f-gram of one is which f-gram of the other."""

# numba infers the types of kernels.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from scone_cli.arrays import U32
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.vocab.index import NONE, FgramIndex, find, place_of
from scone_cli.vocab.trie import FgramTrie

_NONE = np.uint32(NONE)


def numbers_in(index: FgramIndex, trie: FgramTrie) -> U32:
    """The number that each f-gram of `trie` has among the f-grams of `index` [S]; NONE where it is none of them.

    Both vocabularies are closed under prefixes, so an f-gram whose prefix is not in `index` is not in it either.
    """
    assert index.num_tokens == trie.num_tokens, "vocabularies of two tokenizers"
    numbers = np.empty(trie.num_fgrams, np.uint32)
    _find_all(trie.prefix_nodes, trie.last_tokens, np.uint32(trie.num_tokens), index.lines, index.shape, numbers)
    return numbers


def is_beginning(first: FgramTrie, trie: FgramTrie) -> bool:
    """Whether the f-grams of `first` are the first f-grams of `trie`, in this order."""
    size = first.num_fgrams
    return (
        first.num_tokens == trie.num_tokens
        and np.array_equal(first.prefix_nodes, trie.prefix_nodes[:size])
        and np.array_equal(first.last_tokens, trie.last_tokens[:size])
    )


@kernel()
def _find_all(prefix_nodes, last_tokens, num_tokens, lines, shape, numbers):
    """Find all f-grams in rank order, each from the number of its prefix."""
    for i in range(prefix_nodes.size):
        node = prefix_nodes[i]
        if node >= num_tokens:
            above = numbers[node - num_tokens]
            if above == _NONE:
                numbers[i] = _NONE
                continue
            node = num_tokens + above
        numbers[i] = find(lines, place_of(node, last_tokens[i], shape), shape)
