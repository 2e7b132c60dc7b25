"""A pretrained model with rows added to its input embedding."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from hf_models import VOCAB_SIZE, hf_model
from messages import refusal
from torch import nn

pytest.importorskip("transformers")
from scone_cli.errors import BadData
from scone_cli.model.base_main import BaseMain, RowAdder

pytestmark = pytest.mark.hf

KINDS = ("llama", "qwen3", "gemma3_text", "mistral")
TOKENS = torch.arange(2 * 24).view(2, 24) * 7 % VOCAB_SIZE


def on(kind: str) -> tuple[nn.Module, BaseMain]:
    """A model as it is, and the same with rows."""
    inner = hf_model(kind, **({"sliding_window": 8} if kind == "mistral" else {}))
    return inner, BaseMain(copy.deepcopy(inner).requires_grad_(False))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_rows_or_with_rows_of_zero_it_is_the_base_to_the_bit(kind):
    inner, main = on(kind)
    expected = inner(input_ids=TOKENS, use_cache=False).logits
    assert torch.equal(main(main.embed_tokens(TOKENS)), expected)
    zero = torch.zeros(3, 32)
    assert torch.equal(main(main.embed(TOKENS, TOKENS % 4 - 1, zero)), expected)
    assert torch.equal(main.inner(input_ids=TOKENS, use_cache=False).logits, expected), "rows are of one call"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_are_added_to_what_the_embedding_gives(kind):
    """As if they were handed over as `inputs_embeds`, with a cache too."""
    inner, main = on(kind)
    rows, slots = torch.randn(5, 32), TOKENS % 6 - 1
    embeds = inner.get_input_embeddings()(TOKENS)
    for b, c in zip(*torch.where(slots >= 0), strict=True):
        embeds[b, c] += rows[slots[b, c]]
    expected = inner(inputs_embeds=embeds, use_cache=False).logits
    assert torch.equal(main(main.embed(TOKENS, slots, rows)), expected)
    hashed = torch.stack([slots, torch.full_like(slots, -1)], -1)
    scaled = main(main.embed(TOKENS, hashed, rows / main.scale))
    assert torch.allclose(scaled, expected, atol=1e-3), "hashed rows are in units of the embedding's scale"


@torch.no_grad()
def test_the_scale_is_that_of_the_embedding_as_the_model_scales_it():
    inner, main = on("gemma3_text")
    given = inner.get_input_embeddings()(torch.arange(VOCAB_SIZE)).double()
    assert main.scale == pytest.approx(float(given.square().mean().sqrt()))
    assert main.scale > 5 * float(inner.get_input_embeddings().weight.double().square().mean().sqrt())
    assert torch.allclose(main.for_fgrams(TOKENS[1]).square().mean(-1), torch.ones(24), atol=1e-3)


def test_a_tied_head_reads_the_matrix_through_it():
    tied = hf_model("llama", tie_word_embeddings=True)
    main = BaseMain(tied)
    adder = tied.get_input_embeddings()
    assert isinstance(adder, RowAdder)
    tied.tie_weights()
    assert tied.get_output_embeddings().weight is adder.inner.weight is adder.weight
    assert main.take_out().get_input_embeddings() is adder.inner


def test_the_gradient_reaches_rows_and_no_weight_of_a_frozen_base():
    _, main = on("llama")
    rows, found = torch.zeros(3, 32, requires_grad=True), []
    for saves_memory in (False, True):
        main.checkpoint_gradients(saves_memory)
        rows.grad = None
        main.loss(main(main.embed(TOKENS[:, :-1], TOKENS[:, :-1] % 4 - 1, rows)), TOKENS[:, 1:]).backward()
        found.append(rows.grad.clone())
    assert found[0].abs().sum() > 0
    assert torch.allclose(*found, atol=1e-5)
    assert all(each.grad is None for each in main.inner.parameters())


@torch.no_grad()
def test_threads_share_a_model():
    _, main = on("llama")
    rows = [torch.full((1, 32), float(number)) for number in range(4)]
    slots = torch.zeros_like(TOKENS)
    expected = [main(main.embed(TOKENS, slots, each)) for each in rows]
    wrong = []

    def run(number: int) -> None:
        with torch.no_grad():
            found = [main(main.embed(TOKENS, slots, rows[number])) for _ in range(20)]
        wrong.extend(number for each in found if not torch.allclose(each, expected[number], atol=1e-5))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_that_does_not_read_its_embedding_is_refused():
    inner = hf_model("llama")
    table = copy.deepcopy(inner.model.embed_tokens)
    forward = inner.model.forward

    def bypassing(input_ids=None, **kwargs):
        return forward(**kwargs | {"inputs_embeds": table(input_ids)})

    inner.model.forward = bypassing
    with refusal(BadData, "LlamaForCausalLM", hint=("get_input_embeddings",)):
        BaseMain(inner)
