"""What artifacts hold, in pieces that fit in memory: n-grams, kept documents, examples of an evaluation.

Of each artifact only the files that are read here are compared with the manifest's hashes: rows of numbers hold no text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scone_cli.arrays import I64, U32
from scone_cli.artifacts.manifest import MANIFEST, TOKENIZER, Manifest, check_files, digest_file, json_of, read_manifest
from scone_cli.artifacts.opening import DAMAGE, to_read
from scone_cli.artifacts.publish import staging_folders
from scone_cli.artifacts.registry import PARTS as OF_VERSION
from scone_cli.artifacts.registry import (
    VERSION_FILE,
    VERSIONS,
    HeldVersion,
    hold,
    is_registry_name,
    read_version,
)
from scone_cli.artifacts.schemas import LEARNED_FILE, TOKENS, VOCAB_FILE
from scone_cli.artifacts.verify import artifact_folders
from scone_cli.corpus.token_stream import continues_of
from scone_cli.errors import DamagedArtifact
from scone_cli.formatting import BLANK

PARTS = r"part-.*\.parquet"  # of `tokens/`
RESULTS = "results.json"
_AT_ONCE = 1 << 16  # n-grams
_FILES = {"vocab": VOCAB_FILE, "table": VOCAB_FILE, "model": LEARNED_FILE}


@dataclass(frozen=True)
class Artifact:
    """An artifact and its name in the result: its folder's, in a registry after its version's, which is held meanwhile."""

    name: str
    folder: Path
    manifest: Manifest
    held: HeldVersion | None = None

    def check(self, *names: str) -> None:
        """Compare these files with the manifest.

        Raises:
            DamagedArtifact: one is missing or differs.
        """
        stamps = {name: self.manifest.files[name] for name in names if name in self.manifest.files}
        check_files(self.folder, replace(self.manifest, files=stamps), hashes=True)

    def names(self, pattern: str) -> list[str]:
        """The names of its files that match a pattern, sorted."""
        return sorted(name for name in self.manifest.files if re.fullmatch(pattern, name))


def artifacts_at(path: Path) -> tuple[list[Artifact], list[str]]:
    """The artifacts of a workspace or REGISTRY/NAME, of one version or of one artifact, and what cannot be looked at.

    Raises:
        InputMissing: the path does not exist.
        BadData: a manifest cannot be used; a subclass says how.
    """
    found, problems = list[Artifact](), list[str]()
    for folder in artifact_folders(path):
        if not (folder / VERSION_FILE).is_file():
            found.append(Artifact(folder.name, folder, read_manifest(folder)))
            continue
        held = hold(folder)
        if read_version(folder).is_encrypted:
            problems.append(f"{folder}: encrypted; decrypt it with scone fetch, and audit what that wrote")
            continue
        for part in OF_VERSION:
            found.append(Artifact(f"{folder.name}/{part}", folder / part, read_manifest(folder / part, part), held))
    if is_registry_name(path):
        left = set((path / VERSIONS).glob(".*"))
    else:
        left = {folder for artifact in found for folder in staging_folders(artifact.folder)}
        left |= set() if (path / MANIFEST).is_file() else set(path.glob(".*.partial-*"))
    hint = "continue it with the command that began it, or remove it"
    problems += [f"{folder}: unfinished work; {hint}" for folder in sorted(left)]
    return found, problems


def tokenizer_of(artifact: Artifact, artifacts: list[Artifact]) -> Path | None:
    """The tokenizer of an artifact: its own, or that of another one here, or of its neighbours; None if there is none."""
    beside = artifact.folder.resolve().parent
    places = [artifact.folder, *(each.folder for each in artifacts), beside / "tokens", beside / "table"]
    paths = dict.fromkeys(place / TOKENIZER for place in places if (place / TOKENIZER).is_file())
    return next((path for path in paths if digest_file(path) == artifact.manifest.tokenizer), None)


# ---- n-grams -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ngrams:
    """M n-grams: n-gram i is `tokens[starts[i]:starts[i + 1]]`; `docs` [M] hold it; `first` is the row of the first."""

    first: int
    tokens: U32
    starts: I64
    docs: U32


def ngram_files(artifact: Artifact) -> list[str]:
    """The names of the files of n-grams in an artifact."""
    if artifact.manifest.artifact == "counts":
        return artifact.names(r"n=\d+\.parquet")
    return artifact.names(re.escape(_FILES.get(artifact.manifest.artifact, "-")))


def read_ngrams(path: Path) -> Iterator[Ngrams]:
    """Read a file of n-grams, of one length or of all.

    Raises:
        DamagedArtifact: it is no such file.
    """
    first = 0
    with _reading(path) as file:
        for batch in file.iter_batches(_AT_ONCE, columns=["tokens", "docs"]):
            lists = batch.column("tokens")
            sizes = lists.value_lengths().to_numpy().astype(np.int64)
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            yield Ngrams(first, lists.flatten().to_numpy(), starts, batch.column("docs").to_numpy())
            first += batch.num_rows


def longest_ngram(artifact: Artifact) -> int:
    """The most tokens of an n-gram in an artifact; 0 without n-grams.

    Raises:
        DamagedArtifact: its file cannot be read.
    """
    names = ngram_files(artifact)
    if artifact.manifest.artifact == "counts":
        return max((int(name[2:].partition(".")[0]) for name in names), default=0)
    longest = 0
    for name in names:
        with _reading(artifact.folder / name) as file:
            for batch in file.iter_batches(columns=["n"]):
                longest = max(longest, pc.max(batch.column("n")).as_py() or 0)
    return longest


def num_rows(path: Path) -> int:
    """The rows of a file, from its footer."""
    with _reading(path) as file:
        return int(file.metadata.num_rows)


# ---- documents ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segments:
    """M segments of documents: their names, whether each goes on with the document before, and tokens as in `Ngrams`."""

    names: list[str]
    continues: list[bool]
    tokens: U32
    starts: I64


def read_segments(path: Path) -> Iterator[Segments]:
    """Read a part of `tokens/`, both splits, about a million tokens at a time or one document.

    Raises:
        DamagedArtifact: it is no such file.
    """
    with _reading(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).combine_chunks()
            lists = table.column("tokens").cast(TOKENS.field("tokens").type).combine_chunks()
            starts = lists.offsets.to_numpy().astype(np.int64)
            names = table.column("doc").to_pylist()
            yield Segments(names, continues_of(table).tolist(), lists.flatten().to_numpy(), starts - starts[0])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what pyarrow raises inside of `with` becomes `DamagedArtifact`."""
    try:
        with pq.ParquetFile(to_read(path)) as file:
            yield file
    except DAMAGE as error:
        raise DamagedArtifact(
            f"{path}: cannot be read as Parquet ({error})", f"see: scone verify {path.parent}"
        ) from error


# ---- examples ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A piece of text in an evaluation, with blanks as blanks: its place in `results.json`, and what it shows."""

    place: str
    text: str


def read_examples(artifact: Artifact) -> list[Example]:
    """The examples of an evaluation: tokens with what stands before, f-grams, terms. Its page and summary show the same.

    Raises:
        DamagedArtifact: `results.json` cannot be read.
    """
    path = artifact.folder / RESULTS
    try:
        results: dict[str, Any] = json_of(path.read_bytes())
        shown = {
            "tokens": [f"{row.get('before') or ''}{row['text']}" for row in results.get("tokens", [])],
            "fgrams": [row["text"] for row in results.get("fgrams", [])],
            "terms": [row["term"] or "" for row in results.get("terms", [])],
        }
        return [
            Example(f"{kind}[{number}]", text.replace(BLANK, " "))
            for kind, texts in shown.items()
            for number, text in enumerate(texts)
            if text
        ]
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedArtifact(
            f"{path}: cannot be read ({type(error).__name__})", f"see: scone verify {artifact.folder}"
        ) from error
