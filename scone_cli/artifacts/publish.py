"""How an artifact appears: whole or not at all, and not again where it is up to date.

It is built in a hidden folder beside its place (`staging_folder`), which survives a crash so that the next run continues
there, and appears in its place by one rename (`publish`). A run that finds its fingerprint there does nothing (`up_to_date`).
Where its place is a link to a folder, on a larger disk perhaps, all this happens where that folder is, and the link stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.manifest import (
    MANIFEST,
    FileStamp,
    Manifest,
    check_files,
    digest_file,
    json_text,
    read_manifest,
)
from scone_cli.artifacts.opening import to_write
from scone_cli.errors import (
    BadData,
    DamagedArtifact,
    ForeignArtifact,
    HalfWrittenArtifact,
    InputMissing,
    NewerArtifact,
    StorageFailure,
    WorkspaceLocked,
)

SCRATCH = "work"  # inside a staging folder: never published
USED_UP = ".done"  # ends the name of a scratch folder that has served its purpose, until it is removed
REPLACED = ".old"  # ends the name of an artifact that another one has replaced, until it is removed


def up_to_date(folder: Path, artifact: str, expected_fingerprint: str) -> Manifest | None:
    """The manifest in `folder` if it has that fingerprint and its files have their sizes, else None (the skip rule).

    An artifact in a newer format is an error even here: it would be replaced by an older one. What a crash after its
    publication left of its making, or of the artifact that it replaced, is removed.
    """
    manifest = published(folder, artifact, expected_fingerprint)
    if manifest is None:
        return None
    place = place_of(folder)
    for leftover in place.parent.glob(glob.escape(_staging_name(place, expected_fingerprint)) + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return manifest


def published(folder: Path, artifact: str, expected_fingerprint: str) -> Manifest | None:
    """The same for who only looks: nothing is removed, so another process may be at work there."""
    try:
        manifest = read_manifest(folder, artifact)
        if manifest.fingerprint != expected_fingerprint:
            return None
        check_files(folder, manifest, hashes=False)
    except (InputMissing, HalfWrittenArtifact, DamagedArtifact):
        return None
    return manifest


def place_of(target: Path) -> Path:
    """Where an artifact lies or will lie: what `target` links to, if it is a link.

    Raises:
        StorageFailure: it links to where there is no folder, such as a disk that is not mounted.
    """
    if not target.is_symlink():
        return target
    place = Path(os.path.realpath(target))
    if place.is_symlink() or not place.parent.is_dir():
        raise StorageFailure(
            f"{target}: a link to {place}, where there is no folder", "mount its disk, mend the link, or remove it"
        )
    return place


def staging_folder(target: Path, expected_fingerprint: str, lasting: bool = True) -> Path:
    """The hidden folder in which an artifact with this fingerprint is built, created or found as a crash left it.

    With `lasting` false the caller does not wait for the disk (fsync) before it takes a file for finished: a process that
    is killed loses nothing by that, but if the machine was restarted meanwhile, what it left is not used.

    What a crash left and nothing will continue is removed: staging folders of other fingerprints, replaced artifacts.

    Raises:
        ForeignArtifact: publishing would replace something that scone did not write.
        StorageFailure: see `place_of`.
    """
    target = place_of(target)
    staging = target.parent / _staging_name(target, expected_fingerprint)
    used_up = staging.with_name(staging.name + USED_UP)
    if used_up.is_dir() and staging.is_dir() and not _is_replaced(staging, expected_fingerprint):
        used_up.rename(staging / SCRATCH)  # a crash just before the work was published: nothing need be done again
    leftovers = sorted(target.parent.glob(f".{glob.escape(target.name)}.partial-*"))
    for leftover in leftovers:
        if leftover.name.endswith(REPLACED) and not target.exists():
            leftover.rename(target)  # a crash between the two renames of `_exchange`: this is the only old artifact
        elif leftover != staging or _is_replaced(staging, expected_fingerprint):
            shutil.rmtree(leftover, ignore_errors=True)
    _check_replaceable(target)
    if not lasting:
        _forget_after_restart(staging)
    (staging / SCRATCH).mkdir(parents=True, exist_ok=True)
    return staging


@contextlib.contextmanager
def discarded_if_bad(*stagings: Path) -> Iterator[None]:
    """Remove staging folders where the input turns out bad: with other input, or other settings, none is continued."""
    try:
        yield
    except BadData:
        for staging in stagings:
            shutil.rmtree(staging, ignore_errors=True)
        raise


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux; elsewhere unfinished work does not outlive its process


def _forget_after_restart(staging: Path) -> None:
    """Remove what was left before the machine was last started."""
    boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else os.urandom(16)
    note = staging / SCRATCH / "boot-id"
    if staging.is_dir() and not (note.is_file() and note.read_bytes() == boot):
        shutil.rmtree(staging)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, boot)


def unfinished_bytes(target: Path) -> int:
    """Bytes of disk in what a crash left of the making of `target`, which the next run continues or removes."""
    target = place_of(target)
    left = target.parent.glob(f".{glob.escape(target.name)}.partial-*/**/*")
    return sum(path.stat().st_size for path in left if path.is_file())


def _staging_name(target: Path, expected_fingerprint: str) -> str:
    return f".{target.name}.partial-{expected_fingerprint[:16]}"


def _is_replaced(staging: Path, expected_fingerprint: str) -> bool:
    """Whether a staging folder holds an old artifact: a crash came between exchanging the two and removing it."""
    try:
        return read_manifest(staging).fingerprint != expected_fingerprint
    except HalfWrittenArtifact:
        return False  # what is being built has no manifest yet
    except (DamagedArtifact, ForeignArtifact, NewerArtifact):
        return True


def _check_replaceable(target: Path) -> None:
    """Refuse to replace what scone did not write: `--out .`, or a workspace in a project with its own `model/`."""
    is_foreign = target.exists() and not (target / MANIFEST).is_file()
    if is_foreign and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise ForeignArtifact(
            f"{target} is in the way: there is no {MANIFEST} in it, so scone did not write it and will not replace it",
            "move or remove it, or name another folder",
        )


def publish(staging: Path, target: Path, manifest: Manifest) -> Manifest:
    """Make the finished files of `staging` appear as `target`, whole or not at all; the old artifact stays until then.

    Returns the manifest with every file's size and hash filled in.
    """
    target = place_of(target)
    (staging / MANIFEST).unlink(missing_ok=True)
    for unfinished in staging.rglob(".*.tmp"):  # of a file that a crash cut off and that was then written again
        unfinished.unlink()
    readable = staging.stat().st_mode & 0o666  # as the user's umask has it; some libraries write for the owner alone
    stamps = {}
    for path in sorted(staging.rglob("*")):
        if path.relative_to(staging).parts[0] == SCRATCH:
            continue
        fsync(path)  # of folders too: it is their entries that make a file be there
        if path.is_file():
            path.chmod(readable)
            stamps[path.relative_to(staging).as_posix()] = FileStamp(path.stat().st_size, digest_file(path))
    whole = Manifest(**{**manifest.__dict__, "files": stamps})
    write_atomically(staging / MANIFEST, json_text(whole).encode())
    # Moved away whole, so that a crash leaves all of it or none; and no sooner, since hashing the files takes a while.
    used_up = staging.with_name(staging.name + USED_UP)
    (staging / SCRATCH).rename(used_up)
    fsync(staging)
    if target.exists():
        replaced = staging.with_name(staging.name + REPLACED)
        _exchange(staging, target, replaced)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        staging.rename(target)
    fsync(target.parent)
    shutil.rmtree(used_up, ignore_errors=True)
    return whole


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that `path` never holds half of it."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    fsync(beside)
    beside.replace(path)


def write_parquet(
    path: Path, schema: pa.Schema, table: pa.Table, row_group_size: int | None = None, **options: Any
) -> None:
    """Write a Parquet file through its declared schema, beside `path` and then renamed."""
    beside = path.with_name(f".{path.name}.tmp")
    with to_write(beside) as file, pq.ParquetWriter(file, schema, **{"compression": "zstd", **options}) as writer:
        writer.write_table(table, row_group_size)
    fsync(beside)
    beside.replace(path)


def check_workspace(workspace: Path) -> None:
    """Refuse at once what can be no folder, for a plan, which makes none.

    Raises:
        StorageFailure: it is a file, or within one.
    """
    there = next((path for path in (workspace, *workspace.parents) if path.exists()), workspace)
    if there.exists() and not there.is_dir():
        raise StorageFailure(f"{workspace}: cannot be used as a workspace ({there} is no folder)")


@contextlib.contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Hold the workspace for writing; the lock goes with the process, however it ends.

    Where the file system is read-only there is none: nothing can be written there, and what is up to date is still told.

    Raises:
        WorkspaceLocked: another run holds it.
        StorageFailure: the workspace cannot be created.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(workspace / ".lock", blocking=False)
        lock.acquire()
    except filelock.Timeout as error:
        hint = "try again when it has ended"
        raise WorkspaceLocked(f"{workspace}: another scone run is writing here", hint) from error
    except OSError as error:
        if error.errno != errno.EROFS or not workspace.is_dir():
            raise StorageFailure(f"{workspace}: cannot be used as a workspace ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def fsync(path: Path) -> None:
    """Return when a file, or a folder's list of entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(new: Path, old: Path, replaced: Path) -> None:
    """Put `new` in the place of `old`, and that at `replaced`.

    It is one step where the system can swap two folders. Where it cannot, a reader may for an instant find none, never
    half of one; after a crash at that instant `staging_folder` puts the old one back.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc >= 2.28
    at_cwd, exchange = -100, 2
    if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
        new.rename(replaced)
    else:
        old.rename(replaced)
        new.rename(old)
