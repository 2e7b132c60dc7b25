"""Turns corpus files into batches of tokenised documents, a few MB at a time: from text, and from files of token ids."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.document_room import MORE, can_encode, too_large
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.readers import Document, OnBad, read_with_position
from scone_cli.corpus.redact import Redaction, segments_of
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.shard_stats import ShardStats
from scone_cli.corpus.token_documents import read_token_documents
from scone_cli.corpus.token_files import TokenFile
from scone_cli.corpus.token_stream import Encoded, TokenStream
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import InputMissing, NotEnoughMemory
from scone_cli.formatting import bytes_text, count_text
from scone_cli.progress import Progress

_BATCH_BYTES = 4 << 20  # bytes of text encoded at a time: with its tokens, about 20 MB of memory
_SAMPLES, _SAMPLE = 32, 1000  # texts and their characters, to estimate the tokens of a long document
_BATCH_TOKENS = 1 << 20  # tokens in a batch from files of token ids
_BATCH_DOCUMENTS = 1 << 15  # each takes about 500 bytes more: a million documents of one word would take 500 MB


@dataclass(frozen=True)
class FileEnd:
    """A file of text that ends in a batch, behind `num_documents` rows of it.

    `num_left_out`: as in the batch, of these rows behind the end before. `counts`: what reading the file counted.
    """

    num_documents: int
    num_left_out: int
    counts: ShardStats


@dataclass(frozen=True)
class Batch:
    """A batch of tokenised documents. `num_read`: bytes on disk that were read since the batch before.

    `num_left_out`: bytes of the text for which there is no token. `num_separators`: separator tokens between documents.
    `ends`: the files of text that end in it.
    """

    documents: list[Encoded]
    num_read: int
    num_left_out: int = 0
    num_separators: int = 0
    ends: tuple[FileEnd, ...] = ()

    @property
    def num_tokens(self) -> int:
        """The number of tokens of all documents."""
        return sum(len(document.tokens) for document in self.documents)


def encode_texts(
    files: Sequence[SourceFile],
    tokenizer: Tokenizer,
    text_field: str,
    held_out: HeldOut,
    on_bad: OnBad | None = None,
    separator: Separator | None = None,
    redaction: Redaction | None = None,
    exclusion: Exclusion | None = None,
    counted: Callable[[], ShardStats] = ShardStats,
) -> Iterator[Batch]:
    """Encode the documents of text files in batches of a few MB, across files; the last batch may be empty.

    A batch holds whole documents; those that are redacted are segments, in a row. `counted` is called at the end of each file,
    for the counts of its end.
    """
    texts: list[str] = []
    ended: list[tuple[int, ShardStats]] = []  # texts before the end of a file, and its counts
    about: list[tuple[str, str, int]] = []  # name, split and byte length of each text
    continues: list[bool] = []
    size = before = told = 0

    def batch(position: int) -> Batch:
        tokens = tokenizer.encode_batch(texts, [name for name, *_ in about])
        documents = [Encoded(*facts, ids, more) for facts, ids, more in zip(about, tokens, continues, strict=True)]
        ends, at = list[FileEnd](), 0
        for end, counts in ended:
            ends.append(FileEnd(end, tokenizer.bytes_left_out(texts[at:end]), counts))
            at = end
        left_out = sum(end.num_left_out for end in ends) + tokenizer.bytes_left_out(texts[at:])
        return Batch(documents, position - told, left_out, ends=tuple(ends))

    for file in files:
        for document, position in read_with_position(file, text_field, on_bad, separator, exclusion=exclusion):
            size += document.num_bytes
            if file.compression and document.num_bytes > _BATCH_BYTES:
                _check_room(file, document, tokenizer)
            part = None
            for part, split, more in segments_of(document, held_out, redaction):
                texts.append(part.text)
                about.append((part.name, split, part.num_bytes))
                continues.append(more)
            del document, part  # frees their bytes before the text is encoded
            if size >= _BATCH_BYTES or len(texts) >= _BATCH_DOCUMENTS:
                yield batch(before + position)
                texts, about, continues, ended, size, told = [], [], [], [], 0, before + position
        ended.append((len(texts), counted()))
        before += file.bytes
    yield batch(before)


def _check_room(file: SourceFile, document: Document, tokenizer: Tokenizer) -> None:
    """Refuse a document that would take too much memory while it is encoded: some text has a token for every byte.

    Tokens are estimated from samples; that they are drawn by chance changes no result.

    Raises:
        NotEnoughMemory: it would.
    """
    starts = (random.randrange(len(document.text)) for _ in range(_SAMPLES))  # noqa: S311 - see above
    samples = [document.text[start : start + _SAMPLE] for start in starts]
    per_character = sum(map(len, tokenizer.encode_batch(samples, [document.name] * _SAMPLES))) / sum(map(len, samples))
    num_tokens = per_character * len(document.text)
    if not can_encode(num_tokens):
        cause = too_large(f"{bytes_text(document.num_bytes)} of text, about {count_text(num_tokens)} tokens,")
        raise NotEnoughMemory(f"{file.location}: {document.name}: {cause}", MORE)


def take_tokens(
    file: TokenFile,
    piece: tuple[int, int],
    separator: int | None,
    largest: int,
    byte_lengths: npt.NDArray[np.int64] | None,
    held_out: HeldOut,
    on_bad: OnBad | None = None,
    exclusion: Exclusion | None = None,
) -> Iterator[Batch]:
    """Read the documents that begin in a piece of a file of token ids; `byte_lengths` [V]: bytes per id, if known."""
    documents: list[Encoded] = []
    total = file.source.bytes * (piece[1] - piece[0]) // max(1, file.num_units)
    size = told = num_separators = 0

    def note_separator() -> None:
        nonlocal num_separators
        num_separators += 1

    found = read_token_documents(file, *piece, separator, largest, on_bad, note_separator, exclusion)
    for name, tokens in found:
        for part, ids, split in held_out.split_tokens(name, tokens):
            num_bytes = 0 if byte_lengths is None else int(byte_lengths[ids].sum())
            documents.append(Encoded(part, split, num_bytes, ids))
        size += len(tokens)
        if size >= _BATCH_TOKENS or len(documents) >= _BATCH_DOCUMENTS:
            num_read = min(size * 2, total - told)  # an estimate; the last batch corrects it
            yield Batch(documents, num_read, 0, num_separators)
            documents, size, told, num_separators = [], 0, told + num_read, 0
    yield Batch(documents, total - told, 0, num_separators)


def encode_corpus(
    files: Sequence[SourceFile], tokenizer: Tokenizer, text_field: str, progress: Progress
) -> TokenStream:
    """Encode all documents of text files into memory, in the order of `files`.

    Raises:
        InputMissing: no document has text.
        BadData, StorageFailure: see `read_documents`.
    """
    documents: list[Encoded] = []
    done, total = 0, sum(file.bytes for file in files)
    for batch in encode_texts(files, tokenizer, text_field, HeldOut(0.0)):
        documents += batch.documents
        done += batch.num_read
        progress("tokenising", done, total, "B")
    if not documents:
        raise InputMissing(f"no document with text in {len(files):,} file(s)", "name files or folders that hold text")
    return TokenStream.of(documents)
