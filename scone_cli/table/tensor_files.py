"""Where rows and lines lie in the safetensors files of an exported table, and the headers of these files.

A file of rows, and the index, hold one tensor each, so their bytes are contiguous up to the end of the file, and are mapped
like those of a Parquet table. Headers are read by the safetensors library. They are written here: the library writes only
tensors that are in memory as a whole.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scone_cli.artifacts.manifest import MADE_BY
from scone_cli.artifacts.opening import utf8_name
from scone_cli.errors import DamagedArtifact, StorageFailure
from scone_cli.runtime.native_memory import LINE
from scone_cli.table.row_formats import FORMATS, row_bytes

SUFFIX = ".safetensors"
ROWS, LINES = "rows", "lines"  # the names of the tensors
LINE_TYPE = "U32", LINE // 4  # of the index

_BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "U32": 4, "U64": 8}
_NUMBERS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def export_again(folder: Path) -> str:
    """The hint of errors in the files of an exported table."""
    return f"make it again: {MADE_BY['exported-table']} {shlex.quote(str(folder))}"


def row_type(dtype: str, dim: int) -> tuple[str, int]:
    """The type of a tensor of rows and its columns: D numbers, or the bytes of a row in formats with a scale."""
    return ("U8", row_bytes(dtype, dim)) if FORMATS[dtype].largest else (_NUMBERS[dtype], dim)


def header_of(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> bytes:
    """The beginning of a file with these tensors, by name: type and shape; their data follow without gaps, in this order.

    Blanks fill it up, so that the data begin at a multiple of 64 bytes: a line of the index is then one cache line.
    """
    end, entries = 0, dict[str, object]()
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * _BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // LINE) * LINE - 8)
    return len(text).to_bytes(8, "little") + text


def locate_tensor(path: Path, tensor: str, dtype: str, columns: int) -> tuple[int, int]:
    """Find the offset of a file's one tensor, in bytes, and the number of its rows; it must be `tensor`, `dtype` [_, columns].

    Raises:
        DamagedArtifact: it is not such a file, or the data do not begin at a multiple of 64 bytes.
        StorageFailure: the disk fails.
    """
    remake = export_again(path.parent)
    try:
        with utf8_name(path) as name, safe_open(name, "numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            found = {key: (each.get_dtype(), each.get_shape()) for key, each in slices.items()}
    except SafetensorError as error:
        raise DamagedArtifact(f"{path}: not a safetensors file ({error})", remake) from error
    except OSError as error:
        raise StorageFailure(f"{path}: cannot be read ({error})") from error
    kind, shape = found.get(tensor, ("", []))
    if len(found) != 1 or kind != dtype or len(shape) != 2 or shape[1] != columns:
        told = ", ".join(f"{key} {kind} {shape}" for key, (kind, shape) in found.items())
        raise DamagedArtifact(f"{path}: tensors {told or 'none'}, expected {tensor} {dtype} [_, {columns}]", remake)
    start = path.stat().st_size - shape[0] * columns * _BYTES[dtype]  # the library has compared both ends
    if start % LINE:
        raise DamagedArtifact(f"{path}: data from byte {start} on, expected a multiple of {LINE}", remake)
    return start, shape[0]
