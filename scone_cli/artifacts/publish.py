"""Write an artifact so that it appears whole or not at all, and only if it is not up to date.

A stage first asks `up_to_date`, and does nothing if the artifact has the expected fingerprint. Otherwise it writes into a
hidden folder beside the artifact (`staging_folder`), which survives a crash so that the next run continues there. One rename
puts it in place (`publish`). If the artifact's path is a link to a folder, perhaps on a larger disk, all this happens beside
that folder, and the link stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
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
from scone_cli.private import check_private, close_to_others

SCRATCH = "work"  # the folder of temporary files inside a staging folder: never published
USED_UP = ".done"  # suffix of a scratch folder that is no longer needed, until it is removed
REPLACED = ".old"  # suffix of a replaced artifact, until it is removed


def up_to_date(folder: Path, artifact: str, expected_fingerprint: str, forget_others: bool = False) -> Manifest | None:
    """The manifest in `folder` if it has that fingerprint and its files have their sizes, else None (the skip rule).

    Also removes what a crash just after publishing left behind: scratch files, or the replaced artifact. With `forget_others`
    unfinished work of other fingerprints too, which may hold documents that have been removed from a corpus since.

    Raises:
        NewerArtifact: the artifact is in a newer format, and would be replaced by an older one.
    """
    manifest = published(folder, artifact, expected_fingerprint)
    if manifest is None:
        return None
    own = _staging_name(place_of(folder), expected_fingerprint)
    for leftover in staging_folders(folder):
        if forget_others or leftover.name.startswith(own):
            shutil.rmtree(leftover, ignore_errors=True)
    return manifest


def published(folder: Path, artifact: str, expected_fingerprint: str) -> Manifest | None:
    """The same as `up_to_date` without removing anything: safe while another process writes there."""
    try:
        manifest = read_manifest(folder, artifact)
        if manifest.fingerprint != expected_fingerprint:
            return None
        check_files(folder, manifest, hashes=False)
    except (InputMissing, HalfWrittenArtifact, DamagedArtifact):
        return None
    return manifest


def place_of(target: Path) -> Path:
    """The folder of an artifact: `target` itself, or what it links to.

    Raises:
        StorageFailure: the link leads nowhere, for example to a disk that is not mounted.
    """
    if not target.is_symlink():
        return target
    place = Path(os.path.realpath(target))
    if place.is_symlink() or not place.parent.is_dir():
        raise StorageFailure(
            f"{target}: a link to {place}, where there is no folder", "mount its disk, mend the link, or remove it"
        )
    return place


def staging_folder(
    target: Path, expected_fingerprint: str, lasting: bool = True, boot_ids: Sequence[str] = (), synced: bool = False
) -> Path:
    """Create the hidden folder in which an artifact with this fingerprint is built, or find it as a crash left it.

    With `lasting` false the caller does not call fsync before it treats a file as finished. That is safe if the process is
    killed; after a restart of a machine that wrote some of them the files are not used. `boot_ids` are those of all machines
    that write, if there are several. With `synced` this run does call fsync, and another machine may continue it; but an
    earlier run in the folder may not have.

    Removes what a crash left and nothing will continue: staging folders of other fingerprints, replaced artifacts.

    Raises:
        ForeignArtifact: publishing would replace something that scone did not write.
        StorageFailure: see `place_of`.
    """
    target = place_of(target)
    staging = target.parent / _staging_name(target, expected_fingerprint)
    used_up = staging.with_name(staging.name + USED_UP)
    if used_up.is_dir() and staging.is_dir() and not _is_replaced(staging, expected_fingerprint):
        used_up.rename(staging / SCRATCH)  # a crash just before publishing: no work is lost
    for leftover in staging_folders(target):
        if leftover.name.endswith(REPLACED) and not target.exists():
            leftover.rename(target)  # a crash between the two renames of `exchange`: this is the only copy
        elif leftover != staging or _is_replaced(staging, expected_fingerprint):
            shutil.rmtree(leftover, ignore_errors=True)
    _check_replaceable(target)
    if not lasting:
        _forget_after_restart(staging, set(boot_ids) or {boot_id()}, synced)
    (staging / SCRATCH).mkdir(parents=True, exist_ok=True)
    close_to_others(staging)
    for unfinished in staging.rglob(".*.tmp"):  # left by a crash while a file was written
        unfinished.unlink(missing_ok=True)
    return staging


@contextlib.contextmanager
def discarded_if_bad(*stagings: Path) -> Iterator[None]:
    """Remove the staging folders if the input is bad: a run with corrected input could not continue them."""
    try:
        yield
    except BadData:
        for staging in stagings:
            shutil.rmtree(staging, ignore_errors=True)
        raise


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux only: on other systems unfinished work is never continued


def boot_id() -> str:
    """A name for the time from the last start of this machine to the next."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else os.urandom(16).hex()


def _forget_after_restart(staging: Path, boots: set[str], synced: bool) -> None:
    """Remove files of machines that have restarted since, or that are no longer among those that write.

    A note names the machines, by their boot ids, that wrote files without fsync.
    """
    note = staging / SCRATCH / "boot-id"
    found = set(note.read_text().split()) if note.is_file() else None
    if staging.is_dir() and (found is None or not found <= boots):
        shutil.rmtree(staging)
        found = None
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, " ".join(sorted((found or set()) | (set() if synced else boots))).encode())


def unfinished_bytes(target: Path) -> int:
    """Bytes of the unfinished files of `target` that a crash left; the next run continues or removes them."""
    total = 0
    for folder in staging_folders(target):
        for place, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a run may be at work there
                    total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118 - there may be many
    return total


def staging_folders(target: Path) -> list[Path]:
    """The staging folders of `target` that a crash left, of any fingerprint."""
    target = place_of(target)
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.partial-*"))


def _staging_name(target: Path, expected_fingerprint: str) -> str:
    return f".{target.name}.partial-{expected_fingerprint[:16]}"


def _is_replaced(staging: Path, expected_fingerprint: str) -> bool:
    """Whether a staging folder holds the replaced artifact: after a crash between exchanging the two and removing it."""
    try:
        return read_manifest(staging).fingerprint != expected_fingerprint
    except HalfWrittenArtifact:
        return False  # an artifact in the making has no manifest yet
    except (DamagedArtifact, ForeignArtifact, NewerArtifact):
        return True


def _check_replaceable(target: Path) -> None:
    """Refuse to replace a folder that scone did not write: `--out .`, or a `model/` of the user's project."""
    is_foreign = target.exists() and not (target / MANIFEST).is_file()
    if is_foreign and not (target.is_dir() and next(target.iterdir(), None) is None):
        raise ForeignArtifact(
            f"{target} is in the way: there is no {MANIFEST} in it, so scone did not write it and will not replace it",
            "move or remove it, or name another folder",
        )


def check_replaces_only(artifact: str, target: Path) -> None:
    """Refuse to replace another kind of artifact by an export, whose folder the user names.

    Raises:
        ForeignArtifact: `target` holds one.
    """
    with contextlib.suppress(InputMissing, HalfWrittenArtifact, DamagedArtifact):
        if (kind := read_manifest(target).artifact) != artifact:
            raise ForeignArtifact(f"{target}: holds '{kind}', which an export does not replace", "name another folder")


def publish(staging: Path, target: Path, manifest: Manifest) -> Manifest:
    """Put the finished files of `staging` in the place of `target` in one step; the old artifact stays until then.

    Returns the manifest with the size and SHA-256 of every file.
    """
    target = place_of(target)
    (staging / MANIFEST).unlink(missing_ok=True)
    for unfinished in staging.rglob(".*.tmp"):  # left by a crash while a file was written
        unfinished.unlink()
    readable = staging.stat().st_mode & 0o666  # by the user's umask: some libraries let only the owner read
    stamps = {}
    for path in sorted(staging.rglob("*")):
        if path.relative_to(staging).parts[0] == SCRATCH:
            continue
        fsync(path)  # of folders too: a file exists by its entry in a folder
        if path.is_file():
            path.chmod(readable)
            stamps[path.relative_to(staging).as_posix()] = FileStamp(path.stat().st_size, digest_file(path))
    whole = Manifest(**{**manifest.__dict__, "files": stamps})
    write_atomically(staging / MANIFEST, json_text(whole).encode())
    # In one rename, so that a crash leaves all of it or none; and only after the hashing, which takes a while.
    used_up = staging.with_name(staging.name + USED_UP)
    (staging / SCRATCH).rename(used_up)
    fsync(staging)
    if target.exists():
        replaced = staging.with_name(staging.name + REPLACED)
        exchange(staging, target, replaced)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        staging.rename(target)
    fsync(target.parent)
    shutil.rmtree(used_up, ignore_errors=True)
    return whole


def beside_of(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`: a name that no other process uses, on any machine.

    Two processes may write the same file: a node that was given up as lost may still be at work.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file beside `path`, then rename it, so that `path` never holds half of it."""
    beside = beside_of(path)
    try:
        beside.write_bytes(content)
        fsync(beside)
        beside.replace(path)
    except OSError:  # such as a full disk, which a job that tries again must not fill further
        beside.unlink(missing_ok=True)
        raise


def write_parquet(
    path: Path, schema: pa.Schema, table: pa.Table, row_group_size: int | None = None, **options: Any
) -> None:
    """Write a Parquet file with the given schema beside `path`, then rename it."""
    beside = beside_of(path)
    with to_write(beside) as file, pq.ParquetWriter(file, schema, **{"compression": "zstd", **options}) as writer:
        writer.write_table(table, row_group_size)
    fsync(beside)
    beside.replace(path)


def write_parquet_groups(path: Path, schema: pa.Schema, groups: Iterable[pa.Table], **options: Any) -> None:
    """Write a Parquet file with the given schema, a table a row group, beside `path`, then rename it."""
    beside = beside_of(path)
    with to_write(beside) as file, pq.ParquetWriter(file, schema, **{"compression": "zstd", **options}) as writer:
        for group in groups:
            writer.write_table(group, max(1, len(group)))
    fsync(beside)
    beside.replace(path)


def check_workspace(workspace: Path) -> None:
    """Refuse a path that cannot become a folder: for a plan, which does not create it.

    Raises:
        StorageFailure: it is a file, or lies below a file.
        BadSetting: see `check_private`.
    """
    check_private(workspace)
    there = next((path for path in (workspace, *workspace.parents) if path.exists()), workspace)
    if there.exists() and not there.is_dir():
        raise StorageFailure(f"{workspace}: cannot be used as a workspace ({there} is not a folder)")


@contextlib.contextmanager
def workspace_lock(workspace: Path, what: str = "workspace") -> Iterator[None]:
    """Lock the workspace, or another folder, for writing; the system releases the lock when the process ends, however it ends.

    On a read-only file system there is no lock: nothing can be written, and a stage can still report that it is up to date.

    Raises:
        WorkspaceLocked: another run holds the lock.
        StorageFailure: the workspace cannot be created.
        BadSetting: see `check_private`.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        check_private(workspace)  # a new one too: its parent's default access list comes before the umask
        lock = filelock.FileLock(workspace / ".lock", blocking=False)
        lock.acquire()
    except filelock.Timeout as error:
        hint = "try again when it has ended"
        raise WorkspaceLocked(f"{workspace}: another scone run is writing here", hint) from error
    except OSError as error:
        if error.errno != errno.EROFS or not workspace.is_dir():
            raise StorageFailure(f"{workspace}: cannot be used as a {what} ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of entries, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(new: Path, old: Path, replaced: Path) -> None:
    """Move `new` to the place of `old`, and `old` to `replaced`.

    It is one step if the system can swap two folders (renameat2). Otherwise a reader may for an instant find no artifact,
    never half of one; after a crash at that instant `staging_folder` puts the old one back.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc >= 2.28
    at_cwd, exchange = -100, 2
    if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), exchange) == 0:
        new.rename(replaced)
    else:
        old.rename(replaced)
        new.rename(old)
