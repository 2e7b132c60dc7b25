"""Token ids without a tokenizer go through all stages; what needs text says that there is none."""

import json
import re

import numpy as np
import pytest
import torch
from builders import random_documents
from messages import error_of
from workspaces import SELECT, TRAIN, quality

from scone_cli.serving import load_model

END = 0


@pytest.fixture(scope="module")
def ids(tmp_path_factory, forks):
    """A workspace made of a flat file of token ids."""
    folder = tmp_path_factory.mktemp("ids")
    documents = random_documents(0, 90, [200] * 60)
    flat = [token + 1 for document in documents for token in [*document, END - 1]]
    (folder / "a.bin").write_bytes(np.array(flat, np.uint16).tobytes())
    for args in (
        ("count-ngrams", folder / "a.bin", "--separator", END, "--held-out", "0.2", "--max-n", "3", "--workers", "1"),
        ("select-vocab", *SELECT),
        ("train-fgram", *TRAIN),
        ("precompute",),
        ("eval",),
    ):
        ended = forks.run("--workspace", folder / "work", *args)
        assert ended.code == 0, ended.err
    return folder


def test_all_stages_run_and_perplexity_is_known(ids):
    found = quality(ids / "work")
    assert found["table", "perplexity"]["value"] == pytest.approx(found["live", "perplexity"]["value"], rel=1e-3)
    assert ("table", "bits_per_byte") not in found
    results = json.loads((ids / "work" / "eval" / "results.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert results["results"]


def test_a_rival_whose_ids_may_mean_something_else(ids, forks, tmp_path):
    """Nothing but the tokens that it was trained on tells what an id stands for."""
    tokens = [5, 6, 7, 8, 9, 10, 11, 12] * 30
    (tmp_path / "a.bin").write_bytes(np.array([*tokens, END] * 4, np.uint16).tobytes())
    for args in (
        ("count-ngrams", tmp_path / "a.bin", "--separator", END, "--held-out", "0", "--workers", "1"),
        ("train-fgram", *TRAIN, "--kind", "plain"),
    ):
        ended = forks.run("--workspace", tmp_path / "work", *args)
        assert ended.code == 0, ended.err
    ended = forks.run("--workspace", ids / "work", "eval", "--against", tmp_path / "work" / "model")
    assert (ended.code, ended.out) == (65, "")
    error_of(ended.err, str(tmp_path / "work" / "model"), hint=("workspace",))


def test_what_needs_text_says_that_there_is_none(ids, forks):
    work = ids / "work"
    (ids / "b.txt").write_text("hello")
    ended = forks.run("--workspace", work, "eval", ids / "b.txt")
    assert (ended.code, ended.out) == (66, "")
    error_of(ended.err, str(work / "tokens"), "token ids", "tokenizer")
    (bits,) = [
        line
        for line in forks.run("--verbose", "--workspace", work, "eval").out.splitlines()
        if line.startswith("  bits")
    ]
    assert "tokenizer" in bits
    assert not re.search(r"\d", bits)
    shown = forks.run("--workspace", work, "inspect", work / "vocab", "--json").out
    described = json.loads(shown)
    assert "token ids" in described["token_text"]
    assert all(set(row["tokens"]) <= set("0123456789 ") for row in described["first_rows"])
    verified = forks.run("--workspace", work, "verify", work)
    assert verified.code == 0, verified.out


@pytest.mark.hf
def test_a_model_of_token_ids_is_exported_without_a_tokenizer(ids, forks, tmp_path):
    transformers = pytest.importorskip("transformers")
    ended = forks.run("--quiet", "--workspace", ids / "work", "export", "--to", "hf", tmp_path / "exported")
    assert (ended.code, ended.err) == (0, "")
    assert not list((tmp_path / "exported").rglob("tokenizer*"))
    from scone_cli.serving import hf  # noqa: F401, PLC0415 - registers the classes

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokens = [END, *random_documents(0, 90, [30])[0]]
    with load_model(ids / "work") as ours:
        expected = ours.logits(tokens)
    torch.testing.assert_close(model(torch.tensor([tokens])).logits[0], expected, rtol=0, atol=1e-4)
