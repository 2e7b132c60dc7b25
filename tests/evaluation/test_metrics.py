"""Metrics worked by hand, and the analytic cost against torch's own count of operations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import slow_ranking, tiny_model, trie_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scone_cli.evaluation.metrics import (
    Estimate,
    bits_per_byte,
    interval,
    nats_per_token,
    per_document,
    perplexity,
    word_perplexity,
)
from scone_cli.model.flops import block_parameters, fgram_forward_flops, fgram_pass_flops, forward_flops

NATS, TOKENS, BYTES = np.array([4.0, 8.0]), np.array([2.0, 2.0]), np.array([8.0, 12.0])


# ---- quality -----------------------------------------------------------------------------------------------------


def test_worked_by_hand():
    """12 nats in 4 tokens are 3 nats a token; the documents lie 2 nats below and 2 above what that predicts for them."""
    mean = nats_per_token(NATS, TOKENS)
    assert (mean.value, mean.n) == (3.0, 4)
    assert mean.stderr == pytest.approx(math.sqrt((2**2 + 2**2) * 2 / 1) / 4)
    whole = perplexity(NATS, TOKENS)
    assert whole.value == pytest.approx(math.e**3)
    assert whole.stderr == pytest.approx(math.e**3 * mean.stderr)
    bits = bits_per_byte(NATS, BYTES, TOKENS)
    assert bits.value == pytest.approx(12 / math.log(2) / 20)
    spread = np.array([4 - 0.6 * 8, 8 - 0.6 * 12]) / math.log(2)
    assert bits.stderr == pytest.approx(math.sqrt((spread**2).sum() * 2) / 20)
    assert bits.n == 4


def test_a_long_document_weighs_as_its_tokens():
    assert nats_per_token(np.array([1.0, 90.0]), np.array([1.0, 9.0])).value == 9.1


def test_of_equal_documents_the_error_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(3, 1, 50)
    found = nats_per_token(values * 10, np.full(50, 10.0))
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_the_error_covers_the_truth_as_often_as_it_says():
    """Documents of unequal sizes, each with a level of its own: 95 % of the intervals of two errors hold the truth."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        tokens = random.integers(10, 200, 60).astype(float)
        found = nats_per_token(tokens * random.normal(3, 0.5, 60), tokens)
        hits += abs(found.value - 3) < 1.96 * found.stderr
    assert 0.92 < hits / 400 < 0.97


@pytest.mark.parametrize(
    "metric", [nats_per_token, perplexity, lambda nats, tokens: bits_per_byte(nats, tokens, tokens)]
)
def test_one_document_has_no_error_and_none_no_value(metric):
    one = metric(np.array([6.0]), np.array([2.0]))
    assert one.stderr is None
    assert one.value > 0
    nothing = metric(np.array([]), np.array([]))
    assert math.isnan(nothing.value)
    assert (nothing.stderr, nothing.n) == (None, 0)


def test_of_one_document_beside_empty_ones_there_is_no_error():
    """As of the rarest tokens, which are in one document of many."""
    found = nats_per_token(np.array([0.0, 6.0, 0.0]), np.array([0.0, 2.0, 0.0]))
    assert found == Estimate(3.0, None, 2)
    beside = nats_per_token(np.array([*NATS, 0.0]), np.array([*TOKENS, 0.0]))
    assert beside == nats_per_token(NATS, TOKENS)


def test_sums_by_document():
    starts = np.array([0, 2, 2, 3])
    assert per_document(np.array([1, 2, 4], np.float32), starts).tolist() == [3.0, 0.0, 4.0]
    many = np.full(100_000, 0.1, np.float32)
    assert per_document(many, np.array([0, 100_000]))[0] == pytest.approx(10_000, rel=1e-6)


def test_perplexity_a_word_worked_by_hand():
    """12 nats over 3 words and 4 tokens; the documents have 1 and 2 words: 4 nats a word in both, so no error."""
    found = word_perplexity(NATS, np.array([1.0, 2.0]), TOKENS)
    assert found == Estimate(pytest.approx(math.exp(4)), pytest.approx(0), 4)


def test_a_word_of_hundreds_of_tokens_is_beyond_counting():
    found = word_perplexity(np.array([5000.0, 1.0]), np.array([1.0, 1.0]), TOKENS)
    assert math.isfinite(found.value)
    assert math.isfinite(perplexity(np.array([5000.0, 1.0]), np.array([1.0, 1.0])).value)  # of a model that diverged


@pytest.mark.parametrize(
    ("clusters", "quantile"),  # as printed in tables of Student's distribution, for one degree of freedom fewer
    [
        (2, 12.7062),
        (3, 4.30265),
        (4, 3.18245),
        (5, 2.77645),
        (6, 2.57058),
        (11, 2.22814),
        (31, 2.04227),
        (646, 1.96365),
    ],
)
def test_an_interval_is_students(clusters, quantile):
    low, high = interval(Estimate(1.0, 0.5, 10), clusters)
    assert (low, high) == (pytest.approx(1 - quantile * 0.5, abs=1e-5), pytest.approx(1 + quantile * 0.5, abs=1e-5))


def test_the_interval_of_two_documents_worked_by_hand():
    """With one degree of freedom Student's distribution is Cauchy's, whose 97.5% quantile is tan(0.475 pi)."""
    assert interval(Estimate(0.0, 1.0, 4), 2)[1] == pytest.approx(math.tan(0.475 * math.pi))


def test_where_there_is_no_interval_and_where_it_is_a_point():
    assert interval(Estimate(1.0, 0.0, 10), 2) == (1.0, 1.0)
    assert interval(Estimate(1.0, None, 10), 1) is interval(Estimate(1.0, 0.5, 10), 1) is None


# ---- cost --------------------------------------------------------------------------------------------------------


def counted(run) -> int:
    """What torch counts; its own attention is spelled out, as its counter does not know the fused one of a CPU."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(("dim", "layers", "vocab", "context"), [(16, 2, 50, 8), (24, 1, 31, 12), (32, 3, 7, 40)])
def test_forward_flops_are_those_that_torch_counts(dim, layers, vocab, context):
    model = tiny_model(vocab, dim=dim, layers=layers, heads=2, context=context)
    tokens = torch.zeros(3, context, dtype=torch.long)
    found = counted(lambda: model.main(model.main.embed(tokens)) @ model.main.head_weight.T)
    assert found == 3 * context * forward_flops(dim, model.config.hidden, layers, vocab, context)


def test_block_parameters():
    model = tiny_model(9, dim=24)
    block = model.main.blocks[0]
    matrices = sum(parameter.numel() for parameter in block.parameters() if parameter.dim() == 2)
    assert block_parameters(24, model.config.hidden) == matrices


def test_fgram_flops_are_those_that_torch_counts():
    """The matrices in a real run over a trie; its attention, elementwise there, as the products it stands for."""
    fgrams = slow_ranking([[0, 1, 2, 3, 1, 2, 0, 3] * 3], 4, 20, 1)
    model = tiny_model(4, 4, dim=24, fgram_layers=3)
    trie, rows = trie_of(fgrams, 4, 4).subtrie(np.arange(20))
    hidden = model.config.hidden
    found = counted(lambda: model.fgram_rows(trie, rows))
    assert found == fgram_pass_flops(24, hidden, 3, trie.num_nodes, len(rows), 0)
    assert found < trie.num_nodes * fgram_forward_flops(24, hidden, 3, 0)
    q, k, v = torch.zeros(1, 2, 1, 12), torch.zeros(1, 2, 12, 4), torch.zeros(1, 2, 4, 12)
    attention = counted(lambda: (q @ k).softmax(-1) @ v)
    assert fgram_forward_flops(24, hidden, 3, 4) - fgram_forward_flops(24, hidden, 3, 0) == 3 * attention
