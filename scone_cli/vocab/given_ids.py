"""Checks token ids and row numbers that callers give, and converts them to the arrays that the kernels take.

A kernel does not check its input: for an invalid token id it would report no match, and -1 would become 2**32 - 1. Looking
for the largest id costs 1% of the time of matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import U32
from scone_cli.errors import UnknownToken

if TYPE_CHECKING:
    import torch

ID = np.dtype(np.uint32)  # a constant: creating it anew would take a tenth of the time per token
_MOST = 0xFFFFFFFF
Ids: TypeAlias = "npt.NDArray[np.integer[Any]] | Sequence[int] | torch.Tensor"  # numpy reads a CPU tensor


def as_whole_numbers(given: Any, what: str, most_dims: int = 1) -> npt.NDArray[Any]:
    """Convert an array, a list or a CPU tensor of whole numbers to an array [N], or of up to `most_dims` dimensions.

    `what` names the numbers in messages.

    Raises:
        ValueError: they are something else.
    """
    try:
        numbers = np.asarray(given)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ) as error:  # ragged lists; tensors on a GPU
        raise ValueError(f"{what}: {_first_line(error)}; expected whole numbers in memory") from error
    if not 1 <= numbers.ndim <= most_dims:
        dims = "one dimension" if most_dims == 1 else "one dimension or two"
        raise ValueError(f"{what}: {_described(given, numbers)}, expected whole numbers in {dims}")
    if not numbers.size and not hasattr(given, "dtype"):
        return numbers.astype(ID)  # numpy turns an empty list into floats
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"{what} of type {numbers.dtype}, expected whole numbers (uint32, int64, ...)")
    return numbers


def as_tokens(given: Any, vocab_size: int) -> U32:
    """Check token ids [N] and convert them to the array that the kernels take.

    Raises:
        ValueError: they are not whole numbers in one dimension.
        UnknownToken: an id is outside the vocabulary.
    """
    is_plain = type(given) is np.ndarray and given.dtype is ID and given.ndim == 1
    tokens = given if is_plain else as_whole_numbers(given, "tokens")
    if tokens.size and (tokens.max() >= vocab_size or (tokens.dtype.kind == "i" and tokens.min() < 0)):
        raise unknown_token(tokens, vocab_size)
    return _as_kernels_take_them(tokens)


def unknown_token(tokens: npt.NDArray[Any], vocab_size: int) -> UnknownToken:
    """The error for token ids outside the vocabulary; it names the first of them."""
    place = int(np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0])
    return UnknownToken(
        f"token id {tokens[place]} at place {place:,}: the vocabulary has {vocab_size:,} tokens, 0 to {vocab_size - 1:,}",
        "encode the text with the tokenizer that the table was made with: Table.open(..., tokenizer=...) checks it",
    )


def as_row_numbers(given: Any, num_rows: int) -> U32:
    """Convert f-gram ids [N] to the array that the kernels take; the kernels check ids that fit 32 bits.

    Raises:
        ValueError: they are not whole numbers in one dimension.
        IndexError: one is below 0, or beyond 32 bits.
    """
    is_plain = type(given) is np.ndarray and given.dtype is ID and given.ndim == 1
    ids = given if is_plain else as_whole_numbers(given, "ids of f-grams")
    if ids.dtype is not ID and ids.size and not 0 <= ids.min() <= ids.max() <= _MOST:
        raise IndexError(
            f"f-gram {ids.min() if ids.min() < 0 else ids.max()}: the table has {num_rows} rows, "
            f"0 to {num_rows - 1}, and 2**32 - 1 stands for none"
        )
    return _as_kernels_take_them(ids)


def whole_number(given: Any, what: str, least: int, end: int | None = None) -> int:
    """Check one whole number: at least `least`, and below `end` if it is given.

    Raises:
        ValueError: it is not such a number.
    """
    is_whole = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
    if not is_whole or given < least or (end is not None and given >= end):
        expected = f"{least} or more" if end is None else f"{least} to {end - 1:,}"
        raise ValueError(f"{what} {given!r}, expected a whole number, {expected}")
    return int(given)


def _as_kernels_take_them(numbers: npt.NDArray[Any]) -> U32:
    """A writable, contiguous uint32 array: numba would compile a kernel again for every other kind of array."""
    taken = np.ascontiguousarray(numbers, ID)
    return taken if taken.flags.carray else taken.copy()


def _described(given: Any, numbers: npt.NDArray[Any]) -> str:
    if numbers.ndim or hasattr(given, "dtype"):
        return f"an array of shape {numbers.shape}"
    return f"{type(given).__name__} {given!r:.40}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
