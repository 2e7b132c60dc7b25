"""Counting over shards, against a Counter: however the work is cut up, spread over processes, or interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from builders import Documents, Fgram, random_documents, slow_counts, write_part
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refusal

from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.counting import merge
from scone_cli.counting.count import count_ngrams
from scone_cli.counting.job import CountingJob
from scone_cli.counting.plan import CountingPlan
from scone_cli.errors import DamagedArtifact, StorageFailure
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool

DOCUMENTS = random_documents(1, 5, [60, 0, 1, 40, 25, 70])
LARGE, SMALL = 1_000_000, 3
IDS = (0, 9, 31)  # token ids far apart: every bit must be kept
PLAN = CountingPlan(1, 1, 2, LARGE, LARGE, LARGE, LARGE, 10, 0)


def count(folder: Path, out: Path, max_n: int = 4, min_count: int = 2, **changes) -> dict[str, bytes]:
    """Count what is in `folder` and write it to `out`: the bytes of each file."""
    tell, workers = changes.pop("progress", silent), changes.pop("workers", 1)
    limits = [changes.pop(name, default) for name, default in (("excluded", ()), ("num_tokens", 5), ("min_docs", 1))]
    plan = dataclasses.replace(PLAN, **changes)
    (out / "work").mkdir(parents=True, exist_ok=True)
    job = CountingJob.begin(out / "work", limits[1], limits[0], max_n, min_count, limits[2], plan, lasting=False)
    with Pool(workers) as pool:
        count_ngrams(job, [(path, None) for path in sorted(folder.glob("part-*"))], out, pool, tell)
    return {path.name: path.read_bytes() for path in sorted(out.glob("n=*.parquet"))}


def rows_of(path: Path) -> list[dict[str, object]]:
    return pq.ParquetFile(path).read().to_pylist()


def counts_of_segments(documents: Sequence[Documents], n: int, min_count: int) -> dict[Fgram, tuple[int, int]]:
    """The slow twin for documents of several segments: no n-gram reaches over two, but a document counts once."""
    by_document = [Counter(slow_grams(segments, n)) for segments in documents]
    counts, docs = sum(by_document, Counter()), Counter(gram for found in by_document for gram in found)
    return {gram: (count, docs[gram]) for gram, count in counts.items() if count >= min_count}


def slow_grams(segments: Documents, n: int) -> list[Fgram]:
    return [tuple(segment[i : i + n]) for segment in segments for i in range(len(segment) - n + 1)]


def write_shards(folder: Path, shards: Sequence[Documents]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, documents in enumerate(shards):
        write_part(folder, number, documents)
    return folder


@pytest.fixture
def tokens(tmp_path):
    """Three shards, one of them of empty documents."""
    return write_shards(tmp_path / "tokens", [DOCUMENTS[:1], DOCUMENTS[1:3], DOCUMENTS[3:]])


@pytest.mark.slow
@settings(max_examples=100)
@given(
    shards=st.lists(
        st.lists(
            st.tuples(
                st.lists(st.lists(st.sampled_from(IDS), max_size=40), min_size=1, max_size=3),  # segments of a document
                st.sampled_from([TRAIN, TRAIN, HELD_OUT]),
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    max_n=st.integers(2, 8),
    min_count=st.integers(1, 3),
    min_docs=st.integers(1, 2),
    excluded=st.sets(st.sampled_from(IDS), max_size=1),
    num_tokens=st.sampled_from([32, (1 << 16) - 1, 1 << 16]),
    bits=st.integers(1, 3),
    sizes=st.tuples(*[st.sampled_from([SMALL, LARGE])] * 4),
)
def test_counts_are_those_of_a_counter(
    tmp_path_factory, shards, max_n, min_count, min_docs, excluded, num_tokens, bits, sizes
):
    folder = tmp_path_factory.mktemp("count")
    for number, shard in enumerate(shards):
        rows = [(row, split, i > 0) for segments, split in shard for i, row in enumerate(segments)]
        documents, splits, continues = zip(*rows, strict=True) if rows else ((), (), ())
        write_part(folder, number, documents, splits, continues=continues)
    cut_up = dict(zip(["block_tokens", "group_records", "piece_records", "merge_rows"], sizes, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_SAMPLED", 1)
        limits = {"min_docs": min_docs, "excluded": tuple(excluded), "num_tokens": num_tokens}
        count(folder, folder / "out", max_n, min_count, bits=bits, **limits, **cut_up)
    train = [segments for shard in shards for segments, split in shard if split == TRAIN]
    for n in range(1, max_n + 1):
        found = counts_of_segments(train, n, min_count if n > 1 else 1)
        if n > 1:
            found = {
                gram: (count, docs)
                for gram, (count, docs) in found.items()
                if docs >= min_docs and not excluded & set(gram)
            }
        expected = [
            {"tokens": list(gram), "count": found[gram][0], "docs": found[gram][1]}
            for gram in sorted(found, key=lambda gram: (-found[gram][0], gram))
        ]
        assert rows_of(folder / "out" / f"n={n}.parquet") == expected


def test_an_ngram_of_two_documents_is_not_counted(tmp_path):
    tokens = write_shards(tmp_path / "tokens", [[[1, 2], [3, 4]], [[0, 1]]])
    count(tokens, tmp_path, 2, 1)
    assert [row["tokens"] for row in rows_of(tmp_path / "n=2.parquet")] == [[0, 1], [1, 2], [3, 4]]


def test_a_count_by_hand(tmp_path):
    tokens = write_shards(tmp_path / "tokens", [[[0, 1, 0, 1, 0], [0, 1]], [[1, 0]]])
    count(tokens, tmp_path, 3, 2)
    assert [tuple(row.values()) for row in rows_of(tmp_path / "n=1.parquet")] == [([0], 5, 3), ([1], 4, 3)]
    assert [tuple(row.values()) for row in rows_of(tmp_path / "n=2.parquet")] == [([0, 1], 3, 2), ([1, 0], 3, 2)]
    assert [tuple(row.values()) for row in rows_of(tmp_path / "n=3.parquet")] == [([0, 1, 0], 2, 1)]


def test_an_ngram_of_two_segments_of_one_document_is_in_one_document(tmp_path):
    (tmp_path / "tokens").mkdir()
    documents, continues = [[0, 1, 2], [0, 1], [2, 0, 1], [2]], [False, True, False, True]
    write_part(tmp_path / "tokens", 0, documents, continues=continues)
    count(tmp_path / "tokens", tmp_path, 3, 1)
    assert [tuple(row.values()) for row in rows_of(tmp_path / "n=1.parquet")] == [([0], 3, 2), ([1], 3, 2), ([2], 3, 2)]
    found = {tuple(row["tokens"]): (row["count"], row["docs"]) for row in rows_of(tmp_path / "n=2.parquet")}
    assert found == {(0, 1): (3, 2), (1, 2): (1, 1), (2, 0): (1, 1)}
    assert [row["tokens"] for row in rows_of(tmp_path / "n=3.parquet")] == [[0, 1, 2], [2, 0, 1]]


def test_neither_the_spread_over_shards_nor_the_plan_nor_the_workers_matter(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "ROW_GROUP", 10)
    monkeypatch.setattr(merge, "_SAMPLED", 2)
    expected = count(tokens, tmp_path / "out")
    assert len(expected) == 4
    assert pq.ParquetFile(tmp_path / "out" / "n=3.parquet").num_row_groups > 3
    one = write_shards(tmp_path / "one", [DOCUMENTS])
    reversed_ = write_shards(tmp_path / "many", [[document] for document in reversed(DOCUMENTS)])
    assert count(one, tmp_path / "out-of-one") == expected
    assert count(reversed_, tmp_path / "out-of-many") == expected
    small = {"block_tokens": 7, "group_records": 20, "piece_records": 5, "merge_rows": 6}
    assert count(tokens, tmp_path / "out-of-small", bits=4, **small) == expected


def test_a_bucket_larger_than_memory_is_dealt_again_and_again(tmp_path):
    """One pair begins nearly all records, one triple most of them, and the rest is spread; every bucket has one pair at least."""
    documents = [[0] * 300 + [1, 2, 3] * 40 + spread for spread in random_documents(2, 6, [120] * 8)]
    tokens = write_shards(tmp_path / "tokens", [documents[:4], documents[4:]])
    expected = count(tokens, tmp_path / "out", 5, 2, num_tokens=6)
    for number, most in enumerate((400, 40, 8)):
        small = {"group_records": most, "piece_records": most // 4}
        assert count(tokens, tmp_path / f"out-{number}", 5, 2, num_tokens=6, **small) == expected
        assert not [*(tmp_path / f"out-{number}" / "work").glob("again-*")]
    for n in range(2, 6):
        rows = {
            tuple(row["tokens"]): (row["count"], row["docs"]) for row in rows_of(tmp_path / "out" / f"n={n}.parquet")
        }
        assert rows == slow_counts(documents, n, 2)


def test_no_room_for_a_second_copy_of_a_large_bucket_is_told(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("scone_cli.runtime.resources.shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with refusal(StorageFailure, "second copy", hint=("free",)):
        count(tokens, tmp_path / "out", group_records=9, piece_records=4)


@pytest.mark.slow
def test_worker_processes_count_the_same(tokens, tmp_path):
    expected = count(tokens, tmp_path / "out")
    assert count(tokens, tmp_path / "out-of-two", workers=2, group_records=50) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"bits": 3, "group_records": 30, "block_tokens": 9}),
        ({"group_records": 9, "piece_records": 4}, {}),  # in parts, then in memory
        ({"group_records": 9, "piece_records": 4}, {"group_records": 20, "piece_records": 5}),
    ],
)
def test_a_run_killed_at_any_file_goes_on_to_the_same_result_with_another_plan(
    tokens, tmp_path, monkeypatch, before, after
):
    expected = count(tokens, tmp_path / "whole", max_n=3)
    replace = Path.replace
    for allowed in itertools.count():
        numbers = itertools.count()

        def stops(path, target, numbers=numbers, allowed=allowed):
            if next(numbers) >= allowed:
                raise KeyboardInterrupt
            return replace(path, target)

        out = tmp_path / f"after-{allowed}"
        monkeypatch.setattr(Path, "replace", stops)
        try:
            count(tokens, out, max_n=3, **before)
        except KeyboardInterrupt:
            monkeypatch.setattr(Path, "replace", replace)
            assert count(tokens, out, max_n=3, **after) == expected
            assert not [*(out / "work").glob("again-*")]
        else:
            break
        shutil.rmtree(out)
    assert allowed > 3 * 2 + 2 + 3  # three shards dealt, at least a run of each length, every length merged


def test_what_is_there_is_not_done_again(tokens, tmp_path, monkeypatch):
    expected, made = count(tokens, tmp_path / "out"), []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (made.append(target.name), replace(path, target)))
    assert count(tokens, tmp_path / "out") == expected
    assert made == []
    for path in [*(tmp_path / "out" / "work").glob("*.dealt"), *(tmp_path / "out").glob("n=[123].parquet")]:
        made.clear()
        path.unlink()
        assert count(tokens, tmp_path / "out") == expected
        assert [name for name in made if not name.endswith(".records")] == [path.name]


def test_a_part_that_is_not_what_its_hash_says_is_damaged(tokens, tmp_path):
    (tmp_path / "out" / "work").mkdir(parents=True)
    job = CountingJob.begin(tmp_path / "out" / "work", 5, (), 3, 2, 1, PLAN, lasting=False)
    parts = [(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(tokens.glob("part-*"))]
    with parts[1][0].open("r+b") as file:
        file.seek(40)
        file.write(bytes([parts[1][0].read_bytes()[40] ^ 1]))
    with Pool(1) as pool, refusal(DamagedArtifact, "part-00001.parquet", "SHA-256"):
        count_ngrams(job, parts, tmp_path / "out", pool, silent)


def test_progress_rises_to_its_total(tokens, tmp_path):
    told = []
    count(tokens, tmp_path / "out", progress=lambda what, done, total, *_: told.append((what, done, total)))
    pieces = list(dict.fromkeys(what for what, _, _ in told))
    assert pieces == ["dealing n-grams into buckets", "counting buckets", "putting n-grams in order"]
    for piece in pieces:
        done = [(done, total) for what, done, total in told if what == piece]
        assert done == sorted(done)
        assert done[0][0] == 0
        assert done[-1][0] == done[-1][1] > 0


def test_large_token_ids_are_exact(tmp_path):
    large = 70_000
    tokens = write_shards(tmp_path / "tokens", [[[large, 0, large, 0, large, large]]])
    count(tokens, tmp_path, 3, 1, num_tokens=large + 1)
    assert [list(row.values()) for row in rows_of(tmp_path / "n=2.parquet")] == [
        [[0, large], 2, 1],
        [[large, 0], 2, 1],
        [[large, large], 1, 1],
    ]
    assert [row["tokens"] for row in rows_of(tmp_path / "n=3.parquet")] == [
        [large, 0, large],
        [0, large, 0],
        [0, large, large],
    ]


@pytest.mark.parametrize("num_tokens", [1 << 15, (1 << 15) + 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("group_records", [SMALL, LARGE])
def test_the_largest_ids_are_counted_in_every_place(tmp_path, num_tokens, group_records):
    ids = [0, num_tokens - 2, num_tokens - 1]
    documents = [[ids[token % 3] for token in document] for document in DOCUMENTS]
    tokens = write_shards(tmp_path / "tokens", [documents[:3], documents[3:]])
    count(tokens, tmp_path, 4, 1, num_tokens=num_tokens, group_records=group_records)
    for n in range(1, 5):
        rows = {tuple(row["tokens"]): (row["count"], row["docs"]) for row in rows_of(tmp_path / f"n={n}.parquet")}
        assert rows == slow_counts(documents, n, 1)


@pytest.mark.parametrize("min_count", [255, 256, 300])
@pytest.mark.parametrize("group_records", [SMALL, LARGE])
def test_more_occurrences_than_the_filter_can_count(tmp_path, min_count, group_records):
    tokens = write_shards(tmp_path / "tokens", [[[0] * 700, [1, 2] * 254]])
    count(tokens, tmp_path, 4, min_count, group_records=group_records)
    assert [row["count"] for row in rows_of(tmp_path / "n=2.parquet")] == [699]
    assert [row["count"] for row in rows_of(tmp_path / "n=4.parquet")] == [697]
