"""How a row of the table is written as bytes: numbers of 4 bytes, 2 bytes, 1 byte or half a byte.

A row of D numbers is these D numbers, little-endian, one after the other. In the formats of a byte or less a float32 scale
follows them, with which they are multiplied: it is in the row, so that one contiguous read brings all there is. In int4 the
numbers 2i and 2i + 1 are the low and the high half of byte i, an odd row's last half is zero, and a half byte stands for one of
the 16 whole numbers in `LEVELS`, which lie closer where a row has most of its numbers: evenly spaced ones lose a third more.
How many bytes that makes is told without torch. Which format is good enough for a model, `scone eval` says, not this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Raw = npt.NDArray[np.uint8]

_SCALE_BYTES = 4
_HALF, _4 = np.uint8(15), np.uint8(4)
# Those that lose least of a normal distribution, as shares of the largest: Lloyd's and Max's, in 127ths.
LEVELS = (-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127)
_SHARES = (0.85, 1.0)  # of a row's largest number, which become the last level: whichever is nearer to the whole row


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
        RowFormat("int4", 4, 1 - min(_SHARES), LEVELS[-1]),
    )
}


def row_bytes(name: str, dim: int) -> int:
    """Bytes of one row of `dim` numbers in the format `name`."""
    return FORMATS[name].row_bytes(dim)


def torch_dtype(name: str) -> torch.dtype:
    """What a number of the format is to torch; int4's levels are int8."""
    import torch  # heavy, and not needed to know how many bytes a table takes

    known = {"float8_e4m3": torch.float8_e4m3fn, "int4": torch.int8}
    found: torch.dtype = known.get(name) or getattr(torch, name)
    return found


def encode(rows_RD: Tensor, name: str) -> Raw:
    """The bytes [R, row_bytes] of rows; each row depends on itself alone."""
    import torch

    form, dtype = FORMATS[name], torch_dtype(name)
    if not form.largest:
        return _bytes_of(rows_RD.to(dtype))
    rows = rows_RD.float()
    scale_R1 = rows.abs().amax(1, keepdim=True) / form.largest
    if form.bits == 4:
        places, scale_R1 = _nearest_levels(rows, scale_R1)
        return np.concatenate([_pack(_bytes_of(places)), _bytes_of(scale_R1)], 1)
    scaled = (rows / torch.where(scale_R1 > 0, scale_R1, 1)).clamp(-form.largest, form.largest)
    numbers = scaled.to(dtype) if dtype.is_floating_point else scaled.round().to(dtype)
    return np.concatenate([_bytes_of(numbers), _bytes_of(scale_R1)], 1)


def _nearest_levels(rows_RD: Tensor, scale_R1: Tensor) -> tuple[Tensor, Tensor]:
    """The place in `LEVELS` of each number [R, D], and the scale of each row [R, 1]: the better of those that are tried."""
    import torch

    levels = torch.tensor(LEVELS, dtype=torch.float32, device=rows_RD.device)

    def placed(scale_R1: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.bucketize(rows_RD / torch.where(scale_R1 > 0, scale_R1, 1), (levels[1:] + levels[:-1]) / 2)
        return places.to(torch.uint8), (levels[places] * scale_R1 - rows_RD).square().sum(1, keepdim=True)

    (clipped, clipped_off), (whole, whole_off) = (placed(share * scale_R1) for share in _SHARES)
    is_clipped = clipped_off < whole_off
    return torch.where(is_clipped, clipped, whole), torch.where(is_clipped, *_SHARES) * scale_R1


def decode(raw: Raw, name: str, dim: int, out: Tensor | None = None) -> Tensor:
    """The rows [R, D] whose bytes [R, row_bytes] are given, an array of its own that may be written to.

    Rows without a scale keep their type and are not copied, rows with one become float32; `out` [R, D], of any floating-point
    type, is written and returned if it is given.
    """
    import torch

    form, dtype = FORMATS[name], torch_dtype(name)
    if not form.largest:
        rows = torch.from_numpy(raw.view(f"u{form.bits // 8}")).view(dtype)
        return rows if out is None else out.copy_(rows)
    size = form.num_bytes(dim)
    packed = raw[:, :size]
    numbers = _unpack(packed, dim) if form.bits == 4 else np.ascontiguousarray(packed)
    scale_R1 = torch.from_numpy(raw[:, size:].copy().view(np.float32))
    return torch.mul(torch.from_numpy(numbers).view(dtype).float(), scale_R1, out=out)


def _bytes_of(numbers: Tensor) -> Raw:
    import torch

    whole: Raw = numbers.detach().contiguous().cpu().view(torch.uint8).numpy()
    return whole


def _pack(places: Raw) -> Raw:
    """Two places a byte [R, (D + 1) / 2], of one a byte [R, D]."""
    low, high = places[:, 0::2].copy(), places[:, 1::2]
    low[:, : high.shape[1]] |= high << _4
    return low


def _unpack(packed: Raw, dim: int) -> Raw:
    """The levels, a byte each, in two's complement [R, D], of two places a byte."""
    numbers = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    numbers[:, 0::2], numbers[:, 1::2] = packed & _HALF, packed >> _4
    return np.array(LEVELS, np.int8).view(np.uint8)[numbers[:, :dim]]
