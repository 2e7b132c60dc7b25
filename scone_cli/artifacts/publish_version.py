"""Publish versions of a table into a registry, and prune old ones.

A version is made in a hidden folder beside its place, checked, and renamed; only then one rename moves `current` to it. So a
run that is killed leaves the version that was current, and the next run removes what it left. `current_version` has the
lock, and moves `current`.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scone_cli import __version__
from scone_cli.artifacts.current_version import make_current, writing
from scone_cli.artifacts.encryption import SUFFIX, encrypt, recipients_of
from scone_cli.artifacts.manifest import (
    MANIFEST,
    FileStamp,
    Manifest,
    check_inside,
    command_again,
    digest_file,
    digest_json,
    read_manifest,
)
from scone_cli.artifacts.publish import fsync, write_atomically
from scone_cli.artifacts.registry import (
    FORMAT,
    NO_LOCKS,
    PARTS,
    PUBLISHED,
    VERSION_FILE,
    VERSIONS,
    Move,
    Version,
    current_name,
    facts_text,
    history,
    is_registry_name,
    read_version,
    stamps_of,
    versions,
)
from scone_cli.artifacts.verify import check_version
from scone_cli.errors import BadSetting, DamagedArtifact, MismatchedArtifacts
from scone_cli.private import is_open, is_private
from scone_cli.progress import Progress

PRIVATE = "private.json"  # the manifest of an encrypted version, encrypted too


@dataclass(frozen=True)
class Published:
    """What `publish_version` has done.

    Attributes:
        version: the version that is now current. is_new: it was made; else its content had been published before.
        was: the version that was current before; None if there was none.
        pruned: the versions that were removed. in_use: those that `keep` would have removed, and somebody reads.
    """

    version: Version
    is_new: bool
    was: str | None
    pruned: list[str]
    in_use: list[str]


def publish_version(
    path: Path,
    parts: Mapping[str, Path],
    figures: Mapping[str, Any],
    progress: Progress,
    recipients: Sequence[str] = (),
    keep: int | None = None,
) -> Published:
    """Put the artifacts `parts` (table, vocab, eval) as a version into the REGISTRY/NAME `path`, and make it current.

    The same content, for the same recipients, is not published twice: the earlier version is checked and made current. With
    `recipients` (of age) all files are encrypted to these. With `keep`, only so many versions are kept: those that were
    current last, and those that somebody reads.

    Raises:
        WorkspaceLocked: another run writes to `path`.
        MismatchedArtifacts: the vocabulary is not that of the table.
        DamagedArtifact: a file differs from its manifest, or the earlier version of the same content is damaged.
        ForeignArtifact: `path` holds something else than versions.
        BadSetting: a recipient is none.
        InputMissing, HalfWrittenArtifact, NewerArtifact: see `read_manifest`.
    """
    if keep is not None and keep < 1:
        raise BadSetting(f"--keep {keep}: expected 1 or more")
    keys = recipients_of(recipients) if recipients else []
    manifests = {part: read_manifest(parts[part], part) for part in PARTS}
    check_vocabulary(parts["table"], manifests["table"], parts["vocab"], manifests["vocab"])
    content = {part: digest_file(parts[part] / MANIFEST) for part in PARTS}
    digest = digest_json({**content, "recipients": sorted({str(key) for key in keys})})
    with writing(path):
        known = versions(path) if is_registry_name(path) else []
        was, moves = current_name(path), history(path)
        version = next((each for each in known if each.content_sha256 == digest), None)
        is_new = version is None
        if version is None:
            now = datetime.now(UTC)
            facts: dict[str, Any] = {
                "format": FORMAT,
                "version": f"{now:%Y%m%dT%H%M%SZ}-{digest[:12]}",
                "sequence": 1 + max((each.sequence for each in known), default=0),
                "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "content_sha256": digest,
                "previous": was,
            }
            told = {"figures": dict(figures), "made_from": _made_from(manifests)}
            version = _add(path / VERSIONS, facts, told, parts, manifests, content, keys, progress)
        else:
            check_version(version, progress, hashes=True)
        moves = make_current(path, version.name, PUBLISHED, was, moves)
        pruned, in_use = _prune(path, keep, version.name, moves) if keep is not None else ([], [])
        return Published(read_version(version.folder), is_new, was, pruned, in_use)


def check_vocabulary(folder: Path, table: Manifest, vocab_folder: Path, vocab: Manifest) -> None:
    """Refuse a vocabulary that is not the one whose rows a table holds.

    Raises:
        MismatchedArtifacts: it is another.
    """
    if table.inputs.get("vocab") != vocab.fingerprint:
        raise MismatchedArtifacts(
            f"{folder}: rows of vocabulary {table.inputs.get('vocab', '')[:12]}, {vocab_folder} is {vocab.fingerprint[:12]}",
            "name the vocabulary of the table with --vocab, or run: scone precompute",
        )


def _made_from(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    table = manifests["table"]
    return {
        "fingerprints": {part: each.fingerprint for part, each in manifests.items()}
        | {"model": table.inputs.get("model")},
        "weights": table.inputs.get("weights"),
        "tokenizer": table.tokenizer,
        "recipe": table.recipe,
        "scone": __version__,
    }


# ---- making a version --------------------------------------------------------------------------------------------


def _add(
    folder: Path,
    facts: dict[str, Any],
    told: dict[str, Any],
    parts: Mapping[str, Path],
    manifests: Mapping[str, Manifest],
    content: Mapping[str, str],
    keys: Sequence[Any],
    progress: Progress,
) -> Version:
    """Add a version to the folder of all versions; it appears whole."""
    staging = folder / f".{facts['version']}.partial"
    staging.mkdir()
    plain, encrypted = dict[str, FileStamp](), dict[str, FileStamp]()
    total = sum(stamp.bytes for manifest in manifests.values() for stamp in manifest.files.values())
    done = 0
    for part, manifest in manifests.items():
        own = FileStamp((parts[part] / MANIFEST).stat().st_size, content[part])
        expected = stamps_of(parts[part] / MANIFEST, {name: asdict(stamp) for name, stamp in manifest.files.items()})
        for name, stamp in {**expected, MANIFEST: own}.items():
            progress("publishing", done, total, "bytes", f"{part}/{name}")
            source, target = parts[part] / name, staging / part / (name + SUFFIX if keys else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            check_inside(source, parts[part])
            try:
                found = _encrypted(source, target, keys, encrypted, staging) if keys else _linked(source, target)
            except FileNotFoundError as error:
                raise DamagedArtifact(f"{source}: missing", _again(parts[part], manifest)) from error
            if found != stamp:
                raise DamagedArtifact(
                    f"{source}: found {found.bytes:,} bytes with SHA-256 {found.sha256[:16]}…, "
                    f"the manifest says {stamp.bytes:,} with {stamp.sha256[:16]}…",
                    _again(parts[part], manifest),
                )
            plain[f"{part}/{name}"] = stamp
            done += stamp.bytes * (name != MANIFEST)
    progress("publishing", total, total, "bytes")
    told["files"] = {name: asdict(stamp) for name, stamp in plain.items()}
    if keys:
        private = facts_text({**facts, **told}).encode()
        with (staging / (PRIVATE + SUFFIX)).open("xb") as file:
            _, encrypted[PRIVATE + SUFFIX] = encrypt(io.BytesIO(private), file, keys)
        told = {"figures": {}, "made_from": {}}
        told["files"] = {name: asdict(stamp) for name, stamp in encrypted.items()}
    write_atomically(staging / VERSION_FILE, facts_text({**facts, "encrypted": bool(keys), **told}).encode())
    for path in [*staging.rglob("*"), staging]:
        fsync(path)
    place = folder / facts["version"]
    staging.rename(place)
    fsync(folder)
    return read_version(place)


def _again(folder: Path, manifest: Manifest) -> str:
    return f"make it again: {command_again(folder, manifest)}"


def _linked(source: Path, target: Path) -> FileStamp:
    """Bring a file by a hard link, else by a copy; returns the size and hash of what is there now.

    A link is safe because no stage writes into a published file: a new artifact has new files. With `--private`, a file that
    others may read is copied: a link has the rights of the file, and to change these is not for who publishes it.
    """
    real = os.path.realpath(source)
    try:
        if is_private() and is_open(Path(real)):
            shutil.copyfile(real, target)
        else:
            os.link(real, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file of another user, a file system without links
        target.unlink(missing_ok=True)
        shutil.copyfile(real, target)
    return FileStamp(target.stat().st_size, digest_file(target))


def _encrypted(
    source: Path, target: Path, keys: Sequence[Any], stamps: dict[str, FileStamp], staging: Path
) -> FileStamp:
    """Encrypt a file, note the stamp of the encrypted one, and return that of the plain one."""
    with source.open("rb") as plain, target.open("xb") as file:
        stamp, stamps[target.relative_to(staging).as_posix()] = encrypt(plain, file, keys)
    return stamp


# ---- pruning ------------------------------------------------------------------------------------------------------


def _prune(path: Path, keep: int, current: str, moves: list[Move]) -> tuple[list[str], list[str]]:
    """Remove all but `keep` versions: those that were current last. Returns what was removed, and what is in use.

    A version to which the table was rolled back counts as young as that move: it is the one that the next rollback needs.
    """
    last = {move.version: number for number, move in enumerate(moves)}
    by_age = sorted(versions(path), key=lambda version: (last.get(version.name, -1), version.sequence))
    pruned, in_use = list[str](), list[str]()
    for version in by_age[:-keep]:
        if version.name != current:
            (pruned if _remove(version.folder) else in_use).append(version.name)
    return pruned, in_use


def _remove(folder: Path) -> bool:
    """Remove a version; False if somebody reads it."""
    path = folder / VERSION_FILE
    with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:  # NFS locks alone only what can be written
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        removed = folder.with_name(f".{folder.name}.removed")
        folder.rename(removed)  # under the lock: who waits for it finds that the file is gone
    fsync(folder.parent)
    shutil.rmtree(removed)
    return True
