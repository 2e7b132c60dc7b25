"""Verify artifacts for `scone verify`: their bytes against their manifests, and their inputs against their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scone_cli.artifacts.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    check_inside,
    check_no_others,
    command_for,
    digest_file,
    digest_weights,
    read_manifest,
)
from scone_cli.artifacts.registry import VERSION_FILE, Version, is_registry_name, read_version, versions
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.errors import DamagedArtifact, InputMissing, MismatchedArtifacts, SconeError
from scone_cli.progress import Progress


def artifact_folders(path: Path) -> list[Path]:
    """The folder of the artifact that `path` is or belongs to, or all artifacts of the workspace `path` in stage order.

    A REGISTRY/NAME has its versions, in the order in which they were published.

    Raises:
        InputMissing: the path does not exist.
    """
    if not path.exists():
        raise InputMissing(f"{path}: no such file or folder", "name an artifact folder, a file in it, or a workspace")
    if path.is_file():
        parents = [parent for parent in (path.parent, path.parent.parent) if (parent / MANIFEST).is_file()]
        return [parents[0] if parents else path.parent]
    if (path / MANIFEST).is_file() or (path / VERSION_FILE).is_file():
        return [path]
    if is_registry_name(path):
        return [version.folder for version in versions(path)]
    order = list(SCHEMA_VERSIONS)
    found = [
        child
        for child in path.iterdir()
        if child.is_dir() and not child.name.startswith(".") and (child.name in order or (child / MANIFEST).is_file())
    ]
    if not found and any(is_registry_name(child) for child in path.iterdir()):
        versions(path)  # a registry: it raises with the names that are there
    found.sort(key=lambda child: (order.index(child.name) if child.name in order else len(order), child.name))
    return found or [path]


def verify_artifact(folder: Path, progress: Progress) -> Manifest | Version:
    """Compare every byte of an artifact with its manifest, and the manifest with the artifacts beside it.

    A published version is compared with its `version.json`: what is in it was found to belong together when it was published.

    Raises:
        SconeError: the same subclass that a stage would raise.
    """
    if (folder / VERSION_FILE).is_file():
        version = read_version(folder)
        check_version(version, progress, hashes=True)
        return version
    manifest = read_manifest(folder)
    total = sum(stamp.bytes for stamp in manifest.files.values())
    done = 0
    progress(str(folder), done, total, "bytes")
    for name, stamp in manifest.files.items():
        check_files(folder, replace(manifest, files={name: stamp}), hashes=True)
        done += stamp.bytes
        progress(str(folder), done, total, "bytes", name)
    check_no_others(folder, manifest)
    check_neighbours(folder, manifest)
    return manifest


def check_neighbours(folder: Path, manifest: Manifest) -> None:
    """Compare the inputs of an artifact with the artifacts beside it; missing neighbours are skipped.

    Raises:
        MismatchedArtifacts: it was made from another artifact than its neighbour, which the message names.
    """
    if (folder.parent / VERSION_FILE).is_file():
        return  # a table may be published with the evaluation in which it was a further one
    # A model stays what it is when text is counted again, and its table may be one of any vocabulary.
    history = {("model", "tokens"), ("model", "vocab"), ("table", "vocab")}
    for name, what in differences(folder, manifest):
        place = folder.parent / name
        told = {
            MADE_FROM: f"was made from another '{name}' than the one in {place}",
            WEIGHTS: f"was made from {place} before that was trained again",
            TOKENIZED: f"was made with another tokenizer than {place}",
        }
        if what != MADE_FROM or (manifest.artifact, name) not in history:
            raise MismatchedArtifacts(f"{folder}: {told[what]}", f"make it again: {command_for(folder, manifest)}")


MADE_FROM, WEIGHTS, TOKENIZED = "made from", "weights", "tokenizer"  # in what an artifact may differ from a neighbour


def differences(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The artifacts beside `folder` that are not those it was made from: their names, and in what they differ."""
    for name in SCHEMA_VERSIONS:
        try:
            neighbour = read_manifest(folder.parent / name, name)
        except SconeError:
            continue  # a missing or damaged neighbour has an error line of its own
        if name in manifest.inputs and manifest.inputs[name] != neighbour.fingerprint:
            yield name, MADE_FROM
        if name == "model" and manifest.inputs.get(WEIGHTS) not in (None, digest_weights(neighbour)):
            yield name, WEIGHTS
        if name == "tokens" and manifest.tokenizer != neighbour.tokenizer:
            yield name, TOKENIZED


def check_version(version: Version, progress: Progress, hashes: bool) -> None:
    """Compare a version with its `version.json`: the size of every file, and with `hashes` every byte.

    Raises:
        DamagedArtifact: naming the first file that differs.
        ForeignArtifact: a link leads out of the version.
    """
    done, total = 0, version.bytes
    for name, stamp in version.files.items():
        progress(str(version.folder), done, total, "bytes", name)
        path = version.folder / name
        check_inside(path, version.folder)
        size = path.stat().st_size if path.is_file() else -1
        found = "missing" if size < 0 else f"found {size:,} bytes"
        if size == stamp.bytes:
            found = "SHA-256 differs" if hashes and digest_file(path) != stamp.sha256 else ""
        if found:
            raise DamagedArtifact(
                f"{path}: {found}, {VERSION_FILE} says {stamp.bytes:,} bytes with SHA-256 {stamp.sha256[:16]}…",
                f"go back to another version with scone rollback, remove {version.folder}, and publish again",
            )
        done += stamp.bytes
    progress(str(version.folder), total, total, "bytes")
