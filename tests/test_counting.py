"""Counting over shards, against a Counter; interrupted anywhere, spread over shards anyhow."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import Documents, random_documents, slow_counts, write_part
from hypothesis import given, settings
from hypothesis import strategies as st

from scone_cli import counting
from scone_cli.corpus import HELD_OUT, TRAIN
from scone_cli.counting import count_ngrams
from scone_cli.errors import SconeError
from scone_cli.progress import silent

DOCUMENTS = random_documents(1, 5, [60, 0, 1, 40, 25, 70])


def count(folder: Path, out: Path, max_n: int = 4, min_count: int = 2, progress=silent) -> dict[str, bytes]:
    """Count what is in `folder` and write it to `out`: the bytes of each file."""
    (out / "work").mkdir(parents=True, exist_ok=True)
    for frequent in count_ngrams(folder, out / "work", max_n, min_count, progress):
        frequent.write(out / f"n={frequent.tokens.shape[1]}.parquet")
    return {path.name: path.read_bytes() for path in sorted(out.glob("n=*.parquet"))}


def write_shards(folder: Path, shards: Sequence[Documents]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, documents in enumerate(shards):
        write_part(folder, number, documents)
    return folder


@pytest.fixture
def tokens(tmp_path):
    """Three shards, one of them of empty documents."""
    return write_shards(tmp_path / "tokens", [DOCUMENTS[:1], DOCUMENTS[1:3], DOCUMENTS[3:]])


@pytest.fixture
def few_buckets(monkeypatch):
    """Few enough that an interruption at every file can be tried."""
    monkeypatch.setattr(counting, "NUM_BUCKETS", 2)


@settings(deadline=None, max_examples=30)
@given(
    shards=st.lists(
        st.lists(
            st.tuples(st.lists(st.integers(0, 2), max_size=15), st.sampled_from([TRAIN, TRAIN, HELD_OUT])), max_size=4
        ),
        min_size=1,
        max_size=3,
    ),
    max_n=st.integers(2, 5),
    min_count=st.integers(1, 3),
    num_buckets=st.sampled_from([1, 3, 8]),
)
def test_counts_are_those_of_a_counter(tmp_path_factory, shards, max_n, min_count, num_buckets):
    folder = tmp_path_factory.mktemp("count")
    for number, shard in enumerate(shards):
        write_part(folder, number, [document for document, _ in shard], [split for _, split in shard])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "NUM_BUCKETS", num_buckets)
        count(folder, folder / "out", max_n, min_count)
    train = [document for shard in shards for document, split in shard if split == TRAIN]
    for n in range(2, max_n + 1):
        found = slow_counts(train, n, min_count)
        expected = [
            {"tokens": list(gram), "count": found[gram][0], "docs": found[gram][1]}
            for gram in sorted(found, key=lambda gram: (-found[gram][0], gram))
        ]
        assert pq.ParquetFile(folder / "out" / f"n={n}.parquet").read().to_pylist() == expected


def test_yields_in_token_order(tokens, tmp_path):
    for frequent in count_ngrams(tokens, tmp_path, 4, 2, silent):
        rows = frequent.tokens.tolist()
        assert rows == sorted(rows)
        assert len(rows) > 5


def test_an_ngram_of_two_documents_is_not_counted(tmp_path):
    tokens = write_shards(tmp_path / "tokens", [[[1, 2], [3, 4]], [[5, 6]]])
    [frequent] = count_ngrams(tokens, tmp_path, 2, 1, silent)
    assert frequent.tokens.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_how_documents_are_spread_over_shards_does_not_matter(tokens, tmp_path):
    one = write_shards(tmp_path / "one", [DOCUMENTS])
    reversed_ = write_shards(tmp_path / "many", [[document] for document in reversed(DOCUMENTS)])
    expected = count(tokens, tmp_path / "out")
    assert len(expected) == 3
    assert count(one, tmp_path / "out-of-one") == expected
    assert count(reversed_, tmp_path / "out-of-many") == expected


@pytest.mark.usefixtures("few_buckets")
def test_a_run_killed_at_any_file_goes_on_to_the_same_result(tokens, tmp_path, monkeypatch):
    expected = count(tokens, tmp_path / "whole", max_n=3)
    save = counting._save
    for allowed in itertools.count():
        numbers = itertools.count()

        def stops(path, array, numbers=numbers, allowed=allowed):
            if next(numbers) >= allowed:
                path.with_name(f".{path.name}.tmp").write_bytes(b"half")
                raise KeyboardInterrupt
            save(path, array)

        out = tmp_path / f"after-{allowed}"
        monkeypatch.setattr(counting, "_save", stops)
        try:
            count(tokens, out, max_n=3)
        except KeyboardInterrupt:
            monkeypatch.setattr(counting, "_save", save)
            assert count(tokens, out, max_n=3) == expected
        else:
            break
    assert allowed == 2 * 3 + 2 * (2 * 3 + 2) + 3  # unpacked; counted and merged for n = 2, 3; relabelled for n = 2


@pytest.mark.usefixtures("few_buckets")
def test_what_is_there_is_not_done_again(tokens, tmp_path, monkeypatch):
    expected, saved = count(tokens, tmp_path / "out"), []
    save = counting._save
    monkeypatch.setattr(counting, "_save", lambda path, array: (saved.append(path.name), save(path, array)))
    work = tmp_path / "out" / "work"
    for path in [path for kind in ("counts", "ids", "bucket-*") for path in work.rglob(f"*{kind}.npy")]:
        saved.clear()
        path.unlink()
        assert count(tokens, tmp_path / "out") == expected
        assert set(saved) == {path.name, path.name.replace("counts", "offsets")}


def test_progress_rises_to_its_total(tokens, tmp_path):
    told = []
    count(tokens, tmp_path / "out", progress=lambda what, done, total, *_: told.append((what, done, total)))
    for n in range(2, 5):
        done = [(done, total) for what, done, total in told if what == f"counting {n}-grams"]
        assert done == sorted(done)
        assert done[0][0] == 0
        assert done[-1][0] == done[-1][1]


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0: {3, 5}}[pid], raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert counting._num_cores() == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert counting._num_cores() == 7
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert counting._num_cores() == 64


def test_tasks_run_on_that_many_threads(monkeypatch):
    monkeypatch.setattr(counting, "_num_cores", lambda: 2)
    used = set()
    counting.Steps(silent, "x", 50).run([lambda: (time.sleep(0.001), used.add(threading.get_ident()))] * 50)
    assert len(used) == 2


def test_more_ngrams_than_ids_is_an_error(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "NONE", 3)
    with pytest.raises(SconeError, match="different 2-grams occur 2 times or more") as caught:
        count(tokens, tmp_path / "out")
    assert caught.value.hint == "raise --min-count"


def test_large_token_ids_are_exact(tmp_path):
    large = 2**32 - 2
    tokens = write_shards(tmp_path / "tokens", [[[large, 0, large, 0, large, large]]])
    bigrams, trigrams = count_ngrams(tokens, tmp_path, 3, 1, silent)
    assert bigrams.tokens.tolist() == [[0, large], [large, 0], [large, large]]
    assert bigrams.counts.tolist() == [2, 2, 1]
    assert trigrams.tokens.tolist() == [[0, large, 0], [0, large, large], [large, 0, large]]
    assert trigrams.counts.tolist() == [1, 1, 2]
