"""What about rare tokens: how much of the text, and which tokens, no f-gram ends in, by how often they occur.

A position counts as matched when an f-gram ends there. A token class is all tokens that occur equally often in the
training text, to within a factor of ten.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from scone_cli.arrays import I64
from scone_cli.corpus.spelling import Speller

EXAMPLES = 6  # tokens shown of a class

Row = dict[str, Any]


def describe_tail(
    where: str, train: I64, occurrences: I64, unmatched: I64, is_last: npt.NDArray[np.bool_], spell: Speller
) -> Row:
    """The classes of tokens by their count in the training text: 0, 1 to 9, 10 to 99 and so on, then all together.

    All arrays are [T], one value a token: `train` its count in the training text, `occurrences` in the text that is
    matched (`where` says which), `unmatched` those where no f-gram ends, `is_last` whether any f-gram ends in it.
    """
    decade = decades_of(train)
    classes = []
    for power in np.unique(decade).tolist():
        tokens = np.flatnonzero(decade == power)
        examples = _examples(tokens, occurrences, unmatched, spell)
        classes.append(bounds_of(power) | _class(tokens, occurrences, unmatched, is_last) | {"examples": examples})
    return {"where": where, "classes": classes, "all": _class(np.arange(train.size), occurrences, unmatched, is_last)}


def decades_of(counts: I64) -> I64:
    """The class of every token by its count: 0 for never, 1 for 1 to 9, 2 for 10 to 99 and so on [T]."""
    return np.searchsorted(10 ** np.arange(19, dtype=np.int64), counts, side="right")


def bounds_of(decade: int) -> Row:
    """The smallest and the largest count of such a class."""
    return {"first": 10 ** (decade - 1), "last": 10**decade - 1} if decade else {"first": 0, "last": 0}


def _class(tokens: I64, occurrences: I64, unmatched: I64, is_last: npt.NDArray[np.bool_]) -> Row:
    seen, missed = occurrences[tokens], unmatched[tokens]
    num_seen, total = int((seen > 0).sum()), int(seen.sum())
    never = int(((seen > 0) & (missed == seen)).sum())
    return {
        "tokens": int(tokens.size),
        "tokens_in_no_fgram": int((~is_last[tokens]).sum()),
        "occurrences": total,
        "share_unmatched": share_of(int(missed.sum()), total),
        "tokens_seen": num_seen,
        "share_never_matched": share_of(never, num_seen),
    }


def _examples(tokens: I64, occurrences: I64, unmatched: I64, spell: Speller) -> list[Row]:
    """The tokens of a class with the smallest share of matches, the frequent before the rare, that are not all matched."""
    seen, missed = occurrences[tokens], unmatched[tokens]
    share = missed / np.maximum(seen, 1)
    order = np.lexsort((tokens, -seen, -share))
    worst = [i for i in order[:EXAMPLES].tolist() if missed[i]]
    return [
        {
            "token": int(tokens[i]),
            "text": spell([int(tokens[i])]),
            "occurrences": int(seen[i]),
            "unmatched": int(missed[i]),
        }
        for i in worst
    ]


def share_of(part: int, whole: int | None) -> float | None:
    """A share as it is reported; None where there is nothing to have one of."""
    return round(part / whole, 6) if whole else None
