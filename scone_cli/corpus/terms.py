"""The terms of a field: a file of them, where they stand in a text, and which tokens spell them there.

A term is found as it is written, upper and lower case apart, between borders of words; a blank in it stands for any white
space, a line's end too. Where words are written without blanks (Chinese, Japanese, Thai ...) there are no borders to keep to.
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

LONGEST_TERM = 200  # characters: of a line that is longer, somebody gave a text instead of terms
# Scripts without blanks between words: Thai to Tibetan, Burmese, Khmer, Japanese, Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]"
)

Place = tuple[
    int, int, int
]  # number of the term, and the first character (or token) of an occurrence and the one after it


def read_terms(path: Path) -> list[str]:
    """The terms in a file, one a line, each once; blank lines and lines that begin with `#` say nothing.

    Raises:
        InputMissing: there is no such file, or no term in it.
        BadData: it is not UTF-8, or a line is longer than terms are.
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
    """Finds terms in texts."""

    def __init__(self, terms: Sequence[str]) -> None:
        self.terms = terms
        self._words = [term.split() for term in terms]
        self._patterns = [re.compile(r"\s+".join(map(re.escape, words))) for words in self._words]

    def __call__(self, text: str) -> Iterator[Place]:
        """Occurrences of every term by itself, so that one may lie within another; those of one do not overlap."""
        for number, (words, pattern) in enumerate(zip(self._words, self._patterns, strict=True)):
            at = text.find(words[0]) if words else -1  # many times as fast as a pattern
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
    """Finds terms, as the tokenizer writes them, in tokenised documents: a token is inside if one of its bytes is."""

    def __init__(self, terms: Sequence[str], tokenizer: Tokenizer) -> None:
        self._find, self._tokenizer = TermFinder([tokenizer.as_encoded(term) for term in terms]), tokenizer
        lengths = tokenizer.byte_lengths()
        self._bytes = None if lengths is None else [bytes_of(tokenizer, token) for token in range(lengths.size)]

    def __call__(self, tokens: U32) -> Iterator[Place]:
        """Occurrences in one document: number of the term, its first token, the one after its last.

        Raises:
            BadData: the tokenizer does not say which tokens spell which part of the text.
        """
        text, ends, place = self._spelled(tokens)
        for number, start, end in self._find(text):
            first = int(np.searchsorted(ends, place[start], side="right"))
            yield number, first, 1 + int(np.searchsorted(ends, place[end], side="left"))

    def _spelled(self, tokens: U32) -> tuple[str, I64, I64]:
        """A document as text, the byte before which each token ends [N], and that at which each character begins."""
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
        """The same by characters, of a tokenizer that does not say which bytes a token is."""
        text = self._tokenizer.decode(tokens)
        again, ends = self._tokenizer.encode_with_ends(text)
        if not np.array_equal(again, tokens):
            raise BadData(
                "--terms: the text of a document, encoded again, gives other tokens, so where terms stand is not known",
                "leave --terms out, or use a byte-level tokenizer",
            )
        return text, ends, np.arange(len(text) + 1)
