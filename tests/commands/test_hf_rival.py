"""`eval --against` and `generate --model` with the folder of a model of Hugging Face."""

import importlib.util
import json
import shlex

import pytest
import torch
from hf_models import VOCAB_SIZE, hf_model, save_hf
from messages import error_of, names, was_made
from workspaces import copy_of

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.corpus.token_stream import end_of_document
from scone_cli.corpus.tokenizer import Tokenizer

pytestmark = pytest.mark.hf
pytest.importorskip("transformers")


@pytest.fixture
def work(small, tmp_path):
    return copy_of(small / "work", tmp_path / "work")


@pytest.fixture
def rival(work, tmp_path):
    """A folder as a user has it."""
    return save_hf(hf_model("llama"), tmp_path / "rival", work / "tokens" / "tokenizer.json")


@pytest.fixture
def evaluate(forks, work):
    """Run `scone eval` on it: (exit code, stdout, stderr)."""

    def run(*args):
        ended = forks.run("--workspace", work, "eval", *args)
        return ended.code, ended.out, ended.err

    return run


def test_it_takes_part_in_everything(evaluate, work, rival, small, tmp_path):
    args = ["--against", rival, "--against", "plain"]
    args += ["--fail-if", "table.ppl[1.txt] > rival.ppl[1.txt] * 1e9", small / "corpus" / "1.txt", "held-out"]
    if importlib.util.find_spec("lm_eval"):
        (tmp_path / "t.jsonl").write_text('{"x": "abc ", "ends": ["def", "gh"], "right": 0}\n' * 3)
        task = {"task": "t", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "t.jsonl"}}}
        task |= {"test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{x}}"}
        task |= {"doc_to_choice": "ends", "doc_to_target": "right"}
        (tmp_path / "t.yaml").write_text(json.dumps(task))
        args += ["--tasks", tmp_path / "t.yaml"]
    code, out, err = evaluate(*args)
    assert code == 0, err
    assert was_made(out) is True, err
    found = json.loads((work / "eval" / "results.json").read_text())
    for section in ("results", "cost", "speed", "latency", *(["tasks"] if "--tasks" in args else [])):
        assert {row["arm"] for row in found[section]} >= {"rival", "plain", "table"}, section
    assert {row["against"] for row in found["differences"]} >= {"rival", "plain"}
    assert found["method"]["training_unknown"] == ["rival"]
    assert names(found["verdict"], "of rival it is not known what it was trained on")
    assert "Of rival it is not known" in (work / "eval" / "report.html").read_text()
    trained = [shlex.split(each) for each in found["method"]["commands"] if " train-fgram " in each]
    assert len(trained) == 2  # the workspace's and plain
    assert found["payback"] is not None
    code, out, err = evaluate(*args)
    assert code == 0, err
    assert was_made(out) is False, err
    code, out, err = evaluate(*args, "--plan")
    assert (code, "nothing to do" in out) == (0, True), err


@pytest.mark.long
def test_a_changed_folder_is_measured_again(evaluate, rival):
    for change, made in ((None, True), (None, False), ("config.json", True), ("model.safetensors", True)):
        if change == "config.json":
            config = json.loads((rival / change).read_text())
            (rival / change).write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
        elif change:
            other = hf_model("llama")
            torch.nn.init.normal_(other.lm_head.weight)
            save_hf(other, rival)
        code, out, err = evaluate("--against", rival, "--no-speed")
        assert code == 0, err
        assert was_made(out) is made, (change, err)


def test_greedy_text_is_that_of_transformers(forks, work, rival):
    tokens = work / "tokens"
    tokenizer, end = Tokenizer.load(tokens / "tokenizer.json"), end_of_document(tokens, read_manifest(tokens))
    read = torch.tensor([[end, *tokenizer.encode_batch(["abc def"])[0].tolist()]])
    with torch.no_grad():
        told = {"attention_mask": torch.ones_like(read), "eos_token_id": end, "pad_token_id": 0}
        written = hf_model("llama").generate(read, do_sample=False, max_new_tokens=20, **told)
    args = ("--prompt", "abc def", "--max-tokens", "20", "--temperature", "0", "--json")
    ended = forks.run("--workspace", work, "generate", "--model", rival, *args)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["tokens"] == written[0, read.shape[1] :].tolist()
    for option in (("--live",), ("--table", work / "table")):
        ended = forks.run("--workspace", work, "generate", "--model", rival, *option, *args)
        assert ended.code == 2
        error_of(ended.err, str(rival), hint=("--live",))


@pytest.mark.parametrize("harm", ["tokenizer", "no tokenizer", "no weights", "weights", "index", "config", "scone"])
def test_what_cannot_be_compared_is_refused(evaluate, forks, work, rival, harm):
    path, wanted, facts = rival / "tokenizer.json", 65, (str(rival),)
    if harm == "tokenizer":
        raw = json.loads(path.read_text())
        vocab = raw["model"]["vocab"]
        first, second = list(vocab)[:2]
        vocab[first], vocab[second] = vocab[second], vocab[first]
        path.write_text(json.dumps(raw))
    elif harm == "no tokenizer":
        path.unlink()
        wanted, facts = 66, (str(rival), "tokenizer.json")
    elif harm == "no weights":
        (rival / "model.safetensors").rename(rival / "pytorch_model.bin")
        wanted, facts = 66, (str(rival), "safetensors")
    elif harm == "weights":
        (rival / "model.safetensors").write_bytes((rival / "model.safetensors").read_bytes()[:-100])
    elif harm == "index":  # it names weights of another folder
        (rival / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
        facts = (str(rival / "model.safetensors.index.json"), "../other/model.safetensors")
    elif harm == "config":
        (rival / "config.json").write_text('{"dim": 8}')
        facts = (str(rival / "config.json"), "model_type")
    else:
        config = json.loads((rival / "config.json").read_text())
        (rival / "config.json").write_text(json.dumps(config | {"model_type": "scone"}))
        wanted = 2
    code, out, err = evaluate("--against", rival, "--no-speed")
    assert (code, out) == (wanted, "")
    error_of(err, *facts)
    ended = forks.run("--workspace", work, "generate", "--model", rival, "--prompt", "abc")
    assert (ended.code, ended.out) == (wanted, "")
    error_of(ended.err, *facts)


def test_without_transformers_the_error_says_what_to_install(scone, work, rival, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    for args in (("eval", "--against", rival), ("generate", "--model", rival, "--prompt", "abc")):
        code, out, err = scone("--workspace", work, *args)
        assert (code, out) == (2, "")
        error_of(err, "transformers", hint=("pip install 'scone-cli[hf]'",))


def test_a_shorter_context_is_refused(evaluate, work, tmp_path):
    short = hf_model("llama", max_position_embeddings=16)
    folder = save_hf(short, tmp_path / "short", work / "tokens" / "tokenizer.json")
    code, out, err = evaluate("--against", folder, "--no-speed")
    assert (code, out) == (2, "")
    error_of(err, str(folder), 16, 32)


def test_the_tiny_models_know_the_tokens_of_the_small_workspace(small):
    assert Tokenizer.load(small / "work" / "tokens" / "tokenizer.json").vocab_size == VOCAB_SIZE
