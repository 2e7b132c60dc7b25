r"""Reads the rules of `--redact`: a TOML file with a table for each rule, and the names of detectors to use.

    use = ["email", "card"]          # detectors of `personal.py`; they come first

    [employee-number]                # the name of a rule is counted and shown
    pattern = 'E-\d{6}'             # RE2 syntax

    [customers]
    deny = "customers.txt"           # one term a line, beside this file
    ignore_case = true
    whole_words = true

    [projects]
    terms = ["Blue Heron", "Tern"]

What is to be hidden stands in this file, so no message repeats a pattern, a term or a value: only the rule and the line.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from scone_cli.corpus.personal import DETECTORS, DETECTORS_VERSION, pattern_of
from scone_cli.errors import BadSetting, InputMissing, StorageFailure

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_WHAT = ("pattern", "terms", "deny")  # a rule has one of them
_HOW = ("ignore_case", "whole_words")
_HINT = "docs/privacy.md shows a rules file"


@dataclass(frozen=True)
class Rule:
    """One rule: a detector's name, a pattern (RE2 syntax), or terms, sorted. Its texts are not in its `repr`."""

    name: str
    detector: str = ""
    pattern: str = field(default="", repr=False)
    terms: tuple[str, ...] = field(default=(), repr=False)
    ignore_case: bool = False
    whole_words: bool = False

    def meaning(self) -> list[Any]:
        """What the rule leaves out, as JSON values."""
        found = DETECTORS[self.detector].pattern if self.detector else self.pattern
        return [self.name, self.detector, found, self.terms, self.ignore_case, self.whole_words]


@dataclass(frozen=True)
class Rules:
    """Rules in the order of their file. `digest`, which alone is compared, is the SHA-256 of what they leave out."""

    digest: str
    rules: tuple[Rule, ...] = field(compare=False)

    @classmethod
    def of(cls, rules: tuple[Rule, ...]) -> Rules:
        """The rules with their digest, which does not depend on how the file is written."""
        meaning = json.dumps([DETECTORS_VERSION, [rule.meaning() for rule in rules]])
        return cls(hashlib.sha256(meaning.encode()).hexdigest(), rules)

    @property
    def names(self) -> list[str]:
        """The names of the rules."""
        return [rule.name for rule in self.rules]


def read_rules(path: Path) -> Rules:
    """Read a rules file, and the deny lists that it names.

    Raises:
        InputMissing: a file does not exist.
        BadSetting: it is no TOML, or a rule cannot be used; the message names the rule, not its text.
        StorageFailure: a file cannot be read.
    """
    raw = _toml(path)
    use = raw.pop("use", [])
    if not isinstance(use, list) or not all(isinstance(name, str) for name in use):
        _refuse(path, "use", f"expected a list of names of {_listed(DETECTORS)}")
    rules = []
    for number, name in enumerate(use, 1):
        if name not in DETECTORS:
            _refuse(path, "use", f"name {number} is none of {_listed(DETECTORS)}")
        rules.append(Rule(name, detector=name))
    for number, (name, about) in enumerate(raw.items(), 1):
        if not _NAME.fullmatch(name):
            _refuse(path, "", f"the name of rule {number} has other characters than letters, digits, '-', '_' and '.'")
        if not isinstance(about, dict):
            _refuse(path, "", f"'{name}' is neither 'use' nor a rule, which is a table: [{name}]")
        rules.append(_rule(path, name, about))
    if not rules:
        raise BadSetting(f"--redact {path}: no rule in it", _HINT)
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        _refuse(path, twice, "the name stands for two rules")
    return Rules.of(tuple(rules))


def _rule(path: Path, name: str, about: dict[str, Any]) -> Rule:
    if strange := [key for key in about if key not in (*_WHAT, *_HOW)]:
        which = f"'{strange[0]}'" if _NAME.fullmatch(strange[0]) else "a key"
        _refuse(path, name, f"{which} is unknown, expected {_listed((*_WHAT, *_HOW))}")
    given = [key for key in _WHAT if key in about]
    if len(given) != 1:
        _refuse(path, name, f"expected one of {_listed(_WHAT)}, found {_listed(given) or 'none'}")
    for key in _HOW:
        if not isinstance(about.get(key, False), bool):
            _refuse(path, name, f"'{key}' is not true or false")
    how = {key: about.get(key, False) for key in _HOW}
    value = about[given[0]]
    if given[0] == "terms":
        if not isinstance(value, list) or not all(isinstance(term, str) for term in value):
            _refuse(path, name, "'terms' is not a list of strings")
        return Rule(name, terms=_terms(path, name, value), **how)
    if not isinstance(value, str):
        _refuse(path, name, f"'{given[0]}' is not a string")
    if given[0] == "deny":
        return Rule(name, terms=_terms(path, name, _lines(path, name, path.parent / value)), **how)
    _check_pattern(path, name, value, how["ignore_case"])
    return Rule(name, pattern=value, **how)


def _check_pattern(path: Path, name: str, pattern: str, ignore_case: bool) -> None:
    import re2  # noqa: PLC0415 - its error only

    try:
        compiled = pattern_of(pattern, ignore_case=ignore_case)
    except re2.error as error:
        # The library says what is wrong, a colon, and a piece of the pattern; it raises bytes or text.
        cause = error.args[0] if error.args else ""
        cause = cause.decode(errors="replace") if isinstance(cause, bytes) else str(cause)
        _refuse(path, name, f"the pattern is not in the syntax of RE2 ({cause.partition(':')[0]})")
    if compiled.search(b"") is not None:
        _refuse(path, name, "the pattern matches the empty text, so it would match everywhere")


def _terms(path: Path, name: str, given: list[str]) -> tuple[str, ...]:
    """The terms without blanks around them, in both Unicode forms of letters with marks."""
    stripped = {term.strip() for term in given} - {""}
    if not stripped:
        _refuse(path, name, "no term")
    forms = {unicodedata.normalize(form, term) for form in ("NFC", "NFD") for term in stripped}
    try:
        json.dumps(sorted(forms | stripped), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _refuse(path, name, "a term is half a surrogate pair, expected Unicode text")
    return tuple(sorted(forms | stripped))


def _lines(path: Path, name: str, deny: Path) -> list[str]:
    lines = []
    for number, line in enumerate(_content(deny).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            _refuse(path, name, f"line {number:,} of {deny} is not UTF-8")
    return lines


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(path).decode())
    except UnicodeDecodeError:
        cause = "not UTF-8"
    except tomllib.TOMLDecodeError as error:  # its message may repeat keys
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)$", str(error))
        cause = f"not TOML ({place[1] if place else 'at an unknown place'}); in '…' quotes a pattern needs no escapes"
    raise BadSetting(f"--redact {path}: {cause}", _HINT)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise InputMissing(f"--redact: {path}: no such file", _HINT) from None
    except OSError as error:
        raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error


def _listed(names: Any) -> str:
    found: Iterator[str] = iter(names)
    return ", ".join(f"'{name}'" for name in found)


def _refuse(path: Path, name: str, cause: str) -> NoReturn:
    where = f"rule '{name}': " if name and name != "use" else f"{name}: " if name else ""
    raise BadSetting(f"--redact {path}: {where}{cause}", _HINT) from None
