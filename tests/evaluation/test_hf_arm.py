"""A model of Hugging Face as an arm: its losses, texts, speed and costs are its own; what cannot be compared is refused."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from builders import random_documents, stream_of, tiny_model
from hf_models import KINDS, VOCAB_SIZE, hf_model, save_hf
from letters import Letters
from messages import refusal

from scone_cli.errors import BadData, BadSetting, MismatchedArtifacts
from scone_cli.evaluation import run_arms as evaluation
from scone_cli.evaluation.arm_cost import MeasuredArm, cost_rows
from scone_cli.evaluation.model_cost import Shape, decode_flops, kv_bytes_a_token, main_parameters, prefill_flops
from scone_cli.evaluation.run_arms import Arm, run_arm, run_arms
from scone_cli.evaluation.scoring import Scorer
from scone_cli.evaluation.speed import measure_speed
from scone_cli.model.hf_model import HfModel
from scone_cli.progress import silent
from scone_cli.serving.generate import Sampling, generate

pytestmark = pytest.mark.hf
pytest.importorskip("transformers")

END, CONTEXT = 399, 24
DOCUMENTS = random_documents(1, 399, [5, 0, 24, 1, 60, 30])
STREAM = stream_of(DOCUMENTS, [""] * len(DOCUMENTS))
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind."""
    place = tmp_path_factory.mktemp("hf")
    return {kind: save_hf(hf_model(kind), place / kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(folders, kind):
    return HfModel.load(folders[kind], VOCAB_SIZE, CONTEXT)


# ---- what it says ------------------------------------------------------------------------------------------------


@torch.no_grad()
def slow_losses(inner) -> list[float]:
    """Window by window, each by itself, straight from the logits of the model."""
    losses = []
    for document in DOCUMENTS:
        read = [END, *document]
        for first in range(0, len(document), CONTEXT):
            part = document[first : first + CONTEXT]
            logits = inner(torch.tensor([read[first : first + len(part)]])).logits[0]
            losses += [-row.float().log_softmax(0)[token].item() for row, token in zip(logits, part, strict=True)]
    return losses


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_losses_are_those_of_its_own_logits(model, kind, monkeypatch, batch_tokens):
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", batch_tokens)
    found = run_arm(Arm("rival", model), STREAM, END, silent)
    np.testing.assert_allclose(found.losses, slow_losses(hf_model(kind)), atol=1e-5)


def test_beside_an_arm_of_ours_with_few_logits_at_once(folders):
    ours, rival = (
        Arm("ours", tiny_model(VOCAB_SIZE, 4, context=CONTEXT, kind="plain")),
        HfModel.load(folders["llama"], VOCAB_SIZE, CONTEXT),
    )
    alone = run_arm(Arm("rival", rival), STREAM, END, silent).losses
    rival.most_tokens = 30
    found = run_arms([ours, Arm("rival", rival)], STREAM, END).losses
    np.testing.assert_allclose(found["rival"], alone, atol=1e-5)
    np.testing.assert_array_equal(found["ours"], run_arm(ours, STREAM, END, silent).losses)


@torch.no_grad()
def test_requests_of_tasks(model, kind):
    """The likelihood of a continuation, and whether it is the likeliest."""
    scorer, inner = Scorer(Arm("rival", model), Letters("abc "), END), hf_model(kind)
    before, after = (np.array(each, np.uint32) for each in ([5, 6, 7], [8, 9]))
    (found,) = scorer.of_tokens([(before, after)])
    logits = inner(torch.tensor([[END, 5, 6, 7, 8]])).logits[0].log_softmax(-1)
    assert found.log_probability == pytest.approx((logits[3, 8] + logits[4, 9]).item(), abs=1e-5)
    assert found.is_greedy is (logits[3].argmax().item() == 8 and logits[4].argmax().item() == 9)


@torch.no_grad()
def test_greedy_text_is_that_of_transformers(folders, model, kind):
    """Beyond the sliding window too, until the context is full."""
    prompt = [3, 10, 2, 7]
    inner = hf_model(kind)
    read = torch.tensor([[END, *prompt]])
    mask = torch.ones_like(read)
    expected = inner.generate(read, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
    expected = expected[0, 5:].tolist()
    assert list(generate(model, model.main.embed_tokens, prompt, GREEDY, 20, END)) == expected
    whole = HfModel.load(folders[kind], VOCAB_SIZE)
    assert whole.config.context == 64
    written = list(generate(whole, whole.main.embed_tokens, prompt, GREEDY, 1000, END))
    assert len(written) == 60 or written[-1] == END


def test_speed_is_measured_for_all_numbers_of_streams(model, monkeypatch):
    monkeypatch.setattr("scone_cli.evaluation.speed.SECONDS", 0.01)
    found = measure_speed([Arm("rival", model)], {}, STREAM.tokens, silent)
    assert {(row["phase"], row["batch"]) for row in found["speed"]} == {
        (phase, batch) for phase in ("prefill", "decode") for batch in (1, 8, 64)
    }


# ---- what it costs -----------------------------------------------------------------------------------------------


def cost_of(model):
    (found,) = cost_rows([MeasuredArm("rival", asdict(model.config))])
    return found


def test_costs_worked_by_hand(model, kind):
    found, inner = cost_of(model), hf_model(kind)
    assert found["resident_parameters"] == sum({id(p): p.numel() for p in inner.parameters()}.values())
    assert found["resident_bytes"] == 4 * found["resident_parameters"]
    heads_width, kv_width, mlp = {
        "llama": (32, 16, 3 * 32 * 48),
        "qwen3": (64, 32, 3 * 32 * 48),
        "gemma3_text": (64, 32, 3 * 32 * 48),
        "gpt2": (32, 32, 2 * 32 * 4 * 32),
    }[kind]
    weights = 2 * (2 * 32 * heads_width + 2 * 32 * kv_width + mlp)
    assert found["decode_flops"] == 2 * weights + 4 * 2 * CONTEXT * heads_width + 2 * 32 * VOCAB_SIZE
    assert found["kv_bytes_a_token"] == 2 * 2 * kv_width * 4
    assert found["training_flops"] is None


@pytest.mark.parametrize(("kind", "head_dim", "own"), [("llama", 0, 0), ("qwen3", 16, 2 * 2 * 16)])
def test_a_shape_with_grouped_queries_costs_what_the_model_does(folders, kind, head_dim, own):
    """Exactly, but for the norms: ours has one of the embedding (32), Qwen3 has them for queries and keys."""
    found = cost_of(HfModel.load(folders[kind], VOCAB_SIZE, CONTEXT))
    shape = Shape(
        name="a",
        dim=32,
        layers=2,
        vocab_size=VOCAB_SIZE,
        context=CONTEXT,
        mlp_width=48,
        heads=4,
        kv_heads=2,
        head_dim=head_dim,
        weights="float32",
    )
    shape.check()
    for wrong in ({"heads": 0}, {"kv_heads": 3}, {"heads": 5, "kv_heads": 0, "head_dim": 0}):
        with refusal(BadSetting, "heads"):
            replace(shape, **wrong).check()
    assert main_parameters(shape) - 32 == found["resident_parameters"] - own
    assert decode_flops(shape) == found["decode_flops"]
    assert prefill_flops(shape) == found["prefill_flops"]
    assert kv_bytes_a_token(shape) == found["kv_bytes_a_token"]


def test_experts_count_as_often_as_a_token_visits_them(tmp_path):
    inner = hf_model("mixtral", num_local_experts=6, num_experts_per_tok=2)
    found = cost_of(HfModel.load(save_hf(inner, tmp_path), VOCAB_SIZE, CONTEXT))
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 6 * 32 + 2 * 3 * 32 * 48)  # attention, router, two experts
    assert found["decode_flops"] == 2 * weights + 4 * 2 * CONTEXT * 32 + 2 * 32 * VOCAB_SIZE


def test_it_stays_in_the_type_of_its_files(tmp_path):
    found = cost_of(HfModel.load(save_hf(hf_model("llama").bfloat16(), tmp_path), VOCAB_SIZE, CONTEXT))
    assert found["resident_bytes"] == 2 * found["resident_parameters"]
    assert found["kv_bytes_a_token"] == 2 * 2 * 2 * 8 * 2


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_context_that_is_too_short(folders):
    with refusal(BadSetting, str(folders["llama"]), 64, 65):
        HfModel.load(folders["llama"], VOCAB_SIZE, 65)
    assert HfModel.load(folders["llama"], VOCAB_SIZE, 64).config.context == 64


def test_too_few_ids(folders):
    with refusal(MismatchedArtifacts, str(folders["llama"]), 400, 401):
        HfModel.load(folders["llama"], VOCAB_SIZE + 1, CONTEXT)


def test_padded_ids_keep_their_probability(tmp_path):
    inner = hf_model("llama", vocab_size=448)
    model = HfModel.load(save_hf(inner, tmp_path), VOCAB_SIZE, CONTEXT)
    np.testing.assert_allclose(run_arm(Arm("a", model), STREAM, END, silent).losses, slow_losses(inner), atol=1e-5)


def test_a_model_that_sees_what_it_predicts(tmp_path):
    from transformers import BertConfig, BertLMHeadModel  # noqa: PLC0415 - an extra

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = BertLMHeadModel(BertConfig(vocab_size=VOCAB_SIZE, initializer_range=0.3, **shape))
    with refusal(BadData, str(tmp_path), "BertLMHeadModel"):
        HfModel.load(save_hf(bert, tmp_path), VOCAB_SIZE, CONTEXT)


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "shape", "type", "code"])
def test_damage_is_one_error(tmp_path, harm, capfd):
    """A weight that is missing is not drawn by chance, and code in the folder is not run."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415 - heavy

    folder = save_hf(hf_model("llama"), tmp_path / "m")
    path, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    weights = load_file(path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "flipped":
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
    elif harm == "missing":
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, path, {"format": "pt"})
    else:
        (folder / "own.py").write_text("raise SystemExit('run')")
        config |= {
            "shape": {"intermediate_size": 40},
            "type": {"model_type": "never-heard"},
            "code": {"model_type": "never-heard", "auto_map": {"AutoModelForCausalLM": "own.A", "AutoConfig": "own.A"}},
        }[harm]
        (folder / "config.json").write_text(json.dumps(config))
    capfd.readouterr()
    with refusal(BadData, str(folder), hint=("save_pretrained",)):
        HfModel.load(folder, VOCAB_SIZE, CONTEXT)
    assert capfd.readouterr() == ("", "")


def test_nothing_asks_the_network(folders, monkeypatch, capfd):
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    HfModel.load(folders["llama"], VOCAB_SIZE, CONTEXT)
    assert capfd.readouterr() == ("", "")
