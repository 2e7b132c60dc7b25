import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import refusal
from workspaces import manifest, write_manifest

from scone_cli.artifacts import publish as publishing
from scone_cli.artifacts.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    digest_file,
    fingerprint,
    open_artifact,
    read_manifest,
)
from scone_cli.artifacts.publish import (
    SCRATCH,
    USED_UP,
    publish,
    staging_folder,
    unfinished_bytes,
    up_to_date,
    workspace_lock,
    write_atomically,
    write_parquet,
)
from scone_cli.artifacts.schemas import VOCAB
from scone_cli.errors import (
    DamagedArtifact,
    ForeignArtifact,
    HalfWrittenArtifact,
    InputMissing,
    NewerArtifact,
    SconeError,
    StorageFailure,
    WorkspaceLocked,
)


def manifest_of(print_: str = "a" * 64, kind: str = "vocab", **changes: object) -> Manifest:
    facts = {
        "artifact": kind,
        "schema_version": 1,
        "stage": "select-vocab",
        "stage_version": 1,
        "fingerprint": print_,
        "settings": {"size": 10},
        "inputs": {"counts": "c" * 64},
        "tokenizer": "t" * 64,
        "summary": {},
    }
    return Manifest(**facts | changes)


def test_a_manifest_of_an_early_version_is_read_with_the_names_of_today(tmp_path):
    facts = asdict(manifest_of(summary={"vocabulary size": 9, "held-out tokens": 3, "f-grams": 4, "tokens": 5}))
    (tmp_path / MANIFEST).write_text(json.dumps(facts | {"seed": 0}))
    assert read_manifest(tmp_path).summary == {"vocab_size": 9, "held_out_tokens": 3, "fgrams": 4, "tokens": 5}


def make(target: Path, content: str = "first", print_: str = "a" * 64) -> Manifest:
    staging = staging_folder(target, print_)
    (staging / "part").mkdir(exist_ok=True)
    (staging / "data.txt").write_text(content)
    (staging / "part" / "more.txt").write_text(content * 2)
    (staging / SCRATCH / "scratch.bin").write_bytes(b"x")
    return publish(staging, target, manifest_of(print_))


@pytest.fixture
def vocab(tmp_path):
    target = tmp_path / "work" / "vocab"
    make(target)
    return target


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def edit_manifest(folder: Path, **changes: object) -> None:
    write_manifest(folder, manifest(folder) | changes)


# ---- publishing --------------------------------------------------------------------------------------------------


def test_a_published_artifact_is_whole_and_described(vocab):
    manifest = open_artifact(vocab, "vocab")
    assert {name: stamp.bytes for name, stamp in manifest.files.items()} == {"data.txt": 5, "part/more.txt": 10}
    assert manifest.files["data.txt"].sha256 == digest_file(vocab / "data.txt")
    assert not (vocab / SCRATCH).exists()
    assert hidden(vocab.parent) == []


def test_equal_runs_write_equal_bytes(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "two")
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()


def test_a_summary_is_read_back_in_its_order(tmp_path):
    """Or a run that finds everything up to date would report the same in another order."""
    summary = {"zebra": 1, "ant": [{"n": 2, "count": 1}]}
    publish(staging_folder(tmp_path / "vocab", "a"), tmp_path / "vocab", manifest_of(summary=summary))
    assert json.dumps(read_manifest(tmp_path / "vocab").summary) == json.dumps(summary)


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_new_artifact_takes_the_place_of_the_old_one(vocab, monkeypatch, can_swap):
    if not can_swap:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    staging = staging_folder(vocab, "b" * 64)
    (staging / "only.txt").write_text("second")
    publish(staging, vocab, manifest_of("b" * 64))
    assert list(open_artifact(vocab, "vocab").files) == ["only.txt"]
    assert sorted(path.name for path in vocab.iterdir()) == [MANIFEST, "only.txt"]
    assert hidden(vocab.parent) == []


def test_the_old_artifact_stays_when_publishing_fails(vocab, monkeypatch):
    staging = staging_folder(vocab, "b" * 64)
    (staging / "data.txt").write_text("second")

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publishing, "write_atomically", disk_full)
    with pytest.raises(OSError, match="No space"):
        publish(staging, vocab, manifest_of("b" * 64))
    assert (vocab / "data.txt").read_text() == "first"
    assert open_artifact(vocab, "vocab").fingerprint == "a" * 64


def test_a_staging_folder_is_found_as_a_crash_left_it(vocab):
    staging = staging_folder(vocab, "b" * 64)
    (staging / SCRATCH / "half.bin").write_bytes(b"work")
    (staging / ".data.txt.tmp").write_text("cut o")
    again = staging_folder(vocab, "b" * 64)
    assert (again / SCRATCH / "half.bin").read_bytes() == b"work"
    (again / "data.txt").write_text("whole")
    assert list(publish(again, vocab, manifest_of("b" * 64)).files) == ["data.txt"]


def test_a_crash_before_the_rename_costs_nothing(vocab, monkeypatch):
    """The staging folder has its manifest and everything: the next run writes over it and publishes."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    staging = staging_folder(vocab, "b" * 64)
    (staging / "data.txt").write_text("second")
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_exchange", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(staging, vocab, manifest_of("b" * 64))
    assert open_artifact(vocab, "vocab").fingerprint == "a" * 64
    again = staging_folder(vocab, "b" * 64)
    assert (again / "data.txt").read_text() == "second"
    publish(again, vocab, manifest_of("b" * 64))
    assert open_artifact(vocab, "vocab").fingerprint == "b" * 64


def test_work_for_other_settings_is_removed(vocab):
    other = staging_folder(vocab, "b" * 64)
    staging_folder(vocab, "c" * 64)
    assert not other.exists()


def test_work_for_a_folder_of_a_similar_name_is_kept(tmp_path):
    odd = staging_folder(tmp_path / "model[1]", "a" * 64)
    plain = staging_folder(tmp_path / "model1", "b" * 64)
    staging_folder(tmp_path / "model[1]", "c" * 64)
    assert plain.exists()
    assert not odd.exists()


def test_the_old_artifact_comes_back_after_a_crash_between_two_renames(vocab):
    staging = staging_folder(vocab, "b" * 64)
    vocab.rename(staging.with_name(staging.name + publishing.REPLACED))
    staging_folder(vocab, "b" * 64)
    assert open_artifact(vocab, "vocab").fingerprint == "a" * 64


def test_a_replaced_artifact_is_never_taken_for_work_to_continue(vocab, monkeypatch):
    """A crash between swapping and removing leaves the old artifact under the name of the new one's staging folder."""
    staging = staging_folder(vocab, "b" * 64)

    def swap_and_crash(new: Path, old: Path, replaced: Path) -> None:
        old.rename(replaced)
        new.rename(old)
        replaced.rename(new)
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "_exchange", swap_and_crash)
    with pytest.raises(KeyboardInterrupt):
        publish(staging, vocab, manifest_of("b" * 64))
    assert open_artifact(vocab, "vocab").fingerprint == "b" * 64
    assert (staging / "data.txt").read_text() == "first"
    assert list(staging_folder(vocab, "b" * 64).iterdir()) == [staging / SCRATCH]


def test_what_scone_did_not_write_is_not_replaced(tmp_path):
    mine = tmp_path / "model"
    mine.mkdir()
    staging_folder(mine, "a" * 64)  # an empty folder is nobody's
    (mine / "thesis.txt").write_text("two years of work")
    with refusal(ForeignArtifact, str(mine)):
        staging_folder(mine, "a" * 64)
    with refusal(ForeignArtifact, str(mine / "thesis.txt")):
        staging_folder(mine / "thesis.txt", "a" * 64)


# ---- behind a link -----------------------------------------------------------------------------------------------


@pytest.fixture
def behind(vocab, tmp_path):
    """Where the artifact lies, which `vocab` links to: under another name, as on another disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    vocab.rename(disk / "large")
    vocab.symlink_to("../disk/large")
    return disk / "large"


def test_an_artifact_behind_a_link_is_replaced_where_it_is(vocab, behind):
    staging = staging_folder(vocab, "b" * 64)
    assert staging.parent == behind.parent, "on the disk that has room for it"
    assert unfinished_bytes(vocab) == 0
    (staging / "data.txt").write_text("second")
    assert unfinished_bytes(vocab) == 6
    publish(staging, vocab, manifest_of("b" * 64))
    assert vocab.is_symlink()
    assert open_artifact(behind, "vocab").fingerprint == "b" * 64
    assert hidden(vocab.parent) == hidden(behind.parent) == []


def test_what_a_crash_left_behind_a_link_is_used_or_removed(vocab, behind):
    staging = staging_folder(vocab, "b" * 64)
    (staging / "data.txt").write_text("half")
    assert (staging_folder(vocab, "b" * 64) / "data.txt").read_text() == "half"
    assert not (staging_folder(vocab, "c" * 64) / "data.txt").exists()
    assert hidden(behind.parent) == [f".large.partial-{'c' * 16}"]
    (behind.parent / f".large.partial-{'a' * 16}").mkdir()
    assert up_to_date(vocab, "vocab", "a" * 64)
    assert hidden(behind.parent) == [f".large.partial-{'c' * 16}"]


def test_a_link_to_a_folder_that_is_not_there_yet_is_filled(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "vocab").symlink_to(tmp_path / "disk" / "new")
    make(tmp_path / "vocab")
    assert open_artifact(tmp_path / "disk" / "new", "vocab") == open_artifact(tmp_path / "vocab", "vocab")


@pytest.mark.parametrize("to", ["unmounted/vocab", "vocab"])
def test_a_link_to_nowhere_is_refused(tmp_path, to):
    (tmp_path / "vocab").symlink_to(tmp_path / to)
    with refusal(StorageFailure, str(tmp_path / "vocab"), str(tmp_path / to)):
        staging_folder(tmp_path / "vocab", "a" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["vocab"]


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


# ---- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, b"one")

    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(publishing, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"


def test_parquet_is_written_through_its_schema(tmp_path):
    rows = [{"id": 0, "n": 2, "tokens": [5, 6], "count": 9, "docs": 3, "parent": None}]
    table = pa.Table.from_pylist(rows, VOCAB)
    write_parquet(tmp_path / "vocab.parquet", VOCAB, table)
    assert pq.read_schema(tmp_path / "vocab.parquet").equals(VOCAB)
    assert pq.read_table(tmp_path / "vocab.parquet").to_pylist() == rows
    with pytest.raises(ValueError, match="schema"):
        write_parquet(tmp_path / "bad.parquet", VOCAB, pa.table({"id": [1]}))
    assert not (tmp_path / "bad.parquet").exists()


# ---- the lock ----------------------------------------------------------------------------------------------------


def test_a_workspace_has_one_writer(tmp_path):
    with workspace_lock(tmp_path / "work"):
        with refusal(WorkspaceLocked, str(tmp_path / "work")) as caught, workspace_lock(tmp_path / "work"):
            pass
        assert caught.value.exit_code == 75
        with workspace_lock(tmp_path / "other"):
            pass
    with workspace_lock(tmp_path / "work"):
        pass


def test_the_lock_goes_with_a_killed_process(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom scone_cli.artifacts.publish import workspace_lock\n"
        "with workspace_lock(pathlib.Path(sys.argv[1])):\n print('locked', flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(WorkspaceLocked), workspace_lock(tmp_path):
            pass
        process.kill()
    with workspace_lock(tmp_path):
        pass


def test_a_workspace_that_cannot_be_is_a_storage_failure(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        refusal(StorageFailure, str(tmp_path / "file"), "workspace") as caught,
        workspace_lock(tmp_path / "file"),
    ):
        pass
    assert caught.value.exit_code == 74


def test_where_nothing_can_be_written_there_is_no_lock(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(publishing.filelock.FileLock, "acquire", read_only)
    with workspace_lock(tmp_path):
        pass
    monkeypatch.setattr(Path, "mkdir", read_only)
    with refusal(StorageFailure, "Read-only"), workspace_lock(tmp_path / "new"):
        pass


def test_a_crash_just_before_the_exchange_costs_no_work(tmp_path):
    target = tmp_path / "vocab"
    staging = staging_folder(target, "a" * 64)
    (staging / SCRATCH / "checkpoint").write_text("hours of work")
    (staging / SCRATCH).rename(tmp_path / f"{staging.name}{USED_UP}")  # as `publish` does, a moment before it is done
    assert (staging_folder(target, "a" * 64) / SCRATCH / "checkpoint").read_text() == "hours of work"
    assert [path.name for path in tmp_path.iterdir()] == [staging.name]


def test_what_an_interrupted_run_left_is_counted(tmp_path):
    target = tmp_path / "counts"
    assert publishing.unfinished_bytes(target) == 0
    for mark in ("a" * 64, "b" * 64):  # one to continue, one to remove
        (tmp_path / f".counts.partial-{mark[:16]}" / publishing.SCRATCH).mkdir(parents=True)
        (tmp_path / f".counts.partial-{mark[:16]}" / publishing.SCRATCH / "records").write_bytes(bytes(300))
    target.mkdir()
    (target / "n=2.parquet").write_bytes(bytes(50))
    (tmp_path / ".tokens.partial-c").mkdir()
    (tmp_path / ".tokens.partial-c" / "part").write_bytes(bytes(7))
    assert publishing.unfinished_bytes(target) == 600
    assert publishing.unfinished_bytes(tmp_path / "tokens") == 7
