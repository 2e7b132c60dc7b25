"""Finds which terms of a field are f-grams, and how often they occur, for `scone inspect vocab/ --terms`.

A term is looked up twice: as it is tokenised after a blank, and at the beginning of a text. These tokens usually differ. The
count is that of the tokens, so it includes longer words that begin with them. `scone eval --terms` finds terms as words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import Manifest, check_files, open_artifact
from scone_cli.artifacts.opening import scan
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.counting.summary import LeftOut
from scone_cli.formatting import term_text
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.segment import open_with_tokenizer
from scone_cli.vocab.summary import check_made_from

WHOLE, IN_PART, NOT_AT_ALL, ONE_TOKEN = "whole", "in part", "not at all", "one token"
BEFORE = "a"  # the text before the blank, when a term is tokenised after a blank

TermRow = dict[str, Any]  # one term: its match and its count, over all spellings
SpellingRow = dict[str, Any]  # one spelling of a term: its tokens, match and count
Counted = dict[tuple[int, ...], int]


def match_terms(folder: Path, manifest: Manifest, terms: Sequence[str]) -> dict[str, Any]:
    """Match each term with the vocabulary in `folder`, and look up how often it was counted; returns JSON values.

    An n-gram with fewer than `least_count` occurrences was not counted; its count is given as 0.

    `match`: `whole` if an f-gram is the whole term; `in part` if f-grams cover some of its tokens; `not at all`; or `one
    token`, which has its own token embedding. `count`: the occurrences of both spellings together, null if unknown. A
    spelling longer than the counted n-grams has the count of its rarest part, and `at_most` is true; `exact` is the count
    of the other spellings. `spellings` has one entry per spelling.

    Raises:
        MismatchedArtifacts, BadData: see `segment.open_with_tokenizer`.
    """
    spell, tokenizer, vocabulary = open_with_tokenizer(folder, manifest, "terms must be spelled by")
    index, left_out = vocabulary.trie.index(), LeftOut()
    spelled = [spellings_of(term, tokenizer) for term in terms]
    counts = left_out.attempt("occurrences", lambda: _Counts(folder, manifest, spelled))
    rows = [_term(term, tokens, index, spell, counts) for term, tokens in zip(terms, spelled, strict=True)]
    kinds = (WHOLE, IN_PART, NOT_AT_ALL, ONE_TOKEN)
    matches = {kind.replace(" ", "_"): sum(row["match"] == kind for row in rows) for kind in kinds}
    least = counts.least if counts else None
    return {"terms": rows, "matches": matches, "least_count": least, "left_out": left_out.reasons}


def spellings_of(term: str, tokenizer: Tokenizer) -> dict[str, U32]:
    """The tokens of a term after a blank, and at the beginning of a text; only one entry if they are the same."""
    before, after, at_start = tokenizer.encode_batch([BEFORE, f"{BEFORE} {term}", term])
    found = {}
    if np.array_equal(after[: before.size], before):  # else a token crosses the border
        found["after a blank"] = after[before.size :]
    if not any(np.array_equal(at_start, each) for each in found.values()):
        found["at the beginning"] = at_start
    return found


def _term(term: str, spelled: dict[str, U32], index: FgramIndex, spell: Speller, counts: _Counts | None) -> TermRow:
    rows = [_spelling(where, tokens, index, spell, counts) for where, tokens in spelled.items()]
    known = [row["count"] for row in rows if row["count"] is not None]
    best = min(rows, key=lambda row: -(row["count"] or 0))  # the more frequent spelling
    return {
        "term": term_text(term),
        "match": best["match"],
        "tokens": best["tokens"],
        "count": sum(known) if known else None,
        "at_most": any(row["at_most"] for row in rows),
        "exact": sum(row["count"] for row in rows if not row["at_most"]) if known else None,
        "spelling": best["spelling"],
        "spellings": rows,
    }


def _spelling(where: str, tokens: U32, index: FgramIndex, spell: Speller, counts: _Counts | None) -> SpellingRow:
    """Match and count one spelling; `fgrams`: the length of the longest f-gram within it that ends at each token."""
    _, lengths = index.match(tokens)
    longest = int(lengths.max(initial=0))
    match = NOT_AT_ALL if longest == 0 else WHOLE if lengths[-1] == tokens.size else IN_PART
    count, at_most = counts.of(tokens) if counts else (None, False)
    return {
        "where": where,
        "spelling": "|".join(spell([token]) for token in tokens.tolist()),
        "tokens": int(tokens.size),
        "match": ONE_TOKEN if tokens.size == 1 else match,
        "fgrams": lengths.tolist(),
        "count": count,
        "at_most": at_most,
    }


class _Counts:
    """Looks up how often the tokens of terms were counted, in the `counts/` beside the vocabulary."""

    def __init__(self, folder: Path, manifest: Manifest, spelled: Sequence[dict[str, U32]]) -> None:
        counts = folder.resolve().parent / "counts"
        found = open_artifact(counts, "counts", hashes=False)
        check_made_from(folder, manifest, counts, found)
        self._longest, self.least = found.settings["max_n"], found.settings["min_count"]
        self._counted: Counted = {}
        wanted: dict[int, set[tuple[int, ...]]] = {}
        for tokens in (tokens for spellings in spelled for tokens in spellings.values()):
            for part in self._parts(tokens):
                wanted.setdefault(len(part), set()).add(part)
        for n, ngrams in wanted.items():
            name = f"n={n}.parquet"
            if name in found.files:
                check_files(counts, replace(found, files={name: found.files[name]}), hashes=True)
                self._counted |= _read(counts / name, n, ngrams)

    def of(self, tokens: U32) -> tuple[int, bool]:
        """The occurrences of these tokens (0 if too rare to be counted), and whether that is only an upper bound."""
        counts = [self._counted.get(part, 0) for part in self._parts(tokens)]
        return min(counts), len(counts) > 1 and min(counts) > 0

    def _parts(self, tokens: U32) -> list[tuple[int, ...]]:
        """The tokens as one n-gram; if that is longer than the counted n-grams, all its parts of the counted length."""
        n = min(tokens.size, self._longest)
        return [tuple(tokens[i : i + n].tolist()) for i in range(tokens.size - n + 1)]


def _read(path: Path, n: int, ngrams: set[tuple[int, ...]]) -> Counted:
    """Read the counts of these n-grams; rows are filtered by the tokens at each place, before they are made Python objects."""
    tokens = pl.col("tokens").arr
    ends = [tokens.get(i).is_in(sorted({ngram[i] for ngram in ngrams})) for i in range(n)]
    found = scan(path).filter(pl.all_horizontal(ends)).select("tokens", "count").collect()
    rows = ((tuple(row["tokens"]), row["count"]) for row in found.iter_rows(named=True))
    return {ngram: count for ngram, count in rows if ngram in ngrams}
