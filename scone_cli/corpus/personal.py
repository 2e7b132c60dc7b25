"""Finds what looks personal or secret in a text: e-mail addresses, card and phone numbers, keys.

Each `Detector` is a pattern in the syntax of RE2, which needs time in proportion to the text for every search, and mostly a
check of what it found. They find what follows common forms, and miss the rest: a name is none of them. `redact.py` takes them
as rules; whatever else looks for such text should take them too, so that both mean the same.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import re2

DETECTORS_VERSION: Final = 1  # goes up with every change of what a detector finds

Span = tuple[int, int]  # first byte, and the byte after the last, of a text in UTF-8
# How many bytes of what a pattern found are meant: all, some from the beginning on, or 0 for none.
Check = Callable[[bytes], int]

LETTER: Final = r"[\pL\pN\pM_]"  # what words are made of, in every script; RE2's own \w and \b know only ASCII
_NO_LETTER: Final = r"[^\pL\pN\pM_]"


def pattern_of(text: str, *, ignore_case: bool = False, whole_words: bool = False) -> Any:
    """Compile a pattern in the syntax of RE2. With `whole_words`, group 1 is what is meant: no letter or digit touches it.

    Raises:
        re2.error: it is no such pattern. Its text may repeat the pattern.
    """
    options = re2.Options()
    options.log_errors = False  # it would print the pattern
    options.case_sensitive = not ignore_case
    return re2.compile(f"(?:^|{_NO_LETTER})({text})(?:$|{_NO_LETTER})" if whole_words else text, options)


def spans_of(pattern: Any, utf8: bytes, check: Check | None = None, group: int = 0) -> Iterator[Span]:
    """The matches of a pattern from left to right, which do not overlap; those that are empty or fail the check are left out.

    After a match that fails, the search goes on one byte later: what is meant may begin inside it.
    """
    at, end = 0, len(utf8)
    while at < end and (match := pattern.search(utf8, at)) is not None:
        low, high = match.span(group)
        if check is not None:
            high = low + check(utf8[low:high])
        at = high if high > low else max(low, at) + 1
        if high > low:
            yield low, high


# ---- checks ------------------------------------------------------------------------------------------------------


def _card(found: bytes) -> int:
    """Whether the digits end in the check digit of Luhn: all of them, or all but the last three, often the card's code."""
    shorter = re.fullmatch(rb"(.*\d)[ -]\d{3}", found)
    return next((len(each) for each in (found, shorter[1] if shorter else b"") if each and _luhn(each)), 0)


def _luhn(found: bytes) -> bool:
    digits = [byte - 48 for byte in reversed(found) if 48 <= byte < 58]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _international(found: bytes) -> int:
    """From 8 to 15 digits, the most that a phone number has; groups of digits that are too many are not meant."""
    while len(re.sub(rb"\D", b"", found)) > 15:
        found = re.sub(rb"\D+\d+\)?$", b"", found) if re.search(rb"\d\D+\d", found) else b""
    return len(found) if len(re.sub(rb"\D", b"", found)) >= 8 else 0


# ---- detectors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detector:
    """What finds one kind of personal or secret text; `about` says which, for people."""

    name: str
    about: str
    pattern: str
    check: Check | None = None
    whole_words: bool = False

    def spans(self, utf8: bytes) -> Iterator[Span]:
        """Where such text is, from left to right."""
        return spans_of(self._compiled, utf8, self.check, int(self.whole_words))

    @functools.cached_property
    def _compiled(self) -> Any:
        return pattern_of(self.pattern, whole_words=self.whole_words)


_KEYS = (
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"gh[opsru]_[A-Za-z0-9]{36,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"sk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic
    r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,}",
    r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+",  # JSON web tokens
    r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
)

_CARDS = (
    r"4\d{12}(?:\d{3}){0,2}",  # Visa
    r"(?:5[1-5]|2[2-7]|35)\d{14}",  # Mastercard, JCB
    r"3[47]\d{13}|3[068]\d{12}",  # American Express, Diners Club
    r"6\d{15,18}",  # Discover, UnionPay, Maestro
    r"[2-6]\d{3}[ -]\d{4}[ -]\d{4}[ -]\d{4}(?:[ -]\d{3})?|3\d{3}[ -]\d{6}[ -]\d{4,5}",  # in groups
)
_BEGIN, _END = (rf"-----{word} [A-Z ]*PRIVATE KEY(?: BLOCK)?-----" for word in ("BEGIN", "END"))
_ALL = (
    Detector(
        "email",
        "e-mail addresses",
        r"[\pL\pN][\pL\pN\pM._%+-]*@(?:[\pL\pN\pM-]+\.)+(?:xn--[A-Za-z0-9-]+|\pL{2,})",
    ),
    Detector(
        "card",
        "card numbers, in one piece or in groups, by the first digits of their issuers and the check digit of Luhn",
        "|".join(_CARDS),
        _card,
        whole_words=True,
    ),
    Detector(
        "phone",
        "phone numbers that begin with + and the code of a country",
        r"\+[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,14}\)?){1,6}",
        _international,
        whole_words=True,
    ),
    Detector(
        "phone-us",
        "phone numbers of North America: 555-123-4567, (555) 123-4567",
        r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}",
        whole_words=True,
    ),
    Detector(
        "key",
        "keys of known services by their prefix, JSON web tokens, blocks of private keys",
        rf"\b(?:{'|'.join(_KEYS)})|{_BEGIN}(?:(?s:.*?){_END}|(?:\s*[A-Za-z0-9+/=]{{16,}})*)",
    ),
)
DETECTORS: Final[Mapping[str, Detector]] = {detector.name: detector for detector in _ALL}


def kinds_in(text: str) -> list[str]:
    """The names of the detectors that find something in a text."""
    utf8 = text.encode()
    return [name for name, detector in DETECTORS.items() if any(detector.spans(utf8))]
