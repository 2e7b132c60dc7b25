"""Clusters of errors: parts and blocks by hand, and by simulation how often intervals of 95% hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from scone_cli.evaluation.clusters import (
    FEW_DOCUMENTS,
    LEAST_TOKENS,
    MOST_PARTS,
    NUM_BLOCKS,
    clusters_of,
    part_tokens,
    parts_of,
)
from scone_cli.evaluation.metrics import interval, nats_per_token, per_document


def starts_of(*lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def clustered(lengths, least=LEAST_TOKENS, inside=None):
    """(clusters, tokens of each cluster)."""
    starts, document = parts_of(starts_of(*lengths), least)
    tokens = np.diff(starts).astype(float)
    found = clusters_of(tokens, document, np.full(len(lengths), True) if inside is None else np.array(inside))
    return found, found.sums(tokens)


def test_parts_lie_in_documents_and_none_is_smaller_than_it_must_be():
    starts, document = parts_of(starts_of(10, 0, 3, 25), 4)
    assert document.tolist() == [0, 0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert starts.tolist() == [0, 5, 10, 10, 13, 17, 21, 25, 29, 33, 38]


def test_parts_of_a_large_text_are_as_many_as_memory_has_room_for():
    assert part_tokens(0) == part_tokens(10_000) == LEAST_TOKENS
    assert part_tokens(1 << 30) == (1 << 30) // MOST_PARTS


def test_many_documents_are_clusters():
    found, sizes = clustered([70 + i for i in range(FEW_DOCUMENTS)] + [0])
    assert (found.by, sizes.tolist()) == ("documents", [70 + i for i in range(FEW_DOCUMENTS)])


@pytest.mark.parametrize("lengths", [(60_000,), (30_000, 20_000, 10_000), (1000,) * (FEW_DOCUMENTS - 1)])
def test_few_documents_are_cut_into_blocks_of_about_one_size(lengths):
    found, sizes = clustered(lengths)
    assert found.by == "blocks"
    assert NUM_BLOCKS - 1 <= sizes.size <= NUM_BLOCKS
    assert sizes.sum() == sum(lengths)
    assert sizes.max() < 2 * sizes.min()


def test_blocks_keep_to_their_documents_and_to_the_text():
    found, sizes = clustered([6400, 64, 9999, 0, 6400], inside=[True, True, False, True, True])
    starts, document = parts_of(starts_of(6400, 64, 9999, 0, 6400), LEAST_TOKENS)
    assert sizes.sum() == 12_864
    assert set(document[found.of_part == -1]) == {2, 3}
    for block in range(sizes.size):
        assert np.unique(document[found.of_part == block]).size == 1
        assert np.ptp(np.flatnonzero(found.of_part == block)) + 1 == (found.of_part == block).sum()  # no gaps
    assert (sizes[found.of_part[document == 1]]).tolist() == [64]
    assert starts[-1] == 22_863


def test_a_text_of_less_than_two_parts_is_one_cluster():
    assert clustered([2 * LEAST_TOKENS - 1])[1].tolist() == [2 * LEAST_TOKENS - 1]
    assert clustered([2 * LEAST_TOKENS])[1].tolist() == [LEAST_TOKENS] * 2
    assert clustered([])[1].size == 0


# ---- coverage ----------------------------------------------------------------------------------------------------

REPEATS = 800


def smooth(values, reach):
    """Means over `reach` neighbours: what is further away is independent."""
    sums = np.cumsum(values, axis=1)
    return (sums[:, reach:] - sums[:, :-reach]) / np.sqrt(reach)


@pytest.mark.parametrize("lengths", [(9600,), (6000, 2400, 1200), (330,) * 29], ids=len)
@pytest.mark.parametrize("share", [0.0, 0.1], ids=["independent", "a-tenth-of-a-block"])
def test_intervals_of_few_documents_hold_in_90_of_100_cases(lengths, share):
    """Differences with the skew of an exponential one, that depend on one another over a share of a block."""
    reach, size = max(1, round(share * sum(lengths) / NUM_BLOCKS)), sum(lengths)
    noise = np.random.default_rng(5).exponential(1.0, (REPEATS, size + reach)) - 1.0
    starts, document = parts_of(starts_of(*lengths), LEAST_TOKENS)
    tokens = np.diff(starts).astype(float)
    clusters = clusters_of(tokens, document, np.full(len(lengths), True))
    sizes = clusters.sums(tokens)
    held = 0
    for differences in smooth(noise, reach):
        found = nats_per_token(clusters.sums(per_document(differences, starts)), sizes)
        low, high = interval(found, sizes.size)
        held += low <= 0 <= high
    assert 0.90 <= held / REPEATS <= 0.97


def coverage_by_document(num_documents, spread):
    """The same of documents whose lengths, and own differences, vary as those of books do."""
    random, held = np.random.default_rng(6), 0
    for _ in range(REPEATS):
        sizes = np.ceil(random.lognormal(7, spread, num_documents))
        totals = sizes * 0.3 * (random.exponential(1.0, num_documents) - 1)
        totals += 3 * np.sqrt(sizes) * random.normal(size=num_documents)
        low, high = interval(nats_per_token(totals, sizes), num_documents)
        held += low <= 0 <= high
    return held / REPEATS


def test_why_fewer_documents_than_30_are_no_clusters():
    assert coverage_by_document(10, 1.0) < 0.85
    assert coverage_by_document(FEW_DOCUMENTS, 1.0) > 0.85
    assert coverage_by_document(FEW_DOCUMENTS, 0.5) > 0.90
