"""Trains a tokenizer on a corpus, where none is given."""

from __future__ import annotations

from collections.abc import Sequence

from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.long_words import in_pieces
from scone_cli.corpus.readers import OnBad
from scone_cli.corpus.redact import Redaction
from scone_cli.corpus.sample import draw_texts
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.tokenizer import train_tokenizer
from scone_cli.progress import Progress
from scone_cli.runtime.worker_pool import give_back_memory


def train_on(
    files: Sequence[SourceFile],
    vocab_size: int,
    text_field: str,
    held_out: HeldOut,
    progress: Progress,
    on_bad: OnBad | None,
    separator: Separator | None,
    redaction: Redaction | None,
    exclusion: Exclusion | None,
) -> tuple[bytes, dict[str, int]]:
    """Train a BPE on a sample of the training documents only: left-out text is not seen. Returns it and its sample's size.

    Raises:
        BadData, StorageFailure: see `readers.read_documents`.
    """
    texts, size = draw_texts(files, text_field, held_out, progress, on_bad, separator, redaction, exclusion)
    facts = {"tokenizer_documents": len(texts), "tokenizer_bytes": size}
    progress("merging pairs into tokens", 0, vocab_size, "tokens")  # the library reports no progress
    # `pop` frees each text once it is read.
    trained = train_tokenizer(in_pieces(texts.pop() for _ in range(len(texts))), vocab_size)
    give_back_memory()  # several hundred MB, which --memory is meant for
    progress("merging pairs into tokens", vocab_size, vocab_size, "tokens")
    return trained, facts
