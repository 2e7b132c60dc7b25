"""What an audit found, as plain values: one `Place` for each artifact, and of it each text and each kind of personal text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scone_cli.arrays import I64, U32
from scone_cli.formatting import visible

FGRAMS = "f-grams"
SAMPLES = 20  # ids of each finding
FEW = 10  # documents: fewer are few
DOCS = {"1": (1, 1), "2-4": (2, 4), "5-9": (5, FEW - 1)}
_LONGEST_SHOWN = 200  # bytes of a text that is shown


@dataclass
class Found:
    """Things of one kind: how many, the first ids, and with `--show` what they spell."""

    num: int = 0
    ids: list[int | str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list, repr=False)

    def add(self, row: int | str, text: bytes) -> None:
        """Count a thing."""
        self.num += 1
        if len(self.ids) < SAMPLES:
            self.ids.append(row)
            self.shown.append(visible(text[:_LONGEST_SHOWN].decode("utf-8", "surrogateescape")))


@dataclass
class Place:
    """What was found in one artifact.

    Attributes:
        name: the artifact's name; in a registry after the version's.
        unit: what is counted: documents, n-grams, f-grams, examples, tokens.
        looked_at: how many there are.
        found: how many hold a given text as a whole, or come only from given documents.
        holding: how many hold a given text as a whole.
        only: how many come only from given documents; of `tokens/`, how many are given documents.
        parts: n-grams of two tokens or more that are a part of a given text, and hold no other as a whole.
        rare_parts: those of them that fewer than 10 documents hold.
        personal: how many look personal or secret.
        longest: bytes of the longest n-gram.
        docs: how many are in 1, in 2 to 4 and in 5 to 9 documents; None where that is not known.
        texts: the things that hold a given text, by its line.
        kinds: the things that look personal, by the name of the detector.
        own: the things that come only from given documents.
    """

    name: str
    unit: str
    looked_at: int = 0
    found: int = 0
    holding: int = 0
    only: int = 0
    parts: int = 0
    rare_parts: int = 0
    personal: int = 0
    longest: int = 0
    docs: Counter[str] | None = None
    texts: dict[int, Found] = field(default_factory=dict)
    kinds: dict[str, Found] = field(default_factory=dict)
    own: Found = field(default_factory=Found)

    def count(self, num: int, holding: I64, own: I64, things: Iterable[tuple[int | str, bytes]]) -> None:
        """Count `num` more things, the rows among them that hold a given text, and those that come only from documents."""
        self.looked_at += num
        self.holding += holding.size
        self.only += own.size
        self.found += np.union1d(holding, own).size
        for row, text in things:
            self.own.add(row, text)

    def count_docs(self, docs: U32) -> None:
        """Count n-grams by the documents that hold them."""
        assert self.docs is not None
        for name, (low, high) in DOCS.items():
            self.docs[name] += int(np.count_nonzero((docs >= low) & (docs <= high)))

    def note_text(self, line: int, row: int | str, text: bytes) -> None:
        """Note that a thing holds a given text."""
        self.texts.setdefault(line, Found()).add(row, text)

    def note_personal(self, kinds: Iterable[str], row: int | str, text: bytes) -> None:
        """Note that a thing looks personal."""
        self.personal += 1
        for kind in kinds:
            self.kinds.setdefault(kind, Found()).add(row, text)

    @property
    def few(self) -> int:
        """How many are in fewer than 10 documents."""
        return sum((self.docs or {}).values())

    def facts(self, show: bool) -> dict[str, Any]:
        """The place as JSON values; with text only if `show`."""
        facts = asdict(self) | {"docs": self.docs and dict(self.docs)}
        for found in (*facts["texts"].values(), *facts["kinds"].values(), facts["own"]):
            if not show:
                del found["shown"]
        return facts


@dataclass
class Findings:
    """What an audit found in all places.

    Attributes:
        places: in the order in which artifacts are made.
        problems: what could not be looked at, and why.
        notes: what the reader should know of what was found, or not found.
    """

    places: list[Place] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def found(self) -> int:
        """How many things hold a given text or come only from given documents."""
        return sum(place.found for place in self.places)

    @property
    def personal(self) -> int:
        """How many things look personal or secret."""
        return sum(place.personal for place in self.places)

    @property
    def few(self) -> int:
        """The f-grams in fewer than 10 documents, of the artifact that has most: vocabulary and table have the same."""
        return max((place.few for place in self.places if place.unit == FGRAMS), default=0)
