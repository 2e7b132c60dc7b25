"""Selection: ranks as ids, closed under prefixes and suffixes; written and read back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import random_documents, slow_counts, slow_ranking, write_counts
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import names

from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import VOCAB
from scone_cli.errors import DamagedArtifact
from scone_cli.vocab import vocabulary as vocabulary_module
from scone_cli.vocab.vocabulary import Vocabulary

DOCUMENTS = random_documents(0, 7, [90, 40, 0, 60])
NUM_TOKENS, MAX_N = 7, 4


def fgrams_of(vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    return [tuple(tokens) for tokens in vocabulary.trie.tokens_of(np.arange(vocabulary.trie.num_fgrams))]


@pytest.fixture
def vocabulary(tmp_path):
    """The 80 most frequent n-grams, written too."""
    write_counts(tmp_path, DOCUMENTS, MAX_N, 1)
    selected = Vocabulary.select(tmp_path, MAX_N, 80, 1, NUM_TOKENS)
    selected.write(tmp_path / "vocab.parquet")
    return selected


# ---- selection ---------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=5),
    max_n=st.integers(2, 5),
    size=st.integers(1, 30),
    min_count=st.integers(1, 2),
)
def test_the_most_frequent_come_first_and_are_closed(tmp_path_factory, documents, max_n, size, min_count):
    """Counts of one or two throughout, so the cutoff goes through many ties."""
    folder = tmp_path_factory.mktemp("select")
    write_counts(folder, documents, max_n, 1)
    selected = Vocabulary.select(folder, max_n, size, min_count, 4)
    fgrams = fgrams_of(selected)
    assert fgrams == slow_ranking(documents, max_n, size, min_count)
    longer = [fgram for fgram in fgrams if len(fgram) > 2]
    assert {fgram[:-1] for fgram in longer} | {fgram[1:] for fgram in longer} <= set(fgrams)
    facts = {gram: fact for n in range(2, max_n + 1) for gram, fact in slow_counts(documents, n, 1).items()}
    assert list(zip(selected.counts.tolist(), selected.docs.tolist(), strict=True)) == [facts[gram] for gram in fgrams]


def test_ids_do_not_depend_on_the_order_of_documents(tmp_path):
    written = []
    for name, documents in (("one", DOCUMENTS), ("other", DOCUMENTS[::-1])):
        (tmp_path / name).mkdir()
        write_counts(tmp_path / name, documents, MAX_N, 1)
        Vocabulary.select(tmp_path / name, MAX_N, 80, 1, NUM_TOKENS).write(tmp_path / name / "vocab.parquet")
        written.append((tmp_path / name / "vocab.parquet").read_bytes())
    assert written[0] == written[1]


def test_a_smaller_vocabulary_is_a_prefix_of_a_larger_one(tmp_path, vocabulary):
    assert fgrams_of(Vocabulary.select(tmp_path, MAX_N, 33, 1, NUM_TOKENS)) == fgrams_of(vocabulary)[:33]


# ---- written and read back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 80, 1000])
def test_row_groups_have_offsets_of_their_own(tmp_path, vocabulary, monkeypatch, size):
    """All tokens of a large vocabulary together need offsets of more than 32 bits."""
    monkeypatch.setattr(vocabulary_module, "_AT_ONCE", size)
    vocabulary.write(tmp_path / "vocab.parquet")
    with pq.ParquetFile(tmp_path / "vocab.parquet") as file:
        assert file.num_row_groups == -(-len(fgrams_of(vocabulary)) // size)
    assert fgrams_of(Vocabulary.read(tmp_path, NUM_TOKENS, MAX_N)) == fgrams_of(vocabulary)


def test_round_trip(tmp_path, vocabulary):
    read = Vocabulary.read(tmp_path, NUM_TOKENS, MAX_N)
    assert fgrams_of(read) == fgrams_of(vocabulary)
    for name in ("prefix_nodes", "last_tokens", "lengths"):
        found, expected = getattr(read.trie, name), getattr(vocabulary.trie, name)
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()
    assert read.counts.tolist() == vocabulary.counts.tolist()
    assert read.docs.tolist() == vocabulary.docs.tolist()


def test_the_file_says_what_the_trie_says(tmp_path, vocabulary):
    rows = pq.read_table(tmp_path / "vocab.parquet").to_pylist()
    fgrams = fgrams_of(vocabulary)
    assert [tuple(row["tokens"]) for row in rows] == fgrams
    assert [row["n"] for row in rows] == [len(fgram) for fgram in fgrams]
    assert [row["id"] for row in rows] == list(range(80))
    parents = [None if len(fgram) == 2 else fgrams.index(fgram[:-1]) for fgram in fgrams]
    assert [row["parent"] for row in rows] == parents


def test_no_ngram_is_frequent_enough(tmp_path):
    write_counts(tmp_path, DOCUMENTS, MAX_N, 1)
    Vocabulary.select(tmp_path, MAX_N, 80, 1_000, NUM_TOKENS).write(tmp_path / "vocab.parquet")
    read = Vocabulary.read(tmp_path, NUM_TOKENS, MAX_N)
    assert read.trie.num_fgrams == 0
    ids, lengths = read.trie.index().match(np.array([1, 2, 3], np.uint32))
    assert (ids.size, lengths.tolist()) == (3, [0, 0, 0])


# Each makes the rows of a sound file say something untrue.
def lose_a_prefix(rows):
    """Leave out a bigram and close the gap, as a filter would: parents now name their neighbours."""
    lost = next(row["parent"] for row in rows if row["n"] == 3)
    rest = [row for row in rows if row["id"] != lost]
    return [row | {"id": i} for i, row in enumerate(rest)]


def point_at_another(rows):
    victim = next(row for row in rows if row["n"] == 3)
    other = next(row["id"] for row in rows if row["n"] == 2 and row["id"] != victim["parent"])
    return [row | {"parent": other} if row is victim else row for row in rows]


def point_outside(rows):
    return [row | {"parent": 1_000} if row["n"] == 3 else row for row in rows]


def forget_the_parent(rows):
    return [row | {"parent": None} for row in rows]


def shuffle(rows):
    return rows[::-1]


def misstate_a_length(rows):
    return [rows[0] | {"n": 3}, *rows[1:]]


@pytest.mark.parametrize(
    "damage", [lose_a_prefix, point_at_another, point_outside, forget_the_parent, shuffle, misstate_a_length]
)
@pytest.mark.usefixtures("vocabulary")
def test_a_vocabulary_that_is_no_trie_is_damaged(tmp_path, damage):
    path = tmp_path / "vocab.parquet"
    rows = damage(pq.read_table(path).to_pylist())
    write_parquet(path, VOCAB, pa.Table.from_pylist(rows, VOCAB))
    with pytest.raises(DamagedArtifact) as caught:
        Vocabulary.read(tmp_path, NUM_TOKENS, MAX_N)
    assert names(caught.value.hint, "scone select-vocab --force")
