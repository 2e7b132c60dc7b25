"""Tokens of files that have not changed: the next run copies their rows from the `tokens/` that it replaces.

`tokens/files.parquet` tells for each file of text its name, the SHA-256 of its content, the rows of its documents, and what was
counted while it was read. A file is kept if its content is that of then, and all settings that tokens depend on: tokenizer, text
field, separator, redaction rules, excluded documents, and how documents are held out. Its documents get its new name if it has
one, unless a list of excluded documents may know that name. Rows are copied within the tasks that tokenise the others, so that
`tokens/` has the bytes of a run from nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts.manifest import Manifest, digest_file, read_manifest
from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.publish import write_parquet_groups
from scone_cli.artifacts.schemas import FILES_FILE, TOKEN_FILES
from scone_cli.corpus.compression import endings_of
from scone_cli.corpus.encode import Batch, FileEnd
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.part_writer import Rows
from scone_cli.corpus.shard_stats import ShardStats
from scone_cli.corpus.token_stream import Encoded, continues_of
from scone_cli.errors import SconeError
from scone_cli.formatting import percent

_COUNTS = [item.name for item in dataclasses.fields(ShardStats)]
_WRITTEN_AT_ONCE = 1 << 14  # rows of `files.parquet`: there may be a million


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What `tokens/` has of a file: the counts of its documents, and their rows."""

    stats: ShardStats
    rows: list[Rows]

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> FileRecord:
        """The record of a mark, which has lists for tuples."""
        return cls(ShardStats.read(raw["stats"]), [Rows(*rows) for rows in raw["rows"]])


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file whose tokens are in the `tokens/` that is replaced, in `folder`, where it is called `name`.

    `sha256`: of the parts of `record`.
    """

    source: SourceFile
    name: str
    folder: Path
    record: FileRecord
    sha256: tuple[str, ...]

    def damaged(self) -> str | None:
        """The name of the first part that is not what its manifest says, if there is one."""
        for rows, sha256 in zip(self.record.rows, self.sha256, strict=True):
            if not _is_sound(self.folder / rows.part, sha256):
                return rows.part
        return None

    def documents(self) -> Iterator[list[Encoded]]:
        """The documents of the file, in order; each list is of one part."""
        for part, first, number in self.record.rows:
            table = _part(self.folder / part).slice(first, number)
            lists = table.column("tokens").chunk(0)
            offsets, tokens = lists.offsets.to_numpy(), lists.values.to_numpy()
            names, *columns = (table.column(name).to_pylist() for name in ("doc", "split", "bytes"))
            if self.name != self.source.name:
                names = [self.source.name + name.removeprefix(self.name) for name in names]
            ids = (tokens[low:high] for low, high in itertools.pairwise(offsets))
            yield [Encoded(*facts) for facts in zip(names, *columns, ids, continues_of(table).tolist(), strict=True)]


def copied(file: KeptFile) -> Iterator[Batch]:
    """What `encode_texts` gives for the file, from its rows; its parts are not damaged."""
    stats = file.record.stats
    *lists, last = [*file.documents()] or [[]]
    for documents in lists:
        yield Batch(documents, 0)
    yield Batch(
        last, file.source.bytes, stats.num_left_out, ends=(FileEnd(len(last), stats.num_left_out, stats.of_reading),)
    )


@functools.lru_cache(maxsize=1)
def _part(path: Path) -> pa.Table:
    """A part of `tokens/`, in one chunk; kept for the next file."""
    with pq.ParquetFile(to_read(path)) as parquet:  # `read_table` would import pandas in every worker: 0.6 s
        return parquet.read().combine_chunks()


@functools.lru_cache(maxsize=1024)
def _is_sound(path: Path, sha256: str) -> bool:
    return path.is_file() and digest_file(path) == sha256


def forget_part() -> None:
    """Free the memory of the part that was read last, and look at the parts of another run anew."""
    _part.cache_clear()
    _is_sound.cache_clear()


# ---- files.parquet -----------------------------------------------------------------------------------------------


def write_files(path: Path, files: Sequence[SourceFile], records: Iterable[FileRecord]) -> None:
    """Write the records of all files of a corpus, in its order."""
    rows = (
        {
            "file": file.name,
            "sha256": file.sha256,
            "rows": [row._asdict() for row in record.rows],
            **{name: getattr(record.stats, name) for name in _COUNTS},
        }
        for file, record in zip(files, records, strict=True)
    )
    groups = iter(lambda: list(itertools.islice(rows, _WRITTEN_AT_ONCE)), [])
    write_parquet_groups(path, TOKEN_FILES, (pa.Table.from_pylist(group, TOKEN_FILES) for group in groups))


def kept_files(
    folder: Path,
    files: Sequence[SourceFile],
    settings: Mapping[str, Any],
    stage_version: int,
    tokenizer: str,
    may_rename: bool,
) -> tuple[dict[str, KeptFile], str]:
    """The files, by name, whose tokens are in `folder`, a `tokens/`; and a text for people, empty if there is no such folder.

    `settings` are those of the manifest that is to be written, `tokenizer` is the SHA-256 of its tokenizer. `may_rename`: whether
    a file is kept that has another name there.
    """
    try:
        manifest = read_manifest(folder, "tokens")
    except SconeError:
        return {}, ""
    if FILES_FILE not in manifest.files or manifest.stage_version != stage_version:
        return {}, ""
    if cause := _cause_to_keep_none(manifest, settings, tokenizer):
        return {}, f"no file, because {cause}"
    found = _records(folder, manifest, files, may_rename)
    size = sum(file.source.bytes for file in found.values()) / max(1, sum(file.bytes for file in files))
    told = f"{len(found):,} of {len(files):,} files ({percent(size)} of the bytes)"
    num_read = len(files) - len(found)
    return found, f"{told}; {num_read:,} {'is' if num_read == 1 else 'are'} read"


def _cause_to_keep_none(manifest: Manifest, settings: Mapping[str, Any], tokenizer: str) -> str:
    plain = json.loads(json.dumps(settings))  # as a manifest has them
    given = plain.pop("tokenizer")  # what it is counts, not whether it was trained or given
    plain.pop("vocab_size", None)
    if others := sorted(name.replace("_", "-") for name in plain if manifest.settings.get(name) != plain[name]):
        return f"{', '.join(others)} changed"
    if manifest.tokenizer != tokenizer:
        trained = "a tokenizer was trained on this corpus; to read new files only, name one: --tokenizer FILE"
        return trained if given is None else "tokenizer changed"
    if len(plain.get("exclude_folders", ())) > 1:  # which file was in which of them is not known
        return "exclude-documents names folders of some files of the corpus only"
    return "" if plain["held_out_by_hash"] else "what is held out is chosen from the whole corpus"


def _records(folder: Path, manifest: Manifest, files: Sequence[SourceFile], may_rename: bool) -> dict[str, KeptFile]:
    path, stamps = folder / FILES_FILE, manifest.files
    if not path.is_file() or digest_file(path) != stamps[FILES_FILE].sha256:
        return {}
    found, same = dict[str, KeptFile](), dict[str, list[SourceFile]]()
    for file in files:
        same.setdefault(file.sha256, []).append(file)
    with pq.ParquetFile(to_read(path)) as parquet:
        for batch in parquet.iter_batches(1 << 14):
            for row in batch.to_pylist():
                name = row["file"]
                # A file of which documents were skipped is read again: `tokens/` does not say which they were.
                sources = [] if row["num_skipped"] else same.get(row["sha256"], [])
                # The ending of a name may decide how a file is read.
                alike = [
                    file
                    for file in sources
                    if file.name == name or (may_rename and endings_of(file.name) == endings_of(name))
                ]
                if not alike:
                    continue
                rows = [Rows(**each) for each in row["rows"]]
                record = FileRecord(ShardStats.read({name: row[name] for name in _COUNTS}), rows)
                sha256 = tuple(stamps[each.part].sha256 for each in rows)
                for file in alike:
                    if file.name == name or file.name not in found:
                        found[file.name] = KeptFile(file, name, folder, record, sha256)
    return found
