"""The stage that trains: settings that it refuses, and a model trained again with other weights.

The same settings and inputs give other weights with other threads or another library: the fingerprint does not say so.
"""

import shutil

import pytest
import torch
from messages import error_of, was_made
from safetensors.torch import load_file, save_file
from workspaces import TRAIN, contents, manifest, write_manifest

from scone_cli.artifacts.manifest import digest_file, read_manifest


@pytest.fixture
def work(small, tmp_path):
    """A workspace in which only the last bits of the weights are not those of which the table was made."""
    work = shutil.copytree(small / "work", tmp_path / "work")
    path = work / "model" / "main.safetensors"
    before = read_manifest(work / "model")
    save_file({name: tensor * 1.0001 for name, tensor in load_file(path).items()}, path)
    described = manifest(path.parent)
    described["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    write_manifest(path.parent, described)
    assert read_manifest(work / "model").fingerprint == before.fingerprint
    return work


def test_its_table_is_stale_until_it_is_precomputed_again(scone, work):
    code, _, err = scone("--workspace", work, "eval", "--no-speed")
    assert code == 65
    error_of(err, str(work / "table"), hint=(f"scone --workspace {work} precompute",))
    code, out, _ = scone("verify", work)
    assert code == 65
    assert [line.split(": ")[0] for line in out.splitlines() if line.startswith("WRONG")] == [
        f"WRONG  {work / 'table'}",
        f"WRONG  {work / 'eval'}",
    ]
    for made in (True, False):
        for command in (("precompute",), ("eval", "--no-speed")):
            code, out, _ = scone("--workspace", work, *command)
            assert (code, was_made(out)) == (0, made)
    assert scone("verify", work)[0] == 0


def test_a_rival_trained_again_is_evaluated_again(scone, small, tmp_path):
    rival = shutil.copytree(small / "work" / "plain", tmp_path / "rival")
    work = shutil.copytree(small / "work", tmp_path / "work")
    assert was_made(scone("--workspace", work, "eval", "--no-speed", "--against", rival)[1])
    path, described = rival / "main.safetensors", manifest(rival)
    save_file({name: tensor * 1.0001 for name, tensor in load_file(path).items()}, path)
    described["files"][path.name]["sha256"] = digest_file(path)
    write_manifest(rival, described)
    for made in (True, False):
        assert was_made(scone("--workspace", work, "eval", "--no-speed", "--against", rival)[1]) == made


# ---- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        "train-fgram --clip -1",
        "train-fgram --checkpoint-minutes 0",
        "train-fgram --keep-checkpoints 0",
        "train-fgram --fgram-layers 0",
        "train-fgram --hashed-rows -1",
        "train-fgram --hashed-rows 299 --kind hashed",
        "train-fgram --device cuda",
        "train-fgram --device mps",
        "train-fgram --seed -1",
        "train-fgram --learning-rate nan",
        "train-fgram --weight-decay -1",
        "train-fgram --eval-tokens 0",
        f"train-fgram --seed {2**70}",
    ],
)
def test_settings_that_training_cannot_use(scone, small, tmp_path, monkeypatch, args):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    shutil.copytree(small / "work", tmp_path / "work")
    code, _, err = scone("--workspace", tmp_path / "work", *args.split())
    assert code == 2
    error_of(err, args.split()[1])


def trains(scone, work, *args: str) -> bool:
    code, out, err = scone("--quiet", "--workspace", work, "train-fgram", *TRAIN, *args)
    assert (code, err) == (0, "")
    return was_made(out)


def test_what_does_not_change_the_weights_trains_nothing_again(scone, work):
    watching = "--eval-every 5 --eval-tokens 300 --checkpoint-every 3 --checkpoint-minutes 1 --keep-checkpoints 5"
    watching += " --micro-batch 1"
    assert not trains(scone, work, *watching.split(), "--device", "cpu", "--tracker", "tensorboard", "--compile")
    assert not (work / "runs").exists()
    assert trains(scone, work, "--precision", "bfloat16", "--kind", "plain", "--out", str(work / "other"))


def test_settings_of_another_kind_of_model_say_nothing(scone, work):
    plain = ("--kind", "plain", "--out", str(work / "plain"))
    assert not trains(scone, work, *plain, "--fgram-layers", "3", "--combine", "add", "--hashed-rows", "700")
    assert not trains(scone, work, "--hashed-rows", "7000")
    hashed = ("--kind", "hashed", "--out", str(work / "hashed"))
    assert trains(scone, work, *hashed)
    assert not trains(scone, work, *hashed, "--fgram-layers", "3", "--hashed-rows", "600")  # as many as f-grams
    assert trains(scone, work, *hashed, "--hashed-rows", "500")


def test_the_kinds_of_models(scone, work):
    """What each consists of, and which of them has a table."""
    assert trains(scone, work, "--kind", "hashed", "--out", str(work / "hashed"))
    facts = {name: manifest(work / name) for name in ("model", "plain", "hashed")}
    assert {name: found["summary"]["kind"] for name, found in facts.items()} == {
        "model": "scone",
        "plain": "plain",
        "hashed": "hashed",
    }
    assert len({found["summary"]["resident_parameters"] for found in facts.values()}) == 1
    assert [name for name, found in facts.items() if "vocab" in found["inputs"]] == ["model", "hashed"]
    common = {"config.json", "main.safetensors", "log.parquet", "log.jsonl"}
    assert facts["model"]["files"].keys() == common | {
        "fgram.safetensors",
        "learned.safetensors",
        "learned-fgrams.parquet",
    }
    assert facts["plain"]["files"].keys() == common
    assert facts["hashed"]["files"].keys() == common | {"hashed.safetensors"}
    rows = load_file(work / "hashed" / "hashed.safetensors")["weight"]
    assert facts["hashed"]["summary"]["offloaded_parameters"] == rows.numel()
    assert 580 < len(rows) <= 600  # f-grams; a little less, as their numbers are coprime with the vocabulary
    shutil.rmtree(work / "model")
    shutil.copytree(work / "hashed", work / "model")
    code, _, err = scone("--workspace", work, "precompute")
    assert code == 2
    error_of(err, str(work / "model"), "hashed", "table")


def test_the_tracker_writes_beside_the_model(scone, work):
    before = contents(work / "plain")
    args = ("--kind", "plain", "--out", str(work / "plain"), "--tracker", "tensorboard", "--force")
    assert trains(scone, work, *args)
    assert [path.name.split(".")[0] for path in (work / "runs" / "plain").iterdir()] == ["events"]
    assert contents(work / "plain").keys() == before.keys()
    code, out, _ = scone("--quiet", "verify", work / "plain")
    assert (code, out[:2]) == (0, "ok")
