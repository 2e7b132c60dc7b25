"""Statistics of `counts/` for `scone inspect counts/`, and helpers that the statistics of a vocabulary share.

Only the counts are read, not the text that was counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from scone_cli.arrays import I64
from scone_cli.artifacts.manifest import MADE_BY, Manifest, check_files
from scone_cli.artifacts.opening import scan
from scone_cli.corpus.spelling import Speller
from scone_cli.counting.rarity import describe_tail, share_of
from scone_cli.errors import InputMissing, SconeError
from scone_cli.progress import Progress

CURVE_POINTS = 160  # points of a rank-frequency curve, evenly spaced in the logarithm of the rank
NEIGHBOURS = 3  # n-grams shown from one place in the ranking

Portrait = dict[str, Any]  # the statistics of an artifact by name, as JSON values
Curve = dict[str, Any]  # a rank-frequency curve: n, ranks and counts
NgramRow = dict[str, Any]  # one n-gram: its tokens, count and documents


def portray_counts(folder: Path, manifest: Manifest, rows: int, spell: Speller, progress: Progress) -> Portrait:
    """The statistics of the counts in `folder`, see `vocab.summary.portray`.

    `share_of_positions`: the share of positions in the training text where a counted n-gram of that length ends.
    """
    left_out = LeftOut()
    longest = manifest.settings["max_n"]
    paths = {n: path for n in range(1, longest + 1) if (path := _path(folder, n)).name in manifest.files}
    curves, lengths, examples = [], [], []
    for n, path in paths.items():
        progress("reading counts", n - 1, longest, "lengths")
        ngrams = scan(path)
        size, occurrences = ngrams.select(pl.len(), pl.col("count").sum()).collect().row(0)
        curves.append(_curve(ngrams, n, size))
        lengths.append({"n": n, "ngrams": size, "occurrences": occurrences})
        found = _examples(ngrams, size, (rows + 1) // 2).iter_rows(named=True)
        examples += [{"n": n, "rank": row["rank"] + 1} | shown(row, spell) for row in found]
    tail, positions = None, None
    by_token = left_out.attempt("tail", lambda: train_counts(folder, manifest))
    if by_token is not None:
        positions = int(by_token.sum())
        matched = _occurrences_of_last_tokens(paths[2], by_token.size)
        tail = describe_tail("training text", by_token, by_token, by_token - matched, matched > 0, spell)
    progress("reading counts", longest, longest, "lengths")
    return {
        "rank_frequency": curves,
        "lengths": [row | {"share_of_positions": share_of(row["occurrences"], positions)} for row in lengths],
        "examples": examples,
        "tail": tail,
        "left_out": left_out.reasons,
    }


def _path(folder: Path, n: int) -> Path:
    return folder / f"n={n}.parquet"


def _curve(ngrams: pl.LazyFrame, n: int, size: int) -> Curve:
    ranks = curve_ranks(size)
    ranked = ngrams.select("count").with_row_index("rank", 1)
    return curve(n, ranks, ranked.filter(pl.col("rank").is_in(ranks.tolist())).collect()["count"])


def _examples(ngrams: pl.LazyFrame, size: int, top: int) -> pl.DataFrame:
    """The first `top` n-grams, a few around the square root of the last rank, and the last few; no others are read."""
    runs = (0, top), (int(size**0.5), NEIGHBOURS), (max(0, size - NEIGHBOURS), NEIGHBOURS)
    ranked = ngrams.with_row_index("rank")
    return pl.concat([ranked.slice(*run) for run in runs]).unique("rank").sort("rank").collect()


def _occurrences_of_last_tokens(bigrams: Path, num_tokens: int) -> I64:
    """Matched occurrences of each token in the training text [T]: a position is matched where a counted bigram ends."""
    found = scan(bigrams).group_by(pl.col("tokens").arr.last()).agg(pl.col("count").sum()).collect()
    return _by_token(found["tokens"], found["count"], num_tokens)


def _by_token(tokens: pl.Series, counts: pl.Series, num_tokens: int) -> I64:
    by_token = np.zeros(num_tokens, np.int64)
    by_token[tokens.to_numpy()] = counts.to_numpy()
    return by_token


# ---- shared with vocabularies ------------------------------------------------------------------------------------


class LeftOut:
    """Collects the reasons why parts of a portrait could not be made."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returns; if it raises a SconeError, note the reason and return None."""
        try:
            return make()
        except SconeError as error:
            self.reasons.append(f"{what}: {error.message}" + (f"; {error.hint}" if error.hint else ""))
            return None


def train_counts(counts: Path, manifest: Manifest) -> I64:
    """How often each token occurs in the training text [T].

    Raises:
        InputMissing: an earlier version made the counts, without the counts of single tokens.
    """
    path = _path(counts, 1)
    if path.name not in manifest.files:
        raise InputMissing(f"there is no {path}, the counts of single tokens", f"run: {MADE_BY['counts']} --force")
    check_files(counts, replace(manifest, files={path.name: manifest.files[path.name]}), hashes=True)
    found = scan(path).select(pl.col("tokens").arr.first(), "count").collect()
    return _by_token(found["tokens"], found["count"], manifest.summary["vocab_size"])


def curve_ranks(size: int) -> I64:
    """The ranks at which a curve is drawn: 1 to `size`, evenly spaced in the logarithm, and all powers of ten."""
    if not size:
        return np.zeros(0, np.int64)
    spaced = np.rint(np.geomspace(1, size, CURVE_POINTS)).astype(np.int64)
    return np.unique(np.concatenate([spaced, 10 ** np.arange(len(str(size)))]))


def curve(n: int, ranks: I64, counts: pl.Series) -> Curve:
    """A rank-frequency curve as JSON values: the counts of the n-grams at these ranks."""
    return {"n": n, "rank": ranks.tolist(), "count": counts.to_list()}


def shown(row: NgramRow, spell: Speller) -> NgramRow:
    """An n-gram as a report shows it: its text, tokens, count and documents."""
    return {"text": spell(row["tokens"]), "tokens": row["tokens"], "count": row["count"], "docs": row["docs"]}
