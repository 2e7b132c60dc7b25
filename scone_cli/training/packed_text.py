"""Training and held-out text as flat files that are mapped, so that it need not fit into memory; written part by part.

`tokens.bin` has one number per token, of 2 bytes if the vocabulary allows it; `ids.bin` has the f-gram (uint32) that ends
there; `text.json`, written last, has their contents and hashes. One process writes, any number of processes open them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64, U32
from scone_cli.artifacts.manifest import digest_file
from scone_cli.artifacts.publish import fsync, write_atomically
from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import TokenStream, iter_shards, top_folder
from scone_cli.errors import BadData, BadSetting, InputMissing
from scone_cli.formatting import bytes_text
from scone_cli.progress import Progress
from scone_cli.runtime.resources import check_disk
from scone_cli.training.window_order import Turns, WindowOrder
from scone_cli.vocab.index import NONE, FgramIndex

# ---- windows of one context ---------------------------------------------------------------------------------------

Tokens = npt.NDArray[np.uint16] | U32


@dataclass(frozen=True)
class SubCorpus:
    """A part of a text with its own share of training: name, number of tokens (ends of documents included), weight."""

    name: str
    num_tokens: int
    weight: int


@dataclass(frozen=True)
class PackedText:
    """Documents one after the other, separated by end-of-document tokens, with the f-gram that ends at each position.

    tokens [M], uint16 if that is enough, else uint32; ids uint32 [M]: f-gram id or NONE, or None if no f-grams are used.
    The text is one piece, or one piece per sub-corpus; each begins and ends with an end-of-document token. Window w of a
    piece is the `context + 1` tokens from w * context on. Windows are numbered through all pieces; no window holds tokens
    of two pieces.
    """

    tokens: Tokens
    ids: U32 | None
    context: int
    sub_corpora: tuple[SubCorpus, ...] = ()

    @classmethod
    def pack(cls, tokens: U32, starts: I64, end_of_document: int, index: FgramIndex | None, context: int) -> PackedText:
        """Pack the documents [starts[d], starts[d + 1]) in memory; `write_packed` is for text that is too long for that."""
        packed, ids = pack_documents(tokens, starts, end_of_document, index)
        whole = np.concatenate([np.array([end_of_document], np.uint32), packed])
        return cls(whole, None if ids is None else np.concatenate([np.array([NONE], np.uint32), ids]), context)

    @functools.cached_property
    def _pieces(self) -> tuple[SubCorpus, ...]:
        return self.sub_corpora or (SubCorpus("", self.tokens.size, 1),)

    @functools.cached_property
    def _num_windows(self) -> list[int]:
        """The number of whole windows of each piece; the tokens after the last one are not used."""
        return [(piece.num_tokens - 1) // self.context for piece in self._pieces]

    @functools.cached_property
    def _bounds(self) -> tuple[I64, I64]:
        """The first token and the first window of each piece."""
        sizes = [piece.num_tokens for piece in self._pieces]
        return np.array([0, *accumulate(sizes[:-1])]), np.array([0, *accumulate(self._num_windows[:-1])])

    @property
    def num_windows(self) -> int:
        """The number of whole windows of all pieces."""
        return sum(self._num_windows)

    def windows(self, numbers: I64, before: int = 0) -> tuple[U32, U32]:
        """Tokens [B, before + context + 1] and f-gram ids [B, context] of the windows with these numbers [B].

        The first `before` tokens are those before the window; before the text they are end-of-document tokens.
        """
        first_tokens, first_windows = self._bounds
        piece = np.searchsorted(first_windows, numbers, side="right") - 1
        begin = first_tokens[piece]
        start = begin + (numbers - first_windows[piece]) * self.context
        at = start[:, None] + np.arange(-before, self.context + 1)
        tokens = self.tokens[np.maximum(at, begin[:, None])].astype(np.uint32)  # a piece begins with an end of document
        at = at[:, before:-1]
        return tokens, np.full(at.shape, NONE, np.uint32) if self.ids is None else self.ids[at]

    def order(self, seed: int) -> WindowOrder:
        """The order in which training reads the windows, a function of the seed and the position.

        Raises:
            BadData: a piece is shorter than one window.
        """
        for piece, num_windows in zip(self._pieces, self._num_windows, strict=True):
            if not num_windows:
                what = f"sub-corpus '{piece.name}'" if piece.name else "the training text"
                other = ", or leave it out of --mixture" if piece.name else ", or more text"
                raise BadData(
                    f"{what} has {piece.num_tokens:,} tokens, less than one context of {self.context:,}",
                    f"give a smaller --context{other}",
                )
        return WindowOrder(self._num_windows, [piece.weight for piece in self._pieces], seed)

    def epochs(self, position: int) -> dict[str, Any]:
        """How often the text, or each sub-corpus, has been read after `position` windows; for a stage's summary."""
        counts = Turns([piece.weight for piece in self._pieces]).before(position)
        epochs = [round(count / size, 3) for count, size in zip(counts, self._num_windows, strict=True)]
        if not self.sub_corpora:
            return {"epochs": epochs[0]}
        rows = [
            {"sub-corpus": piece.name, "tokens": piece.num_tokens, "share": round(count / position, 4), "epochs": each}
            for piece, count, each in zip(self._pieces, counts, epochs, strict=True)
        ]
        return {"mixture": rows}


def pack_documents(tokens: U32, starts: I64, end_of_document: int, index: FgramIndex | None) -> tuple[U32, U32 | None]:
    """The documents, each followed by an end-of-document token, and the f-gram id at each position.

    Whole documents are matched before training, as in the paper (section 3.2): so matches do not depend on the windows.
    """
    num_docs = starts.size - 1
    places = np.arange(tokens.size) + np.repeat(np.arange(num_docs), np.diff(starts))
    packed = np.full(tokens.size + num_docs, end_of_document, np.uint32)
    packed[places] = tokens
    if index is None:
        return packed, None
    ids = np.full(packed.size, NONE, np.uint32)
    ids[places] = index.match(tokens, starts)[0]
    return packed, ids


_NOTE, _TOKENS, _IDS = "text.json", "tokens.bin", "ids.bin"
_LISTED = 20  # sub-corpora named in an error


def write_packed(
    folder: Path,
    tokens_folder: Path,
    end_of_document: int,
    vocab_size: int,
    index: FgramIndex | None,
    names: Sequence[str],
    progress: Progress,
    split: str = TRAIN,
) -> None:
    """Pack the documents of one split of `tokens/` into `folder`, unless whole files are there already.

    With `names`, each of these sub-corpora is one piece, and other documents are left out; without, all are one piece.
    Without an `index` no f-gram ids are written. Use a folder for one text only: whole files in it are taken as they are.

    Raises:
        BadSetting: there is no such sub-corpus.
        StorageFailure: too little disk is free for the files.
    """
    if _is_whole(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    what = "training text" if split == TRAIN else "held-out text"
    sizes = _measure(tokens_folder, split, names, what, progress)
    columns = {_TOKENS: np.dtype(np.uint16 if max(vocab_size, end_of_document + 1) <= 1 << 16 else np.uint32)}
    if index is not None:
        columns[_IDS] = np.dtype(np.uint32)
    disk = sum(sizes) * sum(dtype.itemsize for dtype in columns.values())
    check_disk(folder, disk, f"the packed {what}")
    progress(f"packing {what}", 0, sum(sizes), "tokens", f"{bytes_text(disk)} of disk")
    at, done = [0, *accumulate(sizes)], 0
    with contextlib.ExitStack() as stack:
        # Written, not mapped: when the disk is full, a process that writes to a map is killed.
        files = {name: stack.enter_context((folder / name).open("wb")) for name in columns}
        for number, *values in _packed(tokens_folder, split, end_of_document, index, names):
            for (name, dtype), column in zip(columns.items(), values, strict=False):
                files[name].seek(at[number] * dtype.itemsize)
                files[name].write(column.astype(dtype).data)
            at[number] += values[0].size
            done += values[0].size
            progress(f"packing {what}", done, sum(sizes), "tokens")
    for name in columns:
        fsync(folder / name)
    stamps = {name: [(folder / name).stat().st_size, digest_file(folder / name)] for name in columns}
    note = {"sub_corpora": list(zip(names, sizes, strict=False)), "dtype": columns[_TOKENS].name, "files": stamps}
    write_atomically(folder / _NOTE, json.dumps(note).encode())


def check_names(tokens_folder: Path, names: Sequence[str], progress: Progress) -> None:
    """Check that these sub-corpora exist, as `write_packed` does; reads all training text.

    Raises:
        BadSetting: there is no such sub-corpus.
    """
    if names:
        _measure(tokens_folder, TRAIN, names, "training text", progress)


def open_packed(folder: Path, context: int, mixture: Mapping[str, int]) -> PackedText:
    """Map the files that `write_packed` wrote into `folder`; `mixture` has the weights of sub-corpora (empty: one piece).

    Raises:
        InputMissing: the files are not there.
    """
    try:
        note = json.loads((folder / _NOTE).read_bytes())
    except FileNotFoundError as error:
        hint = "all processes of a run need the same workspace, on a disk that they share"
        raise InputMissing(f"{folder}: the packed training text is not there", hint) from error
    tokens, ids = (
        np.asarray(np.memmap(folder / name, dtype, mode="r")) if name in note["files"] else None
        for name, dtype in ((_TOKENS, note["dtype"]), (_IDS, np.uint32))
    )
    assert tokens is not None
    sub_corpora = tuple(SubCorpus(name, num_tokens, mixture[name]) for name, num_tokens in note["sub_corpora"])
    return PackedText(tokens, ids, context, sub_corpora)


def _is_whole(folder: Path) -> bool:
    """Whether the files have their sizes and hashes. A run that continues reads them anyway, so hashing costs little."""
    try:
        stamps = json.loads((folder / _NOTE).read_bytes())["files"]
        sizes = all((folder / name).stat().st_size == size for name, (size, _) in stamps.items())
        return sizes and all(digest_file(folder / name) == sha256 for name, (_, sha256) in stamps.items())
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _measure(tokens_folder: Path, split: str, names: Sequence[str], what: str, progress: Progress) -> list[int]:
    """The number of tokens of each packed sub-corpus, or of the whole text if there are no names."""
    found: Counter[str] = Counter()
    num_parts = sum(1 for _ in tokens_folder.glob("part-*.parquet"))
    progress(f"measuring {what}", 0, num_parts, "parts")
    for number, (_, stream) in enumerate(iter_shards(tokens_folder, split)):
        for document, length in zip(stream.names, np.diff(stream.starts).tolist(), strict=True):
            found[top_folder(document)] += length + 1
        progress(f"measuring {what}", number + 1, num_parts, "parts")
    if unknown := [name for name in names if name not in found]:
        there = sorted(found)
        more = f" and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
        raise BadSetting(
            f"--mixture: no training document is in a top folder '{unknown[0]}'",
            f"there are: {', '.join(there[:_LISTED])}{more}",
        )
    return [found[name] + 1 for name in names] or [found.total() + 1]


def _packed(
    tokens_folder: Path, split: str, end_of_document: int, index: FgramIndex | None, names: Sequence[str]
) -> Iterator[tuple[int, U32] | tuple[int, U32, U32]]:
    """What to append, in this order: the number of a piece, tokens, and f-gram ids if there is an index."""
    for number in range(len(names) or 1):
        begin = np.array([end_of_document], np.uint32)
        yield (number, begin) if index is None else (number, begin, np.array([NONE], np.uint32))
    for _, stream in iter_shards(tokens_folder, split):
        for number, tokens, starts in _sorted_out(stream, names):
            packed, ids = pack_documents(tokens, starts, end_of_document, index)
            yield (number, packed) if ids is None else (number, packed, ids)


def _sorted_out(stream: TokenStream, names: Sequence[str]) -> Iterator[tuple[int, U32, I64]]:
    """The documents of each sub-corpus: its number, their tokens, and the start of each document."""
    if not names:
        yield 0, stream.tokens, stream.starts
        return
    folders = np.array([top_folder(document) for document in stream.names])
    lengths = np.diff(stream.starts)
    for number, name in enumerate(names):
        if (inside := folders == name).any():
            starts: npt.NDArray[Any] = np.concatenate([[0], np.cumsum(lengths[inside])])
            yield number, stream.tokens[np.repeat(inside, lengths)], starts
