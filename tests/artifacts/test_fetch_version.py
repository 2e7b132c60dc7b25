"""Encrypted versions, and fetching: what comes out is what was published, for its owner alone; all else is one clear error."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from messages import refusal
from registries import parts_of, publish_small, version_of
from workspaces import contents

from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.encryption import CannotDecrypt, decrypt, encrypt, identities_of, recipients_of
from scone_cli.artifacts.fetch_version import fetch_version
from scone_cli.artifacts.registry import current_name, facts_text, hold, versions
from scone_cli.artifacts.verify import check_version
from scone_cli.errors import (
    BadSetting,
    DamagedArtifact,
    ForeignArtifact,
    InputMissing,
    NewerArtifact,
    WorkspaceLocked,
)
from scone_cli.progress import silent
from scone_cli.table import Table

pyrage = pytest.importorskip("pyrage")

ALICE, BOB, EVE = (pyrage.x25519.Identity.generate() for _ in range(3))


@pytest.fixture
def name(tmp_path) -> Path:
    return tmp_path / "registry" / "law"


@pytest.fixture
def work(tmp_path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "fetched"


def key_file(folder: Path, *identities: object) -> Path:
    """As `age-keygen` writes it."""
    path = folder / "key.txt"
    path.write_text("# created: 2026-01-31\n# public key: age1...\n" + "".join(f"{each}\n" for each in identities))
    return path


def encrypted(name: Path, work: Path, number: int = 1, recipients: tuple = (ALICE, BOB)) -> Path:
    """The folder of an encrypted version."""
    to = [str(each.to_public()) for each in recipients]
    return publish_small(name, work, number, recipients=to).version.folder


# ---- encrypted versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [ALICE, BOB], ids=["alice", "bob"])
def test_each_recipient_gets_what_was_published(name, work, out, identity):
    encrypted(name, work)
    version = fetch_version(name, out, silent, identity=key_file(work, EVE, identity))
    for part in ("table", "vocab", "eval"):
        assert contents(out / part) == contents(work / part)
    assert version.figures == {"rows": 1}
    assert version.made_from["tokenizer"] == "t" * 64
    assert (version.name, version.is_encrypted) == (current_name(name), False)
    assert version_of(Table.open(out)) == version_of(Table.open(out / "table")) == 1
    check_version(version, silent, hashes=True)


def test_only_the_owner_may_read_what_was_fetched(name, work, out):
    encrypted(name, work)
    fetch_version(name, out, silent, identity=key_file(work, ALICE))
    for path in [out, *out.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_plain_is_in_an_encrypted_version(name, work):
    folder = encrypted(name, work)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".age", ".json"}
    for path in files:
        content = path.read_bytes()
        assert b"vocabulary 1" not in content
        assert b"t" * 64 not in content
        assert (path.name == "version.json") != content.startswith(b"age-encryption.org/v1")
    (version,) = versions(name)
    assert (version.is_encrypted, version.figures, version.made_from) == (True, {}, {})
    check_version(version, silent, hashes=True)


def test_an_encrypted_version_is_not_opened_but_fetched(name, work):
    folder = encrypted(name, work)
    with refusal(ForeignArtifact, str(folder), "encrypted", hint=("scone fetch", str(name), "--identity")):
        Table.open(name)


def test_the_same_content_for_others_is_another_version(name, work):
    plain = publish_small(name, work, 1).version
    for_two = encrypted(name, work)
    assert encrypted(name, work, recipients=(BOB, ALICE)) == for_two
    assert encrypted(name, work, recipients=(ALICE,)) != for_two
    assert not publish_small(name, work, 1).is_new
    assert current_name(name) == plain.name
    assert len(versions(name)) == 3
    assert roll_back(name)[0].is_encrypted


BOTH_WAYS = """
import resource, sys
import pyrage
from scone_cli.artifacts.encryption import decrypt, encrypt

key = pyrage.x25519.Identity.generate()
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open("/dev/zero", "rb") as source, open(sys.argv[1], "wb") as target:
    encrypt(source_of(source, 1), target, [key.to_public()])
before = most()
with open("/dev/zero", "rb") as source, open(sys.argv[1], "wb") as target:
    read, written = encrypt(source_of(source, 128 << 20), target, [key.to_public()])
with open(sys.argv[1], "rb") as source, open("/dev/null", "wb") as target:
    assert decrypt(source, target, [key]) == read
assert (read.bytes, written.bytes > 128 << 20) == (128 << 20, True)
print(most() - before)
"""
FIRST_OF = """
class source_of:
    def __init__(self, file, size): self.file, self.left = file, size
    def read(self, size):
        piece = self.file.read(min(size, self.left))
        self.left -= len(piece)
        return piece
"""


def test_memory_does_not_grow_with_a_file(tmp_path):
    """128 MiB through both ways take less than 8 MiB more than one byte does."""
    command = [sys.executable, "-c", FIRST_OF + BOTH_WAYS, tmp_path / "there"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 8 << 10


class Full(io.BytesIO):
    """A file on a full disk, or on one that fails."""

    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")

    def read(self, _: int = -1) -> bytes:
        raise OSError(5, "Input/output error")


def test_errors_of_files_are_not_hidden():
    """pyrage loses those of writing, and turns those of reading into its own."""
    to, secret = [ALICE.to_public()], io.BytesIO()
    encrypt(io.BytesIO(b"x" * 1000), secret, to)
    for source, target, number in ((io.BytesIO(b"x" * 1000), Full(), 28), (Full(), io.BytesIO(), 5)):
        with pytest.raises(OSError, match=r"^\[Errno") as caught:
            encrypt(source, target, to)
        assert caught.value.errno == number
    secret.seek(0)
    for source, target, number in ((secret, Full(), 28), (Full(), io.BytesIO(), 5)):
        with pytest.raises(OSError, match=r"^\[Errno") as caught:
            decrypt(source, target, [ALICE])
        assert caught.value.errno == number
    with refusal(CannotDecrypt, "keys"):
        decrypt(io.BytesIO(secret.getvalue()), io.BytesIO(), [EVE])


# ---- plain versions ----------------------------------------------------------------------------------------------


def test_a_plain_version_is_copied_and_checked(name, work, out):
    first = publish_small(name, work, 1).version
    publish_small(name, work, 2)
    assert fetch_version(name, out, silent).name == current_name(name)
    assert version_of(Table.open(out)) == 2
    assert fetch_version(name, out, silent, first.name).figures == {"rows": 1}, "in the place of the one before"
    assert version_of(Table.open(out)) == 1
    assert (out / "vocab" / "data.txt").stat().st_nlink == 1
    assert stat.S_IMODE((out / "vocab" / "data.txt").stat().st_mode) == 0o600
    assert sorted(path.name for path in out.parent.iterdir()) == ["fetched", "registry", "work"]


def test_what_is_fetched_while_it_is_read_is_replaced_whole(name, work, out):
    publish_small(name, work, 1)
    fetch_version(name, out, silent)
    table = Table.open(out)
    publish_small(name, work, 2)
    fetch_version(name, out, silent)
    assert (version_of(table), version_of(Table.open(out))) == (1, 2)


def test_a_version_is_not_pruned_while_it_is_fetched(name, work, out, monkeypatch):
    first = publish_small(name, work, 1).version
    found = []

    def prune(*_: object, **__: object) -> None:
        found.append(publish_small(name, work, 2, keep=1).in_use)

    monkeypatch.setattr("scone_cli.artifacts.fetch_version._put", prune)
    with pytest.raises(FileNotFoundError):
        fetch_version(name, out, silent)
    assert found == [[first.name]]


# ---- what is refused ---------------------------------------------------------------------------------------------


def refuse(name: Path, out: Path, error: type[Exception], *facts: str, **how: object) -> None:
    """Expect an error that changes nothing."""
    before = contents(out) if out.is_dir() else None
    with refusal(error, *facts):
        fetch_version(name, out, silent, **how)
    assert (contents(out) if out.is_dir() else None) == before
    assert not list(out.parent.glob(".*"))


def test_a_wrong_key_is_told(name, work, out):
    folder = encrypted(name, work)
    refuse(name, out, BadSetting, str(folder), "no key", identity=key_file(work, EVE))
    refuse(name, out, BadSetting, "encrypted")


@pytest.mark.parametrize("file", ["private.json.age", "vocab/data.txt.age", "table/index.bin.age"])
@pytest.mark.parametrize("fault", ["missing", "empty", "cut", "head", "middle", "swapped"])
def test_a_changed_or_cut_file_is_told(name, work, out, file, fault):
    path = encrypted(name, work) / file
    content = path.read_bytes()
    path.unlink()
    if fault == "swapped":  # one that was encrypted for the same recipients
        shutil.copyfile(path.parent / "manifest.json.age" if "/" in file else path.parent / "eval/data.txt.age", path)
    elif fault != "missing":
        at = {"empty": 0, "cut": len(content) - 20, "head": 40, "middle": len(content) - 20}[fault]
        path.write_bytes(content[:at] + (bytes([content[at] ^ 1]) + content[at + 1 :]) * (fault in ("head", "middle")))
    key = key_file(work, ALICE)
    error = (DamagedArtifact, ForeignArtifact) if fault == "swapped" else DamagedArtifact
    with pytest.raises(error) as caught:
        fetch_version(name, out, silent, identity=key)
    assert str(path) in caught.value.message
    assert len(caught.value.message.splitlines()) == 1
    assert not out.exists()


def test_a_manifest_of_another_version_is_told(name, work, out):
    first, second = encrypted(name, work, 1), encrypted(name, work, 2)
    shutil.copyfile(first / "private.json.age", second / "private.json.age")
    refuse(name, out, DamagedArtifact, first.name, identity=key_file(work, ALICE))


def test_a_changed_file_of_a_plain_version_is_told(name, work, out):
    path = publish_small(name, work, 1).version.folder / "vocab" / "data.txt"
    path.unlink()
    path.write_text("vocabulary 2")
    refuse(name, out, DamagedArtifact, str(path))


def test_no_file_leaves_the_folder(name, work, out):
    """A version may come from strangers."""
    folder = publish_small(name, work, 1).version.folder
    facts = json.loads((folder / "version.json").read_text())
    del facts["sha256"]
    for path in ("../../../evil", "/tmp/evil", "a/../../evil", "", "."):
        facts["files"] = {path: {"bytes": 0, "sha256": "0" * 64}}
        (folder / "version.json").write_text(facts_text(facts))
        refuse(name, out, ForeignArtifact, "inside")


def test_a_later_format_is_told(name, work, out):
    folder = publish_small(name, work, 1).version.folder
    facts = json.loads((folder / "version.json").read_text()) | {"format": 2}
    (folder / "version.json").write_text(json.dumps(facts))
    refuse(name, out, NewerArtifact, "2")


@pytest.mark.parametrize("there", ["a file", "a folder", "the workspace", "a version"])
def test_what_was_not_fetched_is_not_replaced(name, work, out, there):
    version = publish_small(name, work, 1).version
    if there == "a file":
        out.write_text("mine")
    elif there == "a folder":
        out.mkdir()
        (out / "mine").write_text("mine")
    out = {"the workspace": work, "a version": version.folder}.get(there, out)
    refuse(name, out, ForeignArtifact, str(out))


def test_two_fetches_to_one_place_do_not_mix(name, work, out, monkeypatch):
    publish_small(name, work, 1)
    from scone_cli.artifacts import fetch_version as fetching  # noqa: PLC0415

    real = fetching._bring

    def again(*args: object) -> None:
        monkeypatch.setattr(fetching, "_bring", real)
        with refusal(WorkspaceLocked, str(out)):
            fetch_version(name, out, silent)
        real(*args)

    monkeypatch.setattr(fetching, "_bring", again)
    fetch_version(name, out, silent)
    assert version_of(Table.open(out)) == 1


def test_what_a_killed_fetch_left_is_removed(name, work, out):
    publish_small(name, work, 1)
    left = out.with_name(".fetched.partial-fetch")
    left.mkdir()
    (left / "old").write_text("old")
    fetch_version(name, out, silent)
    assert not left.exists()
    assert not (out / "old").exists()


def test_a_version_that_is_not_there_is_told(name, work, out):
    version = publish_small(name, work, 1).version
    with refusal(InputMissing, "v9", hint=(version.name,)):
        fetch_version(name, out, silent, "v9")
    with refusal(InputMissing, str(work)):
        fetch_version(work, out, silent)


# ---- keys --------------------------------------------------------------------------------------------------------


def test_what_is_no_recipient_is_told():
    assert len(recipients_of([str(ALICE.to_public())])) == 1
    for key in ("age1abc", "alice", ""):
        with refusal(BadSetting, "--recipient", "not a recipient"):
            recipients_of([key])
    with refusal(BadSetting, "secret key") as caught:
        recipients_of([str(ALICE)])
    assert str(ALICE)[20:30] not in caught.value.message


def test_what_is_no_identity_is_told_without_repeating_it(tmp_path):
    with refusal(InputMissing, "key.txt"):
        identities_of(tmp_path / "key.txt")
    with refusal(BadSetting, "no secret key in it"):
        identities_of(key_file(tmp_path))
    wrong = f"{ALICE}"[:-1]
    with refusal(BadSetting, "line 3") as caught:
        identities_of(key_file(tmp_path, wrong))
    assert wrong not in caught.value.message
    assert len(identities_of(key_file(tmp_path, ALICE, BOB))) == 2


def test_without_pyrage_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with refusal(BadSetting, "pyrage", hint=("scone-cli[private]",)):
        recipients_of(["age1"])


def test_the_lock_of_a_version_needs_no_right_to_write(name, work):
    """As on a read-only mount."""
    folder = publish_small(name, work, 1).version.folder
    (folder / "version.json").chmod(0o444)
    held = hold(name)
    assert publish_small(name, work, 2, keep=1).in_use == [folder.name]
    held.release()
    assert os.access(folder / "version.json", os.R_OK)
    assert parts_of(work, 2)
