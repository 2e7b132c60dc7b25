"""The documents in `tokens/`: which are given ones, which hold a given text, and which look personal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scone_cli.audit.artifacts import Segments, read_segments
from scone_cli.audit.documents import spelled_pieces
from scone_cli.audit.findings import Found, Place
from scone_cli.audit.looks_personal import personal
from scone_cli.audit.spelled import Spelling
from scone_cli.audit.texts import Finder, GivenText
from scone_cli.progress import Progress

_LONGEST = 4096  # tokens of one thing that looks personal: a block of a private key
_ANY = -1  # instead of the number of a text: any of them


def look_at_documents(
    place: Place,
    paths: Sequence[Path],
    given: frozenset[str],
    texts: Sequence[GivenText],
    search: tuple[Spelling, Finder | None] | None,
    progress: Progress,
) -> None:
    """Look at the parts of `tokens/`: which documents are among `given`, and with `search` which hold a text or look personal.

    Raises:
        DamagedArtifact: a part cannot be read.
    """
    documents = _Documents(place, given, texts)
    for done, path in enumerate(paths):
        progress(f"looking at {place.name}", done, len(paths), "files")
        for segments in read_segments(path):
            numbers = documents.numbers(segments)
            if search is None:
                continue
            spelling, finder = search
            overlap = max(_LONGEST, finder.longest if finder is not None else 0)
            for rows, spelled in spelled_pieces(spelling, segments.tokens, segments.starts, overlap):
                for row, kinds in personal(spelled).items():
                    documents.note_personal(segments.names[rows[row]], numbers[rows[row]], kinds)
                if finder is None:
                    continue
                for row, text in zip(*(each.tolist() for each in finder.held(spelled)), strict=True):
                    documents.note(segments.names[rows[row]], numbers[rows[row]], text)
    progress(f"looking at {place.name}", len(paths), len(paths), "files")


class _Documents:
    """Counts documents, each once for each text that it holds; their segments come in a row."""

    def __init__(self, place: Place, given: frozenset[str], texts: Sequence[GivenText]) -> None:
        self._place, self._given, self._texts = place, given, texts
        self._last: str | None = None
        self._personal = dict[str, int]()  # by kind, and "" for any: the number of the last document that looked so
        self._counted = dict[int, int]()  # by text: the number of the last document that was found to hold it

    def numbers(self, segments: Segments) -> list[int]:
        """The number of the document of each segment; documents that were not seen before are counted."""
        place, found = self._place, list[int]()
        for name in segments.names:
            if name != self._last:
                self._last = name
                place.looked_at += 1
                if name in self._given:
                    place.own.add(name, b"")
                    place.only += 1
                    place.found += 1
            found.append(place.looked_at)
        return found

    def note(self, name: str, number: int, text: int) -> None:
        """Note that a document holds a text."""
        if self._counted.get(text) != number:
            self._place.note_text(self._texts[text].line, name, self._texts[text].text.encode())
        if self._counted.get(_ANY) != number:
            self._place.holding += 1
            self._place.found += name not in self._given
        self._counted[text] = self._counted[_ANY] = number

    def note_personal(self, name: str, number: int, kinds: Sequence[str]) -> None:
        """Note that a document looks personal; a document is too long to be shown."""
        place = self._place
        place.personal += self._personal.get("") != number
        for kind in kinds:
            if self._personal.get(kind) != number:
                place.kinds.setdefault(kind, Found()).add(name, b"")
            self._personal[kind] = self._personal[""] = number
