"""What a message must name, whichever words it is told in: files, options, values, commands.

A fact is a piece of text, or a number, which may be written with or without commas. It must stand by itself: 7 is not
found in 70, nor 2 in 2.5. Upper and lower case are the same, so that a word may begin a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scone_cli.errors import SconeError

Fact = str | int


def is_named(text: str, fact: Fact) -> bool:
    """Whether the text has the fact."""
    if isinstance(fact, int):
        return is_named(text, f"{fact}") or is_named(text, f"{fact:,}")
    assert fact.strip(), "nothing is in every text"
    found = re.escape(" ".join(fact.split()))
    if fact[0].isalnum():
        found = (r"(?<!\w)(?<!\d[.,])" if fact[0].isdigit() else r"(?<![^\W_])") + found
    if fact[-1].isalnum():
        found += r"(?!\w)(?![.,]\d)" if fact[-1].isdigit() else r"(?![^\W_])"
    return re.search(found, " ".join(text.split()), re.IGNORECASE) is not None


def names(text: str, *facts: Fact) -> bool:
    """Whether a text that is not empty has all the facts; says which are not there."""
    assert text.strip(), "nothing is told"
    missing = [fact for fact in facts if not is_named(text, fact)]
    assert not missing, f"not told: {missing} in {text!r}"
    return True


@contextmanager
def refusal(
    error: type[Exception], *facts: Fact, hint: tuple[Fact, ...] | None = None
) -> Iterator[pytest.ExceptionInfo]:
    """Expect the error, and in its message, which is one line, these facts; and with `hint` a hint that has those."""
    with pytest.raises(error) as caught:
        yield caught
    said = caught.value.message if isinstance(caught.value, SconeError) else str(caught.value)
    assert len(said.splitlines()) == 1, said
    assert names(said, *facts)
    if hint is not None:
        assert len((caught.value.hint or "").splitlines()) == 1
        assert names(caught.value.hint, *hint)


def error_of(err: str, *facts: Fact, hint: tuple[Fact, ...] | None = None) -> tuple[str, str]:
    """The message and the hint (or nothing) that stderr ends with, in one line each; with `hint`, it must be there."""
    assert "Traceback" not in err
    lines = err.splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    message, *rest = lines[place:]
    assert [line.split()[0] for line in rest] in ([], ["hint:"]), err
    assert names(message.removeprefix("error:"), *facts)
    told = rest[0].removeprefix("hint:").strip() if rest else ""
    assert hint is None or names(told, *hint)
    assert told or not rest
    return message.removeprefix("error: "), told


def was_made(out: str) -> bool:
    """Whether the first line of a result says that it was made, and in what time, or else that it is up to date."""
    heading = re.fullmatch(r"[\w-]+ -> \S+ \(([^()]+)\)(; see: .+)?", out.splitlines()[0])
    assert heading, out
    return re.search(r"\d", heading[1]) is not None


# ---- what only words can tell: when a text is told in others, add them here ---------------------------------------

_BETTER = r"better|beats?|wins?|ahead of|improves|outperforms"
_WORSE = r"worse|loses?|behind|beaten by"
_UNKNOWN = r"not (?:been )?(?:shown|known|proven)|no difference|un(?:known|clear|decided)|cannot be told|inconclusive"
_LOWER = r"lower|less|smaller|fewer|below"
_HIGHER = r"higher|more|larger|greater|above"


def leanings(text: str) -> list[str]:
    """Every word of the text that judges: better, worse or unknown."""
    pattern = rf"\b(?:(?P<unknown>{_UNKNOWN})|(?P<better>{_BETTER})|(?P<worse>{_WORSE}))\b"
    return [str(found.lastgroup) for found in re.finditer(pattern, text, re.IGNORECASE)]


def leaning_before(text: str, name: str) -> str:
    """How what is named was judged: by the last such word before its name."""
    place = text.index(name)
    return (leanings(text[:place]) or ["nothing"])[-1]


def direction(text: str, number: str) -> str:
    """Whether the text says lower or higher beside a number, which it must have."""
    assert names(text, number)
    told = re.search(rf"{re.escape(number)}\s+(?:(?P<lower>{_LOWER})|(?P<higher>{_HIGHER}))\b", " ".join(text.split()))
    assert told, f"{number} of what, in {text!r}"
    return str(told.lastgroup)


def wording(text: str, *named: str) -> str:
    """The words between the numbers and the names: equal where the same is told of others."""
    for name in sorted(named, key=len, reverse=True):
        text = text.replace(name, "NAME")
    return re.sub(r"\S*\d\S*", "NUMBER", text)
