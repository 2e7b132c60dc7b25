"""Training: packing, batches, gradients against plain autograd, exact resumption, and that it learns."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest
import torch
from builders import random_documents, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli.errors import BadData, SconeError
from scone_cli.gradients import mean_loss
from scone_cli.model import ModelConfig, SconeModel
from scone_cli.packing import PackedText
from scone_cli.progress import silent
from scone_cli.training import TrainingPlan, adamw, describe, train

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
