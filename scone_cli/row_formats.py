"""How a row of the table is written as bytes: numbers of 4 bytes, 2 bytes, 1 byte or half a byte.

A row of D numbers is these D numbers, little-endian, one after the other. In the formats of a byte or less a float32 scale
follows them, with which they are multiplied: it is in the row, so that one contiguous read brings all there is. In int4 the
numbers 2i and 2i + 1 are the low and the high half of byte i, in two's complement; an odd row's last half is zero. How many bytes
that makes is told without torch. Which format is good enough for a model, this module does not know: `scone eval` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Raw = npt.NDArray[np.uint8]

_SCALE_BYTES = 4
_HALF, _SIGN, _4 = np.uint8(15), np.uint8(8), np.uint8(4)


@dataclass(frozen=True)
class RowFormat:
    """One format of rows.

    bits: of a number. error: the most that a number of a row can be off, as a share of the row's largest. largest: what the
    largest becomes when the row is scaled; 0 in formats without scales.
    """

    name: str
    bits: int
    error: float
    largest: int = 0

    def row_bytes(self, dim: int) -> int:
        """Bytes of a row of `dim` numbers, with its scale."""
        return self.num_bytes(dim) + (_SCALE_BYTES if self.largest else 0)

    def num_bytes(self, dim: int) -> int:
        """Bytes of its numbers alone."""
        return -(-self.bits * dim // 8)


FORMATS: Mapping[str, RowFormat] = {
    each.name: each
    for each in (
        RowFormat("float32", 32, 2**-24),
        RowFormat("float16", 16, 2**-11),
        RowFormat("bfloat16", 16, 2**-8),
        RowFormat("float8_e4m3", 8, 2**-4, 448),
        RowFormat("int8", 8, 1 / 254, 127),
        RowFormat("int4", 4, 1 / 14, 7),
    )
}


def row_bytes(name: str, dim: int) -> int:
    """Bytes of one row of `dim` numbers in the format `name`."""
    return FORMATS[name].row_bytes(dim)


def torch_dtype(name: str) -> torch.dtype:
    """What a number of the format is to torch; int4, which it does not know, becomes int8."""
    import torch  # noqa: PLC0415 - heavy, and not needed to know how many bytes a table takes

    known = {"float8_e4m3": torch.float8_e4m3fn, "int4": torch.int8}
    found: torch.dtype = known.get(name) or getattr(torch, name)
    return found


def encode(rows_RD: Tensor, name: str) -> Raw:
    """The bytes [R, row_bytes] of rows; each row depends on itself alone."""
    import torch  # noqa: PLC0415

    form, dtype = FORMATS[name], torch_dtype(name)
    if not form.largest:
        return _bytes_of(rows_RD.to(dtype))
    rows = rows_RD.float()
    scale_R1 = rows.abs().amax(1, keepdim=True) / form.largest
    scaled = rows / torch.where(scale_R1 > 0, scale_R1, 1)
    numbers = (
        scaled.clamp(-form.largest, form.largest).to(dtype) if dtype.is_floating_point else scaled.round().to(dtype)
    )
    packed = _bytes_of(numbers)
    return np.concatenate([_pack(packed) if form.bits == 4 else packed, _bytes_of(scale_R1)], 1)


def decode(raw: Raw, name: str, dim: int, out: Tensor | None = None) -> Tensor:
    """The rows [R, D] whose bytes [R, row_bytes] are given, an array of its own that may be written to.

    Rows without a scale keep their type and are not copied, rows with one become float32; `out` [R, D], of any floating-point
    type, is written and returned if it is given.
    """
    import torch  # noqa: PLC0415

    form, dtype = FORMATS[name], torch_dtype(name)
    if not form.largest:
        rows = torch.from_numpy(raw.view(f"u{form.bits // 8}")).view(dtype)
        return rows if out is None else out.copy_(rows)
    size = form.num_bytes(dim)
    packed = raw[:, :size]
    numbers: Any = _unpack(packed, dim) if form.bits == 4 else np.ascontiguousarray(packed)
    scale_R1 = torch.from_numpy(raw[:, size:].copy().view(np.float32))
    return torch.mul(torch.from_numpy(numbers).view(dtype).float(), scale_R1, out=out)


def _bytes_of(numbers: Tensor) -> Raw:
    import torch  # noqa: PLC0415

    whole: Raw = numbers.detach().contiguous().cpu().view(torch.uint8).numpy()
    return whole


def _pack(numbers: Raw) -> Raw:
    """Two numbers a byte [R, (D + 1) / 2], of numbers in two's complement [R, D]."""
    halves = numbers & _HALF
    low, high = halves[:, 0::2].copy(), halves[:, 1::2]
    low[:, : high.shape[1]] |= high << _4
    return low


def _unpack(packed: Raw, dim: int) -> Raw:
    """Numbers of a byte each, in two's complement [R, D], of two a byte."""
    numbers = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    numbers[:, 0::2], numbers[:, 1::2] = packed & _HALF, packed >> _4
    return ((numbers ^ _SIGN) - _SIGN)[:, :dim]
