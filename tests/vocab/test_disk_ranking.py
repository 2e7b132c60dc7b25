"""Ranking and ladder block by block against those in memory, which have slow twins of their own: the same in every bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import Documents, counts_file, random_documents, slow_counts, write_counts, write_part
from messages import refusal

from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.progress import silent
from scone_cli.vocab import coverage, disk_ladder, disk_ranking
from scone_cli.vocab.count_files import Column, CountFile, count_files
from scone_cli.vocab.coverage import Ladder
from scone_cli.vocab.disk_ladder import DiskLadder
from scone_cli.vocab.disk_ranking import DiskRanking, Place, select
from scone_cli.vocab.index import NONE
from scone_cli.vocab.ranking import RULES
from scone_cli.vocab.vocabulary import Vocabulary
from scone_cli.vocab.ways import ladder_of

NUM_TOKENS, MAX_N = 4, 4
ROWS, BLOCK = 3, 7  # of a piece, and of a block: many of both, and none divides the other


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(coverage, "FIRST_RUNG", 2)
    monkeypatch.setattr(disk_ladder, "_AT_ONCE", 5)


def workspace(folder, documents: Documents, held_out: Documents = ()):
    """Counts of some documents, and tokens with others held out, in two parts."""
    for name in ("tokens", "counts", "scratch"):
        (folder / name).mkdir()
    write_part(folder / "tokens", 0, [[0, 1], *held_out[:1]], ["train", "held-out"][: 1 + len(held_out[:1])])
    write_part(folder / "tokens", 1, [*held_out[1:], [1, 2]], ["held-out"] * len(held_out[1:]) + ["train"])
    write_counts(folder / "counts", documents, MAX_N, 1)
    unigrams = slow_counts(documents, 1, 1)
    counts_file(folder / "counts" / "n=1.parquet", list(unigrams), *np.array(list(unigrams.values())).reshape(-1, 2).T)
    return folder


def both(folder, by: str, min_count: int = 1, min_docs: int = 1) -> tuple[Ladder, DiskRanking, DiskLadder]:
    """The ladder in memory, with its ranking, and both on disk."""
    counts, limits = folder / "counts", {"max_n": MAX_N, "min_count": min_count, "min_docs": min_docs}
    ranking = Vocabulary.rank(counts, num_tokens=NUM_TOKENS, by=by, **limits)
    in_memory = ladder_of(ranking, folder / "tokens", None, folder / "scratch", silent)
    files = count_files(counts, **limits, at_most=ROWS)
    on_disk = DiskRanking.of(files, NUM_TOKENS, by, folder / "scratch", BLOCK, silent)
    assert isinstance(in_memory, Ladder)
    return in_memory, on_disk, DiskLadder(on_disk, folder / "tokens", folder / "scratch", BLOCK, silent)


def assert_same(found: Vocabulary, expected: Vocabulary) -> None:
    for name in ("prefix_nodes", "last_tokens", "lengths"):
        assert getattr(found.trie, name).tolist() == getattr(expected.trie, name).tolist()
    assert (found.counts.tolist(), found.docs.tolist()) == (expected.counts.tolist(), expected.docs.tolist())


@pytest.mark.parametrize("by", sorted(RULES))
@pytest.mark.parametrize(("seed", "min_count", "min_docs"), [(0, 1, 1), (1, 2, 1), (2, 1, 2), (3, 3, 1)])
def test_every_beginning_and_every_rung_are_those_in_memory(tmp_path, by, seed, min_count, min_docs):
    documents = random_documents(seed, NUM_TOKENS, [30, 1, 25, 0, 20])
    held_out = random_documents(seed + 9, NUM_TOKENS, [12, 0, 1, 17])
    in_memory, on_disk, ladder = both(workspace(tmp_path, documents, held_out), by, min_count, min_docs)
    whole = in_memory.ranking.trie.num_fgrams
    assert (on_disk.num_ngrams, ladder.num_positions) == (whole, in_memory.num_positions)
    assert len(set(in_memory.ranking.counts.tolist())) < whole / 2  # most are tied with others
    assert ladder.sizes == in_memory.sizes
    sizes = list(range(1, whole + 1))
    assert ladder.rungs(sizes) == in_memory.rungs(sizes)
    for size in sizes[::5] + sizes[-1:]:
        assert_same(on_disk.first(size), in_memory.ranking.first(size))


@pytest.mark.parametrize("by", sorted(RULES))
def test_sizes_are_chosen_as_in_memory(tmp_path, by):
    documents = random_documents(5, NUM_TOKENS, [40, 30])
    held_out = random_documents(6, NUM_TOKENS, [9, 20])
    in_memory, _, ladder = both(workspace(tmp_path, documents, held_out), by, min_count=2)
    for gain in (0.01, 0.1, 0.3, 0.9):
        assert ladder.size_by_gain(gain) == in_memory.size_by_gain(gain)
    reached = in_memory.rungs(in_memory.sizes)[-1].matched
    for share in (0.01, *(number / 29 for number in range(1, 29)), 0.5, reached):
        if share <= reached:
            assert ladder.size_for_coverage(share) == in_memory.size_for_coverage(share)
    with refusal(BadSetting, "--coverage", f"{reached:.4f}", hint=("--coverage",)):
        ladder.size_for_coverage(1.0)


def test_without_held_out_text_no_size_is_chosen_by_it(tmp_path):
    in_memory, _, ladder = both(workspace(tmp_path, [[0, 1, 2, 3, 0, 1]]), "count")
    assert ladder.rungs(ladder.sizes) == in_memory.rungs(in_memory.sizes)
    for choose, option in ((ladder.size_for_coverage, "--coverage"), (ladder.size_by_gain, "--size auto")):
        with refusal(BadSetting, option):
            choose(0.5)


@pytest.mark.parametrize(("lost", "kept"), [("prefix", (1, 2)), ("suffix", (0, 1))])
def test_counts_that_are_not_closed_are_damaged(tmp_path, lost, kept):
    write_counts(tmp_path, [[0, 1, 2], [0, 1, 2]], 3, 2)
    counts_file(tmp_path / "n=2.parquet", [kept], [3], [3])
    counts_file(tmp_path / "n=1.parquet", [[0], [1], [2]], [2, 2, 2], [2, 2, 2])
    files = count_files(tmp_path, 3, 1, 1)
    with refusal(DamagedArtifact, lost, "n=2", hint=("scone count-ngrams CORPUS --force",)):
        DiskRanking.of(files, 3, "prediction", tmp_path, BLOCK, silent)
    if lost == "prefix":
        with refusal(DamagedArtifact, lost, "n=2", hint=("scone count-ngrams CORPUS --force",)):
            DiskRanking.of(files, 3, "count", tmp_path, BLOCK, silent).first(2)


def test_ids_have_32_bits_however_many_ngrams_there_are(tmp_path):
    write_counts(tmp_path, [[0, 1, 2, 3]], 3, 1)
    files = count_files(tmp_path, 3, 1, 1)
    most = NONE - NUM_TOKENS
    assert DiskRanking(files, NUM_TOKENS, None).most_fgrams == 5
    for ngrams, expected in ((most, most), (most + 1, most), (10**11, most)):
        many = CountFile(tmp_path, 2, 1, 1, ROWS)
        many.__dict__["num_rows"] = ngrams
        assert DiskRanking([many], NUM_TOKENS, None).most_fgrams == expected
    assert DiskRanking(files, NONE - 2, None).most_fgrams == 2


KEYS = [2**63 - 1, 2**32, 2**32, 2**32 - 1, 2**16, 2**16, 7, 7, 7, 0]


def test_the_key_at_a_rank_is_found_by_its_digits():
    """At every border of digits, with equal keys in two levels and in two pieces of a level."""
    levels = [(0, 0, KEYS[::2]), (1, 0, KEYS[1:5:2]), (1, 2, KEYS[5::2])]

    def entries(weights):
        return ((level, begin, np.array(keys, np.uint64), weights) for level, begin, keys in levels)

    ordered = sorted((-key, level, begin + row) for level, begin, keys in levels for row, key in enumerate(keys))
    expected = [Place(-key, level, row) for key, level, row in ordered]
    assert select(lambda: entries(None), range(1, 11)) == expected
    weights = np.arange(5)  # the first of each piece weighs nothing
    sums = list(itertools.accumulate(weights[row - 2 * (level == 1 and row >= 2)] for _, level, row in ordered))
    found = select(lambda: entries_weighted(levels, weights), range(1, sums[-1] + 1))
    assert found == [
        next(p for p, sum_ in zip(expected, sums, strict=True) if sum_ >= t) for t in range(1, sums[-1] + 1)
    ]
    assert disk_ranking.select(lambda: entries(None), [3, 3]) == [expected[2]] * 2


def entries_weighted(levels, weights):
    return ((level, begin, np.array(keys, np.uint64), weights[: len(keys)]) for level, begin, keys in levels)


def test_a_column_is_zero_until_it_is_written(tmp_path):
    column = Column(tmp_path / "column", np.uint32, 5)
    column.write(2, np.array([7, 8], np.uint64))
    assert column.read(0, 5).tolist() == [0, 0, 7, 8, 0]
    assert column.read(3, 4).tolist() == [8]
    column.remove()
    assert not (tmp_path / "column").exists()


def test_blocks_are_the_rows_in_order(tmp_path):
    write_counts(tmp_path, random_documents(0, NUM_TOKENS, [60]), 3, 1)
    file = CountFile(tmp_path, 3, 2, 1, ROWS)
    (whole,) = CountFile(tmp_path, 3, 2, 1, 10**6).pieces("tokens")
    for size in (1, 2, 3, 5, 10**6):
        blocks = [(block.begin, block.tokens.copy(), block.counts.copy()) for block in file.blocks(size, "tokens")]
        assert [begin for begin, _, _ in blocks] == list(range(0, whole.size, size))
        assert np.concatenate([tokens for _, tokens, _ in blocks]).tolist() == whole.tokens.tolist()
        assert np.concatenate([counts for _, _, counts in blocks]).tolist() == whole.counts.tolist()
    assert file.num_rows == whole.size > 0


def test_every_rule_is_known_on_disk_too():
    assert disk_ranking.SCORES.keys() == RULES.keys()
