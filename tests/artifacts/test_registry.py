"""Versions of a table: published whole, never changed, one of them current, the others there to go back to."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from messages import refusal
from registries import parts_of, plain, publish_small
from workspaces import contents

from scone_cli.artifacts import publish_version as publishing
from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.publish import workspace_lock
from scone_cli.artifacts.publish_version import publish_version
from scone_cli.artifacts.registry import current_name, history, hold, is_registry_name, versions
from scone_cli.errors import (
    BadSetting,
    DamagedArtifact,
    ForeignArtifact,
    InputMissing,
    MismatchedArtifacts,
    NewerArtifact,
    WorkspaceLocked,
)
from scone_cli.progress import silent

FORKS = pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning"
)  # it has threads, which the child does not need


@pytest.fixture
def name(tmp_path) -> Path:
    return tmp_path / "registry" / "law"


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def published(name: Path, work: Path, *numbers: int) -> list[str]:
    """The names of versions that are published one after the other."""
    return [publish_small(name, work, number).version.name for number in numbers]


# ---- a version ---------------------------------------------------------------------------------------------------


def test_a_version_is_whole_and_current(name, work):
    parts = parts_of(work, 1)
    found = publish_version(name, parts, {"rows": 144}, silent)
    version = found.version
    assert (found.is_new, found.was, version.is_current, version.sequence, version.previous) == (
        True,
        None,
        True,
        1,
        None,
    )
    assert (name / "current").readlink() == Path("versions", version.name)
    for part, folder in parts.items():
        assert contents(folder) == contents(name / "current" / part)
    assert version.figures == {"rows": 144}
    assert version.made_from["fingerprints"] == {
        "table": "f" * 64,
        "vocab": "v" * 64,
        "eval": "e" * 64,
        "model": "m" * 64,
    }
    assert set(version.files) == {f"{part}/{file}" for part in parts for file in contents(parts[part])}
    assert version.bytes == sum(path.stat().st_size for part in parts for path in (work / part).iterdir())
    assert version.name.endswith(f"-{version.content_sha256[:12]}")
    assert version.date == "{}-{}-{}T{}:{}:{}Z".format(
        *(version.name[a:b] for a, b in ((0, 4), (4, 6), (6, 8), (9, 11), (11, 13), (13, 15)))
    )
    assert is_registry_name(name)
    assert not is_registry_name(name.parent)
    assert versions(name) == [version]


def test_files_are_links_and_a_rebuild_does_not_change_them(name, work):
    publish_small(name, work, 1)
    table = next((name / "current" / "table").glob("rows-*.parquet"))
    assert table.stat().st_ino == next((work / "table").glob("rows-*.parquet")).stat().st_ino
    before = contents(name / "current")
    parts_of(work, 2)  # replaces all three artifacts
    shutil.rmtree(work)
    assert contents(name / "current") == before


def test_where_there_are_no_links_files_are_copied(name, work, monkeypatch):
    def no_links(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    publish_small(name, work, 1)
    for part in ("table", "vocab", "eval"):
        assert contents(work / part) == contents(name / "current" / part)
    assert (work / "vocab" / "data.txt").stat().st_ino != (name / "current" / "vocab" / "data.txt").stat().st_ino


def test_an_artifact_behind_a_link_is_published_itself(name, work):
    parts = parts_of(work, 1)
    (work / "table").rename(work / "elsewhere")
    (work / "table").symlink_to("elsewhere")
    publish_version(name, parts, {}, silent)
    assert not any(path.is_symlink() for path in (name / "current" / "table").iterdir())


def test_the_same_content_is_no_second_version(name, work):
    first, second = published(name, work, 1, 2)
    again = publish_small(name, work, 1)
    assert (again.is_new, again.was, again.version.name) == (False, second, first)
    assert [version.name for version in versions(name)] == [first, second]
    assert current_name(name) == first
    assert publish_small(name, work, 1).was == first
    assert len(history(name)) == 3
    assert roll_back(name)[0].name == second, "the one that was current before"


def test_the_clock_does_not_order_versions(name, work, monkeypatch):
    (first,) = published(name, work, 1)

    class Before(publishing.datetime):
        @classmethod
        def now(cls, zone=None):
            return super().now(zone).replace(year=1999)

    monkeypatch.setattr(publishing, "datetime", Before)
    second, third = published(name, work, 2, 3)
    assert second < first
    assert [version.name for version in versions(name)] == [first, second, third]
    assert publish_small(name, work, 4, keep=2).pruned == [first, second]


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["missing", "cut", "changed"])
def test_damage_is_not_published(name, work, fault):
    published(name, work, 1)
    parts, before = parts_of(work, 2), current_name(name)
    path = work / "vocab" / "data.txt"
    content = path.read_bytes()
    path.unlink() if fault == "missing" else path.write_bytes(content[:-1] + b"x" * (fault == "changed"))
    with refusal(DamagedArtifact, str(path), hint=("scone select-vocab --force",)):
        publish_version(name, parts, {}, silent)
    assert current_name(name) == before
    assert entries(name / "versions") == [before]


def test_a_vocabulary_of_another_table_is_refused(name, work):
    parts = parts_of(work, 1)
    plain(work / "vocab", "w" * 64, "vocab", "another")
    with refusal(MismatchedArtifacts, "vvvvvvvvvvvv", "wwwwwwwwwwww", hint=("--vocab",)):
        publish_version(name, parts, {}, silent)
    assert not name.exists()


def test_a_file_outside_the_artifact_is_not_published(name, work):
    parts = parts_of(work, 1)
    facts = json.loads((work / "vocab" / "manifest.json").read_text())
    facts["files"]["../../secret"] = {"bytes": 1, "sha256": "0" * 64}
    del facts["sha256"]
    (work / "vocab" / "manifest.json").write_text(json.dumps(facts))
    with refusal(ForeignArtifact, "../../secret"):
        publish_version(name, parts, {}, silent)


def test_other_folders_are_not_taken_for_a_name(name, work):
    parts = parts_of(work, 1)
    for folder in (work, name.parent):
        publish_small(name, work, 1)
        with refusal(ForeignArtifact, str(folder), hint=("REGISTRY/NAME",)):
            publish_version(folder, parts, {}, silent)
        hint = (str(name),) if folder == name.parent else ("scone publish",)
        with refusal(InputMissing, str(folder), hint=hint):
            roll_back(folder)
        assert not (folder / ".lock").exists()


def test_a_current_that_is_no_link_is_refused(name, work):
    publish_small(name, work, 1)
    (name / "current").unlink()
    shutil.copytree(next((name / "versions").iterdir()), name / "current")
    with refusal(ForeignArtifact, str(name / "current"), hint=("ln -sfn",)):
        publish_small(name, work, 2)


def test_keep_is_one_or_more(name, work):
    with refusal(BadSetting, 0):
        publish_small(name, work, 1, keep=0)


def test_one_run_at_a_time_writes(name, work):
    publish_small(name, work, 1)
    with workspace_lock(name):
        for call in (lambda: publish_small(name, work, 2), lambda: roll_back(name)):
            with refusal(WorkspaceLocked, str(name)):
                call()
    assert len(versions(name)) == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda facts: facts | {"sequence": 7}, DamagedArtifact),
        (lambda facts: facts | {"format": 99}, NewerArtifact),
        (lambda _: [], ForeignArtifact),
        (lambda facts: {key: value for key, value in facts.items() if key != "sha256"}, ForeignArtifact),
    ],
)
def test_a_version_that_was_changed_is_told(name, work, change, error):
    folder = publish_small(name, work, 1).version.folder
    path = folder / "version.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with refusal(error, str(path)):
        versions(name)


def test_the_same_content_is_not_taken_from_a_damaged_version(name, work):
    folder = publish_small(name, work, 1).version.folder
    publish_small(name, work, 2)
    (folder / "eval" / "data.txt").unlink()
    (folder / "eval" / "data.txt").write_text("evaluation x")
    with refusal(DamagedArtifact, str(folder / "eval" / "data.txt"), hint=("scone rollback",)):
        publish_small(name, work, 1)


# ---- going back --------------------------------------------------------------------------------------------------


def test_each_rollback_goes_one_further_back(name, work):
    names = published(name, work, 1, 2, 3)
    assert [(version.name, was) for version, was in (roll_back(name), roll_back(name))] == [
        (names[1], names[2]),
        (names[0], names[1]),
    ]
    with refusal(InputMissing, names[0], hint=(names[1],)):
        roll_back(name)
    assert current_name(name) == names[0]
    fourth = publish_small(name, work, 4).version
    assert fourth.previous == names[0]
    assert roll_back(name)[0].name == names[0], "not one of those that were rolled back"


def test_a_rollback_to_a_version_may_go_anywhere(name, work):
    names = published(name, work, 1, 2, 3)
    roll_back(name, names[0])
    assert roll_back(name, names[2])[0].is_current
    assert roll_back(name)[0].name == names[0]
    version, was = roll_back(name, names[0])
    assert version.name == was == names[0]
    with refusal(InputMissing, "19990101T", hint=tuple(names)):
        roll_back(name, "19990101T")


def test_a_rollback_refuses_a_version_with_a_file_missing(name, work):
    names = published(name, work, 1, 2)
    (name / "versions" / names[0] / "table" / "index.bin").unlink()
    with refusal(DamagedArtifact, "index.bin"):
        roll_back(name)
    assert current_name(name) == names[1]


def test_a_link_that_was_set_by_hand_counts(name, work):
    names = published(name, work, 1, 2, 3, 4)
    (name / "current").unlink()
    (name / "current").symlink_to(f"versions/{names[1]}")
    assert publish_small(name, work, 5).was == names[1]
    assert roll_back(name)[0].name == names[1]
    assert roll_back(name)[0].name == names[0]


def test_without_a_history_a_version_must_be_named(name, work):
    names = published(name, work, 1, 2)
    (name / "history.json").unlink()
    with refusal(InputMissing, names[1]):
        roll_back(name)
    roll_back(name, names[0])
    assert roll_back(name, names[1])[1] == names[0]
    (name / "history.json").write_text("{}")
    with refusal(ForeignArtifact, "history.json", hint=("remove", "VERSION")):
        roll_back(name)


# ---- pruning, and versions in use --------------------------------------------------------------------------------


def test_the_oldest_are_pruned_and_never_the_current_one(name, work):
    names = published(name, work, 1, 2, 3)
    found = publish_small(name, work, 4, keep=2)
    assert (found.pruned, found.in_use) == (names[:2], [])
    assert entries(name / "versions") == sorted([names[2], found.version.name])
    assert publish_small(name, work, 5, keep=1).pruned == [names[2], found.version.name]
    with refusal(InputMissing, "no version was current before"):
        roll_back(name)


def test_what_a_rollback_would_need_is_kept_before_what_was_rolled_back(name, work):
    first, second = published(name, work, 1, 2)
    roll_back(name)
    assert publish_small(name, work, 3, keep=2).pruned == [second]
    assert roll_back(name)[0].name == first


def test_a_version_in_use_is_kept(name, work):
    names = published(name, work, 1)
    held = hold(name)
    assert (held.folder, held.link) == (name / "versions" / names[0], f"versions/{names[0]}")
    found = publish_small(name, work, 2, keep=1)
    assert (found.pruned, found.in_use) == ([], names)
    held.release()
    assert publish_small(name, work, 2, keep=1).pruned == names
    assert held.has_vanished()


@FORKS
def test_a_version_is_held_by_the_last_of_a_process_and_its_children(name, work):
    """A child that was forked reads on when its parent has closed the table."""
    (first,) = published(name, work, 1)
    held = hold(name / "versions" / first / "table")
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    held.release()
    assert publish_small(name, work, 2, keep=1).in_use == [first]
    os.close(writing)
    os.waitpid(child, 0)
    os.close(reading)
    assert publish_small(name, work, 2, keep=1).pruned == [first]


def test_what_is_no_version_is_not_held(work):
    assert hold(parts_of(work, 1)["table"]) is None
    assert hold(work / "nothing") is None


def test_a_version_that_is_removed_while_it_is_opened_is_looked_up_again(name, work, monkeypatch):
    """As the pruner does it: under its lock, after the reader has followed `current`."""
    names, real = published(name, work, 1), fcntl.flock

    def prune_first(file: int, how: int) -> None:
        if how == fcntl.LOCK_SH:
            monkeypatch.setattr(fcntl, "flock", real)
            names.append(publish_small(name, work, 2, keep=1).version.name)
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", prune_first)
    assert hold(name).folder.name == names[1]
    assert entries(name / "versions") == [names[1]]


def test_without_locks_versions_are_read_all_the_same(name, work, monkeypatch):
    (first,) = published(name, work, 1)

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("scone_cli.artifacts.registry.fcntl.flock", no_locks)
    assert hold(name).folder.name == first


def test_a_current_that_leads_nowhere_is_told(name, work):
    names = published(name, work, 1)
    shutil.rmtree(name / "versions" / names[0])
    with refusal(InputMissing, names[0], hint=("scone rollback",)):
        hold(name)
    (name / "current").unlink()
    publish_small(name, work, 1)
    (name / "current").unlink()
    with refusal(InputMissing, "current", hint=("scone publish",)):
        hold(name)


# ---- kill -9 -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@FORKS
def test_killed_at_any_moment_a_publish_leaves_whole_versions(name, work):
    """Before each file that it opens, renames or removes; the same command then ends as if nothing had happened."""
    names, parts = published(name, work, 1, 2), parts_of(work, 3)
    before = name.parent / "before"
    shutil.copytree(name, before, symlinks=True)

    def run(moment: int) -> tuple[int, list[str]]:
        child = os.fork()
        if not child:
            os._exit(_publish_in_child(name, parts, moment))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    moment = 0
    while True:
        moment += 1
        shutil.rmtree(name)
        shutil.copytree(before, name, symlinks=True)
        code = run(moment)
        current, found = current_name(name), {version.name for version in versions(name)}
        assert hold(name).folder.name == current
        assert set(names) - found <= {names[0]}, f"moment {moment}"
        assert current == names[1] or current not in names
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert _publish_in_child(name, parts, 0) == 0
        new = current_name(name)
        assert new not in names
        assert entries(name / "versions") == sorted([names[1], new]), f"moment {moment}"
        assert entries(name) == [".lock", "current", "history.json", "versions"]
        assert contents(name / "current" / "table") == contents(work / "table")
        assert roll_back(name)[0].name == names[1], f"moment {moment}"
    assert moment > 15


_SEEN = {"left": 0}


def _publish_in_child(name: Path, parts: dict[str, Path], moment: int) -> int:
    """Publish; `moment` (from 1; 0: never) is when this process is killed."""

    def hook(event: str, args: tuple) -> None:
        if not _SEEN["left"]:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wxa+")
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"):
            _SEEN["left"] -= 1
            if not _SEEN["left"]:
                os.kill(os.getpid(), signal.SIGKILL)

    if moment:
        _SEEN["left"] = moment
        sys.addaudithook(hook)
    publish_version(name, parts, {}, silent, keep=2)
    return 0
