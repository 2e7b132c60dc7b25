"""A model that Python opens: what it writes and says is what the command does, and what cannot be asked is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from messages import refusal
from workspaces import copy_of

from scone_cli.errors import (
    BadSetting,
    DamagedArtifact,
    InputMissing,
    MismatchedArtifacts,
    NotEnoughMemory,
    UnknownToken,
)
from scone_cli.serving import SconeEmbedding, load_model
from scone_cli.serving.embedding import LiveEmbedding
from scone_cli.table import Table

TEXT = "abc def"


@pytest.fixture(scope="module")
def work(small):
    return small / "work"


@pytest.fixture(scope="module")
def model(work):
    return load_model(work, device="cpu")


def test_it_tells_what_it_is(model):
    assert (model.kind, model.vocab_size, model.dim, model.context) == ("scone", 400, 16, 32)
    assert isinstance(model.table, Table)
    assert len(repr(model).splitlines()) == 1
    for fact in ("scone", "400 tokens", "dim 16", "context 32", "cpu", repr(model.table)):
        assert fact in repr(model)
    assert model.decode(model.encode(TEXT)) == TEXT
    assert not model.network.training


@pytest.mark.parametrize(
    ("where", "options", "arguments"),
    [
        ("", {}, []),
        ("", {"placement": "ram"}, []),
        ("model", {}, []),
        ("", {"live": True}, ["--live"]),
        ("plain", {}, ["--model", "plain"]),
    ],
)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"seed": 3, "top_k": 5}])
def test_it_writes_what_the_command_writes(scone, work, where, options, arguments, sampling):
    given = [str(work / each) if each == "plain" else each for each in arguments]
    settings = [text for name, value in sampling.items() for text in (f"--{name.replace('_', '-')}", value)]
    command = ["generate", "--prompt", TEXT, "--max-tokens", 6, "--device", "cpu", "--json"]
    expected = json.loads(scone("--workspace", work, *command, *settings, *given)[1])
    with load_model(str(work / where), device="cpu", **options) as opened:
        assert opened.generate(TEXT, 6, **sampling) == expected["text"]
        assert list(opened.generate_tokens(opened.encode(TEXT), 6, **sampling)) == expected["tokens"]


def test_logits_are_those_of_the_likeliest_next_tokens(model):
    read = [model.end_of_document, *model.encode(TEXT)]
    logits = model.logits(read)
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((len(read), 400), torch.float32, False)
    assert int(logits[-1].argmax()) == next(model.generate_tokens(read[1:], temperature=0))
    torch.testing.assert_close(model.logits(torch.tensor(read[:3])), logits[:3], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.logits(np.array(read, np.uint32)), logits)


def test_what_embeds_is_for_a_serving_system(model, work):
    embedding = model.embedding(streams=3)
    assert isinstance(embedding, SconeEmbedding)
    assert embedding(torch.tensor([[5, 9], [7, 7]])).shape == (2, 2, 16)
    live = load_model(work, live=True, device="cpu")
    assert isinstance(live.embedding(2), LiveEmbedding)
    with refusal(BadSetting, "scone", "without a table"):
        _ = live.table


def test_text_and_its_manifest_are_all_that_is_needed_of_tokens(tmp_path, work):
    """A server has no use for the corpus."""
    for name in ("model", "table"):
        shutil.copytree(work / name, tmp_path / name)
    (tmp_path / "tokens").mkdir()
    for name in ("manifest.json", "tokenizer.json"):
        shutil.copy(work / "tokens" / name, tmp_path / "tokens")
    with load_model(tmp_path, device="cpu") as opened:
        assert opened.encode(TEXT)
    shutil.rmtree(tmp_path / "tokens")
    with refusal(InputMissing, "tokens"):
        load_model(tmp_path)
    with Table.open(tmp_path / "table", tokenizer=work / "tokens" / "tokenizer.json") as table:
        assert table.tokenizer_sha256


def test_a_table_has_a_copy_of_its_tokenizer(tmp_path, work):
    """So that another file of the same tokenizer is known, and one with two ids swapped is not."""
    table = shutil.copytree(work / "table", tmp_path / "table")
    raw = json.loads((work / "tokens" / "tokenizer.json").read_text())
    given = tmp_path / "given.json"
    given.write_text(json.dumps(raw, indent=1))
    Table.open(table, tokenizer=given).close()
    vocab = raw["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    given.write_text(json.dumps(raw))
    with refusal(MismatchedArtifacts, str(given), str(table), "model"):
        Table.open(table, tokenizer=given)


@pytest.mark.parametrize(
    ("path", "options", "error", "facts"),
    [
        ("nowhere", {}, InputMissing, ["nowhere"]),
        ("counts", {}, Exception, ["counts"]),
        ("", {"table": "nowhere"}, InputMissing, ["nowhere"]),
        ("", {"placement": "disk"}, BadSetting, ["disk", "mmap"]),
        ("", {"live": True, "table": "table"}, BadSetting, ["live", "table"]),
        ("plain", {"live": True}, BadSetting, ["plain"]),
        ("plain", {"table": "table"}, BadSetting, ["plain"]),
        ("", {"table": 3}, BadSetting, ["3", "int", "path"]),
        ("", {"live": "x"}, BadSetting, ["live", "x"]),
        ("", {"device": "nope"}, BadSetting, ["nope", "cpu", "cuda"]),
        ("", {"device": None}, BadSetting, ["None", "cpu", "cuda"]),
    ],
)
def test_what_cannot_be_opened_is_refused(work, path, options, error, facts):
    with refusal(error, *facts):
        load_model(work / path, **{"device": "cpu", **options})


def test_what_is_no_path_is_refused():
    with refusal(BadSetting, "NoneType", "path"):
        load_model(None)


def test_another_tokenizer_beside_the_model_is_damage(tmp_path, work):
    spoiled = copy_of(work, tmp_path / "work")
    path = spoiled / "tokens" / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"b"', 1))
    with refusal(DamagedArtifact, "tokenizer.json", "SHA-256"):
        load_model(spoiled)


@pytest.mark.parametrize(
    ("ask", "error", "facts"),
    [
        (lambda model: model.logits([400]), UnknownToken, ["400", "400 tokens"]),
        (lambda model: model.logits([-1]), UnknownToken, ["-1"]),
        (lambda model: model.logits([1.5]), ValueError, ["float64"]),
        (lambda model: model.logits([]), ValueError, ["0 tokens", "32"]),
        (lambda model: model.logits([1] * 33), ValueError, ["33 tokens", "32"]),
        (lambda model: model.logits("text"), ValueError, ["str"]),
        (lambda model: model.decode([400]), UnknownToken, ["400"]),
        (lambda model: model.encode(3), BadSetting, ["int"]),
        (lambda model: model.generate([1, 2]), BadSetting, ["list", "generate_tokens"]),
        (lambda model: model.generate(TEXT, 0), ValueError, ["max_tokens", "0"]),
        (lambda model: model.generate(TEXT, top_p=2.0), BadSetting, ["top-p", "2.0"]),
        (lambda model: model.generate(TEXT, beams=2), BadSetting, ["beams"]),
        (lambda model: model.generate(TEXT, seed="a"), BadSetting, ["seed", "'a'"]),
        (lambda model: model.generate(TEXT, temperature=None), BadSetting, ["temperature", "None"]),
        (lambda model: model.generate(TEXT, top_k=2.5), BadSetting, ["top-k", "2.5"]),
        (lambda model: model.generate(TEXT, top_k=True), BadSetting, ["top-k", "True"]),
        (lambda model: SconeEmbedding(None, model.table), ValueError, ["main", "NoneType", "MainModel"]),
        (lambda model: SconeEmbedding(model.network.main, None), ValueError, ["table", "NoneType", "Table"]),
        (lambda model: model.table.matcher(streams=10**12), NotEnoughMemory, ["1,000,000,000,000 streams", "bytes"]),
        (lambda model: model.generate("word " * 50), BadSetting, ["context"]),
        (lambda model: model.embedding(0), ValueError, ["streams", "0"]),
    ],
)
def test_what_cannot_be_asked_is_refused(model, ask, error, facts):
    with refusal(error, *facts):
        ask(model)


def test_a_closed_model_says_so(work):
    with load_model(work, device="cpu") as opened:
        embedding = opened.embedding()
    for ask in (lambda: opened.logits([1]), lambda: embedding(torch.tensor([1])), lambda: opened.generate(TEXT)):
        with refusal(ValueError, "closed"):
            ask()
