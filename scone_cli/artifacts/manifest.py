"""Read and check artifacts, the folders that stages hand to one another: each has files and a `manifest.json`.

The manifest is written last, so a folder without one is unfinished. It has the size and SHA-256 of every file, which finds a
flipped bit; its last field is the SHA-256 of its other fields, which finds a changed manifest. Artifacts are written by
`publish.py`. This module does not know what their files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, get_args, get_origin, get_type_hints

from scone_cli import __version__
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.errors import (
    DamagedArtifact,
    ForeignArtifact,
    HalfWrittenArtifact,
    InputMissing,
    NewerArtifact,
)
from scone_cli.formatting import path_text

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
OWN_HASH = "sha256"  # the field of a manifest with the SHA-256 of its other fields; early versions wrote none

# What to run when an artifact is missing or bad.
MADE_BY: Mapping[str, str] = {
    "tokens": "scone count-ngrams CORPUS",
    "counts": "scone count-ngrams CORPUS",
    "vocab": "scone select-vocab",
    "model": "scone train-fgram",
    "table": "scone precompute",
    "exported-table": "scone export --to safetensors",
    "eval": "scone eval",
    "exported-model": "scone export --to hf",
}

EXPORTS = frozenset({"exported-table", "exported-model"})  # always made anew, so there is no --force


@dataclass(frozen=True)
class Given:
    """The recipe of the running command, and the settings that were named on the command line.

    Attributes:
        recipe: its path and its SHA-256; empty without a recipe.
        named: the settings whose values come neither from a recipe nor from defaults.
    """

    recipe: Mapping[str, str] = field(default_factory=dict)
    named: frozenset[str] = frozenset()


GIVEN: ContextVar[Given] = ContextVar("given", default=Given())  # noqa: B039 - it is frozen


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and SHA-256 of one published file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of a `manifest.json`: how the artifact was made, from which inputs, and its files.

    It holds no time, so equal runs write equal manifests.
    """

    artifact: str
    schema_version: int
    stage: str
    stage_version: int
    fingerprint: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    tokenizer: str
    summary: dict[str, Any]
    code_version: str = __version__
    recipe: dict[str, str] = field(default_factory=dict)  # its path and its SHA-256, if there was one
    files: dict[str, FileStamp] = field(default_factory=dict)

    @classmethod
    def new(cls, artifact: str, **made_by: Any) -> Manifest:
        """A manifest for `publish`, with the schema version that this program writes and the recipe of the command."""
        recipe = dict(GIVEN.get().recipe)
        return cls(artifact=artifact, schema_version=SCHEMA_VERSIONS[artifact], recipe=recipe, **made_by)


def command_for(folder: Path, manifest: Manifest) -> str:
    """The command that makes an artifact again, with its recipe and folder; the caller adds `--workspace`."""
    recipe, command = manifest.recipe, MADE_BY[manifest.artifact]
    if manifest.artifact in EXPORTS:
        return f"{command} {shlex.quote(str(folder))}"
    if recipe:  # it has the corpora too
        command = f"scone --config {shlex.quote(path_text(recipe['path']))} {manifest.stage}"
    if "baseline" in recipe:
        return f"{command} --baseline {shlex.quote(recipe['baseline'])}"
    is_elsewhere = manifest.artifact in {"model", "table"} and folder.absolute().name != manifest.artifact
    return f"{command} --out {shlex.quote(str(folder))}" if is_elsewhere else command


def command_again(folder: Path, manifest: Manifest) -> str:
    """The command that makes an artifact again although it is up to date; an export is never taken for up to date."""
    command = command_for(folder, manifest)
    return command if manifest.artifact in EXPORTS else f"{command} --force"


def fingerprint(stage: str, stage_version: int, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 over everything an artifact depends on; equal fingerprints mean that there is nothing to do.

    It covers what goes in, not what comes out. What another version of a library may make differently from the same input,
    a trained tokenizer and weights, is added to `inputs` by its own hash.
    """
    return digest_json([stage, stage_version, settings, inputs])


def digest_json(value: Any) -> str:
    """SHA-256 of the canonical JSON text of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_weights(model: Manifest) -> str:
    """SHA-256 over the weight files of a model.

    The fingerprint of a model is not enough: the same inputs give other weights with other threads or libraries. Every other
    artifact is the same, byte for byte, whenever its fingerprint is the same.
    """
    return digest_json({name: stamp.sha256 for name, stamp in model.files.items() if name.endswith(".safetensors")})


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_of(content: bytes) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: it is not JSON, or is nested too deep.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


# ---- reading -----------------------------------------------------------------------------------------------------


def read_manifest(folder: Path, *artifacts: str) -> Manifest:
    """Read the manifest of `folder`, which must hold one of `artifacts` (any kind when none is given).

    Raises:
        InputMissing: the folder does not exist.
        HalfWrittenArtifact: the folder has no manifest.
        ForeignArtifact: scone did not write the manifest, or it is of another kind; or it names a file outside of the folder.
        NewerArtifact: its schema version is larger than the one this program writes.
        DamagedArtifact: the manifest was changed after it was written.
    """
    artifact = artifacts[0] if artifacts else None
    remake = f"run: {MADE_BY[artifact]}" if artifact else "name a folder that a scone stage wrote"
    # Without --force the stage reads this manifest first, and would end here again; what scone did not write is not to be lost.
    replace = f"if scone wrote this folder, run: {MADE_BY[artifact]} --force" if artifact else remake
    if not folder.is_dir():
        raise InputMissing(f"{folder}: no such {artifact or 'artifact'} folder", remake)
    path = folder / MANIFEST
    if not path.is_file():
        what = artifact or "artifact"
        raise HalfWrittenArtifact(f"{folder}: no {MANIFEST}, so this is not a finished {what}", remake)
    try:
        raw = json_of(path.read_bytes())
        kind, version = str(raw["artifact"]), int(raw["schema_version"])
    except (ValueError, TypeError, KeyError) as error:
        raise _not_ours(path, error, replace) from error
    if kind not in SCHEMA_VERSIONS or (artifacts and kind not in artifacts):
        raise ForeignArtifact(f"{folder}: holds '{kind}', expected '{artifact or 'a scone artifact'}'", remake)
    if version > SCHEMA_VERSIONS[kind]:
        raise NewerArtifact(
            f"{folder}: '{kind}' in format {version}; this scone ({__version__}) knows up to {SCHEMA_VERSIONS[kind]}",
            "upgrade scone, or make the artifact again with this version",
        )
    # Checked after the version, because a later version may have other fields.
    is_changed = OWN_HASH in raw and raw.pop(OWN_HASH) != digest_json(raw)
    try:
        raw.pop("seed", None)  # early versions wrote a seed, and names with blanks
        raw["summary"] = {_without_blanks(name): value for name, value in raw["summary"].items()}
        manifest = Manifest(**raw | {"files": {name: FileStamp(**stamp) for name, stamp in raw["files"].items()}})
        _check_type("manifest", manifest, Manifest)
    except (TypeError, KeyError, AttributeError) as error:
        if is_changed:
            raise _changed(path, f"{MADE_BY[kind]} --force") from error
        raise _not_ours(path, error, replace) from error
    if is_changed:
        raise _changed(path, command_again(folder, manifest))  # a baseline is not made by `train-fgram` alone
    check_names(path, manifest.files)
    return manifest


def _changed(path: Path, command: str) -> DamagedArtifact:
    return DamagedArtifact(
        f"{path}: changed since scone wrote it, its {OWN_HASH} does not match", f"make it again: {command}"
    )


def check_names(path: Path, names: Iterable[str]) -> None:
    """Check the names of files that a manifest, the file `path`, has: it may come from strangers.

    Raises:
        ForeignArtifact: a name leads out of the folder: it is absolute, or has `..`.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        if name != "/".join(parts) or not parts or parts[0] == "/" or ".." in parts or "\0" in name:
            raise ForeignArtifact(
                f"{path}: names the file {name!r}, which is not inside its folder", "get it from where you trust"
            )


def check_inside(path: Path, folder: Path) -> None:
    """Check that a file of an artifact is in its folder, and no link that leads out of it. The folder itself may be a link.

    In the cache of Hugging Face's hub, files of `snapshots/` are links to `blobs/` of the same repository.

    Raises:
        ForeignArtifact: a link leads out.
    """
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    repository = real.parent.parent
    is_blob = real.parent.name == "blobs" and root.is_relative_to(repository / "snapshots")
    if not (real.is_relative_to(root) or is_blob):
        raise ForeignArtifact(
            f"{path}: a link to {real}, outside of {folder}", "put the file itself there, or get the folder again"
        )


def check_no_others(folder: Path, manifest: Manifest) -> None:
    """Refuse a Parquet file that the manifest does not name: it would be read, and nothing says what it is.

    Raises:
        ForeignArtifact: there is one.
    """
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in manifest.files:
            raise ForeignArtifact(f"{path}: {MANIFEST} does not name this file", "remove it")


_fields = cache(get_type_hints)  # 30 us a call, and a manifest may name thousands of files


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Compare a value read from JSON with the declared type of its field.

    Raises:
        TypeError: it has another type; the message begins with `name`.
    """
    if kind is Any:
        return
    if not isinstance(value, get_origin(kind) or kind):
        raise TypeError(f"{name} is {value!r:.40}")
    if kind in (Manifest, FileStamp):
        for field_name, declared in _fields(kind).items():
            _check_type(field_name, getattr(value, field_name), declared)
    elif get_origin(kind) is dict:
        for key, item in value.items():
            _check_type(f"{name}: {key}", item, get_args(kind)[1])


def _without_blanks(name: str) -> str:
    """The current name of a summary entry that early versions wrote with blanks."""
    return (
        name.replace("f-grams", "fgrams").replace("vocabulary size", "vocab_size").replace(" ", "_").replace("-", "_")
    )


def _not_ours(path: Path, error: Exception, hint: str) -> ForeignArtifact:
    return ForeignArtifact(f"{path}: not a manifest written by scone ({type(error).__name__}: {error})", hint)


def check_files(folder: Path, manifest: Manifest, hashes: bool) -> None:
    """Compare every file with the manifest: sizes always, SHA-256 too when `hashes` (reads every byte).

    Raises:
        DamagedArtifact: naming the first file that differs, what was found and what was expected.
        ForeignArtifact: see `check_inside`.
    """
    remake = f"make it again: {command_again(folder, manifest)}"
    for name, stamp in manifest.files.items():
        path = folder / name
        check_inside(path, folder)
        size = path.stat().st_size if path.is_file() else -1
        if size < 0:
            raise DamagedArtifact(f"{path}: missing, the manifest lists it with {stamp.bytes:,} bytes", remake)
        if size != stamp.bytes:
            raise DamagedArtifact(f"{path}: found {size:,} bytes, expected {stamp.bytes:,}", remake)
        if hashes and (found := digest_file(path)) != stamp.sha256:
            raise DamagedArtifact(f"{path}: SHA-256 {found[:16]}…, the manifest says {stamp.sha256[:16]}…", remake)


def open_artifact(folder: Path, artifact: str, hashes: bool = True) -> Manifest:
    """Read a manifest and check the files that it names: what every stage does with its inputs.

    The hash of a tokenizer is always compared: the file is small, and two swapped ids leave its size as it was.
    """
    manifest = read_manifest(folder, artifact)
    check_files(folder, manifest, hashes)
    check_no_others(folder, manifest)
    if not hashes and TOKENIZER in manifest.files:
        check_files(folder, replace(manifest, files={TOKENIZER: manifest.files[TOKENIZER]}), hashes=True)
    return manifest


# ---- writing -----------------------------------------------------------------------------------------------------


def json_text(manifest: Manifest) -> str:
    """The text of `manifest.json`: the fields and their SHA-256."""
    facts = json.loads(json.dumps(asdict(manifest)))  # as they will be read back: keys of JSON are text
    return json.dumps(facts | {OWN_HASH: digest_json(facts)}, indent=1) + "\n"
