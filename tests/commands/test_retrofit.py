"""`train-fgram --base`: rows for a model that exists, through all stages."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from bases import RETROFIT, save_base
from messages import error_of, names, was_made
from safetensors import safe_open
from workspaces import contents, copy_of, manifest, quality

pytest.importorskip("transformers")
import transformers

from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.serving import load_model

pytestmark = pytest.mark.hf


@pytest.fixture
def work(small, tmp_path):
    """A workspace with tokens and f-grams."""
    (tmp_path / "work").mkdir()
    for name in ("tokens", "counts", "vocab"):
        copy_of(small / "work" / name, tmp_path / "work" / name)
    return tmp_path / "work"


@pytest.fixture
def tokens(small):
    """Thirty tokens of a text, many of which end f-grams."""
    read = Tokenizer.load(small / "work" / "tokens" / "tokenizer.json")
    return read.encode_batch([(small / "corpus" / "1.txt").read_text()])[0][:30].astype(np.int64)


@pytest.fixture
def train(forks, work):
    """Run `train-fgram --base`: (exit code, stdout, stderr)."""

    def run(base, *args, **options):
        ended = forks.run("--workspace", work, "train-fgram", "--base", base, *RETROFIT, *args, **options)
        return ended.code, ended.out, ended.err

    return run


def logits(folder, tokens):
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        return model(input_ids=torch.from_numpy(tokens)[None]).logits[0]


def test_a_base_gets_a_table(train, forks, scone, work, tmp_path):
    base = save_base(work, tmp_path / "base")
    before = contents(base)
    code, out, err = train(base)
    assert code == 0, err
    assert was_made(out)
    assert contents(base) == before
    assert not (work / "model" / "main.safetensors").exists(), "the base is named, not copied"
    assert manifest(work / "model")["inputs"].keys() >= {"base", "tokens", "vocab"}
    assert train(base)[1].count("up to date") == 1
    for args in (("precompute",), ("eval", "--no-speed", "--against", f"base={base}")):
        ended = forks.run("--workspace", work, *args)
        assert ended.code == 0, ended.err
    found = {arm: quality(work)[arm, "nats_per_token"]["value"] for arm in ("base", "none", "live", "table")}
    assert found["none"] == pytest.approx(found["base"], abs=1e-6), "without rows it is the base"
    assert found["table"] == pytest.approx(found["live"], abs=1e-4)
    assert found["table"] < found["base"]
    costs = {row["arm"]: row for row in json.loads((work / "eval" / "results.json").read_text())["cost"]}
    assert costs["table"]["decode_flops"] == costs["base"]["decode_flops"] < costs["live"]["decode_flops"]
    assert costs["table"]["resident_parameters"] == costs["base"]["resident_parameters"]
    for args in (("inspect", work / "model"), ("verify", work), ("--workspace", work, "status", work)):
        assert scone(*args)[0] == 0, args
    code, text, _ = scone("--workspace", work, "generate", "--prompt", "abc", "--max-tokens", "5", "--temperature", "0")
    assert (code, bool(text)) == (0, True)


@pytest.mark.parametrize(
    "kind",
    ["llama", "gemma3_text", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("qwen3", "mistral"))],
)
def test_an_export_says_what_the_workspace_says(train, scone, work, tokens, tmp_path, kind):
    changed = {"sliding_window": 8} if kind == "mistral" else {}
    base = save_base(work, tmp_path / "base", kind, **changed)
    assert train(base)[0] == 0
    assert scone("--workspace", work, "precompute", "--dtype", "float32")[0] == 0
    assert scone("--workspace", work, "export", "--to", "hf", tmp_path / "out")[0] == 0
    shutil.rmtree(base)
    found = logits(tmp_path / "out", tokens)
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert model.config.model_type == f"scone-{kind}"
        read = torch.from_numpy(tokens)[None]
        written = model.generate(read, max_new_tokens=8, do_sample=False)
        alone = read
        for _ in range(8):  # without a cache
            alone = torch.cat([alone, model(input_ids=alone, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(written, alone)
        short = torch.cat([torch.full((1, 5), 0), read[:, 5:]], 1)
        both = model.generate(
            torch.cat([read, short]),
            attention_mask=(torch.arange(30) >= torch.tensor([[0], [5]])).long(),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )
        assert torch.equal(both[:1], written)
        assert torch.equal(both[1:, 5:], model.generate(read[:, 5:], max_new_tokens=8, do_sample=False))
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    assert torch.equal(logits(tmp_path / "again", tokens), found)
    save_base(work, base, kind, **changed)
    with load_model(work) as ours:
        assert torch.equal(ours.logits(tokens), found)
        assert not torch.equal(found, logits(base, tokens))


@pytest.mark.parametrize("trained", ["lora", pytest.param("full", marks=pytest.mark.long)])
def test_the_base_may_be_trained_too(train, scone, forks, work, tokens, tmp_path, trained):
    if trained == "lora":
        pytest.importorskip("peft")
    base = save_base(work, tmp_path / "base")
    before = contents(base)
    code, _, err = train(base, "--train-base", trained, "--base-learning-rate", "1e-2")
    assert code == 0, err
    assert contents(base) == before
    assert forks.run("--workspace", work, "precompute").code == 0
    assert forks.run("--workspace", work, "eval", "--no-speed", "--against", f"base={base}").code == 0
    found = {arm: quality(work)[arm, "nats_per_token"]["value"] for arm in ("base", "none", "live", "table")}
    assert abs(found["none"] - found["base"]) > 1e-4
    assert found["table"] == pytest.approx(found["live"], abs=1e-3)
    assert scone("--workspace", work, "export", "--to", "hf", tmp_path / "out")[0] == 0
    with load_model(work) as ours:
        assert torch.allclose(ours.logits(tokens), logits(tmp_path / "out", tokens), atol=1e-4)
    code, _, err = train(base, "--kind", "plain", "--train-base", trained, "--out", work / "plain")
    assert code == 0, err
    assert scone("--workspace", work, "export", "--to", "hf", "--model", work / "plain", tmp_path / "plain")[0] == 0
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["model_type"] == "llama"


def test_hashed_rows_are_the_rival(train, forks, work, tmp_path):
    base = save_base(work, tmp_path / "base")
    assert train(base)[0] == 0
    code, _, err = train(base, "--kind", "hashed", "--hashed-rows", 600, "--out", work / "hashed")
    assert code == 0, err
    assert forks.run("--workspace", work, "precompute").code == 0
    ended = forks.run("--workspace", work, "eval", "--no-speed", "--against", work / "hashed", "--against", f"b={base}")
    assert ended.code == 0, ended.err
    assert quality(work)["hashed", "nats_per_token"]["value"] < quality(work)["b", "nats_per_token"]["value"]


def test_a_donor_stands_for_the_fgram_model(train, forks, work, tmp_path):
    """Its states are computed once; the table's rows are those of the donor when it reads each f-gram alone."""
    base, donor = save_base(work, tmp_path / "base"), save_base(work, tmp_path / "donor", "qwen3")
    code, _, err = train(base, "--fgram-base", donor, "--learned-rows", 0, "--learning-rate", "0.3")
    assert code == 0, err
    assert manifest(work / "model")["inputs"].keys() >= {"base", "donor"}
    ended = forks.run("--workspace", work, "precompute")  # compares rows with those of f-grams that are read alone
    assert ended.code == 0, ended.err
    assert forks.run("--workspace", work, "eval", "--no-speed", "--against", f"base={base}").code == 0
    found = {arm: quality(work)[arm, "nats_per_token"]["value"] for arm in ("base", "live", "table")}
    assert found["table"] == pytest.approx(found["live"], abs=1e-4)
    assert abs(found["table"] - found["base"]) > 1e-5


def test_a_run_that_was_killed_continues_and_keeps_no_weights_of_the_base(train, forks, work, tmp_path):
    base = save_base(work, tmp_path / "base")
    assert train(base)[0] == 0
    whole = contents(work / "model")
    shutil.rmtree(work / "model")
    moments = forks.run("--workspace", work, "train-fgram", "--base", base, *RETROFIT).moments
    own = [number for number, moment in enumerate(moments, 1) if "/.runs/" not in moment]
    shutil.rmtree(work / "model")
    assert train(base, moment=own[len(own) // 2])[0] == -signal.SIGKILL
    (checkpoint, *_) = sorted(work.glob(".model.partial-*/**/step-*.safetensors"))
    with safe_open(checkpoint, "pt") as file:
        assert not [name for name in file.keys() if "inner" in name]  # noqa: SIM118 - not a dict
    code, out, err = train(base)
    assert code == 0, err
    assert was_made(out)
    assert {name: each for name, each in contents(work / "model").items() if name.endswith(".safetensors")} == {
        name: each for name, each in whole.items() if name.endswith(".safetensors")
    }


# ---- what cannot be ----------------------------------------------------------------------------------------------


def test_a_changed_base_or_another_tokenizer_is_refused_by_name(train, scone, work, tmp_path):
    base = save_base(work, tmp_path / "base")
    assert train(base)[0] == 0
    assert scone("--workspace", work, "precompute")[0] == 0
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = scone("--workspace", work, "eval", "--no-speed")
    assert code == 65
    error_of(err, str(file), hint=("put the base back",))
    file.unlink()
    code, _, err = scone("--workspace", work, "eval", "--no-speed")
    assert code == 66
    error_of(err, str(file), hint=("put the base back",))
    other = save_base(work, tmp_path / "other")
    raw = json.loads((other / "tokenizer.json").read_text())
    raw["model"]["merges"] = raw["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(raw))
    code, _, err = scone("--workspace", work, "train-fgram", "--base", other)
    assert code == 65
    error_of(err, str(other / "tokenizer.json"))


def test_what_cannot_be_is_refused_before_any_work(scone, work, tmp_path):
    base = save_base(work, tmp_path / "base")
    for args, named in (
        (("--base", tmp_path / "nothing"), "nothing"),
        (("--base", base, "--combine", "replace"), "--combine"),
        (("--base", base, "--kind", "plain"), "--train-base"),
        (("--train-base", "lora"), "--base"),
        (("--fgram-base", base), "--base"),
        (("--base", base, "--fgram-dim", "10", "--fgram-heads", "4"), "--fgram-dim"),
        (("--base", base, "--context", "128"), "128"),
    ):
        code, _, err = scone("--workspace", work, "train-fgram", *args)
        assert code in (2, 65, 66), (args, err)
        assert names(err, named), (args, err)


def test_a_type_that_was_not_tried_is_used_with_a_warning(train, work, tmp_path):
    code, _, err = train(save_base(work, tmp_path / "base", "gpt2"))
    assert code == 0, err
    assert names(err, "gpt2", "not tried")
