"""Divides the documents of a task into parts of `tokens/`, and notes which rows of which part each file has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import Encoded, TokenStream, by_document, write_part

_PART_TOKENS = 4_000_000  # a part takes 16 MB of memory, and a few times that while it is written
_PART_DOCUMENTS = 200_000  # this many documents of one token each take as much memory again

# Called with the name of a part and its documents of the train split, in the worker that wrote it, before its task is done.
Then = Callable[[str, TokenStream], None]


class Rows(NamedTuple):
    """Consecutive rows of a part of `tokens/`."""

    part: str
    first: int
    number: int


class PartWriter:
    """Writes documents to parts, whose paths `part_path` gives by their number; a document is never in two parts."""

    def __init__(self, part_path: Callable[[int], Path], then: Then | None) -> None:
        self.num_parts = 0
        self._part_path, self._then = part_path, then
        self._waiting: list[Encoded] = []
        self._num_tokens = 0
        self._rows: list[Rows] = []

    def add(self, documents: Sequence[Encoded]) -> None:
        """Add whole documents of one file."""
        for segments in by_document(documents):
            size = sum(len(segment.tokens) for segment in segments)
            if self._waiting and (self._num_tokens + size > _PART_TOKENS or len(self._waiting) >= _PART_DOCUMENTS):
                self._finish()
            self._note(len(segments))
            self._waiting += segments
            self._num_tokens += size

    def end_of_file(self) -> list[Rows]:
        """The rows of the documents that were added since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        """Write the last part."""
        if self._waiting:
            self._finish()

    def _note(self, number: int) -> None:
        part, first = self._part_path(self.num_parts).name, len(self._waiting)
        if self._rows and self._rows[-1].part == part:
            first, number = self._rows[-1].first, self._rows[-1].number + number
            self._rows.pop()
        self._rows.append(Rows(part, first, number))

    def _finish(self) -> None:
        path = self._part_path(self.num_parts)
        write_part(path, self._waiting)
        if self._then is not None:
            self._then(path.name, TokenStream.of([each for each in self._waiting if each.split == TRAIN]))
        self._waiting, self._num_tokens, self.num_parts = [], 0, self.num_parts + 1
