"""Writes the parts of `tokens/` from a corpus, by tasks that are plain functions from files to files.

A task covers consecutive files, or a piece of a large file of token ids. It writes a mark in the scratch folder last, which
says that its parts are complete. So any process may run any task, and run it again. Parts depend only on the corpus and the
settings. A worker holds one part (at most 4M tokens, or one longer document; twice as much while it writes the part), one
batch of text (4 MB, or one longer document), and the tokenizer: 150 to 250 MB in total.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scone_cli.artifacts.publish import SCRATCH, write_atomically
from scone_cli.corpus.document_list import DocumentList, Exclusion
from scone_cli.corpus.document_room import documents_within
from scone_cli.corpus.encode import Batch, encode_texts, take_tokens
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.kept import FileRecord, KeptFile, copied, forget_part
from scone_cli.corpus.part_writer import PartWriter, Then
from scone_cli.corpus.readers import BadDocument
from scone_cli.corpus.redact import Redaction, guarded
from scone_cli.corpus.redaction_rules import Rules
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.shard_progress import Counter, Meter
from scone_cli.corpus.shard_stats import ShardStats, stats_of
from scone_cli.corpus.token_files import TokenFile
from scone_cli.corpus.tokenizer import Tokenizer, limit_threads
from scone_cli.errors import BadData
from scone_cli.progress import Progress
from scone_cli.runtime.engine import Pool, Task

NAMED = 100  # bad documents named in the manifest

_TASK_BYTES = 32 << 20  # bytes on disk per task: an interrupted run repeats at most this much per worker
_MOST_TASKS = 100_000  # parts are read in the order of their names, which have five digits for the task
_TASK_FILES = 4096

# A whole file of text, perhaps with its tokens, or a piece of a file of tokens.
Piece = SourceFile | KeptFile | tuple[TokenFile, tuple[int, int]]


@dataclass(frozen=True)
class Made:
    """What a task wrote; `skipped`: the first documents left out, each with its name and the cause."""

    parts: int
    stats: ShardStats
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Shards:
    """The settings that all tasks of a run share.

    `staging` is the folder of the parts, and of the `tokenizer.json` if there is one. `tokenizer_sha` is its SHA-256,
    `backend` the library chosen for the run, `tokenizer_source` its name in messages. `document_separator` applies to plain
    text; `separator` (an id) and `largest` (the largest valid id) apply to corpora of token ids. `rules` say what to redact,
    `documents` which documents to leave out. `room`: see `documents_within`.
    """

    staging: Path
    tokenizer_sha: str
    backend: str
    text_field: str
    held_out: HeldOut
    skip_bad: bool
    separator: int | None
    largest: int
    document_separator: str | None = None
    tokenizer_source: str = ""
    rules: Rules | None = None
    documents: DocumentList | None = None
    room: int | None = None

    def part(self, task: int, number: int) -> Path:
        """The path of a part."""
        return self.staging / f"part-{task:05d}-{number:04d}.parquet"

    def mark(self, task: int) -> Path:
        """The path of the file which says that a task is done."""
        return self.staging / SCRATCH / f"task-{task:05d}.json"

    @property
    def counters(self) -> Path:
        """The path of the file with the bytes read and the tokens made by each task so far."""
        return self.staging / SCRATCH / "counters"

    def finished(self, task: int) -> Made | None:
        """What a task wrote, or None if it is not complete."""
        try:
            raw = json.loads(self.mark(task).read_bytes())
        except FileNotFoundError:
            return None
        skipped = [(name, cause) for name, cause in raw["skipped"]]
        made = Made(raw["parts"], ShardStats.read(raw["stats"]), skipped)
        return made if all(self.part(task, number).is_file() for number in range(made.parts)) else None

    def records(self, num_tasks: int) -> Iterator[FileRecord]:
        """The records of all files of text, in order, when all tasks are done; they are read from the marks, one by one."""
        for task in range(num_tasks):
            yield from map(FileRecord.read, json.loads(self.mark(task).read_bytes())["files"])


def write_shards(
    shards: Shards, tasks: Sequence[Sequence[Piece]], pool: Pool, progress: Progress, then: Then | None = None
) -> tuple[list[Made], list[str]]:
    """Run the tasks that are not done yet; returns what each task wrote, in order, and the notices of the tokenizers.

    Raises:
        BadData, StorageFailure: see `read_documents` and `read_token_documents`.
    """
    made = [shards.finished(number) for number in range(len(tasks))]
    _remove_stale_parts(shards, {number for number, found in enumerate(made) if found is None})
    left = [number for number, found in enumerate(made) if found is None]
    num_threads = pool.num_threads(len(left))
    notices: dict[str, None] = {}
    sizes = [sum(map(_size, pieces)) for pieces in tasks]
    done = [None if each is None else each.stats.num_tokens for each in made]
    with Meter(shards.counters, sizes, done, progress) as meter:
        jobs: Iterator[Task] = ((make_shard, (shards, n, tasks[n], num_threads, then)) for n in left)
        for position, (found, said) in pool.run(jobs):
            made[left[position]] = found
            notices |= dict.fromkeys(said)
            meter.finished(left[position], found.stats.num_tokens)
    _tokenizer.cache_clear()  # frees 100 MB, if this process did the work
    return [found for found in made if found is not None], list(notices)


def tasks_of(corpus: Sequence[SourceFile] | Sequence[TokenFile]) -> list[list[Piece]]:
    """Divide the corpus into tasks, which do not depend on the number of workers: larger ones if there would be too many.

    Raises:
        BadData: there are too many files.
    """
    tasks = _tasks(corpus, _TASK_BYTES)
    if len(tasks) > _MOST_TASKS:
        sources = [file if isinstance(file, SourceFile) else file.source for file in corpus]
        # Two neighbouring tasks are larger together, and each file of token ids begins one more piece at most.
        tasks = _tasks(corpus, max(_TASK_BYTES, 4 * sum(source.bytes for source in sources) // _MOST_TASKS))
    if len(tasks) > _MOST_TASKS:
        raise BadData(
            f"{len(corpus):,} files make {len(tasks):,} tasks, expected at most {_MOST_TASKS:,}", "join small files"
        )
    return tasks


def _tasks(corpus: Iterable[SourceFile | TokenFile], task_bytes: int) -> list[list[Piece]]:
    tasks: list[list[Piece]] = []
    size = 0
    for piece in _pieces(corpus, task_bytes):
        if not tasks or size + _size(piece) > task_bytes or len(tasks[-1]) == _TASK_FILES:
            tasks.append([])
            size = 0
        tasks[-1].append(piece)
        size += _size(piece)
    return tasks


def _pieces(corpus: Iterable[SourceFile | TokenFile], task_bytes: int) -> Iterator[Piece]:
    for file in corpus:
        if isinstance(file, SourceFile):
            yield file
        else:
            yield from ((file, piece) for piece in file.pieces(task_bytes))


def _size(piece: Piece) -> int:
    if isinstance(piece, SourceFile):
        return piece.bytes
    if isinstance(piece, KeptFile):
        return piece.source.bytes
    file, (first, last) = piece
    return file.source.bytes * (last - first) // max(1, file.num_units)


def _remove_stale_parts(shards: Shards, unfinished: set[int]) -> None:
    """Remove the parts of unfinished tasks: if a file changed during an earlier run, the new run may write fewer parts."""
    for path in shards.staging.glob("part-*.parquet"):
        if int(path.name.split("-")[1]) in unfinished:
            path.unlink()


# ---- a task ------------------------------------------------------------------------------------------------------


def make_shard(
    shards: Shards, task: int, pieces: Sequence[Piece], num_threads: int, then: Then | None
) -> tuple[Made, list[str]]:
    """Write the parts of one task, then its mark; returns what it wrote, and the notices of the tokenizer."""
    if (finished := shards.finished(task)) is not None:
        return finished, []
    notices: list[str] = []
    readers = _Readers(shards)
    unknown = _unknown(shards, num_threads)
    parts = PartWriter(functools.partial(shards.part, task), then)
    records, stats = list[FileRecord](), ShardStats()  # of the files that have ended, and of the present one
    with documents_within(shards.room), Counter(shards.counters, task) as counter:
        for batch in _batches(shards, pieces, num_threads, readers, notices):
            at, left_out = 0, batch.num_left_out
            for end in batch.ends:
                documents = batch.documents[at : end.num_documents]
                parts.add(documents)
                stats += stats_of(documents, unknown, end.num_left_out) + end.counts
                records.append(FileRecord(stats, parts.end_of_file()))
                at, left_out, stats = end.num_documents, left_out - end.num_left_out, ShardStats()
            parts.add(batch.documents[at:])
            stats += stats_of(batch.documents[at:], unknown, left_out)
            stats += ShardStats(num_separators=batch.num_separators)
            counter.add(batch.num_read, batch.num_tokens)
    parts.close()
    forget_part()
    stats = sum((record.stats for record in records), stats + readers.counted())
    made = Made(parts.num_parts, stats, readers.skipped)
    mark = asdict(made) | {"files": [asdict(record) for record in records]}
    write_atomically(shards.mark(task), json.dumps(mark).encode())
    return made, notices


class _Readers:
    """What reading documents needs besides the files, and what it counts."""

    def __init__(self, shards: Shards) -> None:
        self.skipped: list[tuple[str, str]] = []
        self.separator, self.redaction = Separator.of(shards.document_separator), Redaction.of(shards.rules)
        self.exclusion = Exclusion.of(shards.documents)
        self.on_bad = guarded(self._leave_out if shards.skip_bad else None, self.redaction)
        self._num_skipped = 0

    def counted(self) -> ShardStats:
        """What was counted since the last call."""
        separator, redaction, exclusion = self.separator, self.redaction, self.exclusion
        stats = ShardStats(
            num_skipped=self._num_skipped,
            num_separators=separator.num_found if separator else 0,
            num_excluded=exclusion.num_documents if exclusion else 0,
            redacted=tuple(redaction.counts) if redaction else (),
            excluded_by=tuple(sorted(exclusion.matched)) if exclusion else (),
        )
        self._num_skipped = 0
        if separator:
            separator.num_found = 0
        if redaction:
            redaction.counts = [0] * len(redaction.counts)
        if exclusion:
            exclusion.num_documents, exclusion.matched = 0, set()
        return stats

    def _leave_out(self, bad: BadDocument) -> None:
        self._num_skipped += 1
        if len(self.skipped) < NAMED:
            self.skipped.append((bad.name, bad.cause))


def _unknown(shards: Shards, num_threads: int) -> int | None:
    return _tokenizer_of(shards, num_threads)[0].unknown if shards.tokenizer_sha else None


def _tokenizer_of(shards: Shards, num_threads: int) -> tuple[Tokenizer, list[str]]:
    path = shards.staging / "tokenizer.json"
    return _tokenizer(path, shards.tokenizer_sha, shards.backend, num_threads, shards.tokenizer_source)


def _batches(
    shards: Shards, pieces: Sequence[Piece], num_threads: int, readers: _Readers, notices: list[str]
) -> Iterator[Batch]:
    tokenizer = None
    if shards.tokenizer_sha:
        tokenizer, said = _tokenizer_of(shards, num_threads)
        said.clear()
    files = [piece for piece in pieces if not isinstance(piece, tuple)]
    if files:
        assert tokenizer is not None

        def encoded(sources: Sequence[SourceFile]) -> Iterator[Batch]:
            how = (readers.on_bad, readers.separator, readers.redaction, readers.exclusion, readers.counted)
            return encode_texts(sources, tokenizer, shards.text_field, shards.held_out, *how)

        to_read = list[SourceFile]()
        for file in files:
            if isinstance(file, SourceFile):
                to_read.append(file)
                continue
            if (part := file.damaged()) is not None:
                notices.append(f"note: {file.folder / part} is damaged: {file.source.location} is read again")
                to_read.append(file.source)
                continue
            yield from encoded(to_read)
            yield from copied(file)
            to_read = []
        yield from encoded(to_read)
        notices += said
        return
    byte_lengths = None if tokenizer is None else tokenizer.byte_lengths()
    for piece in pieces:
        assert isinstance(piece, tuple)
        limits = (shards.separator, shards.largest)
        yield from take_tokens(*piece, *limits, byte_lengths, shards.held_out, readers.on_bad, readers.exclusion)


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, sha256: str, backend: str, num_threads: int, source: str) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of this process, and the list of its notices; the hash is in the cache key, so a new file is loaded."""
    limit_threads(num_threads)
    said: list[str] = []
    tokenizer = Tokenizer.load(path, said.append, source)
    assert tokenizer.sha256 == sha256
    tokenizer.keep_backend(backend)
    return tokenizer, said


def totals(made: Sequence[Made]) -> tuple[ShardStats, list[dict[str, Any]]]:
    """The total statistics of all tasks, and the first documents left out, in the form of the manifest."""
    stats = sum((each.stats for each in made), ShardStats())
    skipped = [pair for each in made for pair in each.skipped][:NAMED]
    return stats, [{"document": name, "cause": cause} for name, cause in skipped]
