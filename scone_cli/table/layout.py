"""The files of a table: where rows lie inside its files, and how the index is written and read.

A `rows-*.parquet` file holds one required fixed-size binary column, uncompressed, PLAIN, in one page of one row group.
Its rows are therefore contiguous in the file, from `data_page_offset + total_compressed_size - rows * row_bytes` on: any
Parquet reader can open the file, and serving maps the same file without a second copy. Row number = f-gram id =
frequency rank, so frequent rows lie together and a smaller table is a prefix of a larger one. `index.bin` is one line of
JSON, padded to 256 bytes, and the lines of the index (see `vocab.index`). An exported table has the same bytes in
safetensors files (see `tensor_files`). How a row is computed is in `model`, its formats are in `row_formats`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from scone_cli.artifacts.manifest import Manifest, json_of
from scone_cli.artifacts.opening import DAMAGE, to_read
from scone_cli.errors import DamagedArtifact, StorageFailure
from scone_cli.runtime.native_memory import LINE
from scone_cli.table.fetch import Part, large_pages
from scone_cli.table.row_files import RowFiles
from scone_cli.table.sizes import PART_BYTES
from scone_cli.table.stored_file import StoredFile
from scone_cli.table.tensor_files import LINE_TYPE, LINES, ROWS, SUFFIX, export_again, locate_tensor, row_type
from scone_cli.vocab.index import REMAKE, FgramIndex, fewest_lines

INDEX = "index.bin"
FILES = {"table": ("rows-*.parquet", INDEX), "exported-table": (f"rows-*{SUFFIX}", f"index{SUFFIX}")}  # by artifact
SHAPE = ("dtype", "dim", "num_fgrams", "num_tokens", "max_n")  # the settings by which a table is read
_HEADER_BYTES = 256  # header of `index.bin`: whole cache lines, so that the index stays aligned to them

Raw = npt.NDArray[np.uint8]


def write_rows(folder: Path, raw: Raw, part_bytes: int = PART_BYTES) -> None:
    """Write raw rows, uint8 [S, row_bytes] (may be mapped), as `rows-*.parquet` files of at most `part_bytes` of rows."""
    files = RowFiles(folder, len(raw), raw.shape[1], part_bytes)
    files.create()
    files.write(np.arange(len(raw)), raw)


def locate_rows(path: Path, width: int) -> tuple[int, int]:
    """Find the offset of the first row in a file, in bytes, and the number of rows, which are contiguous from there.

    Raises:
        DamagedArtifact: the rows are not contiguous, or have another width.
        StorageFailure: the disk fails.
    """
    try:
        metadata = pq.read_metadata(to_read(path))
        column = metadata.row_group(0).column(0) if metadata.num_row_groups == 1 and metadata.num_columns == 1 else None
        rows = metadata.num_rows
        # `column.compression` is not read: if a flipped bit makes the codec unknown, pyarrow ends the process.
        size_differs = column is not None and column.total_compressed_size != column.total_uncompressed_size
        if column is None or size_differs or column.has_dictionary_page:
            raise DamagedArtifact(f"{path}: expected one plain, uncompressed column in one row group", REMAKE)
        if (found := metadata.schema.column(0).length) != width:
            raise DamagedArtifact(f"{path}: rows of {found} bytes, expected rows of {width}", REMAKE)
        page, size = column.data_page_offset, column.total_compressed_size
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # without errno, pyarrow says that it is not a Parquet file
            raise StorageFailure(f"{path}: cannot be read ({os.strerror(error.errno)})") from error
        raise DamagedArtifact(f"{path}: not a Parquet file ({error})", REMAKE) from error
    start, end = page + size - rows * width, page + size
    if not 0 < page < start <= end <= path.stat().st_size:
        raise DamagedArtifact(f"{path}: its rows are said to be where the file is not", REMAKE)
    with path.open("rb") as file:
        file.seek(page)
        if not file.read(16).startswith(_page_start(rows * width)):
            raise DamagedArtifact(f"{path}: expected all {rows:,} rows in one page, none of them null", REMAKE)
    return start, rows


def _page_start(size: int) -> bytes:
    """First bytes of a Parquet data page of `size` bytes: (type: 0, uncompressed size, ...) in Thrift's compact protocol.

    They prove that there is one page: a second one would put its header between the rows, and the footer does not say
    how many pages there are.
    """
    varint, rest = bytearray(), 2 * size
    while rest > 0x7F:
        varint.append(rest & 0x7F | 0x80)
        rest >>= 7
    return b"\x15\x00\x15" + bytes(varint) + bytes([rest])


def write_index(folder: Path, index: FgramIndex, dim: int, dtype: str) -> None:
    """Write `index.bin`; its header repeats the settings that rows are read by, to check the manifest against them."""
    shape = {"dtype": dtype, "dim": dim, "num_fgrams": index.num_fgrams}
    shape |= {"num_tokens": index.num_tokens, "max_n": index.max_n, "num_lines": index.lines.nbytes // LINE}
    with (folder / INDEX).open("wb") as file:
        file.write(json.dumps(shape).ljust(_HEADER_BYTES - 1).encode() + b"\n")
        index.lines.tofile(file)


def read_index(file: StoredFile, settings: Mapping[str, Any], placement: str) -> FgramIndex:
    """Read the index into memory ("ram") or map it; `settings` are the manifest's.

    Raises:
        DamagedArtifact: see `locate_lines`.
        StorageFailure: the disk fails, or the index does not fit into memory.
    """
    start, num_lines = locate_lines(file, settings)
    if placement == "ram":
        lines = large_pages(num_lines * LINE)
        file.read_into(lines, start)
    else:
        lines = file.bytes[start:]
    return FgramIndex(lines.view(np.uint32), settings["num_fgrams"], settings["num_tokens"], settings["max_n"])


def locate_lines(file: StoredFile, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Find the offset of an index's first line, in bytes, and the number of lines, which reach to the end of the file.

    Raises:
        DamagedArtifact: the file is not the index of these settings, or has another size.
        StorageFailure: the disk fails.
    """
    path = file.path
    if path.suffix == SUFFIX:
        (start, num_lines), remake = locate_tensor(path, LINES, *LINE_TYPE), export_again(path.parent)
    else:
        start, num_lines, remake = _HEADER_BYTES, _lines_in_header(file, settings), REMAKE
    if not isinstance(num_lines, int) or num_lines < fewest_lines(settings["num_fgrams"], settings["num_tokens"]):
        raise DamagedArtifact(f"{path}: {num_lines} lines are too few for {settings['num_fgrams']:,} f-grams", remake)
    if file.size != start + num_lines * LINE:
        raise DamagedArtifact(f"{path}: {file.size:,} bytes, expected {start + num_lines * LINE:,}", remake)
    return start, num_lines


def _lines_in_header(file: StoredFile, settings: Mapping[str, Any]) -> Any:
    """The number of lines that the header of `index.bin` gives; its other facts must agree with `settings`."""
    path, header = file.path, np.empty(min(file.size, _HEADER_BYTES), np.uint8)
    file.read_into(header, 0)
    try:
        shape = json_of(header.tobytes())
    except ValueError as error:
        raise DamagedArtifact(f"{path}: not an index ({error})", REMAKE) from error
    num_lines = shape.pop("num_lines", None) if isinstance(shape, dict) else None
    if shape != settings:
        raise DamagedArtifact(f"{path}: the index of {shape}, the manifest says {dict(settings)}", REMAKE)
    return num_lines


def parts_of(folder: Path, manifest: Manifest, width: int, can_be_mapped: bool) -> list[Part]:
    """Open the files of rows and check that they hold all rows, the same number in each file but the last."""
    remake = REMAKE if manifest.artifact == "table" else export_again(folder)
    of_tensor = row_type(manifest.settings["dtype"], manifest.settings["dim"])
    num_fgrams, parts = manifest.settings["num_fgrams"], list[Part]()
    for path in sorted(folder.glob(FILES[manifest.artifact][0])):
        place = locate_tensor(path, ROWS, *of_tensor) if path.suffix == SUFFIX else locate_rows(path, width)
        parts.append(Part(StoredFile(path, can_be_mapped), *place))
    num_rows = sum(part.num_rows for part in parts)
    if num_rows != num_fgrams:
        raise DamagedArtifact(f"{folder}: {num_rows:,} rows, expected {num_fgrams:,} rows", remake)
    most = max((part.num_rows for part in parts), default=0)
    if any(part.num_rows != most for part in parts[:-1]):  # a row's file is found by division
        raise DamagedArtifact(
            f"{folder}: files that do not all have {most:,} rows, expected of all but the last",
            remake,
        )
    return parts
