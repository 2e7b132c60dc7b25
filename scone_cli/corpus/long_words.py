"""Splits very long runs without blanks, so that a tokenizer can be trained on them: base64, DNA, scripts without blanks.

For the training, a word is a run of letters, of digits or of signs. Its time grows with the square of a word's length, and
its memory by about 600 bytes per distinct word: 50 MB of base64 would take 5 GB, and a word of 5 MB more than ten minutes. So
runs far longer than words are split into pieces, and at most a million characters of them are used. Other text is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LONG = 1000  # characters of one kind in a run
_RUN = re.compile(r"\S{10000,}|[^\W\d_]{1000,}|\d{1000,}|(?:[^\w\s]|_){1000,}|\s{1000,}")
_BLANKS = tuple(blank * _LONG for blank in (" ", "\n", "\t", "\u3000"))
_PIECE = 100  # characters
_LEARNED = 1 << 20  # characters used of all long runs together


def in_pieces(texts: Iterable[str]) -> Iterator[str]:
    """Split every run that is too long for a word into pieces; only the first million characters of such runs are kept."""
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
