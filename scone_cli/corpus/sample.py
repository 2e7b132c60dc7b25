"""Samples a corpus: the text to train its tokenizer on, and an estimate of its text and tokens per byte on disk.

A tokenizer gains almost nothing from more than 100 MB of text: trained on 73 MB of 340 MB, it gives 0.35% more tokens with a
vocabulary of 8k and 0.75% more with 32k, and the training takes a sixth of the time.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.readers import Document, OnBad, read_with_position
from scone_cli.corpus.redact import Redaction, segments_of
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.progress import Progress

TRAINING_BYTES = 64 << 20  # bytes of text to train a tokenizer on
_TRAINING_TEXTS = 1 << 20  # each takes about 200 bytes more

_READ_BYTES = 256 << 20  # bytes on disk that are read for the sample; a larger corpus is not read to its end
_LOOKED_FILES = 16  # files that are looked at for the estimate
_LOOKED_BYTES = 512 << 10  # bytes on disk of each of these files
_LOOKED_TEXT = 1 << 18  # characters of each of these files
_BYTES_PER_TOKEN = 2.5  # of text, with a large vocabulary that is not trained yet: most texts have more
_MARGIN = 1.4  # files differ in compression and in bytes per token


def draw_texts(
    files: Sequence[SourceFile],
    text_field: str,
    held_out: HeldOut,
    progress: Progress,
    on_bad: OnBad | None,
    separator: Separator | None = None,
    redaction: Redaction | None = None,
    exclusion: Exclusion | None = None,
) -> tuple[list[str], int]:
    """Draw about 64 MB of training documents (a million at most; all, if there are fewer); returns their texts and bytes.

    Documents are drawn by a hash of their text, so names and order do not matter. In a very large corpus only the beginning
    of every file is read. Of a redacted document each segment is drawn alone.
    """
    total = sum(file.bytes for file in files)
    share = min(1.0, _READ_BYTES / max(1, total))
    drawn: list[tuple[int, int, str]] = []  # a heap of (-key, size, text): the largest key is on top
    size = done = 0
    for file in files:
        progress("reading text for the tokenizer", done, total, "B")
        for document, position in read_with_position(file, text_field, on_bad, separator, exclusion=exclusion):
            for part, split, _ in segments_of(document, held_out, redaction):
                if split == TRAIN:
                    size += _draw(drawn, part, size)
            if share < 1 and position >= share * file.bytes:
                break
        done += file.bytes
    progress("reading text for the tokenizer", done, total, "B")
    drawn.sort()  # by key, so that the result does not depend on the order of the files
    return [text for _, _, text in drawn], size


def _draw(drawn: list[tuple[int, int, str]], document: Document, size: int) -> int:
    """Add a document to the sample if its key is among the smallest; returns by how many bytes the sample has grown."""
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
    """The beginnings of some documents of a corpus, and its expansion: bytes of text per byte on disk."""

    texts: list[str]
    names: list[str]
    expansion: float

    def tokens_bound(self, tokenizer: Tokenizer | int, files: Sequence[SourceFile]) -> int:
        """Estimate an upper bound of the tokens in all files; `tokenizer` is the vocabulary size if it is not trained yet."""
        if isinstance(tokenizer, int):
            per_byte = 1 / min(_BYTES_PER_TOKEN, math.log2(tokenizer) / 5)  # a vocabulary of 400: 1.7 bytes per token
        else:
            size = sum(len(text.encode()) for text in self.texts)
            per_byte = sum(map(len, tokenizer.encode_batch(self.texts, self.names))) / max(1, size)
        return round(_MARGIN * sum(file.bytes for file in files) * self.expansion * per_byte)


def look_at(
    files: Sequence[SourceFile],
    text_field: str,
    on_bad: OnBad | None,
    separator: Separator | None = None,
    redaction: Redaction | None = None,
    exclusion: Exclusion | None = None,
) -> FirstLook:
    """Read the first documents of a few files, to estimate bytes of text and tokens of the whole corpus."""
    step = -(-len(files) // _LOOKED_FILES)
    texts, names = list[str](), list[str]()
    read = size = 0
    for file in files[::step]:
        position, is_whole, left = 0, True, _LOOKED_TEXT
        documents = read_with_position(file, text_field, on_bad, separator, _LOOKED_BYTES, exclusion)
        for document, position in documents:
            for part, *_ in segments_of(document, HeldOut(0.0), redaction):
                if left > 0:
                    texts.append(part.text[:left])
                    names.append(part.name)
                    left -= len(texts[-1])
                size += part.num_bytes
            if position >= _LOOKED_BYTES:
                is_whole = False
                break
        read += file.bytes if is_whole else position
    return FirstLook(texts, names, size / max(1, read))
