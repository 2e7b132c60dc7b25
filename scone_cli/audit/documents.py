"""The documents of `--documents`: which of them are still in `tokens/`, and what comes only from them.

What comes only from a document can be told only while its tokens are kept: what they are is not known afterwards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scone_cli.arrays import I64, U32
from scone_cli.audit.artifacts import PARTS, Artifact, Segments, read_segments
from scone_cli.audit.own_ngrams import OwnNgrams
from scone_cli.audit.spelled import Spelled, Spelling
from scone_cli.audit.texts import Finder
from scone_cli.corpus.document_list import DocumentList
from scone_cli.progress import Progress

HASH = re.compile("[0-9a-f]{64}")  # an entry of a list that is a hash
_PIECE = 1 << 20  # tokens that are spelled at a time


def spelled_pieces(spelling: Spelling, tokens: U32, starts: I64, overlap: int) -> Iterator[tuple[list[int], Spelled]]:
    """The texts of segments, some at a time, each with the numbers of its segments.

    A segment of more than a million tokens comes in several pieces, which have `overlap` tokens in common: a text of so many
    bytes is whole in one of them.
    """
    rows, low, high, size = list[int](), list[int](), list[int](), 0
    for row, (first, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        for begin in range(first, end, _PIECE):
            rows.append(row)
            low.append(max(first, begin - overlap))
            high.append(min(begin + _PIECE, end))
            size += high[-1] - low[-1]
            if size >= _PIECE:
                yield rows, _spelled(spelling, tokens, low, high)
                rows, low, high, size = [], [], [], 0
    if rows:
        yield rows, _spelled(spelling, tokens, low, high)


def _spelled(spelling: Spelling, tokens: U32, low: list[int], high: list[int]) -> Spelled:
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.subtract(high, low))])
    return spelling(np.concatenate([tokens[a:b] for a, b in zip(low, high, strict=True)]), starts)


@dataclass(frozen=True)
class GivenDocuments:
    """Documents of `--documents` that are in `tokens/`.

    Attributes:
        names: their ids.
        missing: the entries of the list that name none of them.
        own: their n-grams.
        examples: the numbers of the texts that stand in one of them, and in no other document.
    """

    names: frozenset[str]
    missing: list[str]
    own: OwnNgrams
    examples: frozenset[int]


def find_documents(
    tokens: Artifact,
    wanted: DocumentList,
    max_n: int,
    spelling: Spelling | None,
    examples: Sequence[set[bytes]],
    progress: Progress,
) -> GivenDocuments:
    """Find documents by id or by the SHA-256 of their text, and what comes only from them; reads `tokens/` up to three times.

    `examples`: texts, each in several forms. Without a `spelling`, nothing is found by hash, and no example.

    Raises:
        DamagedArtifact: a part cannot be read.
    """
    paths = [tokens.folder / name for name in tokens.names(PARTS)]
    found = _named(paths, wanted, spelling)
    chosen = frozenset(found)
    present = {number for numbers in found.values() for number in numbers}
    own = OwnNgrams(_pieces(paths, chosen), max_n)
    finder = Finder(examples) if examples and spelling is not None else None
    inside, outside = set[int](), set[int]()
    for done, path in enumerate(paths):
        progress("comparing with other documents", done, len(paths), "files")
        for is_inside, (piece, starts) in _both(path, chosen):
            if not is_inside:
                own.note_elsewhere(piece, starts)
            if finder is not None and spelling is not None:
                for _, spelled in spelled_pieces(spelling, piece, starts, finder.longest):
                    (inside if is_inside else outside).update(finder.held(spelled)[1].tolist())
    progress("comparing with other documents", len(paths), len(paths), "files")
    missing = [entry for number, entry in enumerate(wanted.entries) if number not in present]
    return GivenDocuments(chosen, missing, own, frozenset(inside - outside))


def _named(paths: Sequence[Path], wanted: DocumentList, spelling: Spelling | None) -> dict[str, set[int]]:
    """The entries of the list that name each document, by its name; documents that none names are left out."""
    found = dict[str, set[int]]()  # by the document's name: the entries of the list that name it
    for name in (name for path in paths for segments in read_segments(path) for name in segments.names):
        if numbers := wanted.naming(name):
            found[name] = numbers
    if wanted.has_hashes and spelling is not None:
        for name, digest in digests(paths, spelling):
            if digest in wanted.numbers:
                found.setdefault(name, set()).add(wanted.numbers[digest])
    return found


def _pieces(paths: Iterable[Path], chosen: frozenset[str]) -> Iterator[tuple[U32, I64]]:
    return (piece for path in paths for is_inside, piece in _both(path, chosen) if is_inside)


def _both(path: Path, chosen: frozenset[str]) -> Iterator[tuple[bool, tuple[U32, I64]]]:
    """The tokens of the chosen documents of a part and of the others, with the starts of segments; a row group at a time."""
    for segments in read_segments(path):
        inside = np.array([name in chosen for name in segments.names], np.bool_)
        for kind in (True, False):
            if (inside == kind).any():
                yield kind, _some(segments, np.flatnonzero(inside == kind))


def _some(segments: Segments, rows: I64) -> tuple[U32, I64]:
    sizes = np.diff(segments.starts)
    kept = np.repeat(np.isin(np.arange(sizes.size), rows), sizes)
    return segments.tokens[kept], np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[rows])])


def digests(paths: Iterable[Path], spelling: Spelling) -> Iterator[tuple[str, str]]:
    """The id of each document, and the SHA-256 of the text that its tokens spell, all segments together."""
    last, digest = None, hashlib.sha256()
    for path in paths:
        for segments in read_segments(path):
            for rows, spelled in spelled_pieces(spelling, segments.tokens, segments.starts, 0):
                for number, row in enumerate(rows):
                    name = segments.names[row]
                    if last is not None and name != last:
                        yield last, digest.hexdigest()
                        digest = hashlib.sha256()
                    last = name
                    digest.update(spelled[number])
    if last is not None:
        yield last, digest.hexdigest()
