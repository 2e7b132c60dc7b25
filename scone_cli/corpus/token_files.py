"""Recognises files of token ids: their format, and where and in which dtype the ids are stored.

Formats: flat `.bin` of uint16 or uint32 (nanoGPT, or llm.c with its header), `.npy` (with numpy's header, or without a header,
as OLMo writes it), Megatron's `.bin` with its `.idx`, and Parquet or Arrow with a column of integer lists. The file extension
tells which one. `token_documents.py` reads the ids.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scone_cli.corpus.columns import Columns, column_type, open_columns
from scone_cli.corpus.files import SourceFile, at_hand, index_at_hand
from scone_cli.corpus.folders import readable
from scone_cli.corpus.formats import ARROW, PARQUET, TOKENS
from scone_cli.errors import BadData

_ID_COLUMNS = ("tokens", "input_ids")  # used if there is no text column

_LLMC_MAGIC = {20240520: ("<u2", 1), 20240801: ("<u4", 7)}  # dtype and version: GPT-2's and Llama 3's
_LLMC_HEADER = 256  # int32 numbers
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file of token ids, and how the ids are stored: `dtype`, byte `offset`, or the `column` of a Parquet or Arrow file.

    `num_units`: the number of units that `pieces` divides: tokens, or row groups or record batches.
    """

    source: SourceFile
    dtype: str
    offset: int
    num_units: int
    column: str = ""

    @property
    def is_flat(self) -> bool:
        """Whether only a separator token can mark where a document ends."""
        return not self.column and self.source.index is None

    @property
    def num_tokens(self) -> int:
        """The number of ids, including separators."""
        if not self.column:
            return self.num_units
        with open_table(self.source) as columns:
            return columns.num_values(self.column)

    def pieces(self, num_bytes: int) -> list[tuple[int, int]]:
        """Divide the file into pieces of about `num_bytes` bytes: ranges [first, last) of units."""
        step = max(1, math.ceil(self.num_units * num_bytes / max(1, self.source.bytes)))
        return [(first, min(first + step, self.num_units)) for first in range(0, self.num_units, step)]


def recognise(source: SourceFile, text_field: str, token_dtype: str | None, wide: bool) -> TokenFile | None:
    """Recognise a file of token ids; returns None if it holds text. `wide`: ids need more than 16 bits.

    Raises:
        BadData: it does not have the format that its extension or header claims.
        StorageFailure: it cannot be read.
    """
    if source.kind in (PARQUET, ARROW) and not source.compression:
        return _recognise_column(source, text_field)
    if source.kind != TOKENS:
        return None
    if source.compression:
        raise BadData(
            f"{source.location}: a compressed file of token ids, expected an uncompressed one", "decompress it"
        )
    with at_hand(source) as path, readable(source.location), open(path, "rb") as raw:
        if source.index is not None:
            return _recognise_megatron(source)
        if source.name.lower().endswith(".npy") and raw.read(6) == b"\x93NUMPY":
            return _recognise_npy(source, raw)
        raw.seek(0)
        if (found := _recognise_llmc(source, raw)) is not None:
            return found
        dtype = token_dtype or ("uint32" if wide else "uint16")
        found = _flat(source, np.dtype(dtype).newbyteorder("<").str, 0)
        if token_dtype is None and not wide:
            _check_not_uint32(found, raw)
    return found


def _flat(source: SourceFile, dtype: str, offset: int, num_tokens: int | None = None) -> TokenFile:
    size = source.bytes - offset
    width = np.dtype(dtype).itemsize
    if size % width or num_tokens not in (None, size // width):
        expected = f"a multiple of {width}" if num_tokens is None else f"{num_tokens * width:,}, as its header says"
        size_hint = ", or name the size of an id with --token-dtype" if num_tokens is None else ""
        raise BadData(
            f"{source.location}: {size:,} bytes of token ids, expected {expected}", f"get the file again{size_hint}"
        )
    return TokenFile(source, dtype, offset, size // width)


def _check_not_uint32(file: TokenFile, raw: BinaryIO) -> None:
    """Refuse a file of uint32 ids that would be read as uint16: every second number is 0, and no later step would notice."""
    raw.seek(0)
    beginning = np.fromfile(raw, file.dtype, 4096)
    if beginning.size > 8 and beginning.any() and not beginning[1::2].any():
        raise BadData(
            f"{file.source.location}: every second number is 0 when it is read as uint16",
            "it looks like uint32; say which with --token-dtype",
        )


def _recognise_llmc(source: SourceFile, raw: BinaryIO) -> TokenFile | None:
    """Recognise llm.c's header: 256 int32; the first three are a magic number, a version and the number of tokens."""
    header = raw.read(4 * _LLMC_HEADER)
    magic = int.from_bytes(header[:4], "little")
    if magic not in _LLMC_MAGIC:
        return None
    if len(header) < 4 * _LLMC_HEADER:
        raise BadData(
            f"{source.location}: begins like a file of llm.c, but has only {len(header)} of the {4 * _LLMC_HEADER:,} bytes "
            "of its header",
            "get the file again",
        )
    _, version, num_tokens = (int(value) for value in np.frombuffer(header, "<i4", 3))
    dtype, expected = _LLMC_MAGIC[magic]
    if version != expected:
        raise BadData(f"{source.location}: a file of llm.c in version {version}, expected version {expected}")
    return _flat(source, dtype, len(header), num_tokens)


def _recognise_npy(source: SourceFile, raw: BinaryIO) -> TokenFile:
    raw.seek(0)
    try:
        version = np.lib.format.read_magic(raw)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(raw)
    except ValueError as error:
        raise BadData(f"{source.location}: not a .npy file ({error})", "get or make the file again") from error
    if len(shape) != 1 or dtype.kind not in "ui":
        raise BadData(f"{source.location}: {dtype} of shape {shape}, expected one dimension of whole numbers")
    return _flat(source, dtype.str, raw.tell(), shape[0])


# ---- Megatron ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MegatronIndex:
    """A Megatron `.idx`: byte offsets of the sequences, and the first sequence of each document (with an end at the last)."""

    location: str
    dtype: str
    pointers: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    num_tokens: int

    def start(self, document: int) -> int:
        """The position of a document's first token.

        Raises:
            BadData: the index lets it begin at a sequence that does not exist.
        """
        sequence = int(self.documents[document])
        if not 0 <= sequence <= len(self.pointers):
            raise BadData(
                f"{self.location}: document {document:,} begins with sequence {sequence:,}, expected 0 to {len(self.pointers):,}"
            )
        at = int(self.pointers[sequence]) // np.dtype(self.dtype).itemsize if sequence < len(self.pointers) else None
        return self.num_tokens if at is None else at


def read_index(source: SourceFile) -> MegatronIndex:
    """Read the `.idx` of a Megatron `.bin`.

    Raises:
        BadData: it is not such an index, or not the index of that file.
    """
    assert source.index is not None
    with index_at_hand(source) as path, readable(source.index):
        with open(path, "rb") as raw:
            head = raw.read(34)
        fields = np.frombuffer(head[18:], "<u8") if len(head) == 34 else np.zeros(0, np.uint64)
        code = head[17] if len(head) == 34 else 0
        if not head.startswith(_MEGATRON_MAGIC) or len(head) < 34 or code not in _MEGATRON_DTYPES:
            raise BadData(f"{source.index}: not the index of a Megatron data set, or its dtype is not supported")
        num_sequences, num_documents = (int(value) for value in fields)
        if os.path.getsize(path) < 34 + 12 * num_sequences + 8 * num_documents or num_documents < 1:
            raise BadData(f"{source.index}: truncated, expected {num_sequences:,} sequences", "get the file again")
        lengths = _mapped(path, "<i4", 34, num_sequences)
        pointers = _mapped(path, "<i8", 34 + 4 * num_sequences, num_sequences)
        documents = _mapped(path, "<i8", 34 + 12 * num_sequences, num_documents)
    dtype = _MEGATRON_DTYPES[code]
    end = int(pointers[-1]) + int(lengths[-1]) * np.dtype(dtype).itemsize if num_sequences else 0
    if end != source.bytes:
        raise BadData(
            f"{source.index}: describes {end:,} bytes of tokens, {source.location} has {source.bytes:,}",
            "get both files again",
        )
    if (span := (int(documents[0]), int(documents[-1]))) != (0, num_sequences):
        raise BadData(
            f"{source.index}: its documents run from sequence {span[0]:,} to {span[1]:,}, expected all {num_sequences:,}, from 0",
            "make the index again: some of its sequences are in no document",
        )
    return MegatronIndex(source.index, dtype, pointers, documents, source.bytes // np.dtype(dtype).itemsize)


def _mapped(location: str, dtype: str, offset: int, size: int) -> npt.NDArray[Any]:
    """Map a part of a file into memory, as an index may be larger than the memory."""
    return np.memmap(location, dtype, "r", offset, size) if size else np.zeros(0, dtype)


def _recognise_megatron(source: SourceFile) -> TokenFile:
    index = read_index(source)
    return TokenFile(source, index.dtype, 0, index.num_tokens)


# ---- Parquet and Arrow -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_table(source: SourceFile) -> Iterator[Columns]:
    """Open a file of columns, whose `column` holds the ids.

    Raises:
        BadData: it is not such a file, or is damaged.
        StorageFailure: it cannot be read.
    """
    with at_hand(source) as path, readable(source.location), open_columns(source.kind, path, source.location) as found:
        yield found


def _recognise_column(source: SourceFile, text_field: str) -> TokenFile | None:
    with open_table(source) as columns:
        schema, num_units = columns.schema, columns.num_units
    names = (text_field,) if text_field in schema.names else _ID_COLUMNS
    kinds = {name: column_type(schema, name, source.location) for name in names if name in schema.names}
    column = next((name for name, kind in kinds.items() if _is_list_of_ids(kind)), None)
    if column is not None:
        return TokenFile(source, "", 0, num_units, column)
    if kinds and text_field not in schema.names:
        found = " and ".join(f"column '{name}' is {kind}" for name, kind in kinds.items())
        raise BadData(
            f"{source.location}: no column '{text_field}', and {found}, expected lists of whole numbers",
            "name the column of text, or of token ids, with --text-field",
        )
    return None


def _is_list_of_ids(kind: pa.DataType) -> bool:
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    is_list = any(getattr(pa.types, f"is_{name}")(kind) for name in kinds)
    return bool(is_list and pa.types.is_integer(kind.value_type))
