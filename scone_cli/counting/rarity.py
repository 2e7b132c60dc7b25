"""What about rare tokens: how much of the text, and which tokens, no f-gram ends in, by how often they occur.

A position counts as matched when an f-gram ends there. A token class is all tokens that occur equally often in the
training text, to within a factor of ten.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

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
    columns = {"class": decades_of(train), "seen": occurrences, "missed": unmatched, "is_last": is_last}
    tokens = pl.DataFrame(columns).with_row_index("token")
    classes = [
        bounds_of(decade) | _class(members) | {"examples": _examples(members, spell)}
        for (decade,), members in tokens.sort("class", maintain_order=True).group_by("class", maintain_order=True)
    ]
    return {"where": where, "classes": classes, "all": _class(tokens)}


def decades_of(counts: I64) -> I64:
    """The class of every token by its count: 0 for never, 1 for 1 to 9, 2 for 10 to 99 and so on [T]."""
    return np.searchsorted(10 ** np.arange(19, dtype=np.int64), counts, side="right")


def bounds_of(decade: int) -> Row:
    """The smallest and the largest count of such a class."""
    return {"first": 10 ** (decade - 1), "last": 10**decade - 1} if decade else {"first": 0, "last": 0}


def _class(tokens: pl.DataFrame) -> Row:
    seen, total = tokens.filter(pl.col("seen") > 0), int(tokens["seen"].sum())
    return {
        "tokens": tokens.height,
        "tokens_in_no_fgram": tokens.filter(~pl.col("is_last")).height,
        "occurrences": total,
        "share_unmatched": share_of(int(tokens["missed"].sum()), total),
        "tokens_seen": seen.height,
        "share_never_matched": share_of(seen.filter(pl.col("missed") == pl.col("seen")).height, seen.height),
    }


def _examples(tokens: pl.DataFrame, spell: Speller) -> list[Row]:
    """The tokens of a class with the smallest share of matches, the frequent before the rare, that are not all matched."""
    share = pl.col("missed") / pl.col("seen")
    missed = tokens.filter(pl.col("missed") > 0).sort(share, "seen", "token", descending=[True, True, False])
    return [
        {"token": row["token"], "text": spell([row["token"]]), "occurrences": row["seen"], "unmatched": row["missed"]}
        for row in missed.head(EXAMPLES).iter_rows(named=True)
    ]


def share_of(part: int, whole: int | None) -> float | None:
    """A share as it is reported; None where there is nothing to have one of."""
    return round(part / whole, 6) if whole else None
