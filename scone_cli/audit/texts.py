"""The texts of `--text`: read, and found in what artifacts spell.

A text is compared as bytes, so it is found whatever tokens spell it, and wherever in them it begins. White space of ASCII
is the same as a blank. Upper and lower case differ. Each text is looked for in both Unicode forms of letters with marks, and
as the tokenizer would give it back, which may be in lower case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import ahocorasick_rs
import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64, U64
from scone_cli.audit.spelled import BLANKS, Spelled
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, InputMissing, StorageFailure
from scone_cli.formatting import BLANK, visible

_ESCAPE = re.compile(r"\\([\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_NAMED = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_NO_TEXT = b"\xff"  # a byte that no text has
_WINDOW = 8  # bytes: what a number of 64 bits holds
_BLANK_WINDOW = np.uint64(int.from_bytes(b" " * _WINDOW))


@dataclass(frozen=True)
class GivenText:
    """A text, without blanks around it, and the line of the file where it stands, from 1."""

    line: int
    text: str = field(repr=False)


def read_texts(path: Path) -> list[GivenText]:
    """Read the texts of a file, one a line; empty lines are left out. Messages repeat no text.

    Raises:
        InputMissing: there is no such file, or no text in it.
        BadData: a line is not UTF-8.
        StorageFailure: it cannot be read.
    """
    hint = "name a file with one text a line"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputMissing(f"--text {path}: no such file", hint) from error
    except OSError as error:
        raise StorageFailure(f"--text {path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise BadData(f"--text {path}: line {number:,} is not UTF-8", hint) from None
        if text:
            found.append(GivenText(number, text))
    if not found:
        raise InputMissing(f"--text {path}: no text in it", hint)
    return found


def forms_of(text: str, tokenizer: Tokenizer) -> set[str]:
    """The forms in which a text is looked for in what a tokenizer decodes."""
    given = {text, tokenizer.as_encoded(text).strip()} - {""}
    return given | {unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in given}


def as_shown(form: str) -> str:
    """A text as an example shows it, with blanks as blanks."""
    return visible(form).replace(BLANK, " ")


def not_shown(text: str) -> set[bytes]:
    r"""What an example may show, without escapes: `\xe9` stands for a byte that is a part of a character, or for a character."""
    as_bytes, as_characters = (_ESCAPE.sub(partial(_character, is_byte), text) for is_byte in (True, False))
    return {each.encode("utf-8", "surrogateescape") for each in (as_bytes, as_characters)}


def _character(is_byte: bool, escape: re.Match[str]) -> str:
    name = escape[1]
    if name in _NAMED:
        return _NAMED[name]
    code = int(name[1:], 16)
    return chr(code + 0xDC00) if is_byte and 0x80 <= code < 0x100 else chr(code)


class Finder:
    """Finds given texts in spelled ones."""

    def __init__(self, forms: Sequence[set[bytes]]) -> None:
        """`forms` [T]: in which each text is looked for, none of them empty."""
        owners: dict[bytes, list[int]] = {}
        for number, each in enumerate(forms):
            for form in each:
                owners.setdefault(form.translate(BLANKS), []).append(number)
        self.longest = max(map(len, owners), default=0)
        self._owners = [np.array(numbers, np.int64) for numbers in owners.values()]
        self._automaton = ahocorasick_rs.BytesAhoCorasick(list(owners))
        # A blank around each: an n-gram that is a part of a text at its ends may begin or end with one.
        self._all = _NO_TEXT.join([b"", *(b" " + form + b" " for form in owners), _NO_TEXT * _WINDOW])

    def held(self, spelled: Spelled) -> tuple[I64, I64]:
        """The pairs of a row and a given text that it holds, by row, then by text."""
        found = self._automaton.find_matches_as_indexes(spelled.compared, overlapping=True)
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        forms, low, high = np.array(found, np.int64).T
        rows = spelled.row_of(low)
        inside = high < spelled.starts[rows + 1]
        pairs = np.unique(np.stack([rows[inside], forms[inside]], 1), axis=0)
        texts = [self._owners[form] for form in pairs[:, 1].tolist()]
        numbers = np.concatenate([np.zeros(0, np.int64), *texts])
        pairs = np.unique(np.stack([np.repeat(pairs[:, 0], list(map(len, texts))), numbers], 1), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def parts(self, spelled: Spelled) -> I64:
        """The rows that are a part of a given text: all that they spell, which is more than blanks, stands in it.

        Blanks that they begin or end with may lie before or after the given text.
        """
        utf8 = np.frombuffer(spelled.compared + bytes(_WINDOW), np.uint8)
        first, sizes = spelled.starts[:-1], np.diff(spelled.starts) - 1
        windows, places = self._windows
        kept = np.flatnonzero(sizes > 0)
        keys = _window_at(utf8, first[kept])
        # A text shorter than a window leaves the rest of the window open.
        bits = 8 * np.maximum(0, _WINDOW - sizes[kept]).astype(np.uint64)
        rest = (np.uint64(1) << bits) - np.uint64(1)
        low = np.searchsorted(windows, keys & ~rest, side="left")
        high = np.searchsorted(windows, keys | rest, side="right")
        is_short, is_blank = sizes[kept] <= _WINDOW, (keys | rest) == (_BLANK_WINDOW | rest)
        found = [kept[(high > low) & is_short & ~is_blank]]
        longer = np.flatnonzero((high > low) & ~is_short)
        # The end of a longer text is looked for too: few texts that are no parts are left.
        tails = _window_at(utf8, first[kept[longer]] + sizes[kept[longer]] - _WINDOW)
        at = np.minimum(np.searchsorted(windows, tails), max(0, windows.size - 1))
        longer = longer[windows[at] == tails] if windows.size else longer[:0]
        for row, begin, end in zip(kept[longer].tolist(), low[longer].tolist(), high[longer].tolist(), strict=True):
            text = spelled.compared[spelled.starts[row] : spelled.starts[row + 1] - 1]
            if text.strip(b" ") and any(self._all.startswith(text, place) for place in places[begin:end].tolist()):
                found.append(np.array([row]))
        return np.sort(np.concatenate(found))

    @cached_property
    def _windows(self) -> tuple[U64, I64]:
        """The eight bytes at every place of all texts as numbers, sorted, and their places."""
        utf8 = np.frombuffer(self._all, np.uint8)
        keys = _window_at(utf8, np.arange(utf8.size - _WINDOW))
        order = np.argsort(keys, kind="stable")
        return keys[order], order


def _window_at(utf8: npt.NDArray[np.uint8], places: I64) -> U64:
    """The eight bytes from each place on as a number, the first byte counting most."""
    keys = np.zeros(len(places), np.uint64)
    for step in range(_WINDOW):
        keys = (keys << np.uint64(8)) | utf8[places + step]
    return keys
