"""The ladder: every rung is what matching with that smaller vocabulary gives, and sizes are chosen exactly."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import Documents, random_documents, slow_counts, slow_matches, slow_ranking, stream_of, trie_of
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refusal

from scone_cli.artifacts.schemas import LADDER
from scone_cli.errors import BadSetting
from scone_cli.vocab import coverage as ladder_module
from scone_cli.vocab.coverage import Ladder, Rung, count_ends, write_ladder
from scone_cli.vocab.vocabulary import Vocabulary

NUM_TOKENS = 4
documents = st.lists(st.lists(st.integers(0, NUM_TOKENS - 1), max_size=12), min_size=1, max_size=5)


def ladder_of(counted: Documents, held_out: Documents, max_n: int, min_count: int = 1) -> Ladder:
    """The ladder of the n-grams of some documents against others, which are matched in two parts."""
    fgrams = slow_ranking(counted, max_n, 10**6, min_count)
    facts = {gram: fact for n in range(2, max_n + 1) for gram, fact in slow_counts(counted, n, 1).items()}
    columns = np.array([facts[fgram] for fgram in fgrams], np.uint64).reshape(-1, 2)
    trie = trie_of(fgrams, NUM_TOKENS, max_n)
    index, ends = trie.index(), np.zeros(len(fgrams), np.int64)
    for part in (held_out[:1], held_out[1:]):
        stream = stream_of(part)
        count_ends(index, stream.tokens, stream.starts, ends)
    ranking = Vocabulary(trie, columns[:, 0], columns[:, 1].astype(np.uint32))
    return Ladder(ranking, ends, sum(map(len, held_out)))


def slow_rung(counted: Documents, held_out: Documents, max_n: int, size: int) -> Rung:
    """What a size means, by matching with its f-grams alone; the slow twin of the ladder."""
    fgrams = slow_ranking(counted, max_n, size, 1)
    facts = {gram: fact for n in range(2, max_n + 1) for gram, fact in slow_counts(counted, n, 1).items()}
    lengths = [len(match) for document in held_out for match in slow_matches(document, fgrams, max_n)]
    matched = [length for length in lengths if length]
    tokens = range(2, max_n + 1)
    return Rung(
        size=size,
        cutoff_count=min(facts[fgram][0] for fgram in fgrams),
        matched=len(matched) / len(lengths) if lengths else None,
        mean_length=sum(matched) / len(matched) if matched else None,
        shares=[lengths.count(n) / len(lengths) if lengths else None for n in tokens],
        num_fgrams=[sum(len(fgram) == n for fgram in fgrams) for n in tokens],
        occurrences=[sum(facts[fgram][0] for fgram in fgrams if len(fgram) == n) for n in tokens],
    )


@settings(max_examples=60)
@given(counted=documents, held_out=documents, max_n=st.integers(2, 5), data=st.data())
def test_a_rung_is_matching_with_the_smaller_vocabulary(counted, held_out, max_n, data):
    ladder = ladder_of(counted, held_out, max_n)
    whole = ladder.ranking.trie.num_fgrams
    if whole:
        sizes = sorted(data.draw(st.sets(st.integers(1, whole), min_size=1)))
        assert ladder.rungs(sizes) == [slow_rung(counted, held_out, max_n, size) for size in sizes]


COUNTED, HELD_OUT = (
    [[token % NUM_TOKENS for token in document] for document in random_documents(seed, 4, [60, 30])] for seed in (1, 2)
)


@settings(max_examples=40)
@given(counted=documents, held_out=documents, share=st.floats(0.001, 1))
def test_coverage_is_that_of_the_fewest_fgrams(counted, held_out, share):
    ladder = ladder_of(counted, held_out, 3)
    matched = [slow_rung(counted, held_out, 3, size).matched or 0 for size in range(1, len(ladder.ends) + 1)]
    enough = [size for size, found in enumerate(matched, start=1) if found >= share]
    if enough:
        assert ladder.size_for_coverage(share) == enough[0]
    elif matched and ladder.num_positions:
        with refusal(BadSetting, "--coverage", f"{matched[-1]:.4f}"):
            ladder.size_for_coverage(share)


def test_the_coverage_that_the_hint_names_can_be_reached():
    ladder = ladder_of(COUNTED, HELD_OUT, 4, min_count=2)
    with pytest.raises(BadSetting) as caught:
        ladder.size_for_coverage(1.0)
    named = float(re.search(r"--coverage ([\d.]*\d)", caught.value.hint)[1])
    assert 0 < named < 1
    assert ladder.size_for_coverage(named) <= ladder.ranking.trie.num_fgrams


@pytest.mark.parametrize("first", [1, 4, 5, 64, 1000])
def test_rungs_double_up_to_the_whole(monkeypatch, first):
    monkeypatch.setattr(ladder_module, "FIRST_RUNG", first)
    sizes, whole = (ladder := ladder_of(COUNTED, HELD_OUT, 4)).sizes, ladder.ranking.trie.num_fgrams
    assert sizes[-1] == whole
    assert sizes[0] == min(first, whole)
    assert all(2 * size == larger for size, larger in itertools.pairwise(sizes[:-1]))
    assert len(sizes) == 1 or sizes[-2] < whole <= 2 * sizes[-2]


def test_auto_stops_where_no_doubling_pays_any_more(monkeypatch):
    """Doublings that match 0.1, 0.3, 0.2 and 0.05 more: the first pays less than those after it, and yet is taken."""
    monkeypatch.setattr(ladder_module, "FIRST_RUNG", 1)
    bigrams = list(itertools.islice(itertools.product(range(NUM_TOKENS), repeat=2), 16))
    ranking = Vocabulary(trie_of(bigrams, NUM_TOKENS, 2), np.full(16, 7, np.uint64), np.full(16, 1, np.uint32))
    ends = np.zeros(16, np.int64)
    ends[[0, 1, 2, 4, 8]] = 20, 10, 30, 20, 5
    ladder = Ladder(ranking, ends, 100)
    assert [ladder.size_by_gain(gain) for gain in (0.04, 0.15, 0.25, 0.35)] == [16, 8, 4, 1]


def test_without_held_out_text_nothing_is_matched_and_nothing_chosen_by_it():
    ladder = ladder_of(COUNTED, [], 3)
    rung = ladder.rungs(ladder.sizes)[-1]
    assert (rung.matched, rung.mean_length, rung.shares) == (None, None, [None, None])
    for choose, option in ((ladder.size_for_coverage, "--coverage"), (ladder.size_by_gain, "--size auto")):
        with refusal(BadSetting, option):
            choose(0.5)


def test_the_file_says_what_the_rungs_say(tmp_path):
    ladder = ladder_of(COUNTED, HELD_OUT, 3)
    rungs = ladder.rungs([1, 2, 5])
    write_ladder(tmp_path / "ladder.parquet", rungs, 2, [512, 1024, 2560])
    table = pq.read_table(tmp_path / "ladder.parquet")
    assert table.schema.equals(LADDER)
    assert table.to_pylist() == [
        {
            "size": rung.size,
            "cutoff_count": rung.cutoff_count,
            "matched": rung.matched,
            "mean_match_length": rung.mean_length,
            "fgrams": rung.num_fgrams,
            "table_bytes": 512 * rung.size,
            "chosen": rung.size == 2,
        }
        for rung in rungs
    ]
