"""Training: packing, batches, gradients against plain autograd, exact resumption, and that it learns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from builders import random_documents, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli.errors import BadData, SconeError
from scone_cli.model import ModelConfig, SconeModel
from scone_cli.ngrams import NONE
from scone_cli.progress import silent
from scone_cli.training import (
    PackedText,
    TrainingPlan,
    accumulate_gradients,
    adamw,
    batch_windows,
    describe,
    mean_loss,
    train,
)

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
DOCUMENTS = random_documents(0, 6, [150, 80, 0, 90])  # tokens 0..5: token 6 is never seen
FGRAMS = slow_ranking(DOCUMENTS, MAX_N, 100, 2)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
STREAM = stream_of(DOCUMENTS)
TEXT = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), CONTEXT)
PLAN = TrainingPlan(
    batch=4,
    micro_batch=0,
    steps=12,
    warmup=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    eval_every=6,
    eval_tokens=100,
    checkpoint_every=5,
    seed=3,
)


def plan_of(**changes: object) -> TrainingPlan:
    return TrainingPlan(**PLAN.__dict__ | changes)


# ---- data --------------------------------------------------------------------------------------------------------


def test_packing_worked_by_hand():
    """Documents 1 2 3 | (empty) | 1 2, with the f-grams 1 2 and 2 3: an end-of-document token stands around each."""
    index = trie_of([(1, 2), (2, 3)], NUM_TOKENS, 2).index()
    stream = stream_of([[1, 2, 3], [], [1, 2]])
    text = PackedText.pack(stream.tokens, stream.starts, END, index, context=3)
    assert text.tokens.tolist() == [END, 1, 2, 3, END, END, 1, 2, END]
    assert text.ids.tolist() == [NONE, NONE, 0, 1, NONE, NONE, NONE, 0, NONE]
    assert text.num_windows == 2
    tokens, ids = text.windows(np.array([1, 0]))
    assert tokens.tolist() == [[3, END, END, 1], [END, 1, 2, 3]]
    assert ids.tolist() == [[1, NONE, NONE], [NONE, NONE, 0]]


def test_matches_cross_windows_but_no_documents():
    """The first position of a window may end an f-gram that began in the window before; nothing follows `END`."""
    places = np.flatnonzero(TEXT.ids != NONE)
    for place in places:
        fgram = FGRAMS[TEXT.ids[place]]
        assert tuple(TEXT.tokens[place - len(fgram) + 1 : place + 1]) == fgram
        assert END not in fgram
    assert any(place % CONTEXT == 0 for place in places)
    for context in (2, 5, 64):
        again = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), context)
        assert again.ids.tolist() == TEXT.ids.tolist()


def test_a_plain_model_is_given_no_matches():
    text = PackedText.pack(STREAM.tokens, STREAM.starts, END, None, CONTEXT)
    assert text.tokens.tolist() == TEXT.tokens.tolist()
    assert set(text.ids.tolist()) == {NONE}


@pytest.mark.parametrize("batch", [1, 4, 7, 25])
def test_an_epoch_is_every_window_once(batch):
    steps = itertools.islice(batch_windows(10, batch, seed=1, first_step=0), 30)
    order = np.concatenate(list(steps))
    epochs = [order[first : first + 10].tolist() for first in range(0, len(order) - 9, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_step_only():
    whole = [step.tolist() for step in itertools.islice(batch_windows(10, 4, seed=1, first_step=0), 12)]
    for first in (1, 5, 11):
        assert next(batch_windows(10, 4, seed=1, first_step=first)).tolist() == whole[first]
    assert next(batch_windows(10, 4, seed=2, first_step=0)).tolist() != whole[0]


# ---- the plan ----------------------------------------------------------------------------------------------------


def test_the_schedule():
    """A linear rise over the warm-up, the peak, then half of a cosine down to a tenth."""
    plan = plan_of(warmup=4, steps=14, learning_rate=0.4)
    assert [plan.learning_rate_at(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert plan.learning_rate_at(9) == pytest.approx(0.22)  # half way: the mean of peak and tenth
    assert plan.learning_rate_at(14) == pytest.approx(0.04)
    assert plan_of(warmup=0, learning_rate=0.4).learning_rate_at(0) == pytest.approx(0.4)


def test_embeddings_positions_and_norms_do_not_decay():
    model = tiny_model(NUM_TOKENS, MAX_N, tied_head=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = [{names[id(p)] for p in group["params"]} for group in adamw(model, PLAN).param_groups]
    assert [group["weight_decay"] for group in adamw(model, PLAN).param_groups] == [0.1, 0]
    assert decayed | spared == set(names.values())
    assert {name.split(".")[-2] for name in decayed} == {"qkv", "out", "gate_up", "down", "head"}
    assert {"main.token_embedding.weight", "fgram.positions.weight", "main.embedding_norm.gain"} <= spared


def test_the_embedding_of_a_token_that_is_never_seen_stays(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N, tied_head=False)
    before = model.main.token_embedding.weight.detach().clone()
    train(model, TEXT, None, TRIE, PLAN, tmp_path, silent)
    after = model.main.token_embedding.weight.detach()
    assert torch.equal(after[6], before[6])
    assert not torch.equal(after[5], before[5])


# ---- gradients ---------------------------------------------------------------------------------------------------


def plain_gradients(model: SconeModel, tokens: np.ndarray, ids: np.ndarray) -> float:
    """The mean loss of the batch with every row in the graph, through autograd and nothing else."""
    inputs = torch.from_numpy(tokens.astype(np.int64))
    matched = sorted({int(i) for i in ids.flat if i != NONE})
    rows = model.fgram_rows(*TRIE.subtrie(np.array(matched)))
    slots = torch.tensor([[matched.index(i) if i != NONE else -1 for i in line] for line in ids])
    hidden = model.main(model.main.embed(inputs[:, :-1], slots, rows))
    loss = F.cross_entropy((hidden @ model.main.head_weight.T).flatten(0, 1), inputs[:, 1:].flatten())
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5])
def test_accumulated_gradients_are_those_of_plain_autograd(micro_batch, tied):
    tokens, ids = TEXT.windows(np.array([3, 9, 0, 11, 20]))
    fast, slow = (tiny_model(NUM_TOKENS, MAX_N, tied_head=tied).double() for _ in range(2))
    loss, num_nodes = accumulate_gradients(fast, tokens, ids, TRIE, micro_batch)
    assert loss == pytest.approx(plain_gradients(slow, tokens, ids), abs=1e-12)
    matched = {FGRAMS[i] for i in ids.flat if i != NONE}
    assert num_nodes == len({fgram[:n] for fgram in matched for n in range(1, len(fgram) + 1)})
    for (name, found), (_, expected) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        assert expected.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-12)


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


def test_the_watched_loss_is_the_mean_over_the_first_windows():
    model = tiny_model(NUM_TOKENS, MAX_N)
    tokens, ids = TEXT.windows(np.arange(20))
    expected, _ = accumulate_gradients(model, tokens, ids, TRIE, 20)
    assert mean_loss(model, TEXT, TRIE, 20 * CONTEXT + 7) == pytest.approx(expected, abs=1e-5)
    assert math.isnan(mean_loss(model, PackedText(TEXT.tokens[:4], TEXT.ids[:4], CONTEXT), TRIE, 100))


# ---- runs --------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_at(step: int):
    def progress(what, done, *_):
        if what == "training" and done == step * PLAN.batch * CONTEXT:
            raise Stopped

    return progress


@pytest.mark.parametrize("fgram_layers", [1, 0])
def test_a_resumed_run_ends_like_one_that_was_never_interrupted(tmp_path, fgram_layers):
    trie = TRIE if fgram_layers else None
    whole = tiny_model(NUM_TOKENS, MAX_N, fgram_layers=fgram_layers)
    (tmp_path / "whole").mkdir()
    expected = train(whole, TEXT, TEXT, trie, PLAN, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        train(
            tiny_model(NUM_TOKENS, MAX_N, fgram_layers=fgram_layers), TEXT, TEXT, trie, PLAN, tmp_path, stop_at(step=7)
        )
    (tmp_path / "step-00000010.tmp").write_bytes(b"half a checkpoint")
    (tmp_path / "step-00000010.parquet").write_bytes(b"its log, without its weights")

    resumed = tiny_model(NUM_TOKENS, MAX_N, fgram_layers=fgram_layers, seed=99)  # the checkpoint decides, not this
    steps = []
    log = train(resumed, TEXT, TEXT, trie, PLAN, tmp_path, lambda _, done, *rest: steps.append(done))  # noqa: ARG005
    assert steps == [step * PLAN.batch * CONTEXT for step in range(5, 13)]  # the first report: where it continues
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.state_dict().items())
    timeless = [column for column in expected.column_names if column != "seconds"]
    assert log.select(timeless).to_pylist() == expected.select(timeless).to_pylist()
    assert log["seconds"].to_pylist() == sorted(log["seconds"].to_pylist())


def test_the_log_and_the_checkpoints_of_a_run(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N)
    log = train(model, TEXT, TEXT, TRIE, plan_of(checkpoint_every=3), tmp_path, silent).to_pylist()
    assert [row["step"] for row in log] == list(range(1, 13))
    assert [row["tokens"] for row in log] == [step * 4 * CONTEXT for step in range(1, 13)]
    assert [row["step"] for row in log if row["held_out_loss"] is not None] == [6, 12]
    assert [row["learning_rate"] for row in log] == [PLAN.learning_rate_at(step) for step in range(12)]
    assert log[-1]["held_out_loss"] == mean_loss(model, TEXT, TRIE, PLAN.eval_tokens)
    assert all(row["trie_nodes"] > 0 for row in log)
    kept = ["step-00000006.parquet", "step-00000006.safetensors", "step-00000009.parquet", "step-00000009.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert pq.read_table(tmp_path / "step-00000009.parquet").num_rows == 9


@pytest.mark.parametrize("damaged", ["step-00000009.safetensors", "step-00000009.parquet"])
def test_a_damaged_checkpoint_costs_one_checkpoint(tmp_path, damaged):
    plan = plan_of(checkpoint_every=3)
    whole, resumed = tiny_model(NUM_TOKENS, MAX_N), tiny_model(NUM_TOKENS, MAX_N, seed=99)
    train(whole, TEXT, TEXT, TRIE, plan, tmp_path, silent)
    (tmp_path / damaged).write_bytes(b"")
    steps = []
    train(resumed, TEXT, TEXT, TRIE, plan, tmp_path, lambda _, done, *rest: steps.append(done))  # noqa: ARG005
    assert steps == [step * PLAN.batch * CONTEXT for step in range(6, 13)]
    state = whole.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.state_dict().items())


def test_micro_batches_learn_the_same(tmp_path):
    losses = []
    for micro_batch in (0, 1):
        (scratch := tmp_path / str(micro_batch)).mkdir()
        plan = plan_of(micro_batch=micro_batch)
        log = train(tiny_model(NUM_TOKENS, MAX_N).double(), TEXT, None, TRIE, plan, scratch, silent)
        losses.append(log["loss"].to_pylist())
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    assert losses[0][0] != losses[0][-1]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N)
    with torch.no_grad():
        model.fgram.positions.weight[0, 0] = torch.nan
    with pytest.raises(SconeError, match="the loss became nan at step 1") as caught:
        train(model, TEXT, None, TRIE, PLAN, tmp_path, silent)
    assert "lower --learning-rate" in caught.value.hint


def test_a_text_shorter_than_a_window(tmp_path):
    text = PackedText(TEXT.tokens[:CONTEXT], TEXT.ids[:CONTEXT], CONTEXT)
    with pytest.raises(BadData, match="has 8 tokens, less than one context of 8"):
        train(tiny_model(NUM_TOKENS, MAX_N), text, None, TRIE, PLAN, tmp_path, silent)


def test_it_learns(tmp_path):
    """A text that repeats is learned almost by heart, and A_f-gram, at first the plain embedding, takes part."""
    stream = stream_of([[0, 1, 2, 3, 4, 5, 3, 1] * 30])
    trie = trie_of(slow_ranking([stream.tokens.tolist()], 3, 16, 2), NUM_TOKENS, 3)
    text = PackedText.pack(stream.tokens, stream.starts, END, trie.index(), CONTEXT)
    shape = {"dim": 16, "layers": 1, "heads": 2, "fgram_layers": 1, "tied_head": True, "context": CONTEXT}
    torch.manual_seed(0)
    model = SconeModel(ModelConfig(vocab_size=NUM_TOKENS, max_n=3, **shape))
    before = {name: parameter.detach().clone() for name, parameter in model.fgram.named_parameters()}
    log = train(model, text, None, trie, plan_of(steps=60, warmup=5), tmp_path, silent)["loss"].to_pylist()
    assert log[0] == pytest.approx(math.log(NUM_TOKENS), abs=0.2)
    assert log[-1] < 0.25
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.fgram.named_parameters())


def test_one_line_says_how_it_goes():
    log = [{"loss": 9.0, "held_out_loss": 8.0}, *[{"loss": 2.0, "held_out_loss": None}] * 20]
    assert describe(log) == "loss 2.000, held-out 8.000"
    assert describe(log[1:]) == "loss 2.000"
