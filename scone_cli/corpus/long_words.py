"""Text without blanks, as a tokenizer can be trained on it: base64, DNA, or a script that sets none, a book at a time.

Training takes time by the square of a word's length, where a word is a run of letters, of digits or of signs, and some
600 bytes of memory for every word that is another one: 50 MB of base64 would take 5 GB, and a word of 5 MB more than ten
minutes. So what is far longer than words are is learned from in pieces, and not from more than a million characters of
it. Other text is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LONG = 1000  # characters of one kind
_RUN = re.compile(r"\S{10000,}|[^\W\d_]{1000,}|\d{1000,}|(?:[^\w\s]|_){1000,}|\s{1000,}")
_BLANKS = tuple(blank * _LONG for blank in (" ", "\n", "\t", "\u3000"))
_PIECE = 100  # characters
_LEARNED = 1 << 20  # characters of all runs together


def in_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts, with every run that is far too long for a word in pieces; of the runs, the first million characters."""
    left = _LEARNED
    for text in texts:
        if max(map(len, text.split()), default=0) < _LONG and not any(blanks in text for blanks in _BLANKS):
            yield text
            continue
        at = 0
        for run in _RUN.finditer(text):
            yield text[at : run.start()]
            at, end = run.end(), min(run.end(), run.start() + left)
            left -= end - run.start()
            yield from (text[start : min(start + _PIECE, end)] for start in range(run.start(), end, _PIECE))
        yield text[at:]
