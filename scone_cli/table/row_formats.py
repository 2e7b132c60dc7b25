"""Formats of a table's rows as bytes: 32, 16, 8 or 4 bits per number.

A row of D numbers is these numbers, little-endian, one after the other. In formats of 8 bits or less a float32 scale
follows, by which the numbers are multiplied; it is part of the row, so that one contiguous read brings both. In int4 the
numbers 2i and 2i + 1 are the low and the high half of byte i; if D is odd, the last half byte is zero. Each half byte is
an index into the 16 whole numbers in `LEVELS`, which are denser where a row has most of its numbers: evenly spaced levels
lose a third more. `row_bytes` works without torch. Whether a format is good enough for a model is measured by `scone eval`.
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
# The 16 levels with the least squared error for a normal distribution (Lloyd-Max), in 127ths of the largest.
LEVELS = (-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127)
_SHARES = (0.85, 1.0)  # int4 scales that are tried: this share of a row's largest number becomes the last level


@dataclass(frozen=True)
class RowFormat:
    """One format of rows.

    bits: bits per number. error: largest error of a number, as a share of the row's largest number. largest: the value
    that the row's largest number is scaled to; 0 in formats without a scale.
    """

    name: str
    bits: int
    error: float
    largest: int = 0

    def row_bytes(self, dim: int) -> int:
        """Bytes per row of `dim` numbers, scale included."""
        return self.num_bytes(dim) + (_SCALE_BYTES if self.largest else 0)

    def num_bytes(self, dim: int) -> int:
        """Bytes per row without the scale."""
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
    """The torch type of a format's numbers; int4's levels are int8."""
    import torch  # heavy, and not needed to know how many bytes a table takes

    known = {"float8_e4m3": torch.float8_e4m3fn, "int4": torch.int8}
    found: torch.dtype = known.get(name) or getattr(torch, name)
    return found


def encode(rows_RD: Tensor, name: str) -> Raw:
    """Encode rows [R, D] as bytes [R, row_bytes]; each row is encoded independently of the others."""
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
    """Index into `LEVELS` of each number [R, D] and scale per row [R, 1], for the scale with the smaller squared error."""
    import torch

    levels = torch.tensor(LEVELS, dtype=torch.float32, device=rows_RD.device)

    def placed(scale_R1: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.bucketize(rows_RD / torch.where(scale_R1 > 0, scale_R1, 1), (levels[1:] + levels[:-1]) / 2)
        return places.to(torch.uint8), (levels[places] * scale_R1 - rows_RD).square().sum(1, keepdim=True)

    (clipped, clipped_off), (whole, whole_off) = (placed(share * scale_R1) for share in _SHARES)
    is_clipped = clipped_off < whole_off
    return torch.where(is_clipped, clipped, whole), torch.where(is_clipped, *_SHARES) * scale_R1


def decode(raw: Raw, name: str, dim: int, out: Tensor | None = None) -> Tensor:
    """Decode bytes [R, row_bytes], a writable array that owns its memory, into rows [R, D].

    Formats without a scale keep their type and are not copied; formats with a scale become float32. If `out` [R, D] is
    given, of any floating-point type, it is written and returned.
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
    """Pack indices of 4 bits, one per byte [R, D], into two per byte [R, (D + 1) / 2]."""
    low, high = places[:, 0::2].copy(), places[:, 1::2]
    low[:, : high.shape[1]] |= high << _4
    return low


def _unpack(packed: Raw, dim: int) -> Raw:
    """Unpack two indices per byte into their levels [R, D], one byte each, in two's complement."""
    numbers = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    numbers[:, 0::2], numbers[:, 1::2] = packed & _HALF, packed >> _4
    return np.array(LEVELS, np.int8).view(np.uint8)[numbers[:, :dim]]
