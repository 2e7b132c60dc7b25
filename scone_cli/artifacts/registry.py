"""The registry: published versions of a table, each with its vocabulary and its evaluation, and which one is current.

    REGISTRY/NAME/
      current -> versions/<VERSION>     moved by one rename
      history.json                      which version was current when, in order
      versions/<VERSION>/               never changed once it is there
        version.json                    what it is, and the size and SHA-256 of every file
        table/ vocab/ eval/             the artifacts, with their manifests

VERSION is the time of publishing (UTC) and the first 12 digits of a hash of the content. This module reads a registry and keeps
versions that are in use from being pruned; `publish_version` writes one. Sizes and hashes of an encrypted version are
those of its encrypted files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import MANIFEST, OWN_HASH, FileStamp, check_inside, check_names, digest_json, json_of
from scone_cli.errors import (
    DamagedArtifact,
    ForeignArtifact,
    InputMissing,
    NewerArtifact,
    StorageFailure,
)

CURRENT, VERSIONS, HISTORY = "current", "versions", "history.json"
VERSION_FILE = "version.json"
FORMAT = 1  # of version.json and history.json
PUBLISHED = "publish"  # the action of a move; other actions go back to a version
PARTS = ("table", "vocab", "eval")  # the artifacts of a version
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system without locks


@dataclass(frozen=True)
class Version:
    """One published version.

    Attributes:
        name: its folder's name; `folder`: its path.
        sequence: 1, 2, ... in the order of publishing, whatever the clock said.
        date: when it was published, `2026-01-31T23:59:59Z`.
        content_sha256: equal for equal content.
        previous: the version that was current before it was published; None for the first.
        is_current: whether `current` leads to it.
        is_encrypted: then `figures` and `made_from` are empty here, and in the version's encrypted manifest.
        figures: of the table and of its evaluation: `rows`, `dim`, `dtype`, `bytes`, `arm`, and `corpora`, a list with the
            `corpus`, `loss` (nats per token), `gain` (nats per token, over no rows), `perplexity` and so on.
        made_from: `fingerprints` of the artifacts and of the model, `weights`, `tokenizer`, `recipe`, `scone`.
        files: size and SHA-256 of every file but `version.json`.
    """

    name: str
    folder: Path
    sequence: int
    date: str
    content_sha256: str
    previous: str | None
    is_current: bool
    is_encrypted: bool
    figures: Mapping[str, Any]
    made_from: Mapping[str, Any]
    files: Mapping[str, FileStamp]

    @property
    def bytes(self) -> int:
        """Bytes of all its files but `version.json`."""
        return sum(stamp.bytes for stamp in self.files.values())


@dataclass(frozen=True)
class Move:
    """One move of `current`: to which version, when, and by which command."""

    version: str
    date: str
    action: str


def is_registry_name(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a REGISTRY/NAME: a folder with a link `current`, or with published versions."""
    path = Path(path)
    return (path / VERSIONS).is_dir() and (
        (path / CURRENT).is_symlink() or next((path / VERSIONS).glob(f"[!.]*/{VERSION_FILE}"), None) is not None
    )


def versions(path: str | os.PathLike[str]) -> list[Version]:
    """All versions of the REGISTRY/NAME `path`, in the order in which they were published.

    Raises:
        InputMissing: there is no such folder, or no version in it.
        DamagedArtifact, ForeignArtifact, NewerArtifact: the `version.json` of one cannot be used.
        StorageFailure: it cannot be read.
    """
    path = Path(path)
    if not is_registry_name(path):
        names = [each for each in sorted(path.iterdir()) if is_registry_name(each)] if path.is_dir() else []
        hint = f"name one of {', '.join(map(str, names))}" if names else f"run: scone publish --to {path}"
        raise InputMissing(f"{path}: no version is published here", hint)
    found = []
    for folder in (path / VERSIONS).iterdir():
        if not folder.name.startswith("."):  # in the making, or being removed
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                found.append(read_version(folder))
    return sorted(found, key=lambda version: (version.sequence, version.name))


def current_name(path: Path) -> str | None:
    """The name of the version to which `current` leads; None if there is no such link.

    Raises:
        ForeignArtifact: `current` is no link, or leads elsewhere.
        StorageFailure: it cannot be read.
    """
    try:
        link = (path / CURRENT).readlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise StorageFailure(f"{path / CURRENT}: cannot be read ({error.strerror})") from error
        link = Path()
    if link.parent.name != VERSIONS:
        raise ForeignArtifact(
            f"{path / CURRENT}: expected a link to a folder in {VERSIONS}/",
            f"make it: ln -sfn {VERSIONS}/VERSION {path / CURRENT}",
        )
    return link.name


def history(path: Path) -> list[Move]:
    """The moves of `current`, oldest first; none where a mirror left the file out.

    Raises:
        DamagedArtifact, ForeignArtifact, NewerArtifact: the file cannot be used.
    """
    file = path / HISTORY
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    hint = f"remove it; then scone rollback {path} needs a VERSION"
    facts = read_facts(file, content, hint)
    try:
        return [Move(**move) for move in facts["moves"]]
    except (KeyError, TypeError) as error:
        raise ForeignArtifact(f"{file}: not written by scone ({type(error).__name__}: {error})", hint) from error


# ---- version.json ------------------------------------------------------------------------------------------------


def read_version(folder: Path) -> Version:
    """Read the `version.json` of a version, or of a folder that `scone fetch` wrote.

    Raises:
        FileNotFoundError: the folder is not there.
        DamagedArtifact, ForeignArtifact, NewerArtifact: it is missing, was changed, is of another program or of a later one.
    """
    path = folder / VERSION_FILE
    if not path.is_file():
        folder.stat()  # FileNotFoundError: it has been removed
        raise DamagedArtifact(f"{path}: missing", _remove(folder))
    check_inside(path, folder)
    facts = read_facts(path, path.read_bytes(), _remove(folder))
    named = facts.get("version")
    if folder.parent.name == VERSIONS and named != folder.name:  # a link `current` may be made of the name
        raise ForeignArtifact(f"{path}: of the version {named!r}, in the folder of {folder.name}", _remove(folder))
    try:
        return Version(
            name=str(facts["version"]),
            folder=folder,
            sequence=int(facts["sequence"]),
            date=str(facts["date"]),
            content_sha256=str(facts["content_sha256"]),
            previous=facts["previous"],
            is_current=folder.parent.name == VERSIONS and current_name(folder.parent.parent) == folder.name,
            is_encrypted=bool(facts["encrypted"]),
            figures=dict(facts["figures"]),
            made_from=dict(facts["made_from"]),
            files=stamps_of(path, facts["files"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ForeignArtifact(f"{path}: not written by scone ({type(error).__name__}: {error})") from error


def read_facts(path: Path, content: bytes, hint: str) -> dict[str, Any]:
    """The fields of a file of the registry, whose text is `content`, without their hash, which is checked.

    Raises:
        DamagedArtifact: they were changed, and `hint` says what to do.
        ForeignArtifact, NewerArtifact: they are of another program, or of a later one.
    """
    try:
        facts = dict(json_of(content))
        own, version = facts.pop(OWN_HASH), int(facts["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise ForeignArtifact(f"{path}: not written by scone ({type(error).__name__}: {error})", hint) from error
    if version > FORMAT:
        raise NewerArtifact(f"{path}: in format {version}; this scone knows up to {FORMAT}", "upgrade scone")
    if own != digest_json(facts):
        raise DamagedArtifact(f"{path}: changed since scone wrote it, its {OWN_HASH} does not match", hint)
    return facts


def stamps_of(path: Path, files: Mapping[str, Any]) -> dict[str, FileStamp]:
    """The sizes and hashes of files, by name.

    Raises:
        ForeignArtifact: a name leads out of the folder.
        KeyError, TypeError, ValueError, AttributeError: they are not sizes and hashes.
    """
    check_names(path, files)
    return {name: FileStamp(int(stamp["bytes"]), str(stamp["sha256"])) for name, stamp in files.items()}


def facts_text(facts: Mapping[str, Any]) -> str:
    """The text of a file of the registry: the fields and their hash, which `read_facts` checks."""
    return json.dumps({**facts, OWN_HASH: digest_json(facts)}, indent=1) + "\n"


def _remove(folder: Path) -> str:
    return f"remove {folder}, or get it again from where it came"


# ---- versions in use ---------------------------------------------------------------------------------------------


class HeldVersion:
    """A version in use: it is not pruned until `release`, or until the last reference to this object is gone.

    A shared lock of `version.json` says so to the pruner, on any mount, also a read-only one. It goes with the process, and
    a forked child keeps it too. A file system without locks does not keep anybody from pruning.

    Attributes:
        folder: the version's own folder, without links.
        link: what the link `current` said; None if the version was named itself.
    """

    def __init__(self, folder: Path, link: str | None, named: Path, descriptor: int) -> None:
        """Keep the descriptor that has the lock; `named` is the folder of the version, or in it, that was asked for."""
        self.folder, self.link, self._named = folder, link, named
        self._close = weakref.finalize(
            self, os.close, descriptor
        )  # no LOCK_UN: that would end the lock of children too

    def release(self) -> None:
        """Let it be pruned."""
        self._close()

    def has_vanished(self) -> bool:
        """Whether somebody removed it in spite of the lock."""
        return not (self.folder / VERSION_FILE).is_file()

    def table(self) -> Path:
        """The folder of its table; or the artifact in it, if that was named.

        Raises:
            ForeignArtifact: its files are encrypted.
        """
        folder = self._named if self._named != self.folder else self.folder / "table"
        if not (folder / MANIFEST).is_file() and read_version(self.folder).is_encrypted:
            name = self.folder.parent.parent
            raise ForeignArtifact(
                f"{self.folder}: an encrypted version, which cannot be opened in its place",
                f"run: scone fetch {name} DIR --version {self.folder.name} --identity FILE, and open DIR",
            )
        return folder


def hold(path: str | os.PathLike[str]) -> HeldVersion | None:
    """Hold the version that `path` is or belongs to; None if it belongs to none.

    `path` is a REGISTRY/NAME, whose current version is held; or a version's folder, or an artifact in it. The link `current` is
    followed once: all that is read in `folder` is of one version, whatever is published meanwhile.

    Raises:
        InputMissing: no version is current.
        StorageFailure: it cannot be read.
    """
    path = Path(path)
    is_name = is_registry_name(path)
    while True:
        link = link_of(path) if is_name else None
        real = Path(os.path.realpath(path / link if link else path))
        folder = next((each for each in (real, real.parent) if (each / VERSION_FILE).is_file()), None)
        if folder is None and is_name and link_of(path) == link:
            raise InputMissing(f"{path / CURRENT}: leads to {link}, which is not there", f"run: scone rollback {path}")
        if folder is None and not is_name:
            return None
        if folder is not None and (descriptor := _locked(folder / VERSION_FILE)) is not None:
            return HeldVersion(folder, link, real, descriptor)


def table_of(path: Path) -> Path:
    """The folder of the table that `path` names: of the current version of a REGISTRY/NAME, of a version, or `path` itself.

    Raises:
        InputMissing, ForeignArtifact, StorageFailure: see `hold` and `HeldVersion.table`.
    """
    held = hold(path)
    return path if held is None else held.table()


def link_of(path: Path) -> str:
    """What the link `current` of a REGISTRY/NAME says; one call of the system.

    Raises:
        InputMissing: there is no such link.
        StorageFailure: it cannot be read.
    """
    try:
        return os.readlink(path / CURRENT)  # noqa: PTH115 - a request may pay for this
    except FileNotFoundError as error:
        raise InputMissing(f"{path / CURRENT}: no version is current", f"run: scone publish --to {path}") from error
    except OSError as error:
        raise StorageFailure(f"{path / CURRENT}: not a link that can be read ({error.strerror})") from error


def _locked(path: Path) -> int | None:
    """A descriptor of the file, with a shared lock; None if the file has been removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # the pruner has it only while it renames a folder
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise StorageFailure(f"{path}: cannot be locked ({error.strerror})") from error
        found = os.fstat(descriptor)
        with contextlib.suppress(FileNotFoundError):
            there = path.stat()
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
