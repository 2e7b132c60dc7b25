"""Statistics of counts and of an f-gram vocabulary, for `scone inspect counts/` and `scone inspect vocab/`.

They come from the artifact, and from the artifacts beside it from which it was made. The training documents are not read.
If an artifact beside it is missing, or is not the one it was made from, `left_out` names the statistics that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from scone_cli.arrays import I64, U8
from scone_cli.artifacts.manifest import MADE_BY, Manifest, check_files, open_artifact, read_manifest
from scone_cli.artifacts.opening import scan
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import TokenStream, read_tokens
from scone_cli.counting.rarity import describe_tail, share_of
from scone_cli.counting.summary import (
    NEIGHBOURS,
    LeftOut,
    NgramRow,
    Portrait,
    curve,
    curve_ranks,
    portray_counts,
    shown,
    train_counts,
)
from scone_cli.errors import InputMissing, MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.vocab.vocabulary import Vocabulary

MatchSummary = dict[str, Any]  # tokens, share of matched positions, mean match length


def portray(folder: Path, manifest: Manifest, rows: int, spell: Speller, progress: Progress) -> Portrait:
    """The statistics of the counts or the vocabulary in `folder`, with about `rows` example n-grams, as JSON values.

    Raises:
        BadData: the artifact is damaged; the subclass says how.
    """
    check_files(folder, manifest, hashes=True)  # hashing costs little here: all files are read anyway
    portrait = portray_counts if manifest.artifact == "counts" else _portray_vocabulary
    return portrait(folder, manifest, rows, spell, progress)


def _portray_vocabulary(folder: Path, manifest: Manifest, rows: int, spell: Speller, progress: Progress) -> Portrait:
    left_out = LeftOut()
    progress("reading the vocabulary", 0, 1, "vocabulary")
    vocabulary = Vocabulary.read(folder, manifest.settings["num_tokens"], manifest.settings["max_n"])
    progress("reading the vocabulary", 1, 1, "vocabulary")
    matched, found = np.zeros(0, np.uint8), dict[str, Any].fromkeys(("matched", "positions", "tail"))
    held_out = left_out.attempt("matches", lambda: _held_out(folder, manifest, progress))
    if held_out is not None:
        matched = vocabulary.trie.index().match(held_out.tokens, held_out.starts)[1]
        found["matched"] = summarise_matches(matched)
        found["positions"] = by_position(held_out.starts, matched)
        found["tail"] = left_out.attempt("tail", lambda: _tail(folder, manifest, vocabulary, held_out, matched, spell))
    lengths, curves = [], []
    for n in range(2, vocabulary.trie.max_n + 1):
        counts = pl.Series(vocabulary.counts[vocabulary.trie.lengths == n]).sort(descending=True)
        ranks = curve_ranks(counts.len())
        curves.append(curve(n, ranks, counts[ranks - 1]))
        share = share_of(int((matched == n).sum()), matched.size)
        row = {"n": n, "ngrams": counts.len(), "occurrences": counts.sum(), "share_of_positions": share}
        lengths.append(row)
    return {
        "ladder": left_out.attempt("coverage against size", lambda: _ladder(folder)),
        "lengths": lengths,
        "rank_frequency": curves,
        **found,
        "examples": _examples(vocabulary, rows, spell),
        "left_out": left_out.reasons,
    }


def _examples(vocabulary: Vocabulary, rows: int, spell: Speller) -> list[NgramRow]:
    places = _fgram_places(vocabulary.trie.num_fgrams, rows)
    tokens = vocabulary.trie.tokens_of(np.array(places, np.int64))
    return [
        {"n": len(fgram), "id": place}
        | shown({"tokens": fgram, "count": int(vocabulary.counts[place]), "docs": int(vocabulary.docs[place])}, spell)
        for place, fgram in zip(places, tokens, strict=True)
    ]


def check_made_from(folder: Path, manifest: Manifest, beside: Path, found: Manifest) -> None:
    """Raise MismatchedArtifacts unless the artifact in `folder` was made from the artifact `beside` it."""
    if found.fingerprint != manifest.inputs.get(found.artifact):
        raise MismatchedArtifacts(
            f"{folder} was made from another '{found.artifact}' than the one in {beside}",
            f"make it again: {MADE_BY[manifest.artifact]}",
        )


def _held_out(folder: Path, manifest: Manifest, progress: Progress) -> TokenStream:
    tokens = folder.resolve().parent / "tokens"
    progress("reading held-out text", 0, None, "tokens")
    check_made_from(folder, manifest, tokens, open_artifact(tokens, "tokens"))
    held_out = read_tokens(tokens, HELD_OUT)
    if not held_out.tokens.size:
        raise InputMissing(f"{tokens} holds no held-out text", "give scone count-ngrams a --held-out above 0")
    progress("reading held-out text", held_out.tokens.size, held_out.tokens.size, "tokens")
    return held_out


def _ladder(folder: Path) -> list[dict[str, Any]]:
    path = folder / "ladder.parquet"
    if not path.is_file():
        raise InputMissing(
            f"there is no {path}: an earlier version made the vocabulary", f"run: {MADE_BY['vocab']} --force"
        )
    return scan(path).collect().to_dicts()


def _tail(
    folder: Path, manifest: Manifest, vocabulary: Vocabulary, held_out: TokenStream, matched: U8, spell: Speller
) -> dict[str, Any]:
    counts = folder.resolve().parent / "counts"
    found = read_manifest(counts, "counts")
    check_made_from(folder, manifest, counts, found)
    by_token = train_counts(counts, found)
    occurrences = np.bincount(held_out.tokens, minlength=by_token.size)
    unmatched = np.bincount(held_out.tokens[matched == 0], minlength=by_token.size)
    is_last = np.zeros(by_token.size, bool)
    is_last[vocabulary.trie.last_tokens] = True
    return describe_tail("held-out text", by_token, occurrences, unmatched, is_last, spell)


def _fgram_places(size: int, top: int) -> list[int]:
    """The ids of the example f-grams: the first `top`, a few at every power of ten, and the last few."""
    decades = (10**power for power in range(1, len(str(size))))
    wanted = [
        *range(top),
        *(place + i for place in decades for i in range(NEIGHBOURS)),
        *range(size - NEIGHBOURS, size),
    ]
    return sorted({place for place in wanted if 0 <= place < size})


# ---- matches -----------------------------------------------------------------------------------------------------


_FACTS = (pl.len(), (pl.col("length") > 0).sum().alias("hits"), pl.col("length").sum().alias("matched"))
_GROUPS = (0, 1, 2, 3, *(2**power for power in range(2, 63)))  # the first position of each group of positions


def summarise_matches(lengths: U8) -> MatchSummary:
    """The share of matched positions and the mean match length; `lengths`: the match length of each position (0: none)."""
    return _summary(*pl.DataFrame({"length": lengths}).select(_FACTS).row(0))


def by_position(starts: I64, lengths: U8) -> list[MatchSummary]:
    """The summaries of matches by position in the document (from 0): 0, 1, 2, 3, 4 to 7, 8 to 15 and so on."""
    position = np.arange(lengths.size) - np.repeat(starts[:-1], np.diff(starts))
    group = np.searchsorted(_GROUPS, position, side="right")
    matches = pl.DataFrame({"group": group, "position": position, "length": lengths})
    bounds = pl.col("position").min().alias("first"), pl.col("position").max().alias("last")
    found = matches.group_by("group").agg(*bounds, *_FACTS).sort("group")
    return [{"first": first, "last": last} | _summary(*facts) for _, first, last, *facts in found.iter_rows()]


def _summary(tokens: int, hits: int, matched: int) -> MatchSummary:
    return {
        "tokens": tokens,
        "share_matched": share_of(hits, tokens),
        "mean_match_length": round(matched / hits, 4) if hits else None,
    }
