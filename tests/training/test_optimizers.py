"""Optimisers: groups, schedules, clipping, and a state that can be taken up again."""

from __future__ import annotations

import math

import pytest
import torch
from builders import tiny_model
from messages import refusal
from torch import nn

from scone_cli.errors import BadSetting
from scone_cli.model.model import SconeModel
from scone_cli.training.optimizers import GROUPS, SPARSE, Optimizers, Schedule, clip_gradients, group_of

NUM_TOKENS, MAX_N = 8, 4


def models() -> dict[str, SconeModel]:
    return {
        "scone": tiny_model(NUM_TOKENS, MAX_N, tied_head=False, combine="add", learned_rows=40),
        "hashed": tiny_model(NUM_TOKENS, MAX_N, kind="hashed", hashed_rows=60),
    }


def fill_gradients(model: SconeModel, seed: int) -> None:
    """Dense ones, and for direct rows one with three rows, as training has it."""
    chance = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name in SPARSE:
            values = torch.randn(3, parameter.shape[1], generator=chance)
            rows = torch.tensor([[1, 5, 7]])
            parameter.grad = torch.sparse_coo_tensor(rows, values, parameter.shape, check_invariants=False)
        else:
            parameter.grad = torch.randn(parameter.shape, generator=chance)


# ---- schedules ---------------------------------------------------------------------------------------------------


def test_the_cosine():
    """A linear rise over the warm-up, the peak, then half of a cosine down to a tenth."""
    schedule = Schedule("cosine", 0.4, warmup=4, steps=14)
    assert [schedule.learning_rate_at(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert schedule.learning_rate_at(9) == pytest.approx(0.22)  # half way: the mean of peak and tenth
    assert schedule.learning_rate_at(14) == pytest.approx(0.04)
    assert Schedule("cosine", 0.4, warmup=0, steps=14).learning_rate_at(0) == pytest.approx(0.4)


def test_warm_up_stable_decay():
    schedule = Schedule("wsd", 0.4, warmup=4, steps=20)
    assert [schedule.learning_rate_at(step) for step in (0, 3, 4, 10, 16)] == pytest.approx([0.1, 0.4, 0.4, 0.4, 0.4])
    assert [schedule.learning_rate_at(step) for step in (17, 18, 20)] == pytest.approx([0.31, 0.22, 0.04])
    assert Schedule("wsd", 0.4, warmup=18, steps=20).learning_rate_at(19) == pytest.approx(
        0.22
    )  # no decay before its end


# ---- groups ------------------------------------------------------------------------------------------------------


def test_what_decays_and_what_muon_is_for():
    groups = {}
    for model in models().values():
        for name, parameter in model.named_parameters():
            groups.setdefault(group_of(name, parameter), set()).add(name)
    assert groups.keys() == GROUPS.keys() - {"base"}
    assert group_of("main.inner.model.norm.weight", torch.ones(2)) == "base"
    assert groups["embeddings"] == {"main.token_embedding.weight", "fgram.positions.weight"}
    assert {"main.embedding_norm.gain", "fgram.norm.gain", "main.blocks.0.attention_norm.gain"} <= groups["norms"]
    assert groups["head"] == {"main.head.weight"}
    assert groups["direct rows"] == {"hashed.weight", "learned.weight"}
    for part, group in (("main", "main blocks"), ("fgram", "f-gram blocks")):
        matrices = ("qkv", "out", "gate_up", "down")
        assert groups[group] == {f"{part}.blocks.{layer}.{name}.weight" for layer in (0, 1) for name in matrices}
    assert {name for name, group in GROUPS.items() if group.decays} == {"main blocks", "f-gram blocks", "head"}
    assert {name for name, group in GROUPS.items() if group.maps} == {"main blocks", "f-gram blocks"}


@pytest.mark.parametrize(("kind", "expected"), [("adamw", {"adamw", "sparse"}), ("muon", {"adamw", "muon", "sparse"})])
def test_each_parameter_has_one_optimizer_and_its_groups_settings(kind, expected):
    model = models()["hashed"]
    optimizers = Optimizers(model, kind, weight_decay=0.1)
    assert optimizers.all.keys() == expected
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen = []
    for which, optimizer in optimizers.all.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rule = GROUPS[group_of(names[parameter], parameter)]
                assert group.get("weight_decay", 0.0) == (0.1 if rule.decays else 0.0)
                assert (which == "muon") == (kind == "muon" and rule.maps)
                seen.append(names[parameter])
    assert sorted(seen) == sorted(names.values())


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_group_moves_by_its_factor(monkeypatch, kind):
    moved = []
    for factor in (1.0, 0.5):
        monkeypatch.setitem(GROUPS, "f-gram blocks", GROUPS["f-gram blocks"].__class__(factor, decays=False, maps=True))
        model = models()["scone"]
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        fill_gradients(model, 1)
        Optimizers(model, kind, weight_decay=0.0).step(1e-2)
        moved.append({name: parameter.detach() - before[name] for name, parameter in model.named_parameters()})
        assert all(parameter.grad is None for parameter in model.parameters())
    for name, step in moved[0].items():
        expected = 0.5 if name.startswith("fgram.blocks") and "norm" not in name else 1.0
        torch.testing.assert_close(moved[1][name], step * expected, rtol=1e-3, atol=1e-6)


def test_a_torch_without_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with refusal(BadSetting, "torch", "Muon", hint=("2.9",)):
        Optimizers(models()["scone"], "muon", 0.1)


def test_rows_that_no_batch_touched_stay():
    model = models()["hashed"]
    before = model.hashed.weight.detach().clone()
    optimizers = Optimizers(model, "adamw", weight_decay=0.5)
    for step in range(3):
        fill_gradients(model, step)
        optimizers.step(1e-2)
    touched = (model.hashed.weight.detach() != before).any(1).nonzero().flatten()
    assert touched.tolist() == [1, 5, 7]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["scone", "hashed"])
def test_a_state_taken_up_goes_on_bit_for_bit(kind, optimizer):
    one, other = models()[kind], models()[kind]
    optimizers, taken_up = (Optimizers(model, optimizer, 0.1) for model in (one, other))
    for step in range(3):
        fill_gradients(one, step)
        optimizers.step(1e-2)
    other.load_state_dict(one.state_dict())
    taken_up.load_state({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for step in range(3, 6):
        for model, each in ((one, optimizers), (other, taken_up)):
            fill_gradients(model, step)
            each.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# ---- clipping ----------------------------------------------------------------------------------------------------


def test_the_norm_counts_all_gradients_sparse_ones_too():
    """By hand: 3 and 4 make 5; the sparse one names a row twice, and its sum counts."""
    dense, sparse = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(4, 1))
    dense.grad = torch.tensor([3.0, 0.0])
    sparse.grad = torch.sparse_coo_tensor(
        torch.tensor([[2, 2]]), torch.tensor([[1.0], [3.0]]), (4, 1), check_invariants=False
    )
    without = nn.Parameter(torch.zeros(7))
    assert clip_gradients([dense, sparse, without], 0.0) == 5.0
    assert dense.grad.tolist() == [3.0, 0.0]
    assert clip_gradients([dense, sparse, without], 10.0) == 5.0
    assert dense.grad.tolist() == [3.0, 0.0]
    assert clip_gradients([dense, sparse, without], 1.0) == 5.0
    assert dense.grad.tolist() == pytest.approx([0.6, 0.0])
    assert sparse.grad.to_dense().flatten().tolist() == pytest.approx([0.0, 0.0, 0.8, 0.0])


def test_clipping_is_that_of_torch():
    one, other = (tiny_model(NUM_TOKENS, MAX_N) for _ in range(2))  # all dense: torch's knows no other
    for model in (one, other):
        fill_gradients(model, 4)
    norm = clip_gradients(one.parameters(), 1.0)
    assert norm == float(nn.utils.clip_grad_norm_(other.parameters(), 1.0)) > 1
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_gradient_that_is_no_number_has_no_norm():
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([math.nan])
    assert math.isnan(clip_gradients([parameter], 1.0))
