"""A sample of a corpus: the text that its tokenizer is trained on, and what a byte of its files becomes.

A tokenizer learns next to nothing from the second hundred MB: trained on 73 MB of 340 it took 0.35% more tokens at a
vocabulary of 8k and 0.75% more at 32k, in a sixth of the time.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.readers import Document, OnBad, read_with_position
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.progress import Progress

TRAINING_BYTES = 64 << 20  # of text
_TRAINING_TEXTS = 1 << 20  # each takes some 200 bytes besides

_READ_BYTES = 256 << 20  # of files on disk, from which it is drawn: a larger corpus is not read through for it
_LOOKED_FILES = 16
_LOOKED_BYTES = 512 << 10  # of each of them, as it lies on disk
_LOOKED_TEXT = 1 << 18  # characters of each of them
_BYTES_A_TOKEN = 2.5  # of text, by a large vocabulary that is yet to be trained: most texts have more
_MARGIN = 1.4  # files differ in how they compress, and in how many bytes a token has


def draw_texts(
    files: Sequence[SourceFile],
    text_field: str,
    held_out: HeldOut,
    progress: Progress,
    on_bad: OnBad | None,
    separator: Separator | None = None,
) -> tuple[list[str], int]:
    """About 64 MB of the documents that are not held out (at most a million), and their bytes; all if there are no more.

    Documents are drawn by a hash of their own text, so neither names nor order matter. Of a very large corpus the
    beginning of every file is looked at.
    """
    total = sum(file.bytes for file in files)
    share = min(1.0, _READ_BYTES / max(1, total))
    drawn: list[tuple[int, int, str]] = []  # a heap, the first to go on top: minus its key, its size, its text
    size = done = 0
    for file in files:
        progress("reading text for the tokenizer", done, total, "B")
        for document, position in read_with_position(file, text_field, on_bad, separator):
            for part, split in held_out.split(document):
                if split == TRAIN:
                    size += _draw(drawn, part, size)
            if share < 1 and position >= share * file.bytes:
                break
        done += file.bytes
    progress("reading text for the tokenizer", done, total, "B")
    drawn.sort()  # in the order of their keys: whatever came first
    return [text for _, _, text in drawn], size


def _draw(drawn: list[tuple[int, int, str]], document: Document, size: int) -> int:
    """Keep the documents with the smallest keys that make up the sample; returns by how much it has grown."""
    key = int.from_bytes(hashlib.blake2b(document.utf8, digest_size=8, key=b"scone sample").digest(), "big")
    if (size >= TRAINING_BYTES or len(drawn) == _TRAINING_TEXTS) and -key < drawn[0][0]:
        return 0
    text = document.text[:TRAINING_BYTES]
    grown = min(document.num_bytes, TRAINING_BYTES)
    heapq.heappush(drawn, (-key, grown, text))
    while size + grown - drawn[0][1] >= TRAINING_BYTES or len(drawn) > _TRAINING_TEXTS:
        grown -= heapq.heappop(drawn)[1]
    return grown


@dataclass(frozen=True)
class FirstLook:
    """Some documents of a corpus (their beginnings), and the bytes of text in a byte of its files."""

    texts: list[str]
    names: list[str]
    expansion: float

    def tokens_bound(self, tokenizer: Tokenizer | int, files: Sequence[SourceFile]) -> int:
        """An upper estimate of the tokens in all files, by a tokenizer, or by one of so many tokens that is yet to be trained."""
        if isinstance(tokenizer, int):
            a_byte = 1 / min(_BYTES_A_TOKEN, math.log2(tokenizer) / 5)  # 1.7 bytes a token of 400
        else:
            size = sum(len(text.encode()) for text in self.texts)
            a_byte = sum(map(len, tokenizer.encode_batch(self.texts, self.names))) / max(1, size)
        return round(_MARGIN * sum(file.bytes for file in files) * self.expansion * a_byte)


def look_at(
    files: Sequence[SourceFile], text_field: str, on_bad: OnBad | None, separator: Separator | None = None
) -> FirstLook:
    """Read the first documents of a few files."""
    step = -(-len(files) // _LOOKED_FILES)
    texts, names = list[str](), list[str]()
    read = size = 0
    for file in files[::step]:
        position, is_whole, left = 0, True, _LOOKED_TEXT
        for document, position in read_with_position(file, text_field, on_bad, separator, _LOOKED_BYTES):
            if left > 0:
                texts.append(document.text[:left])
                names.append(document.name)
                left -= len(texts[-1])
            size += document.num_bytes
            if position >= _LOOKED_BYTES:
                is_whole = False
                break
        read += file.bytes if is_whole else position
    return FirstLook(texts, names, size / max(1, read))
