"""Which of many texts look personal or secret."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scone_cli.audit.spelled import Spelled
from scone_cli.corpus.personal import DETECTORS


def personal(spelled: Spelled) -> dict[int, list[str]]:
    """The rows that look personal or secret, each with the names of the detectors that find something in it.

    All texts are searched as one, which is many times faster; what is found there is looked at again by itself.
    """
    found = dict[int, list[str]]()
    for name, detector in DETECTORS.items():
        for row in _touched(spelled, detector.spans(spelled.utf8)):
            if any(True for _ in detector.spans(spelled[row])):
                found.setdefault(row, []).append(name)
    return found


def _touched(spelled: Spelled, spans: Iterator[tuple[int, int]]) -> list[int]:
    """The rows to which any byte of the spans belongs."""
    ends = np.array(list(spans), np.int64).reshape(-1, 2)
    first, last = spelled.row_of(ends[:, 0]), spelled.row_of(ends[:, 1] - 1)
    return sorted(
        {row for low, high in zip(first.tolist(), last.tolist(), strict=True) for row in range(low, high + 1)}
    )
