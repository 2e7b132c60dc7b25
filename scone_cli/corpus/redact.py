"""Leaves out of documents what the rules of `--redact` find, before a tokenizer sees them.

A document from which text was left out becomes several segments. Nothing stands for what was left out: a segment ends there,
as a document would. Spans are found in the document as it was read, so neither the held-out choice nor the cut of a single
document depends on the rules. All occurrences of a term are found, those that overlap too; the matches of a pattern are those
from left to right.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import ahocorasick_rs

from scone_cli.corpus.personal import DETECTORS, Span, pattern_of, spans_of
from scone_cli.corpus.readers import BadDocument, Document, OnBad
from scone_cli.corpus.redaction_rules import Rule, Rules

if TYPE_CHECKING:
    from scone_cli.corpus.held_out import HeldOut  # heavy, and only a type here

Finder = Callable[[bytes], Iterable[Span]]
# Documents of which nothing is left, documents redacted, segments that continue a document; then documents, spans and bytes of
# each rule.
Counts = Sequence[int]
_TOTALS = 3

REDACTED = "redacted"  # key of a summary

_BLANKS = bytes.maketrans(b"\t\n\v\f\r", b" " * 5)  # a blank in a term is any of them


class Redaction:
    """Applies rules to documents; `counts` are those of all documents so far, in the form of `Counts`."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._finders = _finders(rules)
        self.counts = [0] * (_TOTALS + 3 * len(self._finders))

    @classmethod
    def of(cls, rules: Rules | None) -> Redaction | None:
        """The redaction by rules, or None if there are none."""
        return None if rules is None else cls(rules)

    def kept(self, utf8: bytes) -> list[Span]:
        """What is left of a text: spans of bytes, without empty ones, which never begin or end inside a character."""
        found = merged(
            (*whole_characters(utf8, span), number) for number, find in enumerate(self._finders) for span in find(utf8)
        )
        kept, at = list[Span](), 0
        for low, high, _ in found:
            if low > at:
                kept.append((at, low))
            at = high
        if at < len(utf8):
            kept.append((at, len(utf8)))
        self._count(found, bool(kept))
        return kept

    def segments(self, document: Document, held_out: HeldOut) -> Iterator[tuple[Document, str, bool]]:
        """What `segments_of` returns."""
        kept, at = self.kept(document.utf8), 0
        for part, split in held_out.split(document):
            end, is_first = at + part.num_bytes, True
            for low, high in ((max(low, at), min(high, end)) for low, high in kept if low < end and high > at):
                whole = (low, high) == (at, end)
                utf8 = part.utf8 if whole else document.utf8[low:high]
                yield part if whole else Document(part.name, utf8.decode(), utf8), split, not is_first
                self.counts[2] += not is_first
                is_first = False
            at = end

    def guarded(self, on_bad: OnBad | None) -> OnBad:
        """A handler of bad documents that leaves out of their causes what the rules find; without `on_bad`, it raises them."""

        def handle(bad: BadDocument) -> None:
            where = bad.message.removesuffix(bad.cause).removesuffix(": ")
            safe = BadDocument(bad.name, where, self.masked(bad.cause), bad.hint)
            if on_bad is None:
                raise safe from None
            on_bad(safe)

        return handle

    def masked(self, text: str) -> str:
        """A text of a message, in which `[redacted]` stands for what the rules find; it is not counted."""
        utf8 = text.encode(errors="replace")
        before = list(self.counts)
        kept, at, pieces = self.kept(utf8), 0, list[str]()
        self.counts = before
        for low, high in [*kept, (len(utf8), len(utf8))]:
            pieces += ["[redacted]"] * (low > at) + [utf8[low:high].decode()]
            at = high
        return "".join(pieces)

    def _count(self, found: list[tuple[int, int, int]], any_left: bool) -> None:
        if not found:
            return
        self.counts[0] += not any_left
        self.counts[1] += 1
        for number in {number for _, _, number in found}:
            self.counts[_TOTALS + 3 * number] += 1
        for low, high, number in found:
            self.counts[_TOTALS + 3 * number + 1] += 1
            self.counts[_TOTALS + 3 * number + 2] += high - low


def segments_of(
    document: Document, held_out: HeldOut, redaction: Redaction | None
) -> Iterator[tuple[Document, str, bool]]:
    """What is kept of a document: each segment with its split, and whether it continues the document of the one before."""
    if redaction is None:
        return ((part, split, False) for part, split in held_out.split(document))
    return redaction.segments(document, held_out)


def guarded(on_bad: OnBad | None, redaction: Redaction | None) -> OnBad | None:
    """The handler of bad documents, whose causes do not repeat what is redacted; see `Redaction.guarded`."""
    return on_bad if redaction is None else redaction.guarded(on_bad)


def added(one: Counts, other: Counts) -> Counts:
    """The counts of two pieces of work; those of work without rules are empty."""
    return tuple(a + b for a, b in zip_longest(one, other, fillvalue=0))


def summary_of(rules: Rules | None, counts: Counts, num_documents: int) -> dict[str, Any]:
    """What was redacted, for the summary of `tokens/`: the rules by name, in the order of their file."""
    if rules is None:
        return {}
    emptied, documents, more, *each = added(counts, [0] * (_TOTALS + 3 * len(rules.rules)))
    rows = [
        {"rule": name, "documents": each[3 * i], "spans": each[3 * i + 1], "bytes": each[3 * i + 2]}
        for i, name in enumerate(rules.names)
    ]
    about = {"segments": num_documents + more, "redacted_documents": documents, "emptied_documents": emptied}
    return about | {"redacted_bytes": sum(each[2::3]), REDACTED: rows}


def found_nothing(rules: Rules | None, counts: Counts) -> str | None:
    """A note on the rules to which no span is credited: a pattern may have a slip; None if there are none."""
    rows = summary_of(rules, counts, 0).get(REDACTED, [])
    if names := [f"'{row['rule']}'" for row in rows if not row["spans"]]:
        return f"note: of --redact, these rules left out nothing that no earlier rule had left out: {', '.join(names)}"
    return None


# ---- spans -------------------------------------------------------------------------------------------------------


def merged(found: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Spans (first byte, end, rule) with those that overlap as one, which is the first rule's; in the order of the text."""
    spans: list[tuple[int, int, int]] = []
    for low, high, number in sorted(found):
        if spans and low < spans[-1][1]:
            first, end, owner = spans[-1]
            spans[-1] = first, max(end, high), min(owner, number)
        else:
            spans.append((low, high, number))
    return spans


def whole_characters(utf8: bytes, span: Span) -> Span:
    r"""A span that is made larger until it cuts no character of a text: `\C` of RE2 matches one byte."""
    low, high = span
    while utf8[low] & 0xC0 == 0x80:
        low -= 1
    while high < len(utf8) and utf8[high] & 0xC0 == 0x80:
        high += 1
    return low, high


# ---- rules -------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _finders(rules: Rules) -> list[Finder]:
    """What finds the spans of each rule; made once in a process."""
    return [_finder(rule) for rule in rules.rules]


def _finder(rule: Rule) -> Finder:
    if rule.detector:
        return DETECTORS[rule.detector].spans
    if rule.terms:
        return Terms(rule.terms, rule.ignore_case, rule.whole_words).spans
    pattern = pattern_of(rule.pattern, ignore_case=rule.ignore_case, whole_words=rule.whole_words)
    return lambda utf8: spans_of(pattern, utf8, group=int(rule.whole_words))


class Terms:
    """Finds all occurrences of any number of terms in one pass over a text (Aho-Corasick)."""

    def __init__(self, terms: Sequence[str], ignore_case: bool, whole_words: bool) -> None:
        self._ignore_case, self._whole_words = ignore_case, whole_words
        self._automaton = ahocorasick_rs.BytesAhoCorasick(sorted({self._as_compared(term.encode()) for term in terms}))

    def spans(self, utf8: bytes) -> Iterator[Span]:
        """Where a term is, in no order; spans may overlap."""
        for _, low, high in self._automaton.find_matches_as_indexes(self._as_compared(utf8), overlapping=True):
            if not self._whole_words or not (_letter_before(utf8, low) or _letter_after(utf8, high)):
                yield low, high

    def _as_compared(self, utf8: bytes) -> bytes:
        """A text as it is compared, of the same length: white space of ASCII as blanks, capital letters as small ones."""
        if self._ignore_case:
            utf8 = utf8.lower() if utf8.isascii() else _lower(utf8.decode()).encode()
        return utf8.translate(_BLANKS)


def _lower(text: str) -> str:
    """A text in small letters, each of as many bytes as before: a letter whose small one has more or fewer stays."""
    uneven = _uneven()
    if uneven.search(text) is not None:
        return "".join(
            piece if uneven.match(piece) else _lower(piece) for piece in re.split(f"({uneven.pattern})", text)
        )
    return text.lower().replace("ς", "σ")  # noqa: RUF001 - the Greek letter at the end of a word


@functools.cache
def _uneven() -> re.Pattern[str]:
    letters = (chr(code) for code in range(0x80, 0x1F000) if not 0xD800 <= code < 0xE000)
    return re.compile("[" + "".join(c for c in letters if len(c.lower().encode()) != len(c.encode())) + "]")


def _letter_before(utf8: bytes, at: int) -> bool:
    return _is_letter(utf8[max(0, at - 4) : at].decode(errors="ignore")[-1:])


def _letter_after(utf8: bytes, at: int) -> bool:
    return _is_letter(utf8[at : at + 4].decode(errors="ignore")[:1])


def _is_letter(character: str) -> bool:
    """Whether it is of a word, as in `personal.LETTER`."""
    return character == "_" or (character != "" and unicodedata.category(character)[0] in "LMN")
