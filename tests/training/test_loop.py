"""Training: the loop, exact resumption from every kind of stop, what the log says, and that it learns."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
import torch
from builders import slow_ranking, stream_of, tiny_model, trie_of
from messages import names, refusal
from small_training import (
    CONTEXT,
    END,
    KINDS,
    MAX_N,
    NUM_TOKENS,
    PLAN,
    SEEN,
    TEXT,
    TRIE,
    UNSEEN,
    model_of,
    plan_of,
    rows_of,
    same_weights,
    text_of,
    timeless,
)
from torch import nn

from scone_cli.artifacts.schemas import LOG
from scone_cli.errors import BadData, SconeError
from scone_cli.model.model import ModelConfig, SconeModel
from scone_cli.progress import silent
from scone_cli.runtime.signals import Stopped, stop_signals
from scone_cli.runtime.torchrun import Alone
from scone_cli.training import gradients
from scone_cli.training import loop as training
from scone_cli.training.gradients import mean_loss
from scone_cli.training.loop import TrainingText, train
from scone_cli.training.optimizers import Optimizers
from scone_cli.training.packed_text import PackedText, SubCorpus


def done_by(progress: list[tuple]) -> list[float]:
    """The steps that were reported."""
    return [done / (PLAN.batch * CONTEXT) for what, done, *_ in progress if what == "training"]


# ---- runs --------------------------------------------------------------------------------------------------------


def test_the_embedding_of_a_token_that_is_never_seen_stays(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N, tied_head=False)
    before = model.main.token_embedding.weight.detach().clone()
    train(model, UNSEEN, PLAN, tmp_path, silent)
    after = model.main.token_embedding.weight.detach()
    assert torch.equal(after[6], before[6])
    assert not torch.equal(after[5], before[5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_like_one_that_was_never_interrupted(tmp_path, kind, optimizer):
    plan = plan_of(optimizer=optimizer)
    whole = model_of(kind)
    (tmp_path / "whole").mkdir()
    expected = train(whole, text_of(kind), plan, tmp_path / "whole", silent)

    def stop_at_7(row: dict) -> None:
        if row["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model_of(kind), text_of(kind), plan, tmp_path, silent, track=stop_at_7)
    (tmp_path / "checkpoint.tmp").write_bytes(b"half a checkpoint")
    with (tmp_path / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 8, "tok')

    resumed, progress = model_of(kind, seed=99), []  # the checkpoint decides, not this
    log = train(resumed, text_of(kind), plan, tmp_path, lambda *args, **_: progress.append(args))
    assert done_by(progress) == list(range(5, 13))  # the first report: where it continues
    assert same_weights(resumed, whole)
    assert timeless(log.to_pylist()) == timeless(expected.to_pylist())
    assert log["seconds"].to_pylist() == sorted(log["seconds"].to_pylist())


def test_the_log_and_the_checkpoints_of_a_run(tmp_path):
    model, tracked, told = tiny_model(NUM_TOKENS, MAX_N), [], []
    plan = plan_of(checkpoint_every=3)
    table = train(model, SEEN, plan, tmp_path, lambda *args, **more: told.append((*args, more)), track=tracked.append)
    assert table.schema == LOG
    log = table.to_pylist()
    assert [row["step"] for row in log] == list(range(1, 13))
    assert [row["tokens"] for row in log] == [step * 4 * CONTEXT for step in range(1, 13)]
    assert [row["step"] for row in log if row["held_out_loss"] is not None] == [6, 12]
    assert [row["learning_rate"] for row in log] == [PLAN.learning_rate_at(step) for step in range(12)]
    assert log[-1]["held_out_loss"] == mean_loss(model, TEXT, TRIE, PLAN.eval_tokens)
    assert all(row["trie_nodes"] > row["fgrams"] > 0 for row in log)
    assert all(0 < row["tokens_per_second"] < math.inf for row in log)
    assert tracked == log == rows_of(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log.jsonl",
        "step-00000006.safetensors",
        "step-00000009.safetensors",
    ]
    assert told[0][:3] == ("log", 0, 0)
    assert names(told[0][3]["detail"], str(tmp_path / "log.jsonl"), "tail -f")
    assert names(told[1][-2], f"{sum(p.numel() for p in model.main.parameters()):,}")
    mean, held_out = np.mean([row["loss"] for row in log]), log[-1]["held_out_loss"]
    assert names(told[-1][-2], f"loss {mean:.3f}", f"held-out {held_out:.3f}")
    assert told[-1][-2].endswith("iB")


def test_checkpoints_by_minutes(tmp_path):
    steps = []
    real = training.Checkpoints.save
    plan = plan_of(checkpoint_every=1000, checkpoint_minutes=1e-9, keep_checkpoints=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Checkpoints, "save", lambda self, at, parts: (steps.append(at), real(self, at, parts)))
        train(tiny_model(NUM_TOKENS, MAX_N), UNSEEN, plan, tmp_path, silent)
    assert [(at.step, at.windows) for at in steps] == [(step, 4 * step) for step in range(1, 12)]
    assert len(list(tmp_path.glob("step-*"))) == 3


def test_a_damaged_checkpoint_costs_one_checkpoint(tmp_path):
    plan = plan_of(checkpoint_every=3)
    whole, resumed, progress = tiny_model(NUM_TOKENS, MAX_N), tiny_model(NUM_TOKENS, MAX_N, seed=99), []
    train(whole, SEEN, plan, tmp_path, silent)
    newest = tmp_path / "step-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    train(resumed, SEEN, plan, tmp_path, lambda *args, **_: progress.append(args))
    assert done_by(progress) == list(range(6, 13))
    assert same_weights(resumed, whole)


def test_micro_batches_learn_the_same(tmp_path):
    losses = []
    for micro_batch in (0, 1):
        (scratch := tmp_path / str(micro_batch)).mkdir()
        plan = plan_of(micro_batch=micro_batch)
        log = train(tiny_model(NUM_TOKENS, MAX_N).double(), UNSEEN, plan, scratch, silent)
        losses.append(log["loss"].to_pylist())
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    assert losses[0][0] != losses[0][-1]


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_learns_nearly_the_same_with_weights_of_float32(tmp_path, kind):
    losses = []
    for precision in ("float32", "bfloat16"):
        (scratch := tmp_path / precision).mkdir()
        model = model_of(kind)
        log = train(model, text_of(kind), plan_of(precision=precision), scratch, silent)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        losses.append([*log["loss"].to_pylist(), log["held_out_loss"].to_pylist()[-1]])
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of what torch does itself
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")  # the same
def test_a_compiled_model_learns_the_same(tmp_path, monkeypatch):
    """Traced as torch traces it; what then compiles it takes too long for a test."""
    losses, compile_ = [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_(module, backend="eager"))
    for compiled in (False, True):
        (scratch := tmp_path / str(compiled)).mkdir()
        model = tiny_model(NUM_TOKENS, MAX_N)
        log = train(model, SEEN, plan_of(compile=compiled), scratch, silent)
        assert (model.main._compiled_call_impl is not None) == compiled
        losses.append([*log["loss"].to_pylist(), log["held_out_loss"].to_pylist()[-1]])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)  # eager CPU kernels of our own round otherwise


# ---- stops -------------------------------------------------------------------------------------------------------


@pytest.fixture
def signal_heard():
    """SIGINT as in a terminal: a background job starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("sent", [6, 12])
def test_a_signal_costs_no_further_step(tmp_path, signum, code, sent, signal_heard):  # noqa: ARG001
    whole = tiny_model(NUM_TOKENS, MAX_N)
    (tmp_path / "whole").mkdir()
    expected = train(whole, SEEN, PLAN, tmp_path / "whole", silent)

    def send(row: dict) -> None:
        if row["step"] == sent:
            os.kill(os.getpid(), signum)

    with stop_signals(), pytest.raises(Stopped) as stopped:
        train(tiny_model(NUM_TOKENS, MAX_N), SEEN, PLAN, tmp_path, silent, track=send)
    assert stopped.value.exit_code == code
    assert max(tmp_path.glob("step-*")).name == f"step-{sent:08d}.safetensors"
    resumed = tiny_model(NUM_TOKENS, MAX_N, seed=99)
    log = train(resumed, SEEN, PLAN, tmp_path, silent)
    assert same_weights(resumed, whole)
    assert timeless(log.to_pylist()) == timeless(expected.to_pylist())


@pytest.mark.parametrize("at", [6, 12])  # the last look is that of the summary
@pytest.mark.parametrize("during", ["look", "step"])
def test_a_look_that_a_signal_cuts_short_is_taken_when_the_run_continues(tmp_path, monkeypatch, at, during):
    plan = plan_of(eval_tokens=1000)  # three batches of windows
    whole = tiny_model(NUM_TOKENS, MAX_N)
    (tmp_path / "whole").mkdir()
    expected = train(whole, SEEN, plan, tmp_path / "whole", silent)
    batches, steps, live_rows, combine = [], [], gradients.live_rows, Alone.combine

    def batch(*args: object) -> tuple:
        batches.append(len(steps))
        found = live_rows(*args)
        if during == "look" and batches.count(at) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    def step(*args: object) -> list[float]:
        steps.append(1)
        if during == "step" and len(steps) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return combine(*args)

    monkeypatch.setattr(gradients, "live_rows", batch)
    monkeypatch.setattr(Alone, "combine", step)
    with stop_signals(), pytest.raises(Stopped):
        train(tiny_model(NUM_TOKENS, MAX_N), SEEN, plan, tmp_path, silent)
    monkeypatch.undo()
    assert batches == [6] * 3 * (at == 12) + [at] * (during == "look")
    assert max(tmp_path.glob("step-*")).name == f"step-{at:08d}.safetensors"
    assert rows_of(tmp_path)[-1]["held_out_loss"] is None

    resumed, tracked = tiny_model(NUM_TOKENS, MAX_N, seed=99), []
    log = train(resumed, SEEN, plan, tmp_path, silent, track=tracked.append).to_pylist()
    assert same_weights(resumed, whole)
    assert timeless(log) == timeless(expected.to_pylist())
    assert log == rows_of(tmp_path)
    assert log[at - 1 :] == tracked


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N)

    def spoil(row: dict) -> None:
        if row["step"] == 6:
            with torch.no_grad():
                model.fgram.positions.weight[0, 0] = torch.nan

    checkpoint = str(tmp_path / "step-00000005.safetensors")
    with refusal(SconeError, "loss", "nan", "step 7", checkpoint, "step 5", hint=("--learning-rate",)):
        train(model, UNSEEN, PLAN, tmp_path, silent, track=spoil)


def test_a_loss_that_explodes_stops_the_run(tmp_path):
    """At a step its weights are thrown away: the checkpoint that is named is from before that."""
    model = tiny_model(NUM_TOKENS, MAX_N)

    def spoil(row: dict) -> None:
        if row["step"] == 60:
            with torch.no_grad():
                model.main.head_weight.mul_(40)

    plan = plan_of(steps=200, learning_rate=3e-3, warmup=10, checkpoint_every=10, keep_checkpoints=5)
    with refusal(SconeError, "loss", str(tmp_path / "step-00000060.safetensors"), "step 60"):
        train(model, UNSEEN, plan, tmp_path, silent, track=spoil)
    rows = rows_of(tmp_path)
    assert 60 < rows[-1]["step"] < 80


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("steps", [12, 60])
def test_a_run_that_diverges_never_ends_well_however_short_it_is(tmp_path, optimizer, steps):
    """At a thousand times the learning rate; with few steps it ends before there are enough to stop it on its way."""
    plan = plan_of(optimizer=optimizer, learning_rate=10.0, steps=steps)
    with refusal(SconeError, "loss", "exploded", f"step {min(steps, 20)}", hint=("--learning-rate",)):
        train(tiny_model(NUM_TOKENS, MAX_N), UNSEEN, plan, tmp_path, silent)


@pytest.mark.parametrize(("text", "told"), [(SEEN, "held-out"), (UNSEEN, "weight")])
def test_weights_that_the_last_step_spoils_are_told(tmp_path, monkeypatch, text, told):
    def step(self: Optimizers, rate: float) -> None:
        taken(self, rate)
        if rate == PLAN.learning_rate_at(PLAN.steps - 1):
            with torch.no_grad():
                model.main.head_weight[0, 0] = torch.inf

    taken, model = Optimizers.step, tiny_model(NUM_TOKENS, MAX_N)
    monkeypatch.setattr(Optimizers, "step", step)
    with refusal(SconeError, told, "step 12" if told == "held-out" else "12", "step 10", hint=("--learning-rate",)):
        train(model, text, PLAN, tmp_path, silent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shares", [(), (2, 1)])
def test_a_run_that_is_stopped_in_its_second_epoch_ends_like_one_that_was_not(tmp_path, kind, shares):
    """With a mixture, one sub-corpus is in its second epoch and the other in a later one."""
    size = TEXT.tokens.size // 3
    parts = tuple(SubCorpus(str(weight), size, weight) for weight in shares)
    packed = PackedText(TEXT.tokens[: 2 * size], TEXT.ids[: 2 * size], CONTEXT, parts)
    text = TrainingText(packed, TEXT, text_of(kind).trie)
    plan = plan_of(steps=15, checkpoint_every=100)
    stop_at = next(step for step in range(1, 15) if step * PLAN.batch > 1.3 * packed.num_windows)
    (tmp_path / "whole").mkdir()
    whole = model_of(kind)
    expected = train(whole, text, plan, tmp_path / "whole", silent)

    def send(row: dict) -> None:
        if row["step"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with stop_signals(), pytest.raises(Stopped):
        train(model_of(kind), text, plan, tmp_path, silent, track=send)
    resumed = model_of(kind, seed=99)
    log = train(resumed, text, plan, tmp_path, silent)
    assert same_weights(resumed, whole)
    assert timeless(log.to_pylist()) == timeless(expected.to_pylist())


def test_after_the_first_steps_it_is_told_how_long_it_will_take(tmp_path):
    told = []
    train(
        tiny_model(NUM_TOKENS, MAX_N), UNSEEN, PLAN, tmp_path, lambda what, *_, detail="": told.append((what, detail))
    )
    (duration,) = [detail for what, detail in told if what == "duration"]
    assert names(duration, "2 steps", "tokens/s")


def test_a_text_shorter_than_a_window(tmp_path):
    text = PackedText(TEXT.tokens[:CONTEXT], TEXT.ids[:CONTEXT], CONTEXT)
    with refusal(BadData, "8 tokens", "8"):
        train(tiny_model(NUM_TOKENS, MAX_N), TrainingText(text, None, TRIE), PLAN, tmp_path, silent)


def test_it_learns(tmp_path):
    """A text that repeats is learned almost by heart, and A_f-gram, at first the plain embedding, takes part."""
    stream = stream_of([[0, 1, 2, 3, 4, 5, 3, 1] * 30])
    trie = trie_of(slow_ranking([stream.tokens.tolist()], 3, 16, 2), NUM_TOKENS, 3)
    text = PackedText.pack(stream.tokens, stream.starts, END, trie.index(), CONTEXT)
    shape = {"dim": 16, "layers": 1, "heads": 2, "fgram_layers": 1, "tied_head": True, "context": CONTEXT}
    torch.manual_seed(0)
    model = SconeModel(ModelConfig(vocab_size=NUM_TOKENS, max_n=3, **shape))
    before = {name: parameter.detach().clone() for name, parameter in model.fgram.named_parameters()}
    plan = plan_of(steps=60, warmup=5)
    log = train(model, TrainingText(text, None, trie), plan, tmp_path, silent)["loss"].to_pylist()
    assert log[0] == pytest.approx(math.log(NUM_TOKENS), abs=0.2)
    assert log[-1] < 0.25
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.fgram.named_parameters())
