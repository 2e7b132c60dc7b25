"""Statistics of rare and frequent tokens: for each frequency class, the share of positions and tokens without an f-gram.

A position counts as matched when an f-gram ends there. A token class holds the tokens whose counts in the training text
lie in one range: 0, 1 to 9, 10 to 99 and so on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from scone_cli.arrays import I64
from scone_cli.corpus.spelling import Speller

EXAMPLES = 6  # tokens shown per class

TokenClass = dict[str, Any]  # counts, shares and examples of one class of tokens, as JSON values


def describe_tail(
    where: str, train: I64, occurrences: I64, unmatched: I64, is_last: npt.NDArray[np.bool_], spell: Speller
) -> dict[str, Any]:
    """Statistics of every token class (`classes`) and of all tokens together (`all`).

    All arrays are [T], one value per token id. `train`: its count in the training text. `occurrences`: its count in the text
    that is matched (`where` names that text). `unmatched`: its occurrences at which no f-gram ends. `is_last`: whether it is
    the last token of any f-gram.
    """
    columns = {"class": decades_of(train), "seen": occurrences, "missed": unmatched, "is_last": is_last}
    tokens = pl.DataFrame(columns).with_row_index("token")
    classes = [
        bounds_of(decade) | _class(members) | {"examples": _examples(members, spell)}
        for (decade,), members in tokens.sort("class", maintain_order=True).group_by("class", maintain_order=True)
    ]
    return {"where": where, "classes": classes, "all": _class(tokens)}


def decades_of(counts: I64) -> I64:
    """The class [T] of every token by its count: class 0 is a count of 0, 1 is 1 to 9, 2 is 10 to 99 and so on."""
    return np.searchsorted(10 ** np.arange(19, dtype=np.int64), counts, side="right")


def bounds_of(decade: int) -> dict[str, int]:
    """The smallest (`first`) and the largest count (`last`) of a token class."""
    return {"first": 10 ** (decade - 1), "last": 10**decade - 1} if decade else {"first": 0, "last": 0}


def _class(tokens: pl.DataFrame) -> TokenClass:
    seen, total = tokens.filter(pl.col("seen") > 0), int(tokens["seen"].sum())
    return {
        "tokens": tokens.height,
        "tokens_in_no_fgram": tokens.filter(~pl.col("is_last")).height,
        "occurrences": total,
        "share_unmatched": share_of(int(tokens["missed"].sum()), total),
        "tokens_seen": seen.height,
        "share_never_matched": share_of(seen.filter(pl.col("missed") == pl.col("seen")).height, seen.height),
    }


def _examples(tokens: pl.DataFrame, spell: Speller) -> list[dict[str, Any]]:
    """The tokens of a class with the smallest share of matched occurrences, most frequent first among equal shares."""
    share = pl.col("missed") / pl.col("seen")
    missed = tokens.filter(pl.col("missed") > 0).sort(share, "seen", "token", descending=[True, True, False])
    return [
        {"token": row["token"], "text": spell([row["token"]]), "occurrences": row["seen"], "unmatched": row["missed"]}
        for row in missed.head(EXAMPLES).iter_rows(named=True)
    ]


def share_of(part: int, whole: int | None) -> float | None:
    """A share rounded to six decimals, as reports give it; None if `whole` is 0 or None."""
    return round(part / whole, 6) if whole else None
