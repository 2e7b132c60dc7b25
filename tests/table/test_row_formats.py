"""Rows as bytes: what comes back is what was written, as nearly as the format can say it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scone_cli.settings import ROW_DTYPES
from scone_cli.table.row_formats import FORMATS, decode, encode, row_bytes, torch_dtype

# The largest error of a number, as a share of the largest number in its row (for floats: of the number itself).
ERRORS = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8, "float8_e4m3": 2**-4, "int8": 1 / 254, "int4": 0.15}
SCALED = [name for name, form in FORMATS.items() if form.largest]
PARAMETRIZE_NAME = pytest.mark.parametrize("name", FORMATS)


def random_rows(num_rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))


def slow_decode(row: bytes, name: str, dim: int) -> list[float]:
    """One row, number by number, as the module's docstring says it."""
    if name in ("float32", "float16"):
        return list(struct.unpack(f"<{dim}{'f' if name == 'float32' else 'e'}", row))
    if name == "bfloat16":
        return [struct.unpack("<f", bytes([0, 0, *row[2 * i : 2 * i + 2]]))[0] for i in range(dim)]
    (scale,) = struct.unpack("<f", row[-4:])
    if name == "float8_e4m3":
        numbers = [slow_float8(byte) for byte in row[:dim]]
    elif name == "int8":
        numbers = list(struct.unpack(f"<{dim}b", row[:dim]))
    else:
        halves = [half for byte in row[:-4] for half in (byte % 16, byte // 16)]
        levels = [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127]
        numbers = [levels[half] for half in halves][:dim]
    return [number * scale for number in numbers]


def slow_float8(byte: int) -> float:
    """Sign, four bits of exponent with bias 7, three of fraction."""
    sign, exponent, fraction = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    return sign * (fraction / 8 * 2**-6 if exponent == 0 else (1 + fraction / 8) * 2 ** (exponent - 7))


@PARAMETRIZE_NAME
@pytest.mark.parametrize("dim", [1, 2, 7, 16, 33])
def test_decoded_rows_are_the_encoded_ones_as_nearly_as_can_be(name, dim):
    rows = random_rows(20, dim) * 10.0 ** torch.arange(-4, 16).div(4)[:, None]
    raw = encode(rows, name)
    assert (raw.dtype, raw.shape) == (np.uint8, (20, row_bytes(name, dim)))
    found = decode(raw, name, dim)
    assert found.dtype == (torch.float32 if name in SCALED else torch_dtype(name))
    slow = torch.tensor([slow_decode(bytes(row), name, dim) for row in raw])
    assert torch.equal(found.float(), slow)
    largest = rows.abs().amax(1, keepdim=True)
    room = ERRORS[name] * (largest if name in ("int8", "int4") else rows.abs()) + largest * 2**-15
    assert bool(((found.float() - rows).abs() <= room).all())


@PARAMETRIZE_NAME
def test_a_row_depends_on_itself_alone(name):
    rows = random_rows(9, 33)
    assert np.array_equal(encode(rows, name)[3:4], encode(rows[3:4], name))


@PARAMETRIZE_NAME
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_can_be_decoded_into_memory_that_is_there(name, dtype):
    raw, out = encode(random_rows(5, 7), name), torch.full((6, 7), 9.0, dtype=dtype)
    returned = decode(raw, name, 7, out[1:])
    assert returned.data_ptr() == out[1:].data_ptr()
    assert torch.equal(out[1:], decode(raw, name, 7).to(dtype))
    assert out[0].tolist() == [9.0] * 7


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_rows_without_a_scale_are_not_copied(name):
    raw = encode(random_rows(5, 7), name)
    assert decode(raw, name, 7).data_ptr() == raw.ctypes.data


@PARAMETRIZE_NAME
def test_rows_of_zeros_and_no_rows_at_all(name):
    assert decode(encode(torch.zeros(3, 5), name), name, 5).tolist() == [[0.0] * 5] * 3
    assert decode(np.empty((0, row_bytes(name, 5)), np.uint8), name, 5).shape == (0, 5)


@pytest.mark.parametrize("name", SCALED)
def test_a_scaled_row_times_two_is_its_scale_times_two(name):
    rows = random_rows(4, 12)
    once, twice = encode(rows, name), encode(2 * rows, name)
    assert np.array_equal(once[:, :-4], twice[:, :-4])
    assert np.array_equal(2 * once[:, -4:].copy().view(np.float32), twice[:, -4:].copy().view(np.float32))


@given(st.sampled_from(sorted(FORMATS)), st.integers(1, 10_000))
def test_bytes_of_a_row(name, dim):
    bits = {"float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3": 8, "int8": 8, "int4": 4}[name]
    assert row_bytes(name, dim) == (bits * dim + 7) // 8 + (4 if name in SCALED else 0)


def test_formats_are_those_that_settings_offer():
    assert tuple(FORMATS) == ROW_DTYPES


@PARAMETRIZE_NAME
@pytest.mark.parametrize("largest", [1e-38, 3e-45])
def test_rows_next_to_zero_stay_next_to_zero(name, largest):
    """The scale of such a row is below the smallest normal number, or nothing: no division by it, and nothing grows."""
    rows = random_rows(3, 7)
    rows = rows / rows.abs().amax(1, keepdim=True) * largest
    room = largest if name == "float16" else ERRORS[name] * largest + 2**-126 * 2**-7  # the steps there, of bfloat16
    assert bool(((decode(encode(rows, name), name, 7).float() - rows).abs() <= room).all())
