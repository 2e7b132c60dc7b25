"""Reads the terms of a field from a file, and finds them in texts and in tokenised documents.

The search is case-sensitive and finds a term only between word boundaries. A blank in a term matches any white space, also a
line end. Scripts without blanks between words (Chinese, Japanese, Thai ...) have no word boundaries, so terms match anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scone_cli.arrays import I64, U32
from scone_cli.corpus.spelling import bytes_of
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, InputMissing, StorageFailure

LONGEST_TERM = 200  # characters: a longer line means that the file is a text, not a list of terms
# Scripts without blanks between words: Thai to Tibetan, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)

# An occurrence: the number of the term, the first character (or token), and the one after the last.
Place = tuple[int, int, int]


def read_terms(path: Path) -> list[str]:
    """Read the distinct terms in a file, one per line; blank lines and lines that begin with `#` are ignored.

    Raises:
        InputMissing: there is no such file, or no term in it.
        BadData: it is not UTF-8, or a line is longer than `LONGEST_TERM`.
        StorageFailure: it cannot be read.
    """
    hint = "name a file with one term a line"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputMissing(f"--terms {path}: no such file", hint) from error
    except OSError as error:
        raise StorageFailure(f"--terms {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise BadData(f"--terms {path}: not UTF-8 ({error.reason} at byte {error.start:,})", hint) from error
    lines = [" ".join(line.split()) for line in re.split(r"\r\n|\r|\n", text)]
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_TERM and not line.startswith("#"):
            raise BadData(
                f"--terms {path}: line {number:,} has {len(line):,} characters, expected a term of at most {LONGEST_TERM}",
                hint,
            )
    terms = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not terms:
        raise InputMissing(f"--terms {path}: no term in it", hint)
    return terms


# ---- in a text ---------------------------------------------------------------------------------------------------


class TermFinder:
    """Finds the occurrences of terms in texts."""

    def __init__(self, terms: Sequence[str]) -> None:
        self.terms = terms
        self._words = [term.split() for term in terms]
        self._patterns = [re.compile(r"\s+".join(map(re.escape, words))) for words in self._words]

    def __call__(self, text: str) -> Iterator[Place]:
        """Yield the occurrences of each term; occurrences of one term do not overlap, those of different terms may."""
        for number, (words, pattern) in enumerate(zip(self._words, self._patterns, strict=True)):
            at = text.find(words[0]) if words else -1  # many times faster than a pattern
            while at >= 0:
                found = pattern.match(text, at)
                if found and _is_border(text, at) and _is_border(text, found.end()):
                    yield number, at, found.end()
                    at = found.end() - 1
                at = text.find(words[0], at + 1)


def _is_border(text: str, at: int) -> bool:
    """Whether a word may begin or end between two characters."""
    before, after = text[at - 1 : at], text[at : at + 1]
    if not (_is_of_word(before) and _is_of_word(after)):
        return True
    return bool(UNSPACED.match(before) or UNSPACED.match(after))


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character or " ").startswith("M")


# ---- in tokens ---------------------------------------------------------------------------------------------------


class TokenPlaces:
    """Finds terms, normalized as the tokenizer does, in tokenised documents; a token belongs to a term if one byte does."""

    def __init__(self, terms: Sequence[str], tokenizer: Tokenizer) -> None:
        self._find, self._tokenizer = TermFinder([tokenizer.as_encoded(term) for term in terms]), tokenizer
        lengths = tokenizer.byte_lengths()
        self._bytes = None if lengths is None else [bytes_of(tokenizer, token) for token in range(lengths.size)]

    def __call__(self, tokens: U32) -> Iterator[Place]:
        """Yield the occurrences in one document: number of the term, its first token, and the one after its last.

        Raises:
            BadData: the text, encoded again, gives other tokens, so their positions in the text are unknown.
        """
        text, ends, place = self._spelled(tokens)
        for number, start, end in self._find(text):
            first = int(np.searchsorted(ends, place[start], side="right"))
            yield number, first, 1 + int(np.searchsorted(ends, place[end], side="left"))

    def _spelled(self, tokens: U32) -> tuple[str, I64, I64]:
        """A document as text, the byte offset at which each token ends [N], and that at which each character begins [C + 1]."""
        if self._bytes is None:
            return self._encoded_again(tokens)
        parts = [self._bytes[token] for token in tokens.tolist()]
        text = b"".join(parts).decode("utf-8", "surrogateescape")
        code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        is_lone = (code >= 0xDC80) & (code <= 0xDCFF)  # a byte that is no UTF-8
        width = np.where(is_lone, 1, 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000))
        ends = np.cumsum(np.array([len(part) for part in parts], np.int64))
        return text, ends, np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])

    def _encoded_again(self, tokens: U32) -> tuple[str, I64, I64]:
        """The same with character offsets, for a tokenizer whose tokens have no known bytes: encodes the text again."""
        text = self._tokenizer.decode(tokens)
        again, ends = self._tokenizer.encode_with_ends(text)
        if not np.array_equal(again, tokens):
            raise BadData(
                "--terms: the text of a document, encoded again, gives other tokens, so where terms stand is not known",
                "leave --terms out, or use a byte-level tokenizer",
            )
        return text, ends, np.arange(len(text) + 1)
