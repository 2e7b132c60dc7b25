"""Ranking by rules: the order of the slow twin, closed under prefixes and suffixes whatever the rule."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from builders import Documents, Fgram, counts_file, random_documents, slow_counts, write_counts, write_part
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import refusal

from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.stages.select_vocab import SelectVocab
from scone_cli.vocab.ranking import RULES, read_counts
from scone_cli.vocab.vocabulary import Vocabulary

DOCUMENTS = random_documents(0, 7, [90, 40, 0, 60])
NUM_TOKENS, MAX_N = 7, 4


def fgrams_of(vocabulary: Vocabulary) -> list[Fgram]:
    return [tuple(tokens) for tokens in vocabulary.trie.tokens_of(np.arange(vocabulary.trie.num_fgrams))]


def slow_scores(documents: Documents, max_n: int, min_count: int, by: str) -> dict[Fgram, float]:
    """What a rule says of each n-gram, before closing; the slow twin of the rules."""
    unigrams = Counter((token,) for document in documents for token in document)
    counts = dict(unigrams) | {(): sum(unigrams.values())}
    for n in range(2, max_n + 1):
        counts |= {gram: count for gram, (count, _) in slow_counts(documents, n, min_count).items()}
    ngrams = [gram for gram in counts if len(gram) > 1]
    if by == "count":
        return {gram: counts[gram] for gram in ngrams}
    return {gram: slow_prediction(counts, gram) for gram in ngrams}


def slow_prediction(counts: dict[Fgram, int], gram: Fgram) -> float:
    """A nat an occurrence, and the divergence of what follows from what follows the suffix; others together."""
    count, of_suffix = counts[gram], counts[gram[1:]]
    next_tokens = [longer[-1] for longer in counts if longer[:-1] == gram]
    if not next_tokens and not any(len(longer) > len(gram) for longer in counts):
        return np.float32(1.0 * count)  # perhaps the longest: the same as if nothing were known
    known = [(counts[*gram, token], counts[*gram[1:], token]) for token in next_tokens]
    others = count - sum(after for after, _ in known)
    known.append((others, max(of_suffix - sum(after_suffix for _, after_suffix in known), others)))
    bits = sum(after * math.log(after * of_suffix / (count * again)) for after, again in known if after)
    return np.float32(1.0 * count) + np.float32(max(0, bits))


def slow_ranking(documents: Documents, max_n: int, min_count: int, by: str) -> list[Fgram]:
    """All n-grams in the order of a rule; the slow twin of `ranking.rank`."""
    scores = slow_scores(documents, max_n, min_count, by)
    for gram in sorted(scores, key=len):
        if len(gram) > 2:
            scores[gram] = min(scores[gram], scores[gram[:-1]], scores[gram[1:]])
    counts = slow_scores(documents, max_n, min_count, "count")
    return sorted(scores, key=lambda gram: (-scores[gram], len(gram), -counts[gram], gram))


@pytest.fixture
def workspace(tmp_path):
    """Counts, and the tokens they are of."""
    for name in ("tokens", "counts"):
        (tmp_path / name).mkdir()
    write_part(tmp_path / "tokens", 0, DOCUMENTS[:2])
    write_part(tmp_path / "tokens", 1, [*DOCUMENTS[2:], [6] * 50], ["train", "train", "held-out"])
    write_counts(tmp_path / "counts", DOCUMENTS, MAX_N, 1)
    write_unigrams(tmp_path / "counts", DOCUMENTS)
    return tmp_path


def write_unigrams(folder: Path, documents: Documents) -> None:
    found = slow_counts(documents, 1, 1)
    counts_file(
        folder / "n=1.parquet", np.array(list(found)).reshape(-1, 1), *np.array(list(found.values())).reshape(-1, 2).T
    )


@pytest.mark.slow
@settings(max_examples=60)
@given(
    documents=st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=5),
    max_n=st.integers(2, 5),
    min_count=st.integers(1, 2),
    by=st.sampled_from(sorted(RULES)),
)
def test_every_rule_ranks_as_its_slow_twin_and_every_beginning_is_closed(
    tmp_path_factory, documents, max_n, min_count, by
):
    folder = tmp_path_factory.mktemp("rank")
    for name in ("tokens", "counts"):
        (folder / name).mkdir()
    write_part(folder / "tokens", 0, documents)
    write_counts(folder / "counts", documents, max_n, 1)
    write_unigrams(folder / "counts", documents)
    ranking = Vocabulary.rank(folder / "counts", max_n, min_count, 4, by=by)
    fgrams = fgrams_of(ranking)
    assert fgrams == slow_ranking(documents, max_n, min_count, by)
    for place, fgram in enumerate(fgrams):
        assert len(fgram) == 2 or {fgram[:-1], fgram[1:]} <= set(fgrams[:place])
    facts = {gram: fact for n in range(2, max_n + 1) for gram, fact in slow_counts(documents, n, 1).items()}
    assert list(zip(ranking.counts.tolist(), ranking.docs.tolist(), strict=True)) == [facts[gram] for gram in fgrams]


def test_the_prediction_of_a_bigram_by_hand(tmp_path):
    """In `0 1 2 0 1 2 3 1 3 1`: 0 1 twice, both times before 2; of 1 four, before 2 twice, before 3 and the end once."""
    document = [0, 1, 2, 0, 1, 2, 3, 1, 3, 1]
    write_counts(tmp_path, [document], 3, 1)
    counts_file(tmp_path / "n=1.parquet", [[1], [0], [2], [3]], [4, 2, 2, 2], [1, 1, 1, 1])
    counted = read_counts(tmp_path, 3, 1, 1, 4)
    scores = RULES["prediction"].score(counted).astype(np.uint32).view(np.float32)
    assert scores[0] == pytest.approx(2 * 1.0 + 2 * math.log((2 / 2) / (2 / 4)))
    assert scores[counted.level(3)] == pytest.approx(1.0 * counted.counts[counted.level(3)])


@pytest.mark.parametrize("by", sorted(RULES))
def test_fewer_documents_or_tokens_than_asked_for_are_left_out(workspace, by):
    chosen = fgrams_of(Vocabulary.rank(workspace / "counts", 3, 2, NUM_TOKENS, min_docs=3, by=by))
    facts = {gram: fact for n in (2, 3) for gram, fact in slow_counts(DOCUMENTS, n, 2).items()}
    expected = {gram for gram, (_, docs) in facts.items() if docs >= 3}
    assert set(chosen) == expected
    assert 0 < len(expected) < len(facts)


@pytest.mark.parametrize("lost", ["prefix", "suffix"])
def test_counts_that_are_not_closed_are_damaged(tmp_path, lost):
    documents = [[0, 1, 2], [0, 1, 2], [0, 1]] if lost == "suffix" else [[0, 1, 2], [0, 1, 2], [1, 2]]
    write_counts(tmp_path, documents, 3, 2)
    counts = [bigram for bigram, _ in slow_counts(documents, 2, 2).items()]
    kept = (0, 1) if lost == "suffix" else (1, 2)
    assert kept in counts
    one = np.array([kept], np.uint32)
    counts_file(tmp_path / "n=2.parquet", one, [3], [3])
    with refusal(DamagedArtifact, str(lost), "n=2", hint=("scone count-ngrams CORPUS --force",)):
        read_counts(tmp_path, 3, 1, 1, 3)


def test_floors_beyond_what_columns_hold_leave_nothing(workspace):
    assert read_counts(workspace / "counts", 3, 2**63 - 1, 1, NUM_TOKENS).counts.size == 0
    assert read_counts(workspace / "counts", 3, 1, 2**63 - 1, NUM_TOKENS).counts.size == 0


def test_a_folder_is_no_pattern(tmp_path):
    """Neither of names nor of columns: `max_n=3` in a path is where some programs look for a column of that name."""
    folder = tmp_path / "max_n=3" / "[a]*"
    folder.mkdir(parents=True)
    write_counts(folder, [[0, 1, 2]], 3, 1)
    assert read_counts(folder, 3, 1, 1, 3).counts.tolist() == [1, 1, 1]


def test_no_more_ngrams_than_ids(tmp_path):
    write_counts(tmp_path, [[0, 1, 2, 3]], 3, 1)
    most = 2**32 - 1
    assert read_counts(tmp_path, 3, 1, 1, most - 5).counts.size == 5
    with refusal(BadSetting, "5", "n-grams", hint=("--min-count",)):
        read_counts(tmp_path, 3, 1, 1, most - 4)


def test_the_command_offers_every_rule():
    assert SelectVocab.__dataclass_fields__["by"].metadata["choices"] == tuple(RULES)
