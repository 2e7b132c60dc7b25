"""Reads the texts that are evaluated in pieces of a few MB: only one piece, or one document, is in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scone_cli.arrays import I64
from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.encode import encode_texts
from scone_cli.corpus.fetched import FileCache
from scone_cli.corpus.files import SourceFile, find_files, printable
from scone_cli.corpus.formats import TOKENS
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.remarks import LEFT_OUT
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.terms import UNSPACED
from scone_cli.corpus.token_stream import TokenStream, iter_shards
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.corpus.urls import Corpus, Url
from scone_cli.errors import BadData, BadSetting, InputMissing
from scone_cli.progress import Progress, notice

if TYPE_CHECKING:
    from scone_cli.evaluation.arms import Opened  # it loads torch

# Beyond either limit, blanks do not separate the words of a text. Between two blanks English has about 5 characters and code 8,
# none of a script without blanks; Japanese manual pages, full of names of commands, have 9, half of them of such a script.
MOST_UNSPACED = 0.1  # share of the characters
LONGEST_WORDS = 30  # characters, on average
PIECE_TOKENS = 1 << 20  # of held-out documents; other text is read in pieces of 4 MB


@dataclass(frozen=True)
class Text:
    """The documents of a corpus. `pieces` reads them: each piece comes with its size, in `unit`, of which there are `total`.

    left_out: the share of their bytes for which there is no token, where it is known before they are read.
    """

    name: str
    total: int
    unit: str
    pieces: Callable[[], Iterator[tuple[TokenStream, int]]]
    left_out: float = 0.0


def files_of_corpora(
    corpora: Sequence[Corpus], found: Opened, progress: Progress, cache: FileCache | None = None
) -> dict[str, list[SourceFile]]:
    """The files of every corpus, by its name. The held-out documents, which are meant by `held-out` or no corpus, have none.

    Raises:
        InputMissing: there is no such file, or no tokenizer to read it with.
        BadSetting: two corpora have one name.
        BadData: a file holds token ids.
    """
    named = [path for path in corpora if isinstance(path, Url) or str(path) != HELD_OUT or path.exists()]
    if named:
        found.need_tokenizer("the text of a corpus has no ids", "evaluate the held-out documents (no CORPUS)")
    by_name: dict[str, Corpus] = {}
    for path in corpora or (Path(HELD_OUT),):
        name = printable(path.name if isinstance(path, Url) else path.resolve().name)
        if other := by_name.get(name):
            twice = "is named twice" if other == path else f"and {other} have the same name, {name}"
            raise BadSetting(f"corpus {path} {twice}", "name it once" if other == path else "rename one of them")
        by_name[name] = path
    files = {name: find_files([path], progress, cache=cache) if path in named else [] for name, path in by_name.items()}
    if ids := next((file for corpus in files.values() for file in corpus if file.kind == TOKENS), None):
        raise BadData(
            f"{ids.location}: a file of token ids by its name, and eval reads text",
            "name the text they were made from, or hold out a part of the corpus: scone count-ngrams --held-out 0.1 CORPUS",
        )
    return files


def texts_of(
    files: Mapping[str, Sequence[SourceFile]],
    found: Opened,
    tokenizer: Tokenizer | None,
    text_field: str | None,
    document_separator: str | None,
) -> list[Text]:
    """The texts of all corpora, of the files that `files_of_corpora` has found.

    Raises:
        InputMissing: no document is held out.
    """
    return [
        text_of_files(name, corpus, tokenizer, text_field, document_separator)
        if corpus and tokenizer
        else held_out_text(found.workspace / "tokens", found.artifacts["tokens"])
        for name, corpus in files.items()
    ]


def held_out_text(folder: Path, tokens: Manifest) -> Text:
    """The held-out documents of `tokens/`.

    Raises:
        InputMissing: no document is held out.
    """
    total = tokens.summary.get("held_out_tokens", 0)
    if not total:
        raise InputMissing(
            f"{folder}: no document is held out",
            "name a corpus (scone eval CORPUS), or count again with a part of it held out: "
            "scone count-ngrams --held-out 0.1 CORPUS",
        )

    def pieces() -> Iterator[tuple[TokenStream, int]]:
        for piece in _joined(stream for _, stream in iter_shards(folder, HELD_OUT)):
            yield piece, piece.tokens.size

    return Text(HELD_OUT, total, "tokens", pieces, tokens.summary.get(LEFT_OUT, 0.0))


def text_of_files(
    name: str,
    files: Sequence[SourceFile],
    tokenizer: Tokenizer,
    text_field: str | None = None,
    document_separator: str | None = None,
) -> Text:
    """The documents of files, from the field `text` if none is named; reading may raise what `readers.read_documents` does."""

    def pieces() -> Iterator[tuple[TokenStream, int]]:
        separator = Separator.of(document_separator)
        for batch in encode_texts(files, tokenizer, text_field or "text", HeldOut(0.0), separator=separator):
            if batch.documents:
                yield TokenStream.of(batch.documents, batch.num_left_out), batch.num_read
        if separator is not None and not separator.num_found:
            notice(separator.found_nowhere(name))

    return Text(name, sum(file.bytes for file in files), "B", pieces)


def _joined(streams: Iterable[TokenStream]) -> Iterator[TokenStream]:
    """Join documents into pieces of `PIECE_TOKENS` or more: the larger they are, the less padding batches need."""
    waiting = list[TokenStream]()
    for stream in streams:
        waiting.append(stream)
        if sum(each.tokens.size for each in waiting) >= PIECE_TOKENS:
            yield _join(waiting)
            waiting = []
    if waiting:
        yield _join(waiting)


def _join(streams: Sequence[TokenStream]) -> TokenStream:
    lengths = np.concatenate([np.diff(stream.starts) for stream in streams])
    return TokenStream(
        np.concatenate([stream.tokens for stream in streams]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        [name for stream in streams for name in stream.names],
        np.concatenate([stream.num_bytes for stream in streams]),
        continues=np.concatenate([stream.continues_document for stream in streams]),
    )


class Wording(NamedTuple):
    """Number of words (what stands between Unicode white space), of their characters, of those of scripts without blanks."""

    words: float
    characters: float
    unspaced: float

    @property
    def has_words(self) -> bool:
        """Whether blanks separate words: not in Chinese, Japanese or Thai, nor in data that is not words."""
        if not self.words:
            return False
        return self.unspaced <= MOST_UNSPACED * self.characters and self.characters <= LONGEST_WORDS * self.words


def wording_of(stream: TokenStream, tokenizer: Tokenizer | None) -> I64:
    """The numbers of `Wording` for each segment [D, 3]; 0 without a tokenizer, which knows the text."""
    found = np.zeros((len(stream.names), 3), np.int64)
    if tokenizer is not None:
        for number, (start, end) in enumerate(pairwise(stream.starts.tolist())):
            text = tokenizer.decode(stream.tokens[start:end])
            words = text.split()
            found[number] = len(words), sum(map(len, words)), len(UNSPACED.findall(text))
    return found


def training_counts(folder: Path, num_tokens: int) -> I64:
    """How often each token occurs in the training split of `tokens/` [V]."""
    counts = np.zeros(num_tokens, np.int64)
    for _, stream in iter_shards(folder, TRAIN):
        counts += np.bincount(stream.tokens, minlength=num_tokens)
    return counts


def document_digests(stream: TokenStream) -> Iterator[bytes]:
    """A hash of the tokens of each document, to find copies."""
    firsts = stream.starts[:-1][np.diff(stream.document_of, prepend=-1) > 0]
    for start, end in pairwise([*firsts.tolist(), int(stream.starts[-1])]):
        yield hashlib.blake2b(stream.tokens[start:end].tobytes(), digest_size=16).digest()


def documents_trained_on(corpora: Sequence[Counter[bytes]], folder: Path) -> list[int]:
    """How many documents of each corpus are, token for token, also in the training split: models may only remember them."""
    wanted = {digest for corpus in corpora for digest in corpus}
    shards = (shard for _, shard in iter_shards(folder, TRAIN))
    found = {digest for shard in shards for digest in document_digests(shard) if digest in wanted}
    return [sum(corpus[digest] for digest in found) for corpus in corpora]
