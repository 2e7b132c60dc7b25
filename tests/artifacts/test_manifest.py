"""Manifests: what makes an artifact up to date, and one named error for each way in which it can be bad."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from messages import refusal
from published import manifest_of
from workspaces import manifest, write_manifest

from scone_cli.artifacts.manifest import (
    MANIFEST,
    check_files,
    fingerprint,
    open_artifact,
    read_manifest,
)
from scone_cli.artifacts.publish import (
    publish,
    staging_folder,
    up_to_date,
)
from scone_cli.errors import (
    DamagedArtifact,
    ForeignArtifact,
    HalfWrittenArtifact,
    InputMissing,
    NewerArtifact,
    SconeError,
)


def test_a_manifest_of_an_early_version_is_read_with_the_names_of_today(tmp_path):
    facts = asdict(manifest_of(summary={"vocabulary size": 9, "held-out tokens": 3, "f-grams": 4, "tokens": 5}))
    (tmp_path / MANIFEST).write_text(json.dumps(facts | {"seed": 0}))
    assert read_manifest(tmp_path).summary == {"vocab_size": 9, "held_out_tokens": 3, "fgrams": 4, "tokens": 5}


def test_a_summary_is_read_back_in_its_order(tmp_path):
    """Or a run that finds everything up to date would report the same in another order."""
    summary = {"zebra": 1, "ant": [{"n": 2, "count": 1}]}
    publish(staging_folder(tmp_path / "vocab", "a"), tmp_path / "vocab", manifest_of(summary=summary))
    assert json.dumps(read_manifest(tmp_path / "vocab").summary) == json.dumps(summary)


def edit_manifest(folder: Path, **changes: object) -> None:
    write_manifest(folder, manifest(folder) | changes)


# ---- the skip rule -----------------------------------------------------------------------------------------------


def test_the_fingerprint_depends_on_all_of_its_parts_and_not_on_their_order():
    base = fingerprint("s", 1, {"a": 1, "b": 2}, {"counts": "x"})
    assert base == fingerprint("s", 1, {"b": 2, "a": 1}, {"counts": "x"})
    others = [
        fingerprint("z", 1, {"a": 1, "b": 2}, {"counts": "x"}),
        fingerprint("s", 2, {"a": 1, "b": 2}, {"counts": "x"}),
        fingerprint("s", 1, {"a": 1, "b": 3}, {"counts": "x"}),
        fingerprint("s", 1, {"a": 1, "b": 2}, {"counts": "y"}),
    ]
    assert len({base, *others}) == 5


def test_up_to_date_means_the_same_fingerprint_and_whole_files(vocab):
    found = up_to_date(vocab, "vocab", "a" * 64)
    assert found == read_manifest(vocab)
    assert up_to_date(vocab, "vocab", "b" * 64) is None
    (vocab / "data.txt").write_text("fir")
    assert up_to_date(vocab, "vocab", "a" * 64) is None
    assert up_to_date(vocab.parent / "table", "table", "a" * 64) is None


def test_a_newer_or_foreign_artifact_is_never_just_made_again(vocab):
    with pytest.raises(ForeignArtifact):
        up_to_date(vocab, "model", "a" * 64)
    edit_manifest(vocab, schema_version=99)
    with pytest.raises(NewerArtifact):
        up_to_date(vocab, "vocab", "a" * 64)


# ---- bad artifacts: one named error each -------------------------------------------------------------------------


def flip_a_byte(folder):
    path = folder / "part" / "more.txt"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def truncate(folder):
    (folder / "data.txt").write_text("fir")


def lose_a_file(folder):
    (folder / "data.txt").unlink()


def lose_the_manifest(folder):
    (folder / MANIFEST).unlink()


def cut_the_manifest(folder):
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])


def write_another_manifest(folder):
    (folder / MANIFEST).write_text('{"name": "my-extension", "manifest_version": 3}')


def write_a_list(folder):
    (folder / MANIFEST).write_text("[1, 2]")


def add_an_unknown_field(folder):
    edit_manifest(folder, colour="red")


def be_of_another_kind(folder):
    edit_manifest(folder, artifact="counts")


def be_of_the_future(folder):
    edit_manifest(folder, schema_version=2, files=["in", "another", "shape"], colour="red")


@pytest.mark.parametrize(
    ("harm", "error", "facts"),
    [
        (flip_a_byte, DamagedArtifact, ["more.txt", "SHA-256"]),
        (truncate, DamagedArtifact, [3, 5, "bytes"]),
        (lose_a_file, DamagedArtifact, ["data.txt", "manifest"]),
        (lose_the_manifest, HalfWrittenArtifact, ["manifest.json"]),
        (cut_the_manifest, ForeignArtifact, ["manifest.json"]),
        (write_another_manifest, ForeignArtifact, ["manifest.json"]),
        (write_a_list, ForeignArtifact, ["manifest.json"]),
        (add_an_unknown_field, ForeignArtifact, ["manifest.json"]),
        (be_of_another_kind, ForeignArtifact, ["'counts'", "'vocab'"]),
        (be_of_the_future, NewerArtifact, ["format", "2"]),
    ],
)
def test_a_bad_artifact_has_a_name(vocab, harm, error, facts):
    harm(vocab)
    with refusal(SconeError, str(vocab), *facts) as caught:
        open_artifact(vocab, "vocab")
    assert type(caught.value) is error
    assert caught.value.exit_code == 65
    assert caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"settings": {}},
        {"settings": {"size": 11}},
        {"summary": {"kind": "x"}},
        {"inputs": None},
        {"recipe": {"path": "other.toml"}},
        {"code_version": "0"},
    ],
    ids=str,
)
def test_a_manifest_changed_since_it_was_written_is_refused(vocab, changes):
    path = vocab / MANIFEST
    path.write_text(json.dumps(manifest(vocab)))
    read_manifest(vocab)  # other blanks are no change
    path.write_text(json.dumps(manifest(vocab) | changes))
    with refusal(DamagedArtifact, str(path), hint=("select-vocab --force",)) as caught:
        read_manifest(vocab)
    assert caught.value.exit_code == 65
    assert up_to_date(vocab, "vocab", "a" * 64) is None, "so the stage makes it again"


def test_a_changed_baseline_is_made_again_as_the_baseline(tmp_path):
    made = manifest_of(recipe={"path": "/r.toml", "sha256": "0", "baseline": "plain"})
    publish(staging_folder(tmp_path / "plain", "a"), tmp_path / "plain", made)
    text = (tmp_path / "plain" / MANIFEST).read_text()
    (tmp_path / "plain" / MANIFEST).write_text(text.replace('"size": 10', '"size": 11'))
    with refusal(DamagedArtifact, "changed", hint=("--baseline plain", "--config /r.toml")):
        read_manifest(tmp_path / "plain")


@pytest.mark.parametrize("number", [10**30, 0.1, 1e-320, float("inf")])
def test_a_manifest_is_what_was_written_whatever_is_in_it(tmp_path, number):
    summary = {"a": number, "b": (1, None, "\u00e9 \ud800"), "c": {10: 1, 9: 2}}
    publish(staging_folder(tmp_path / "vocab", "a"), tmp_path / "vocab", manifest_of(summary=summary))
    assert read_manifest(tmp_path / "vocab").summary == {**summary, "b": list(summary["b"]), "c": {"10": 1, "9": 2}}


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"settings": [1]}, "settings"),
        ({"inputs": None}, "inputs"),
        ({"inputs": {"counts": 3}}, "counts"),
        ({"recipe": 7}, "recipe"),
        ({"tokenizer": 5}, "tokenizer"),
        ({"schema_version": "1"}, "schema_version"),
        ({"summary": None}, "'items'"),
        ({"files": {"data.txt": {"bytes": "5", "sha256": "0"}}}, "bytes"),
        ({"files": {"data.txt": {"bytes": 5, "sha256": None}}}, "sha256"),
        ({"files": {"data.txt": {"bytes": 5.0, "sha256": "0"}}}, "bytes"),
    ],
    ids=str,
)
def test_a_manifest_without_a_hash_of_itself_is_read_where_its_types_are_right(vocab, changes, fact):
    edit_manifest(vocab)
    assert "sha256" not in manifest(vocab)
    open_artifact(vocab, "vocab")
    edit_manifest(vocab, **changes)
    with refusal(ForeignArtifact, str(vocab / MANIFEST), fact) as caught:
        read_manifest(vocab)
    assert caught.value.exit_code == 65


def test_no_artifact_is_no_input(tmp_path):
    with refusal(InputMissing, str(tmp_path / "vocab"), hint=("scone select-vocab",)) as caught:
        open_artifact(tmp_path / "vocab", "vocab")
    assert caught.value.exit_code == 66


def test_sizes_alone_do_not_show_a_flipped_byte(vocab):
    flip_a_byte(vocab)
    check_files(vocab, read_manifest(vocab), hashes=False)
