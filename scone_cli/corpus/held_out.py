"""Chooses the held-out documents by the hash of their text; if the hash chooses none, at least a part of one document.

The choice depends only on the texts, not on their order, their names or the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.readers import Document, OnBad, read_with_position
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.token_documents import read_token_documents
from scone_cli.corpus.token_files import TokenFile
from scone_cli.corpus.token_stream import draw_of, split_of
from scone_cli.corpus.tokenizer import Tokens
from scone_cli.formatting import percent
from scone_cli.progress import Progress

if TYPE_CHECKING:
    from scone_cli.corpus.shard_stats import ShardStats  # at run time this would be an import cycle

# With less held-out text than this, a measurement on it has a large error.
_FEW_DOCUMENTS = 5
_FEW_TOKENS = 0.001  # share of all tokens
_MOST_TOKENS = 0.5  # share of all tokens: if more is held out, copies of one document were drawn

_WHAT = "looking for documents to hold out"


@dataclass(frozen=True)
class HeldOut:
    """Assigns each document to the train or the held-out split: `share` of the documents are held out, drawn by hash.

    `chosen` is the hash of a document that is held out in any case. If it is the only document, it is cut in two at `cut`
    (a byte of its text, or a token), and the second part is held out.
    """

    share: float
    chosen: int | None = None
    cut: int = 0

    def is_by_hash(self, asked: float) -> bool:
        """Whether the hash alone decides, with the share that was `asked` for: so it does not depend on other documents."""
        return self.chosen is None and self.share == asked

    def parts(self, content: bytes) -> list[tuple[slice, str]]:
        """The parts of a document with this content (nearly always one), with the split of each part."""
        if self.chosen is None or draw_of(content) != self.chosen:
            return [(slice(None), split_of(content, self.share))]
        if not self.cut:
            return [(slice(None), HELD_OUT)]
        return [(slice(self.cut), TRAIN), (slice(self.cut, None), HELD_OUT)]

    def split(self, document: Document) -> list[tuple[Document, str]]:
        """A document with its split, or its two parts; the name of a second part ends in the byte at which it begins."""
        parts = self.parts(document.utf8)
        if len(parts) == 1:
            return [(document, parts[0][1])]
        names = (document.name, f"{document.name}+{self.cut}")
        texts = (document.utf8[part] for part, _ in parts)
        splits = (split for _, split in parts)
        return [
            (Document(name, utf8.decode(), utf8), split) for name, utf8, split in zip(names, texts, splits, strict=True)
        ]

    def split_tokens(self, name: str, tokens: Tokens) -> list[tuple[str, Tokens, str]]:
        """A document of token ids with its split, or its two parts; a second part's name ends in the token it begins at."""
        return [
            (f"{name}+{part.start}" if part.start else name, tokens[part], split)
            for part, split in self.parts(tokens.tobytes())
        ]

    def warning(self, asked: float, made: ShardStats, can_split: bool) -> str | None:
        """A warning, with advice, if a share was `asked` for and too little or too much text is held out; else None.

        `can_split`: whether there is plain text that a separator could divide into documents.
        """
        share = made.num_held_out_tokens / max(1, made.num_tokens)
        too_few = made.num_held_out_documents < _FEW_DOCUMENTS or share < _FEW_TOKENS
        too_many = share > max(_MOST_TOKENS, 2 * asked)
        if not asked or not (too_few or too_many):
            return None
        if not self.share and made.num_documents > 1:
            return (
                f"warning: nothing is held out ({percent(asked)} was asked for): all {made.num_documents:,} documents are "
                "equal, and held-out text must not be training text; remove the copies, or add other documents"
            )
        what = f"{made.num_held_out_documents:,} of {made.num_documents:,} documents"
        if self.cut:
            what = "the last part of the only document, which was cut in two and counts as 2 documents"
        found = f"warning: held out is {what} ({percent(share)} of the tokens; {percent(asked)} was asked for)"
        if too_many:
            return f"{found}, little is left to train on; remove copies of documents, or add other documents"
        advice = ["hold out more (--held-out 0.1)"] if asked < 0.1 else []
        if can_split:
            advice.append("say where documents begin in plain text (--document-separator)")
        to_do = f"; {' or '.join(advice)}" if advice else ""
        return f"{found}, little to measure on{to_do}"


def rule_of(tokens: Manifest) -> str:
    """How the held-out documents of `tokens/` were chosen, if by their hashes alone; else an empty text.

    By one rule, a document is held out of every corpus that it is in: what is held out here was held out there too.
    """
    settings = tokens.settings
    if not settings.get("held_out_by_hash"):  # nor in tokens of early versions
        return ""
    names = ("held_out", "text_field", "document_separator", "separator")
    return ", ".join(f"{name.replace('_', '-')} {settings[name]}" for name in names)


# A document's content, its length (bytes or tokens), and where it would be cut.
_Facts = tuple[bytes, int, int]


def held_out_of_texts(
    files: Sequence[SourceFile],
    share: float,
    text_field: str,
    on_bad: OnBad | None,
    separator: Separator | None,
    progress: Progress,
    exclusion: Exclusion | None = None,
) -> HeldOut:
    """Choose what to hold out of text files; reads them until one document is held out and one is not.

    Raises:
        BadData, StorageFailure: see `readers.read_documents`.
    """
    total = sum(file.bytes for file in files)

    def documents() -> Iterator[_Facts]:
        done = 0
        for file in files:
            progress(_WHAT, done, total, "B")
            for document, _ in read_with_position(file, text_field, on_bad, separator, exclusion=exclusion):
                yield document.utf8, document.num_bytes, _cut_of_text(document.utf8, share)
            done += file.bytes

    found = _choose(documents(), share)
    progress(_WHAT, total, total, "B")
    return found


def held_out_of_tokens(
    files: Sequence[TokenFile],
    share: float,
    separator: int | None,
    largest: int,
    on_bad: OnBad | None,
    exclusion: Exclusion | None = None,
) -> HeldOut:
    """Choose what to hold out of files of token ids; reads them until one document is held out and one is not.

    Raises:
        BadData, StorageFailure: see `token_documents.read_token_documents`.
    """
    found = (
        (tokens.tobytes(), len(tokens), _place(len(tokens), share))
        for file in files
        for _, tokens in read_token_documents(file, 0, file.num_units, separator, largest, on_bad, exclusion=exclusion)
    )
    return _choose(found, share)


def _choose(documents: Iterable[_Facts], share: float) -> HeldOut:
    """Choose what to hold out: by hash alone, if that puts documents in both splits; else one document, or part of one.

    The chosen document is the one whose size is nearest to the share; the only document is cut in two. Copies of a document
    share a hash, so they count as one, with their sizes added. If all documents are copies of one, nothing is held out,
    because held-out text would also be training text.
    """
    if not share:
        return HeldOut(0.0)
    sizes, sides, total, number, cut = dict[int, int](), set[str](), 0, 0, 0
    for number, (content, size, cut) in enumerate(documents, 1):  # noqa: B007 - used after the loop
        draw = draw_of(content)
        sizes[draw] = sizes.get(draw, 0) + size
        sides.add(split_of(content, share))
        total += size
        if len(sides) == 2:
            return HeldOut(share)
    if len(sizes) == 1:
        return HeldOut(share, next(iter(sizes)), cut) if cut and number == 1 else HeldOut(0.0)
    if HELD_OUT in sides or not sizes:
        return HeldOut(share)
    return HeldOut(share, min(sizes, key=lambda draw: (abs(sizes[draw] - share * total), draw)))


def _place(length: int, share: float) -> int:
    """Where the last part begins, if it has `share` of the length; neither part is empty, or 0 if that is impossible."""
    return min(length - 1, max(1, round(length * (1 - share)))) if length > 1 else 0


def _cut_of_text(utf8: bytes, share: float) -> int:
    """The byte at which a text is cut: after the next line or word, if its end is near; never inside a character."""
    place, end = _place(len(utf8), share), len(utf8)
    for mark in (b"\n", b" "):
        if (found := utf8.find(mark, place, place + (end - place) // 2)) >= 0:
            return found + 1
    ahead = next((at for at in range(place, end) if not 0x80 <= utf8[at] < 0xC0), 0)
    return ahead or next((at for at in range(place, 0, -1) if not 0x80 <= utf8[at] < 0xC0), 0)
