"""Reads documents from files of token ids, in pieces that can be read independently.

The index or the rows define the documents. If there is a separator token, documents are also split at it, and it is removed.
The end of a file ends a document. Files are read one block at a time.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.files import at_hand
from scone_cli.corpus.folders import readable
from scone_cli.corpus.readers import BadDocument, OnBad
from scone_cli.corpus.token_files import TokenFile, open_table, read_index
from scone_cli.corpus.tokenizer import Tokens
from scone_cli.errors import BadData

LARGEST_ID = (1 << 24) - 1  # far above any vocabulary: larger numbers are not token ids

_BLOCK_TOKENS = 1 << 20
_LARGEST_DOCUMENT = 1 << 28  # tokens; a document is held in memory


def read_token_documents(
    file: TokenFile,
    first: int,
    last: int,
    separator: int | None,
    largest: int,
    on_bad: OnBad | None = None,
    on_separator: Callable[[], None] = lambda: None,
    exclusion: Exclusion | None = None,
) -> Iterator[tuple[str, Tokens]]:
    """Read the documents that begin in a piece of a file: name (the file's, with the first token or the row) and ids.

    Empty documents are left out. `largest`: the largest valid id. `on_separator` is called for every document that begins
    after a separator, before that document is yielded. What `exclusion` leaves out is not given out, nor a bad document.

    Raises:
        BadDocument: a row is null, or a document is too large for memory, and there is no `on_bad`.
        BadData: an id is not valid (names file, position and id); the file does not have the format it claims.
        StorageFailure: the file cannot be read.
    """
    source, unit = file.source, "row" if file.column else "token"
    limit = largest if exclusion is None else LARGEST_ID  # what is left out may have other ids
    with at_hand(source) as path, readable(source.location):
        for place, tokens, follows_separator in _found(file, first, last, separator, limit):
            if follows_separator:
                on_separator()
            name = f"{source.name}:{place}"
            is_document = tokens is None or tokens.size
            if exclusion is not None and is_document and exclusion.leave_out(exclusion.naming(source, name)):
                continue
            if tokens is None:
                what = "null" if file.column else f"more than {_LARGEST_DOCUMENT:,} tokens without a separator"
                bad = BadDocument(name, f"{source.location}: {unit} {place}", what, _HINT)
                if on_bad is None:
                    raise bad
                on_bad(bad)
            elif tokens.size:
                if exclusion is not None:
                    _checked(tokens, largest, partial(_place_of, f"{source.location}: {unit} {place}", 0))
                yield name, tokens
        now = os.stat(path)
    if (now.st_size, now.st_mtime_ns) != (source.bytes, source.mtime_ns):
        raise BadData(f"{source.location}: changed while it was being read", "run the command again")


# The position of a document, its ids (None: it is bad), and whether it begins after a separator.
_Found = Iterator[tuple[Any, Tokens | None, bool]]
_HINT = "check that --separator is right, or leave such documents out: --on-bad-document skip"


def _found(file: TokenFile, first: int, last: int, separator: int | None, largest: int) -> _Found:
    if file.column:
        return _split_rows(file, first, last, separator, largest)
    if file.source.index is not None:
        return _split_spans(file, first, last, separator, largest)
    assert separator is not None
    return _flat_documents(file, first, last, separator, largest)


def _flat_documents(file: TokenFile, first: int, last: int, separator: int, largest: int) -> _Found:
    """The documents of a flat file that begin in `first..last`: at the start of the file, or after a separator."""
    start: int | None = 0 if first == 0 else None  # the first token of the current document
    waiting: list[Tokens] = []
    for at, block in _blocks(file, max(0, first - 1), largest):
        if start is None and at >= last:
            return
        low = 0
        for end in np.flatnonzero(block == separator).tolist():
            if start is not None:
                yield start, _joined([*waiting, block[low:end]]), start > 0
            waiting, low = [], end + 1
            start = at + low
            if start >= last:
                return
        if start is not None:
            waiting.append(block[low:])
            if sum(map(len, waiting)) > _LARGEST_DOCUMENT:
                yield start, None, start > 0
                start, waiting = None, []
    if start is not None:
        yield start, _joined(waiting), start > 0


def _megatron_spans(file: TokenFile, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The first token, and the one after the last, of every document of a Megatron file that begins in `first..last`."""
    index = read_index(file.source)
    num_documents = len(index.documents) - 1
    document = bisect_left(range(num_documents), first, key=index.start)
    start = index.start(document)
    while document < num_documents and start < last:
        document += 1
        end = index.start(document)
        if not start <= end <= index.num_tokens:
            raise BadData(f"{file.source.index}: document {document - 1} runs from token {start:,} to {end:,}")
        yield start, end
        start = end


def _split_spans(file: TokenFile, first: int, last: int, separator: int | None, largest: int) -> _Found:
    for start, end in _megatron_spans(file, first, last):
        if end - start > _LARGEST_DOCUMENT:
            yield start, None, False
            continue
        blocks = [block for _, block in _blocks(file, start, largest, end)]
        for offset, tokens in _split(_joined(blocks), separator):
            yield start + offset, tokens, offset > 0


def _rows(file: TokenFile, first: int, last: int, largest: int) -> Iterator[tuple[int, Tokens | None]]:
    """The number and the ids of every row in the units first..last of a file of columns; the ids of a null row are None."""
    with open_table(file.source) as columns:
        for row, lists, _, _ in columns.rows(file.column, first, last):
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
            values = lists.flatten()
            ends = np.cumsum(lengths, dtype=np.int64)
            where = partial(_row_of, file.source.location, row, ends)
            if values.null_count:
                raise BadData(f"{where(pc.index(values.is_null(), True).as_py())}: null, expected a token id")
            tokens = _checked(values.to_numpy(zero_copy_only=False), largest, where)
            for number, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
                yield row + number, tokens[start:end] if lists[number].is_valid else None


def _row_of(location: str, row: int, ends: npt.NDArray[np.int64], position: int) -> str:
    place = int(np.searchsorted(ends, position, side="right"))
    return f"{location}: row {row + place}, token {position - (int(ends[place - 1]) if place else 0)}"


def _split_rows(file: TokenFile, first: int, last: int, separator: int | None, largest: int) -> _Found:
    for row, whole in _rows(file, first, last, largest):
        if whole is None:
            yield f"{row}", None, False
            continue
        for offset, tokens in _split(whole, separator):
            yield f"{row}:{offset}" if offset else f"{row}", tokens, offset > 0


def _split(tokens: Tokens, separator: int | None) -> Iterator[tuple[int, Tokens]]:
    low = 0
    for end in [] if separator is None else np.flatnonzero(tokens == separator).tolist():
        yield low, tokens[low:end]
        low = end + 1
    yield low, tokens[low:]


def _joined(pieces: list[Tokens]) -> Tokens:
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.uint32), *pieces])


def _blocks(file: TokenFile, first: int, largest: int, last: int | None = None) -> Iterator[tuple[int, Tokens]]:
    """The ids of a flat file from token `first` on, one block at a time, each with the position of its first id."""
    end = file.num_units if last is None else last
    dtype = np.dtype(file.dtype)
    with at_hand(file.source) as path, open(path, "rb") as raw:
        raw.seek(file.offset + first * dtype.itemsize)
        while first < end:
            block = np.fromfile(raw, dtype, min(_BLOCK_TOKENS, end - first))
            if not block.size:
                return  # the file was truncated meanwhile: the caller notices that it has changed
            yield first, _checked(block, largest, partial(_place_of, file.source.location, first))
            first += block.size


def _place_of(location: str, first: int, position: int) -> str:
    return f"{location}: token {first + position:,}"


def _checked(ids: npt.NDArray[Any], largest: int, where: Callable[[int], str]) -> Tokens:
    """Check that all ids are valid, and convert them to uint32."""
    if ids.size and (int(ids.max()) > largest or int(ids.min()) < 0):
        position = int(np.flatnonzero((ids > largest) | (ids < 0))[0])
        raise BadData(
            f"{where(position)}: id {int(ids[position])}, expected 0 to {largest}",
            "give the tokenizer that made the file, or the type of its numbers: --token-dtype",
        )
    return ids.astype(np.uint32, copy=False)


def largest_id(file: TokenFile, separator: int | None = None, exclusion: Exclusion | None = None) -> int:
    """The largest id in a file; reads the whole file, one block at a time, or its documents if some are left out.

    Raises:
        BadData: a number is above `LARGEST_ID` or below 0.
    """
    if exclusion is not None:
        found = read_token_documents(
            file, 0, file.num_units, separator, LARGEST_ID, on_bad=lambda _: None, exclusion=exclusion
        )
        return max((int(tokens.max()) for _, tokens in found), default=0)
    if file.column:
        rows = (tokens for _, tokens in _rows(file, 0, file.num_units, LARGEST_ID) if tokens is not None)
        return max((int(tokens.max()) for tokens in rows if tokens.size), default=0)
    return max((int(block.max()) for _, block in _blocks(file, 0, LARGEST_ID)), default=0)
