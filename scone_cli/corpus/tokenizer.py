"""Encodes text to token ids and back with one `tokenizer.json`, read by two libraries that must agree.

`tokenizers` is the reference. `fastokens` gives the same ids many times faster. It encodes, unless it cannot read the file or
disagrees with the reference on the first documents of a run; then a notice is printed and the reference encodes. The
reference also encodes a batch that fastokens cannot encode. So only the first documents of a run, and the batch itself, decide
which library encodes a batch. Special tokens are neither added nor recognised: `<|endoftext|>` in a text is ordinary text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fastokens
import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from scone_cli.corpus.left_out import Coverage, may_leave_out, unknown_token
from scone_cli.errors import BadData, BadSetting, InputMissing, StorageFailure, is_of_a_library
from scone_cli.formatting import shortened
from scone_cli.progress import notice

Tokens = npt.NDArray[np.uint32]

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCABULARY = 257  # 256 bytes and the end of a document

# Common names of the token between documents; the first that a tokenizer has is used.
_END_OF_DOCUMENT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[SEP]")

# The libraries are compared on `_AWKWARD_TEXTS` and on so many of the first documents of a run: the reference is slow.
_CHECKED_TEXTS = 200
_CHECKED_CHARACTERS = 1_000_000
_CHECKED_AT_ONCE = 10  # texts at a time: the reference's result takes 100 times the memory of the text
_CHECKED_OF_A_TEXT = 50_000  # characters of each text
_AWKWARD_TEXTS = (
    *("", " ", "\0", "\r\n\t \n\n", "  two  spaces ", "\ufeffBOM", "\u2028\u00a0\u3000 wide", "\ufffd\uffff\U0010ffff"),
    *(
        "e\u0301 \u00e9 \ufb01 \u212b",
        "\u4f60\u597d\u4e16\u754c\u3053\u3093",
        "\U0001f469\u200d\U0001f4bb\U0001f1ea\U0001f1fa",
    ),
    *("I'll don't WE'VE it\u2019s", "x=1;\n\tif (a!=b) {return 3.14e-10;}", "1234567890" * 5, "a" * 300, "=-" * 200),
    *(f"{name}x {name} y{name}" for name in _END_OF_DOCUMENT_NAMES),
)


def limit_threads(num_threads: int) -> None:
    """Set the number of threads of both libraries; it must be called before either one encodes in this process."""
    for name in ("FASTOKENS_BPE_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(num_threads)


class Tokenizer:
    """Encodes and decodes text with a `tokenizer.json`.

    Attributes:
        sha256: SHA-256 of the file's bytes, which artifacts record.
        vocab_size: number of embedding rows needed, including `end_of_document`.
        end_of_document: an id that no text gives; one past the file's own vocabulary if the file has no such token.
        names_end_of_document: whether the file has such a token.
        backend: the library that encodes, "fastokens" or "tokenizers"; the ids are the same.
        unknown: the id of the unknown token, or None if there is none.
    """

    def __init__(self, content: bytes, source: str, notice: Callable[[str], None] = notice) -> None:
        """Read the bytes of a `tokenizer.json`; `source` names them in messages."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # if unset, a fork after its first use prints a warning
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._source = source
        self._notice = notice
        raw = _as_we_use_it(content, source)
        text = json.dumps(raw)
        try:
            self._reference = tokenizers.Tokenizer.from_str(text)
            self.unknown = unknown_token(raw)
            self._coverage = Coverage(raw) if may_leave_out(raw) else None
        except BaseException as error:  # the library raises only `Exception`, or panics, which is a BaseException
            if not is_of_a_library(error):
                raise
            raise _not_a_tokenizer(source, str(error)) from error
        self._reference.encode_special_tokens = True
        self._decoder = json.dumps(raw.get("decoder"))
        ids = self._reference.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=-1) + 1
        self.end_of_document = self._find_end_of_document(ids)
        self.names_end_of_document = self.end_of_document < self.vocab_size
        self.vocab_size = max(self.vocab_size, self.end_of_document + 1)
        self._compared = self._announced = False
        self._fast = self._open_fast(text)

    @classmethod
    def load(cls, path: Path, notice: Callable[[str], None] = notice, source: str = "") -> Tokenizer:
        """Read a `tokenizer.json`; `notice` is called if the slow library must be used, `source` names the file in messages.

        Raises:
            InputMissing: there is no such file.
            BadData: it is not a tokenizer that `tokenizers` can read.
        """
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise InputMissing(f"{path}: no such tokenizer file", "name a tokenizer.json") from error
        except OSError as error:
            raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
        return cls(content, source or str(path), notice)

    @property
    def backend(self) -> str:
        """The library that encodes the next batch."""
        return "tokenizers" if self._fast is None else "fastokens"

    def choose_backend(self, texts: Sequence[str]) -> str:
        """Compare the two libraries on the first documents of a run, unless already done; returns the one that encodes."""
        if self._fast is not None and not self._compared:
            self._compare(texts)
        return self.backend

    def keep_backend(self, backend: str) -> None:
        """Use the library that an earlier part of the same work chose, without comparing again."""
        self._compared = True
        if self._fast is not None and backend != self.backend:
            self._fall_back("was not used in an earlier part of this work")

    def encode_batch(self, texts: Sequence[str], names: Sequence[str] = ()) -> list[Tokens]:
        """Encode each text; no special token is added, and no id is `end_of_document`. `names` are used in errors.

        Raises:
            BadData: a text has characters without a token, and the tokenizer has no unknown token.
        """
        self.choose_backend(texts)
        if self._fast is not None:
            try:
                return self._encode_fast(texts)
            except (ValueError, RuntimeError) as error:
                # Only this batch goes to the reference: a run resumed after it must encode later batches the same way.
                self._announce(f"cannot encode a text ({error})")
        try:
            return self._encode_reference(texts)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            raise self._cannot_encode(texts, names, error) from error

    def bytes_left_out(self, texts: Sequence[str]) -> int:
        """The bytes of these texts that no token covers, without white space; the texts can be encoded. See `left_out`."""
        return 0 if self._coverage is None else sum(self._coverage.bytes_left_out(texts))

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """The text of token ids; for a byte-level tokenizer the exact inverse of encoding."""
        return self._reference.decode([int(i) for i in ids], skip_special_tokens=False)

    def decode_batch(self, lists: Sequence[Sequence[int] | Tokens]) -> list[str]:
        """The text of each list of token ids: what `decode` gives, on all cores."""
        return list(self._reference.decode_batch([list(map(int, ids)) for ids in lists], skip_special_tokens=False))

    def as_encoded(self, text: str) -> str:
        """The text after the tokenizer's normalizer, which may for example change upper case to lower: encode, then decode.

        A text that cannot be encoded, or whose tokens include the unknown token, is returned unchanged.
        """
        ids = self._tried(text)
        return text if ids is None or self.unknown in ids.tolist() else self.decode(ids)

    def encode_with_ends(self, text: str) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """The tokens [N] of a text, and the character offset at which each one ends [N]; uses the slow library."""
        found = self._reference.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.uint32), np.array([end for _, end in found.offsets], np.int64)

    def token_text(self, token: int) -> str:
        """One token as text; if it is only a part of a character, its name in the vocabulary."""
        text = self.decode([token])
        if text and "\ufffd" not in text:
            return text
        return self._reference.id_to_token(token) or f"<{token}>"

    def byte_lengths(self) -> npt.NDArray[np.int64] | None:
        """The number of bytes of text per token id [vocab_size]; None unless the tokenizer is byte-level.

        In a byte-level vocabulary each letter stands for one byte. A special token has the length of its name.
        """
        if '"ByteLevel"' not in self._decoder:
            return None
        lengths = np.zeros(self.vocab_size, np.int64)
        for content, token in self._reference.get_vocab(with_added_tokens=False).items():
            lengths[token] = len(content)
        for token, added in self._reference.get_added_tokens_decoder().items():
            lengths[token] = len(added.content.encode())
        return lengths

    def _encode_fast(self, texts: Sequence[str]) -> list[Tokens]:
        ids, offsets = self._fast.encode_batch_flat(list(texts), split_special_tokens=True)
        flat = np.frombuffer(ids, np.dtype("<u4")).astype(np.uint32, copy=False)
        ends = np.frombuffer(offsets, np.dtype("<u8")).tolist()
        return [flat[start:end] for start, end in itertools.pairwise(ends)]

    def _encode_reference(self, texts: Sequence[str]) -> list[Tokens]:
        encodings = self._reference.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]

    def _cannot_encode(self, texts: Sequence[str], names: Sequence[str], error: BaseException) -> BadData:
        """The error for the first text that cannot be encoded."""
        number = next((i for i, text in enumerate(texts) if self._tried(text) is None), 0)
        what = names[number] if names else repr(shortened(texts[number], 40))
        reason = " ".join(str(error).split())
        return BadData(
            f"{self._source}: cannot encode {what} ({reason})",
            "give a tokenizer that has all bytes or an unknown token, or none to train one",
        )

    def _tried(self, text: str) -> Tokens | None:
        """Encode a text with the slow library; None if it cannot."""
        try:
            return self._encode_reference([text])[0]
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            return None

    def _find_end_of_document(self, ids: dict[str, int]) -> int:
        name = next((name for name in _END_OF_DOCUMENT_NAMES if name in ids), None)
        if name is None:
            return self.vocab_size
        # Some models (Unigram, WordLevel) also have the name as an ordinary piece: then a text could give this token.
        spelled = [self._tried(text) for text in (name, f" {name} ", f"a{name}b")]
        is_text = any(tokens is not None and ids[name] in tokens for tokens in spelled)
        return self.vocab_size if is_text else ids[name]

    def _open_fast(self, text: str) -> Any:
        try:
            return fastokens.Tokenizer.from_json_str(text)
        except ValueError as error:
            self._fast = None
            self._fall_back(f"cannot read it ({error})")
            return None

    def _compare(self, texts: Sequence[str]) -> None:
        """Fall back if the two libraries differ on awkward strings or on the first documents of this run."""
        self._compared = True
        added = self._reference.get_added_tokens_decoder().values()
        sample = [*_AWKWARD_TEXTS, *(f"a{token.content} b" for token in itertools.islice(added, _CHECKED_TEXTS))]
        left = _CHECKED_CHARACTERS
        for text in texts[:_CHECKED_TEXTS]:
            sample.append(text[: min(left, _CHECKED_OF_A_TEXT)])
            left -= len(sample[-1])
            if left == 0:
                break
        try:
            fast = self._encode_fast(sample)
        except (ValueError, RuntimeError) as error:
            self._fall_back(f"cannot encode a text ({error})")
            return
        for first in range(0, len(sample), _CHECKED_AT_ONCE):
            piece = sample[first : first + _CHECKED_AT_ONCE]
            try:
                answers = self._encode_reference(piece)
            except Exception as error:  # noqa: BLE001 - as above
                self._fall_back(f"gives ids for a text that tokenizers cannot encode ({error})")
                return
            for text, found, expected in zip(piece, fast[first:], answers, strict=False):
                if not np.array_equal(found, expected):
                    self._fall_back(f"gives other ids for {text[:40]!r}")
                    return

    def _fall_back(self, reason: str) -> None:
        self._fast = None
        self._announce(reason)

    def _announce(self, reason: str) -> None:
        if self._announced:
            return
        self._announced = True
        reason = " ".join(reason.split())
        self._notice(f"{self._source}: fastokens {reason}; using tokenizers instead, which is many times slower")


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> bytes:
    """Train a byte-level BPE and return its `tokenizer.json`; the order of the texts does not matter.

    The vocabulary holds `<|endoftext|>` (id 0), all 256 bytes, and merges of pairs that occur at least twice. So a small
    corpus may give fewer than `vocab_size` tokens. Memory grows with the number of distinct words, not of texts.

    Raises:
        BadSetting: `vocab_size` is below 257, so it has no room for all bytes and the end of a document.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise BadSetting(
            f"vocabulary size {vocab_size}: expected at least {SMALLEST_VOCABULARY}, every byte and {END_OF_TEXT}"
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str().encode()


def _as_we_use_it(content: bytes, source: str) -> dict[str, Any]:
    """Parse a `tokenizer.json` and disable truncation, padding and dropout, so that ids depend only on the text."""
    try:
        raw: dict[str, Any] = json.loads(content)
        raw["truncation"] = raw["padding"] = None  # documents are encoded whole
        if "dropout" in raw["model"]:
            raw["model"]["dropout"] = None  # otherwise ids are random
        for token in raw.get("added_tokens", []):
            # The library recognises a token in text unless it is marked special, whatever the options are.
            token["special"] = token["special"] or token["content"] in _END_OF_DOCUMENT_NAMES
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _not_a_tokenizer(source, f"{type(error).__name__}: {error}") from error
    return raw


def _not_a_tokenizer(source: str, reason: str) -> BadData:
    reason = " ".join(reason.split())
    return BadData(f"{source}: not a tokenizer.json ({reason})", "expected a file saved by the tokenizers library")
