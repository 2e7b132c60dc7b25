import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import refusal
from published import make, manifest_of

from scone_cli.artifacts import publish as publishing
from scone_cli.artifacts.manifest import (
    MANIFEST,
    digest_file,
    open_artifact,
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
    ForeignArtifact,
    StorageFailure,
    WorkspaceLocked,
)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


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


@pytest.mark.parametrize(
    ("before", "now", "is_kept"),
    [
        (["a", "b"], ["b", "a"], True),
        (["a", "a"], ["a", "b"], True),
        (["a", "b"], ["a", "c"], False),  # the second machine has restarted
        (["a", "b"], ["a"], False),  # nobody can tell whether it has
    ],
)
def test_unfinished_files_are_used_while_no_machine_that_wrote_them_has_restarted(vocab, before, now, is_kept):
    staging = staging_folder(vocab, "b" * 64, lasting=False, boot_ids=before)
    (staging / "rows").touch()
    staging_folder(vocab, "b" * 64, lasting=False, boot_ids=now)
    assert (staging / "rows").exists() == is_kept
    staging_folder(vocab, "b" * 64, lasting=False, boot_ids=now)
    assert (staging / "rows").exists() == is_kept


@pytest.mark.parametrize(
    ("runs", "is_kept"),
    [
        ([("a", True), ("b", True)], True),  # on another machine, or after a restart
        ([("a", True), ("a", False), ("a", True)], True),
        ([("a", False), ("b", True)], False),  # the first did not call fsync
        ([("a", True), ("a", False), ("b", True)], False),
    ],
)
def test_files_that_were_synced_are_used_on_any_machine(vocab, runs, is_kept):
    for boot, synced in runs:
        before = staging_folder(vocab, "b" * 64, lasting=False, boot_ids=[boot], synced=synced) / "rows"
        found = before.exists()
        before.touch()
    assert found == is_kept


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
        patch.setattr(publishing, "exchange", killed)
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

    monkeypatch.setattr(publishing, "exchange", swap_and_crash)
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
