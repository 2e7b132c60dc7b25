"""Fetch a version of a table from a registry into a private folder: decrypted, checked, whole or not at all.

A version that is not encrypted is copied and checked in the same way. The folder has the layout of a version, so `Table.open`
takes it as it takes a REGISTRY/NAME. Only its owner may read it (0700, files 0600).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from scone_cli.artifacts.encryption import SUFFIX, CannotDecrypt, decrypt, identities_of
from scone_cli.artifacts.manifest import FileStamp, check_inside, digest_file
from scone_cli.artifacts.publish import REPLACED, exchange, fsync, place_of
from scone_cli.artifacts.publish_version import PRIVATE
from scone_cli.artifacts.registry import (
    FORMAT,
    NO_LOCKS,
    VERSION_FILE,
    VERSIONS,
    Version,
    facts_text,
    hold,
    read_facts,
    read_version,
    stamps_of,
    versions,
)
from scone_cli.errors import (
    BadSetting,
    DamagedArtifact,
    ForeignArtifact,
    InputMissing,
    WorkspaceLocked,
)
from scone_cli.progress import Progress

_PIECE = 1 << 20  # bytes copied at a time


def fetch_version(
    path: Path, out: Path, progress: Progress, name: str | None = None, identity: Path | None = None
) -> Version:
    """Fetch the version `name` (None: the current one) of the REGISTRY/NAME `path` into the folder `out`.

    What was fetched there before is replaced in one step. `identity` is a file of secret keys of age, for an encrypted version.

    Raises:
        BadSetting: the version is encrypted and there is no `identity`, or none of its keys opens it.
        DamagedArtifact: a file is missing, cut, changed, or not the one that was published.
        ForeignArtifact: `out` holds something else; or a file of the version is a link that leads out of it.
        WorkspaceLocked: another run fetches to `out`.
        InputMissing: there is no such version.
    """
    known = [version.name for version in versions(path)]
    if name is not None and name not in known:
        raise InputMissing(f"{path}: no version {name}", f"name one with --version; there are {', '.join(known)}")
    held = hold(path if name is None else path / VERSIONS / name)
    if held is None:
        raise InputMissing(f"{path}: version {name} was pruned just now", "name another with --version")
    version = read_version(held.folder)
    keys = identities_of(identity) if identity is not None and version.is_encrypted else []
    if version.is_encrypted and not keys:
        raise BadSetting(f"{version.folder}: an encrypted version", "name a file with a secret key: --identity FILE")
    out = place_of(out)
    _check_replaceable(out)
    try:
        with _staging(out) as staging:
            facts = _opened(version, keys, staging)
            _bring(version, facts, keys, staging, progress)
            _put(staging, out)
    finally:
        held.release()
    return read_version(out)


def _check_replaceable(out: Path) -> None:
    """Refuse to replace what was not fetched: a published version, or somebody's folder."""
    if not out.exists() or (out.is_dir() and next(out.iterdir(), None) is None):
        return
    is_fetched = out.is_dir() and (out / VERSION_FILE).is_file() and out.parent.name != VERSIONS
    if not is_fetched:
        raise ForeignArtifact(f"{out}: is in the way, and was not fetched", "name another folder")


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A new private folder beside `out`, locked; what a killed run left there is removed, and it is removed at the end.

    Raises:
        WorkspaceLocked: another run fetches to `out`.
    """
    staging = out.with_name(f".{out.name}.partial-fetch")
    descriptor = _locked_folder(staging)
    try:
        if descriptor is None:
            raise WorkspaceLocked(f"{out}: another scone run fetches to it", "try again when it has ended")
        for left in staging.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        staging.chmod(0o700)
        try:
            yield staging
        except BaseException:  # not after a success: another run may have made its own by then
            shutil.rmtree(staging, ignore_errors=True)
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked_folder(folder: Path) -> int | None:
    """Make a folder if it is not there, and lock it: its descriptor; None if another run has the lock."""
    while True:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the other run has just renamed it
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
            os.close(descriptor)


def _opened(version: Version, keys: Sequence[Any], staging: Path) -> dict[str, Any]:
    """What a version says of itself, with the sizes and hashes of its plain files."""
    if not version.is_encrypted:
        return {"figures": version.figures, "made_from": version.made_from, "files": _as_json(version.files)}
    name, copy = PRIVATE + SUFFIX, _Decrypting(version, keys)
    path = staging / PRIVATE
    copy(name, path)
    facts = read_facts(version.folder / name, path.read_bytes(), _again(version))
    path.unlink()
    if (facts["version"], facts["content_sha256"]) != (version.name, version.content_sha256):
        raise DamagedArtifact(
            f"{version.folder / name}: the manifest of version {facts['version']}, not of this one", _again(version)
        )
    return facts


def _bring(version: Version, facts: Mapping[str, Any], keys: Sequence[Any], staging: Path, progress: Progress) -> None:
    """Copy or decrypt all files into `staging`, and check each while it is written."""
    stamps = stamps_of(version.folder / VERSION_FILE, facts["files"])
    copy = _Decrypting(version, keys) if keys else _Copying(version)
    done, total = 0, sum(stamp.bytes for stamp in stamps.values())
    for name, stamp in stamps.items():
        progress("fetching", done, total, "bytes", name)
        source = name + SUFFIX if keys else name
        found = copy(source, staging / name)
        if found != stamp:
            raise DamagedArtifact(
                f"{version.folder / source}: found {found.bytes:,} bytes with SHA-256 {found.sha256[:16]}…, "
                f"published were {stamp.bytes:,} with {stamp.sha256[:16]}…",
                _again(version),
            )
        done += stamp.bytes
    progress("fetching", total, total, "bytes")
    told = {"format": FORMAT, "version": version.name, "sequence": version.sequence, "date": version.date}
    told |= {"content_sha256": version.content_sha256, "previous": version.previous, "encrypted": False}
    told |= {"figures": dict(facts["figures"]), "made_from": dict(facts["made_from"]), "files": _as_json(stamps)}
    with _private_file(staging / VERSION_FILE) as file:
        file.write(facts_text(told).encode())


def _as_json(stamps: Mapping[str, FileStamp]) -> dict[str, dict[str, Any]]:
    return {name: asdict(stamp) for name, stamp in stamps.items()}


class _Copying:
    """Copies files of a version into private files; returns the size and hash of what was written."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def __call__(self, name: str, target: Path) -> FileStamp:
        source = self._version.folder / name
        check_inside(source, self._version.folder)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = source.open("rb")
        except FileNotFoundError as error:
            raise DamagedArtifact(f"{source}: missing", _again(self._version)) from error
        with file, _private_file(target) as written:
            self._copy(source, file, written)
        return FileStamp(target.stat().st_size, digest_file(target))

    def _copy(self, source: Path, file: BinaryIO, written: BinaryIO) -> None:  # noqa: ARG002 - of all who copy
        shutil.copyfileobj(file, written, _PIECE)


class _Decrypting(_Copying):
    """Decrypts files of a version into private files."""

    def __init__(self, version: Version, keys: Sequence[Any]) -> None:
        super().__init__(version)
        self._keys = keys

    def _copy(self, source: Path, file: BinaryIO, written: BinaryIO) -> None:
        try:
            decrypt(file, written, self._keys)
        except CannotDecrypt as error:
            name = source.relative_to(self._version.folder).as_posix()
            stamp = self._version.files.get(name)
            if stamp == FileStamp(source.stat().st_size, digest_file(source)):  # it is as it was published
                raise BadSetting(
                    f"{self._version.folder}: no key of --identity opens this version ({error.message})",
                    "name the secret key of a recipient that it was published for",
                ) from error
            raise DamagedArtifact(
                f"{source}: changed or cut since it was published ({error.message})", _again(self._version)
            ) from error


@contextlib.contextmanager
def _private_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner may read; it is on the disk at the end."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        yield file
    fsync(path)


def _put(staging: Path, out: Path) -> None:
    """Put the folder in the place of `out`, in one step where the system can swap two folders."""
    for folder in [*(path for path in staging.rglob("*") if path.is_dir()), staging]:
        folder.chmod(0o700)
        fsync(folder)
    if out.exists():
        replaced = staging.with_name(staging.name + REPLACED)
        shutil.rmtree(replaced, ignore_errors=True)
        exchange(staging, out, replaced)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        staging.rename(out)
    fsync(out.parent)


def _again(version: Version) -> str:
    return f"get {version.folder} again from where it came, or fetch another: --version"
