"""Gradients of a batch against plain autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import random_documents, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli.model.model import SconeModel
from scone_cli.training import gradients
from scone_cli.training.gradients import accumulate_gradients, mean_loss
from scone_cli.training.packed_text import PackedText
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
DOCUMENTS = random_documents(0, 6, [150, 80, 0, 90])  # tokens 0..5: token 6 is never seen
FGRAMS = slow_ranking(DOCUMENTS, MAX_N, 100, 2)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
STREAM = stream_of(DOCUMENTS)
TEXT = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), CONTEXT)


def plain_gradients(model: SconeModel, tokens: np.ndarray, ids: np.ndarray) -> float:
    """The mean loss of the batch with every row in the graph, through autograd and nothing else."""
    inputs = torch.from_numpy(tokens.astype(np.int64))
    matched = sorted({int(i) for i in ids.flat if i != NONE})
    rows = model.rows(TRIE, np.array(matched))
    slots = torch.tensor([[matched.index(i) if i != NONE else -1 for i in line] for line in ids])
    hidden = model.main(model.main.embed(inputs[:, :-1], slots, rows))
    loss = F.cross_entropy((hidden @ model.main.head_weight.T).flatten(0, 1), inputs[:, 1:].flatten())
    loss.backward()
    return loss.item()


SHAPES = {
    "tied": {"tied_head": True},
    "added": {"tied_head": False, "combine": "add"},
    "learned": {"tied_head": False, "combine": "add", "learned_rows": 40},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_accumulated_gradients_are_those_of_plain_autograd(micro_batch, shape):
    tokens, ids = TEXT.windows(np.array([3, 9, 0, 11, 20]))
    fast, slow = (tiny_model(NUM_TOKENS, MAX_N, **shape).double() for _ in range(2))
    loss, num_nodes, num_asked = accumulate_gradients(fast, tokens, ids, TRIE, micro_batch)
    assert loss == pytest.approx(plain_gradients(slow, tokens, ids), abs=1e-12)
    matched = {FGRAMS[i] for i in ids.flat if i != NONE}
    assert num_nodes == len({fgram[:n] for fgram in matched for n in range(1, len(fgram) + 1)})
    assert num_asked == len(matched)
    for (name, found), (_, expected) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        assert expected.grad.abs().max() > 1e-6, name
        assert found.grad.is_sparse == (name == "learned.weight")
        torch.testing.assert_close(found.grad.to_dense(), expected.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("graph_bytes", [0, 1 << 30])  # computed again in the backward pass, and kept
def test_a_large_trie_in_pieces_has_the_gradients_of_a_small_one(monkeypatch, graph_bytes):
    tokens, ids = TEXT.windows(np.array([3, 9, 0, 11, 20]))
    whole, pieces = (tiny_model(NUM_TOKENS, MAX_N).double() for _ in range(2))
    runs, run = [], SconeModel.fgram_rows
    monkeypatch.setattr(SconeModel, "fgram_rows", lambda *args: runs.append(1) or run(*args))
    expected = accumulate_gradients(whole, tokens, ids, TRIE, 2)
    assert len(runs) == 1
    monkeypatch.setattr(gradients, "CHUNK_FGRAMS", 3)
    monkeypatch.setattr(gradients, "GRAPH_BYTES", graph_bytes)
    found = accumulate_gradients(pieces, tokens, ids, TRIE, 2)
    first_tokens = {FGRAMS[i][0] for i in ids.flat if i != NONE}
    assert len(runs) - 1 == len(first_tokens) * (1 if graph_bytes else 2)  # each of which more than three begin with
    assert found[1:] == expected[1:]
    assert found.loss == pytest.approx(expected.loss, abs=1e-12)
    for (name, one), (_, other) in zip(pieces.named_parameters(), whole.named_parameters(), strict=True):
        assert other.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


def test_gradients_of_hashed_rows_are_those_of_plain_autograd():
    """Sparse, of the rows that the batch touched; whatever the micro-batches."""
    shape = {"kind": "hashed", "hashed_rows": 60, "end_of_document": END, "tied_head": False}
    fast, slow = (tiny_model(NUM_TOKENS, MAX_N, **shape).double() for _ in range(2))
    tokens, ids = TEXT.windows(np.array([3, 9, 0, 11, 20]), before=fast.history)
    assert fast.history == MAX_N - 1
    loss, *work = accumulate_gradients(fast, tokens, ids, None, 2)
    inputs = torch.from_numpy(tokens[:, slow.history :].astype(np.int64))
    slots = torch.from_numpy(slow.hashed.slots(tokens[:, :-1]))
    hidden = slow.main(slow.main.embed(inputs[:, :-1], slots, slow.hashed.weight))
    expected = F.cross_entropy((hidden @ slow.main.head_weight.T).flatten(0, 1), inputs[:, 1:].flatten())
    expected.backward()
    assert (loss, work) == (pytest.approx(expected.item(), abs=1e-12), [0, 0])
    assert fast.hashed.weight.grad.is_sparse
    for (name, found), (_, other) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        gradient = found.grad.to_dense() if found.grad.is_sparse else found.grad
        assert other.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, other.grad, rtol=0, atol=1e-12)


def test_a_batch_without_a_match_and_a_plain_model_have_equal_gradients():
    tokens, ids = TEXT.windows(np.array([3, 9]))
    scone, plain = tiny_model(NUM_TOKENS, MAX_N), tiny_model(NUM_TOKENS, MAX_N)
    losses = [
        accumulate_gradients(scone, tokens, np.full_like(ids, NONE), TRIE, 2),
        accumulate_gradients(plain, tokens, ids, None, 2),
    ]
    assert losses[0] == losses[1]
    assert losses[0][1] == 0
    gradients = [[p.grad for p in model.main.parameters()] for model in (scone, plain)]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(parameter.grad is None for parameter in scone.fgram.parameters())


def test_a_batch_without_an_ngram_of_a_hashed_model():
    model = tiny_model(NUM_TOKENS, MAX_N, kind="hashed", hashed_rows=60, end_of_document=END)
    tokens = np.full((1, MAX_N + 1), END, np.uint32)
    loss, *work = accumulate_gradients(model, tokens, np.full((1, 1), NONE, np.uint32), None, 1)
    assert math.isfinite(loss)
    assert work == [0, 0]
    assert model.hashed.weight.grad is None


def test_the_watched_loss_is_the_mean_over_windows_from_all_over():
    model = tiny_model(NUM_TOKENS, MAX_N)
    numbers = [TEXT.num_windows * i // 20 for i in range(20)]
    assert numbers[-1] >= TEXT.num_windows - TEXT.num_windows // 10
    tokens, ids = TEXT.windows(np.array(numbers))
    expected, *_ = accumulate_gradients(model, tokens, ids, TRIE, 20)
    assert mean_loss(model, TEXT, TRIE, 20 * CONTEXT + 7) == pytest.approx(expected, abs=1e-5)
    assert math.isnan(mean_loss(model, PackedText(TEXT.tokens[:4], TEXT.ids[:4], CONTEXT), TRIE, 100))
