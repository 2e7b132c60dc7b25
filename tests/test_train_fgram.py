"""The stage that trains: settings that it refuses, and a model trained again with other weights.

The same settings and inputs give other weights with other threads or another library: the fingerprint does not say so.
"""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from scone_cli.artifacts import digest_file, read_manifest


@pytest.fixture
def work(small, tmp_path):
    """A workspace in which only the last bits of the weights are not those of which the table was made."""
    work = shutil.copytree(small / "work", tmp_path / "work")
    path, manifest_path = work / "model" / "main.safetensors", work / "model" / "manifest.json"
    before = read_manifest(work / "model")
    save_file({name: tensor * 1.0001 for name, tensor in load_file(path).items()}, path)
    manifest = json.loads(manifest_path.read_text())
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    manifest_path.write_text(json.dumps(manifest))
    assert read_manifest(work / "model").fingerprint == before.fingerprint
    return work


def test_its_table_is_stale_until_it_is_precomputed_again(scone, work):
    code, _, err = scone("--workspace", work, "eval")
    assert code == 65
    assert "before that was trained again" in err
    assert "hint: run: scone precompute\n" in err
    code, out, _ = scone("verify", work)
    assert code == 65
    assert [line.split(": ")[0] for line in out.splitlines() if line.startswith("WRONG")] == [
        f"WRONG  {work / 'table'}",
        f"WRONG  {work / 'eval'}",
    ]
    for again in ("made in", "up to date"):
        for command in ("precompute", "eval"):
            code, out, _ = scone("--workspace", work, command)
            assert code == 0
            assert f"({again}" in out.splitlines()[0]
    assert scone("verify", work)[0] == 0


def test_a_rival_trained_again_is_evaluated_again(scone, small, tmp_path):
    rival = shutil.copytree(small / "work" / "plain", tmp_path / "rival")
    work = shutil.copytree(small / "work", tmp_path / "work")
    assert "(made in" in scone("--workspace", work, "eval", "--against", rival)[1]
    path, manifest = rival / "main.safetensors", json.loads((rival / "manifest.json").read_text())
    save_file({name: tensor * 1.0001 for name, tensor in load_file(path).items()}, path)
    manifest["files"][path.name]["sha256"] = digest_file(path)
    (rival / "manifest.json").write_text(json.dumps(manifest))
    for again in ("made in", "up to date"):
        assert f"({again}" in scone("--workspace", work, "eval", "--against", rival)[1]


@pytest.mark.parametrize(
    "args",
    [
        "train-fgram --seed -1",
        "train-fgram --learning-rate nan",
        "train-fgram --weight-decay -1",
        "train-fgram --eval-tokens 0",
        f"train-fgram --seed {2**70}",
    ],
)
def test_numbers_that_training_cannot_use(scone, small, tmp_path, args):
    shutil.copytree(small / "work", tmp_path / "work")
    code, _, err = scone("--workspace", tmp_path / "work", *args.split())
    assert code == 2
    assert err.startswith("error: ")
    assert args.split()[1] in err.splitlines()[0]
