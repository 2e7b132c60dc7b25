"""The networks against slow twins: f-grams one by one and padded, gradients, causality, losses, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import Fgram, random_documents, slow_ranking, tiny_model, trie_of
from messages import refusal
from torch import Tensor

from scone_cli.errors import DamagedArtifact
from scone_cli.model.blocks import rotate
from scone_cli.model.direct_rows import hashed_sizes
from scone_cli.model.losses import token_losses, training_loss
from scone_cli.model.model import ModelConfig, SconeModel
from scone_cli.vocab.trie import distinct_matches

NUM_TOKENS, MAX_N = 7, 4
[DOCUMENT] = random_documents(0, NUM_TOKENS, [300])
FGRAMS = slow_ranking([DOCUMENT], MAX_N, 120, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
INDEX = TRIE.index()


def model_of(**changes: object) -> SconeModel:
    return tiny_model(NUM_TOKENS, MAX_N, **changes).double()


# ---- A_f-gram: trie = padded = one by one ------------------------------------------------------------------------


def trie_rows(model: SconeModel, fgrams: list[Fgram]) -> Tensor:
    return model.fgram_rows(*TRIE.subtrie(np.array([FGRAMS.index(fgram) for fgram in fgrams])))


def padded_rows(model: SconeModel, fgrams: list[Fgram]) -> Tensor:
    """As the paper does it: [R, K] tokens, padding masked out, the output at each f-gram's last token."""
    lengths = torch.tensor([len(fgram) for fgram in fgrams])
    tokens = torch.tensor([[*fgram, *[0] * (MAX_N - len(fgram))] for fgram in fgrams])
    place = torch.arange(MAX_N)
    is_own = place < lengths[:, None]
    mask = (is_own[:, None, :] & (place[None, :] <= place[:, None])) | torch.eye(MAX_N, dtype=torch.bool)
    x = model.main.embed_tokens(tokens) + model.fgram.positions.weight
    for block in model.fgram.blocks:
        q, k, v = (part.transpose(1, 2) for part in block.project(x).unbind(-3))
        x = block.finish(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None]).transpose(1, 2))
    return model.fgram.norm(x)[torch.arange(len(fgrams)), lengths - 1]


def single_rows(model: SconeModel, fgrams: list[Fgram]) -> Tensor:
    """Each f-gram by itself, without padding, every operation spelled out."""
    rows = []
    for fgram in fgrams:
        n = len(fgram)
        x = norm(model.main.token_embedding.weight[list(fgram)], model.main.embedding_norm.gain)
        x = x + model.fgram.positions.weight[:n]
        for block in model.fgram.blocks:
            q, k, v = (norm(x, block.attention_norm.gain) @ block.qkv.weight.T).view(n, 3, block.heads, -1).unbind(1)
            scores = torch.einsum("ihe,jhe->hij", q, k) / q.shape[-1] ** 0.5
            scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
            x = x + torch.einsum("hij,jhe->ihe", scores.softmax(-1), v).reshape(n, -1) @ block.out.weight.T
            gate, up = (norm(x, block.mlp_norm.gain) @ block.gate_up.weight.T).chunk(2, -1)
            x = x + (gate * torch.sigmoid(gate) * up) @ block.down.weight.T
        rows.append(norm(x, model.fgram.norm.gain)[-1])
    return torch.stack(rows)


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


BATCHES = {"all": FGRAMS, "some": FGRAMS[::-7], "one": FGRAMS[:1], "longest": [f for f in FGRAMS if len(f) == MAX_N]}


@pytest.mark.parametrize("fgrams", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("slow_rows", [padded_rows, single_rows])
def test_trie_forward_is_the_padded_and_the_single_one(fgrams, slow_rows):
    model = model_of()
    rows = trie_rows(model, fgrams)
    assert rows.std() > 0.1
    torch.testing.assert_close(rows, slow_rows(model, fgrams), rtol=0, atol=1e-10)


@pytest.mark.parametrize("slow_rows", [padded_rows, single_rows])
def test_trie_gradients_of_all_parameters_are_the_padded_ones(slow_rows):
    gradients = []
    for forward in (trie_rows, slow_rows):
        model = model_of()
        weights = torch.randn(len(FGRAMS), 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (forward(model, FGRAMS) * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    fast, slow = gradients
    assert {name for name, gradient in fast.items() if gradient is None} == {
        name for name in fast if name.startswith(("main.blocks", "main.norm"))
    }
    for name in [name for name, gradient in fast.items() if gradient is not None]:
        assert fast[name].abs().max() > 1e-3, name
        torch.testing.assert_close(fast[name], slow[name], rtol=0, atol=1e-10)


def test_a_row_is_the_same_whatever_is_computed_beside_it():
    model = model_of()
    together = trie_rows(model, FGRAMS)
    for i in range(0, len(FGRAMS), 11):
        torch.testing.assert_close(trie_rows(model, [FGRAMS[i]])[0], together[i], rtol=0, atol=1e-10)


# ---- causality ---------------------------------------------------------------------------------------------------


def test_the_main_model_is_causal():
    model = model_of()
    x = torch.randn(1, 8, 16, dtype=torch.float64)
    before = model.main(x)
    for j in range(8):
        changed = x.clone()
        changed[0, j] += 1
        after = model.main(changed)
        torch.testing.assert_close(after[:, :j], before[:, :j], rtol=0, atol=1e-12)
        assert ((after - before).abs().amax(-1)[0, j:] > 1e-6).all()


def logits_of(model: SconeModel, tokens: list[int]) -> Tensor:
    """The whole path of a text: matches, rows, embedding, main model, head. [C, V]"""
    distinct, slots = distinct_matches(INDEX.match(np.array(tokens, np.uint32))[0])
    rows = model.rows(TRIE, distinct)
    x = model.main.embed(torch.tensor([tokens]), torch.from_numpy(slots)[None], rows)
    return (model.main(x) @ model.main.head_weight.T)[0]


def test_text_to_logits_is_causal():
    model, text = model_of(context=12), DOCUMENT[40:52]
    before = logits_of(model, text)
    for j in range(12):
        after = logits_of(model, [*text[:j], (text[j] + 1) % NUM_TOKENS, *text[j + 1 :]])
        torch.testing.assert_close(after[:j], before[:j], rtol=0, atol=1e-10)
        assert (after - before).abs().amax(-1)[j] > 1e-3


def test_positions_are_relative():
    """Rotary positions: the same tokens, further on and with nothing else to attend to, give the same scores."""
    model = model_of(layers=1)
    qkv = model.main.blocks[0].project(torch.randn(1, 4, 16, dtype=torch.float64))
    q, k, _ = qkv.unbind(-3)

    def scores(shift):
        cos, sin = model.main.cos[shift : shift + 4], model.main.sin[shift : shift + 4]
        return torch.einsum("bihe,bjhe->bhij", *rotate(qkv, cos, sin)[:2])

    torch.testing.assert_close(scores(0), scores(3), rtol=0, atol=1e-6)  # the angles are kept in float32
    assert (scores(0) - torch.einsum("bihe,bjhe->bhij", q, k)).abs().max() > 1e-2


# ---- the one way into the first block ----------------------------------------------------------------------------


def test_a_row_enters_where_it_matches_and_nothing_else():
    main = model_of().main
    tokens, slots = torch.tensor([[1, 2, 3], [3, 2, 1]]), torch.tensor([[-1, 1, 0], [1, -1, -1]])
    rows = torch.randn(2, 16, dtype=torch.float64)
    found, plain = main.embed(tokens, slots, rows), main.embed_tokens(tokens)
    for position in [(0, 1), (0, 2), (1, 0)]:
        assert torch.equal(found[position], rows[slots[position]])
    for position in [(0, 0), (1, 1), (1, 2)]:
        assert torch.equal(found[position], plain[position])


ROWS_OF = {
    "replace": {"combine": "replace"},
    "add": {"combine": "add"},
    "learned for all": {"combine": "add", "learned_rows": len(FGRAMS)},
    "learned for some": {"combine": "add", "learned_rows": 30},
}


@pytest.mark.parametrize("changes", ROWS_OF.values(), ids=ROWS_OF)
def test_rows_against_a_loop(changes):
    """A_f-gram's output through the norm; beside it, if it is added, the last token with the learned rows that end there."""
    model = model_of(**changes)
    gain, learned = model.main.embedding_norm.gain, changes.get("learned_rows", 0)
    rows, outputs = model.rows(TRIE, np.arange(len(FGRAMS))), trie_rows(model, FGRAMS)
    for i, fgram in enumerate(FGRAMS):
        expected = norm(outputs[i], gain)
        if changes["combine"] == "add":
            x = model.main.token_embedding.weight[fgram[-1]]
            for start in range(len(fgram) - 1):
                number = FGRAMS.index(fgram[start:])
                x = x + model.learned.weight[number] if number < learned else x
            expected = expected + norm(x, gain)
        torch.testing.assert_close(rows[i], expected, rtol=0, atol=1e-10)


def test_an_fgram_that_was_never_met_adds_nothing():
    torch.manual_seed(0)
    shape = {"dim": 16, "layers": 1, "heads": 2, "fgram_layers": 1, "tied_head": False, "context": 8}
    model = SconeModel(ModelConfig(vocab_size=NUM_TOKENS, max_n=MAX_N, combine="add", learned_rows=50, **shape))
    assert not model.learned.weight.any()


@pytest.mark.parametrize("num_rows", [None, 0, 2])
def test_without_a_match_the_embedding_is_plain(num_rows):
    main, tokens = model_of().main, torch.tensor([[1, 2, 3]])
    rows = None if num_rows is None else torch.randn(num_rows, 16, dtype=torch.float64)
    assert torch.equal(main.embed(tokens, torch.full((1, 3), -1), rows), main.embed_tokens(tokens))
    assert torch.equal(main.embed(tokens), main.embed_tokens(tokens))


def test_rows_of_a_narrower_format_are_widened():
    main, tokens, slots = model_of().main, torch.tensor([[1]]), torch.tensor([[0]])
    half = torch.randn(1, 16).half()
    assert torch.equal(main.embed(tokens, slots, half), half.double()[None])


def test_scone_starts_as_the_plain_model():
    """Before training a row is its last token's embedding, plus a position, through a norm: nearly the same input."""
    torch.manual_seed(0)
    shape = {"dim": 16, "layers": 1, "heads": 2, "fgram_layers": 2, "tied_head": True, "context": 8}
    model = SconeModel(ModelConfig(vocab_size=NUM_TOKENS, max_n=MAX_N, **shape))
    rows = trie_rows(model, FGRAMS)
    last = model.main.embed_tokens(torch.tensor([fgram[-1] for fgram in FGRAMS]))
    assert F.cosine_similarity(rows, last).min() > 0.99


# ---- the baseline of hashed n-grams ------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_rows", "num_tokens"), [(40, 7), (100, 10), (4000, 2048), (1_400_000, 4096)])
def test_hashed_tables_are_coprime_with_the_vocabulary_and_fill_the_rows(num_rows, num_tokens):
    sizes = hashed_sizes(num_rows, num_tokens, 5)
    assert len(set(sizes)) == 4
    assert all(math.gcd(size, num_tokens) == 1 for size in sizes)
    assert 0.7 * num_rows <= sum(sizes) <= num_rows


def test_hashed_rows_against_a_loop():
    """Every n-gram that ends at a position, as a number in base V, modulo its table; none over an end of document."""
    end = 6
    model = model_of(kind="hashed", hashed_rows=90, end_of_document=end)
    sizes = model.hashed.sizes
    text = [*DOCUMENT[:9], end, *DOCUMENT[9:20]]
    tokens = np.array([text], np.uint32)
    slots = model.hashed.slots(tokens)
    assert slots.shape == (1, len(text) - 3, 3)
    embedded = model.main.embed(torch.tensor([text[3:]]), torch.from_numpy(slots), model.hashed.weight)
    for place in range(3, len(text)):
        x = model.main.token_embedding.weight[text[place]]
        for n in range(2, MAX_N + 1):
            gram = text[place - n + 1 : place + 1]
            number = sum(token * NUM_TOKENS ** (n - 1 - i) for i, token in enumerate(gram)) % sizes[n - 2]
            expected = -1 if end in gram else sum(sizes[: n - 2]) + number
            assert slots[0, place - 3, n - 2] == expected
            if expected >= 0:
                x = x + model.hashed.weight[expected]
        torch.testing.assert_close(embedded[0, place - 3], norm(x, model.main.embedding_norm.gain), rtol=0, atol=1e-10)


# ---- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tokens", [1, 511, 512, 513, 1025])
def test_training_loss_is_cross_entropy(num_tokens):
    """Value and both gradients, at the sizes where a chunk of rows ends."""
    generator = torch.Generator().manual_seed(num_tokens)
    hidden = torch.randn(num_tokens, 6, generator=generator, dtype=torch.float64) * 3
    head = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (num_tokens,), generator=generator)
    found = []
    for loss in (training_loss, lambda h, w, t: F.cross_entropy(h @ w.T, t, reduction="sum")):
        leaves = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        value = loss(*leaves, targets)
        (value / 7).backward()
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        token_losses(hidden, lambda each: each @ head.T, targets).double().sum(), found[1][0], rtol=1e-5, atol=0
    )


def test_losses_keep_the_shape_of_the_batch():
    hidden, head, targets = torch.randn(2, 3, 4), torch.randn(5, 4), torch.tensor([[0, 1, 2], [3, 4, 0]])
    losses = token_losses(hidden, lambda each: each @ head.T, targets)
    assert losses.shape == (2, 3)
    assert losses[1, 0] == pytest.approx(-(hidden[1, 0] @ head.T).log_softmax(0)[3].item(), abs=1e-5)
    assert training_loss(hidden, head, targets).item() == pytest.approx(losses.sum().item(), abs=1e-5)


def test_huge_logits_do_not_overflow():
    hidden, head = torch.tensor([[1e4]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    loss = training_loss(hidden, head, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 2e4
    assert hidden.grad.item() == 2


# ---- files and shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"kind": "plain", "max_n": 0}, {"kind": "hashed", "hashed_rows": 50}, {"tied_head": False}]
)
def test_save_and_load(tmp_path, changes):
    model = tiny_model(NUM_TOKENS, **changes)
    model.save(tmp_path)
    loaded = SconeModel.load(tmp_path)
    assert loaded.config == model.config
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    aside = {"scone": {"fgram"}, "hashed": {"hashed"}, "plain": set()}[model.config.kind]
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {"main"} | aside


def truncate(folder: Path) -> None:
    path = folder / "main.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_width(folder: Path) -> None:
    tiny_model(NUM_TOKENS, dim=32).save(folder / "..")
    (folder / ".." / "main.safetensors").rename(folder / "main.safetensors")


def lose_a_file(folder: Path) -> None:
    (folder / "fgram.safetensors").unlink()


def unknown_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"wings": 2}))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


@pytest.mark.parametrize("damage", [truncate, other_width, lose_a_file, unknown_setting, no_json, no_object])
def test_damaged_files(tmp_path, damage):
    folder = tmp_path / "model"
    folder.mkdir()
    tiny_model(NUM_TOKENS).save(folder)
    damage(folder)
    with refusal(DamagedArtifact, "model") as caught:
        SconeModel.load(folder)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("kind", "fgram_layers"), [("plain", 0), ("scone", 1)])
def test_a_model_from_before_there_were_kinds(tmp_path, kind, fgram_layers):
    model = tiny_model(NUM_TOKENS, kind=kind, fgram_layers=fgram_layers)
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for later in ("kind", "combine", "learned_rows", "hashed_rows", "end_of_document"):
        del config[later]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = SconeModel.load(tmp_path)
    assert loaded.config == model.config
    assert (loaded.fgram is None) == (kind == "plain")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head(tied):
    """A tied head is T itself, so T learns from both ends; an untied one has weights of its own."""
    main = model_of(tied_head=tied).main
    names = {name for name, _ in main.named_parameters()}
    assert (main.head_weight is main.token_embedding.weight) == tied
    assert ("head.weight" in names) != tied
    training_loss(main(main.embed(torch.tensor([[0, 1]]))), main.head_weight, torch.tensor([[1, 2]])).backward()
    unread = main.token_embedding.weight.grad[5]
    assert bool(unread.abs().sum() > 0) == tied


def test_the_inner_width():
    assert [tiny_model(3, dim=dim).config.hidden for dim in (12, 16, 96)] == [32, 48, 256]
