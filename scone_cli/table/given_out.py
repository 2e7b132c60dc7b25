"""Looks at the memory that a caller gives for rows, before a kernel writes into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def as_target(out: Any, count: int, dim: int, plain_type: torch.dtype | None) -> torch.Tensor:
    """Return `out` as a tensor; ValueError if `count` rows of `dim` numbers cannot be written into it.

    `plain_type` is the type of the rows in their files; None if they must be converted.
    """
    expected = f"expected at least [{count}, {dim}] of floating-point numbers on the CPU"
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ValueError(f"out is an array that cannot be written to, {expected}")
        try:
            out = torch.from_numpy(out)
        except (TypeError, ValueError) as error:  # a type that torch lacks; a negative stride
            raise ValueError(f"out: {str(error).splitlines()[0]}; {expected}") from error
    if not isinstance(out, torch.Tensor):
        raise ValueError(  # noqa: TRY004 - ValueError, as for every other fault of `out`
            f"out is a {type(out).__name__}, {expected}, as a tensor or an array of numpy"
        )
    shape = out.shape
    if len(shape) != 2 or shape[0] < count or shape[1] != dim or not out.is_cpu or out.layout is not torch.strided:
        raise ValueError(f"out is {list(shape)} on {out.device}, {expected}")
    if out.is_neg():
        raise ValueError(f"out is a view of numbers that have another sign in memory, {expected}")
    if out.dtype is not plain_type and out.dtype not in (*DTYPES.values(), torch.float64):
        raise ValueError(f"out is of {out.dtype}, {expected}")
    return out


def check_apart(target: torch.Tensor) -> None:
    """ValueError if numbers of a tensor lie on one another."""
    if target.numel() and any(step == 0 < size - 1 for step, size in zip(target.stride(), target.shape, strict=True)):
        raise ValueError("out has numbers that lie on one another, expected a place for each")
