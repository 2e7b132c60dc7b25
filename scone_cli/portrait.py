"""What is worth knowing of counts and of an f-gram vocabulary, as figures: `scone inspect counts/` and `vocab/`.

Everything comes from the artifact and from those beside it that it was made from; the documents that were trained on
are not read. What cannot be had, because a neighbour is gone or is another, is named in `left_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from scone_cli.artifacts import MADE_BY, Manifest, check_files, open_artifact, read_manifest
from scone_cli.corpus import HELD_OUT, TokenStream, read_tokens
from scone_cli.errors import InputMissing, MismatchedArtifacts, SconeError
from scone_cli.legible import Speller
from scone_cli.ngrams import I64, U8
from scone_cli.tail import describe_tail
from scone_cli.vocabulary import Vocabulary

CURVE_POINTS = 160  # of a rank-frequency curve, evenly spaced in the logarithm of the rank
NEIGHBOURS = 3  # n-grams shown from one place in the ranks
_BATCH_ROWS = 1 << 20

Row = dict[str, Any]


def portray(folder: Path, manifest: Manifest, rows: int, spell: Speller) -> dict[str, Any]:
    """The figures of the counts or the vocabulary in `folder`, with some `rows` of its n-grams, as JSON values.

    Raises:
        BadData: the child that says what is wrong with the artifact itself.
    """
    check_files(folder, manifest, hashes=True)  # all of it is read anyway
    portrait = _of_counts if manifest.artifact == "counts" else _of_vocabulary
    return portrait(folder, manifest, rows, spell)


class _LeftOut:
    """Collects why a part of the portrait could not be made."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, or None and a reason."""
        try:
            return make()
        except SconeError as error:
            self.reasons.append(f"{what}: {error.message}" + (f"; {error.hint}" if error.hint else ""))
            return None


# ---- counts ------------------------------------------------------------------------------------------------------


def _of_counts(folder: Path, manifest: Manifest, rows: int, spell: Speller) -> dict[str, Any]:
    left_out = _LeftOut()
    paths = {
        n: path
        for n in range(1, manifest.settings["max_n"] + 1)
        if (path := _counts_path(folder, n)).name in manifest.files
    }
    curves, lengths, examples = [], [], []
    for n, path in paths.items():
        size = pq.read_metadata(path).num_rows
        ranks = _curve_ranks(size)
        counts = np.zeros(ranks.size, np.uint64)
        occurrences = seen = 0
        for batch in _batches(path, ["count"]):
            column = batch["count"].to_numpy()
            here = (ranks > seen) & (ranks <= seen + column.size)
            counts[here] = column[ranks[here] - 1 - seen]
            occurrences += int(column.sum())
            seen += column.size
        curves.append(_curve(n, ranks, counts))
        lengths.append({"n": n, "ngrams": size, "occurrences": occurrences})
        examples += _examples(path, n, _places(size, (rows + 1) // 2), spell)
    by_token = left_out.attempt("tail", lambda: _train_counts(folder, manifest))
    positions = None if by_token is None else int(by_token.sum())
    for row in lengths:
        row["share_of_positions"] = _share(row["occurrences"], positions)
    tail = None
    if by_token is not None:
        matched = _occurrences_of_last_tokens(paths[2], by_token.size)
        tail = describe_tail("training text", by_token, by_token, by_token - matched, matched > 0, spell)
    return {"rank_frequency": curves, "lengths": lengths, "examples": examples, "tail": tail} | {
        "left_out": left_out.reasons
    }


def _counts_path(folder: Path, n: int) -> Path:
    return folder / f"n={n}.parquet"


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=columns)


def _places(size: int, top: int) -> list[int]:
    """Row numbers: the first `top`, some halfway down in the logarithm of the rank, and the last."""
    middle = int(size**0.5)
    wanted = [*range(top), *range(middle, middle + NEIGHBOURS), *range(size - NEIGHBOURS, size)]
    return sorted({place for place in wanted if 0 <= place < size})


def _examples(path: Path, n: int, places: list[int], spell: Speller) -> list[Row]:
    """The n-grams at these rows of a file; row groups that hold none of them are not read."""
    found, first = [], 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            here = [place - first for place in places if first <= place < first + size]
            if here:
                found += file.read_row_group(group).take(here).to_pylist()
            first += size
    return [{"n": n, "rank": rank} | _shown(row, spell) for rank, row in zip(places, found, strict=True)]


def _shown(row: Row, spell: Speller) -> Row:
    return {"text": spell(row["tokens"]), "tokens": row["tokens"], "count": row["count"], "docs": row["docs"]}


def _occurrences_of_last_tokens(bigrams: Path, num_tokens: int) -> I64:
    """How often each token ends a counted bigram in the training text: there, and only there, something matches [T]."""
    matched = np.zeros(num_tokens, np.int64)
    for batch in _batches(bigrams, ["tokens", "count"]):
        last = batch["tokens"].flatten().to_numpy().reshape(-1, 2)[:, 1]
        np.add.at(matched, last, batch["count"].to_numpy().astype(np.int64))
    return matched


def _train_counts(counts: Path, manifest: Manifest) -> I64:
    """How often each token occurs in the training text [T].

    Raises:
        InputMissing: the counts are of an earlier version, which did not keep that.
    """
    path = _counts_path(counts, 1)
    if path.name not in manifest.files:
        raise InputMissing(f"there is no {path}, the counts of single tokens", f"run: {MADE_BY['counts']} --force")
    check_files(counts, replace(manifest, files={path.name: manifest.files[path.name]}), hashes=True)
    table = pq.ParquetFile(path).read(["tokens", "count"]).combine_chunks()
    tokens = table.column("tokens").combine_chunks().flatten().to_numpy().astype(np.int64)
    size = manifest.summary.get("vocabulary size", 0)
    by_token = np.zeros(max(size, int(tokens.max(initial=-1)) + 1), np.int64)
    by_token[tokens] = table.column("count").to_numpy()
    return by_token


# ---- a vocabulary ------------------------------------------------------------------------------------------------


def _of_vocabulary(folder: Path, manifest: Manifest, rows: int, spell: Speller) -> dict[str, Any]:
    vocabulary = Vocabulary.read(folder, manifest.settings["num_tokens"], manifest.settings["max_n"])
    lengths, counts = vocabulary.trie.lengths, vocabulary.counts
    left_out = _LeftOut()
    held_out = left_out.attempt("matches", lambda: _held_out(folder, manifest))
    by_length, all_n = [], range(2, vocabulary.trie.max_n + 1)
    found: dict[str, Any] = {"matched": None, "positions": None, "tail": None}
    matched = np.zeros(0, np.uint8)
    if held_out is not None:
        matched = vocabulary.trie.index().match(held_out.tokens, held_out.starts)[1]
        found["matched"] = summarise_matches(matched)
        found["positions"] = by_position(held_out.starts, matched)
        found["tail"] = left_out.attempt("tail", lambda: _tail(folder, manifest, vocabulary, held_out, matched, spell))
    for n in all_n:
        row = {"n": n, "ngrams": int((lengths == n).sum()), "occurrences": int(counts[lengths == n].sum())}
        by_length.append(row | {"share_of_positions": _share(int((matched == n).sum()), matched.size)})
    return {
        "ladder": left_out.attempt("coverage against size", lambda: _ladder(folder)),
        "lengths": by_length,
        "rank_frequency": [_curve_of(n, np.sort(counts[lengths == n])[::-1]) for n in all_n],
        **found,
        "examples": _examples_of_vocabulary(vocabulary, rows, spell),
        "left_out": left_out.reasons,
    }


def _examples_of_vocabulary(vocabulary: Vocabulary, rows: int, spell: Speller) -> list[Row]:
    places = _fgram_places(vocabulary.trie.num_fgrams, rows)
    tokens = vocabulary.trie.tokens_of(np.array(places, np.int64))
    return [
        {"n": len(fgram), "rank": place}
        | _shown({"tokens": fgram, "count": int(vocabulary.counts[place]), "docs": int(vocabulary.docs[place])}, spell)
        for place, fgram in zip(places, tokens, strict=True)
    ]


def _check_made_from(folder: Path, manifest: Manifest, beside: Path, found: Manifest) -> None:
    if found.fingerprint != manifest.inputs.get(found.artifact):
        raise MismatchedArtifacts(
            f"{folder} was made from another '{found.artifact}' than the one in {beside}",
            f"make it again: {MADE_BY[manifest.artifact]}",
        )


def _held_out(folder: Path, manifest: Manifest) -> TokenStream:
    tokens = folder.resolve().parent / "tokens"
    _check_made_from(folder, manifest, tokens, open_artifact(tokens, "tokens"))
    held_out = read_tokens(tokens, HELD_OUT)
    if not held_out.tokens.size:
        raise InputMissing(f"{tokens} holds no held-out text", "give scone count-ngrams a --held-out above 0")
    return held_out


def _ladder(folder: Path) -> list[Row]:
    path = folder / "ladder.parquet"
    if not path.is_file():
        raise InputMissing(
            f"there is no {path}: an earlier version made the vocabulary", f"run: {MADE_BY['vocab']} --force"
        )
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def _tail(
    folder: Path, manifest: Manifest, vocabulary: Vocabulary, held_out: TokenStream, matched: U8, spell: Speller
) -> Row:
    counts = folder.resolve().parent / "counts"
    found = read_manifest(counts, "counts")
    _check_made_from(folder, manifest, counts, found)
    by_token = _train_counts(counts, found)
    occurrences = np.bincount(held_out.tokens, minlength=by_token.size)
    unmatched = np.bincount(held_out.tokens[matched == 0], minlength=by_token.size)
    is_last = np.zeros(by_token.size, bool)
    is_last[vocabulary.trie.last_tokens] = True
    return describe_tail("held-out text", by_token, occurrences, unmatched, is_last, spell)


def _fgram_places(size: int, top: int) -> list[int]:
    """Ids: the first `top`, then a few at every power of ten, and the last."""
    decades = (10**power for power in range(1, len(str(size))))
    wanted = [
        *range(top),
        *(place + i for place in decades for i in range(NEIGHBOURS)),
        *range(size - NEIGHBOURS, size),
    ]
    return sorted({place for place in wanted if 0 <= place < size})


# ---- matches -----------------------------------------------------------------------------------------------------


def summarise_matches(lengths: U8) -> Row:
    """Of positions with matches of these lengths (0: none): how many are matched, and by how long an f-gram."""
    hits = lengths[lengths > 0]
    return {
        "tokens": int(lengths.size),
        "share_matched": _share(int(hits.size), lengths.size),
        "mean_match_length": round(float(hits.mean()), 4) if hits.size else None,
    }


def by_position(starts: I64, lengths: U8) -> list[Row]:
    """The same by position in the document, which counts from 0: 0, 1, 2, 3, 4 to 7, 8 to 15 and so on."""
    position = np.arange(lengths.size) - np.repeat(starts[:-1], np.diff(starts))
    longest = int(position.max(initial=0))
    edges = [0, 1, 2, 3, *(2**power for power in range(2, longest.bit_length() + 1))]
    bucket = np.searchsorted(np.array(edges), position, side="right") - 1
    sizes = np.bincount(bucket, minlength=len(edges))
    hits = np.bincount(bucket[lengths > 0], minlength=len(edges))
    total = np.bincount(bucket, weights=lengths, minlength=len(edges))
    return [
        {
            "first": edges[i],
            "last": min(edges[i + 1] - 1 if i + 1 < len(edges) else longest, longest),
            "tokens": int(sizes[i]),
            "share_matched": _share(int(hits[i]), int(sizes[i])),
            "mean_match_length": round(float(total[i] / hits[i]), 4) if hits[i] else None,
        }
        for i in range(len(edges))
        if sizes[i]
    ]


# ---- curves ------------------------------------------------------------------------------------------------------


def _curve_ranks(size: int) -> I64:
    """Ranks from 1 to `size`, evenly spaced in their logarithm, the powers of ten among them."""
    if not size:
        return np.zeros(0, np.int64)
    spaced = np.rint(np.geomspace(1, size, CURVE_POINTS)).astype(np.int64)
    return np.unique(np.concatenate([spaced, 10 ** np.arange(len(str(size)))]))


def _curve_of(n: int, counts: np.ndarray) -> Row:
    ranks = _curve_ranks(counts.size)
    return _curve(n, ranks, counts[ranks - 1])


def _curve(n: int, ranks: np.ndarray, counts: np.ndarray) -> Row:
    return {"n": n, "rank": ranks.tolist(), "count": counts.tolist()}


def _share(part: int, whole: int | None) -> float | None:
    return round(part / whole, 6) if whole else None
