"""Writes the parts of `tokens/` from a corpus, by tasks that are plain functions from files to files.

A task covers consecutive files, or a piece of a large file of token ids. It writes a mark in the scratch folder last, which
says that its parts are complete. So any process may run any task, and run it again. Parts depend only on the corpus and the
settings. A worker holds one part (at most 4M tokens, or one longer document; twice as much while it writes the part), one
batch of text (4 MB, or one longer document), and the tokenizer: 150 to 250 MB in total.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from scone_cli.artifacts.publish import SCRATCH, write_atomically
from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.document_list import DocumentList, Exclusion
from scone_cli.corpus.encode import Batch, encode_texts, take_tokens
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.readers import BadDocument, OnBad
from scone_cli.corpus.redact import Counts, Redaction, added, guarded
from scone_cli.corpus.redaction_rules import Rules
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.shard_progress import Counter, Meter
from scone_cli.corpus.token_files import TokenFile
from scone_cli.corpus.token_stream import Encoded, TokenStream, by_document, num_documents, write_part
from scone_cli.corpus.tokenizer import Tokenizer, limit_threads
from scone_cli.errors import BadData
from scone_cli.progress import Progress
from scone_cli.runtime.engine import Pool, Task

NAMED = 100  # bad documents named in the manifest

_TASK_BYTES = 32 << 20  # bytes on disk per task: an interrupted run repeats at most this much per worker
_MOST_TASKS = 100_000  # parts are read in the order of their names, which have five digits for the task
_TASK_FILES = 4096
_PART_TOKENS = 4_000_000  # a part takes 16 MB of memory, and a few times that while it is written
_PART_DOCUMENTS = 200_000  # this many documents of one token each take as much memory again

# Called with the name of a part and its documents of the train split, in the worker that wrote it, before its task is done.
Then = Callable[[str, TokenStream], None]
# A whole file of text, or a piece of a file of tokens.
Piece = SourceFile | tuple[TokenFile, tuple[int, int]]


@dataclass(frozen=True)
class ShardStats:
    """Counts of documents, bytes and tokens in token shards: in total, held out, and left out.

    `num_separators`: places where a separator divided plain text or token ids into documents. `num_left_out`: bytes of text
    without a token. `num_unknown`: occurrences of the unknown token. `redacted`: what `redact.Counts` has; empty without rules.
    `num_excluded`: documents that a list left out; `excluded_by`: the numbers of its entries that named one of them.
    """

    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_held_out_documents: int = 0
    num_held_out_tokens: int = 0
    num_skipped: int = 0
    num_separators: int = 0
    num_left_out: int = 0
    num_unknown: int = 0
    num_excluded: int = 0
    redacted: Counts = ()
    excluded_by: tuple[int, ...] = ()

    @classmethod
    def read(cls, raw: dict[str, Any]) -> ShardStats:
        """The counts of a mark, which has lists for tuples."""
        known: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in raw.items()}
        return cls(**known)

    def __add__(self, other: ShardStats) -> ShardStats:
        numbers = [item.name for item in fields(self) if item.name not in ("redacted", "excluded_by")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in numbers}
        excluded_by = tuple(sorted({*self.excluded_by, *other.excluded_by}))
        return ShardStats(**sums, redacted=added(self.redacted, other.redacted), excluded_by=excluded_by)


@dataclass(frozen=True)
class Made:
    """What a task wrote; `skipped`: the first documents left out, each with its name and the cause."""

    parts: int = 0
    stats: ShardStats = ShardStats()
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Shards:
    """The settings that all tasks of a run share.

    `staging` is the folder of the parts, and of the `tokenizer.json` if there is one. `tokenizer_sha` is its SHA-256,
    `backend` the library chosen for the run, `tokenizer_source` its name in messages. `document_separator` applies to plain
    text; `separator` (an id) and `largest` (the largest valid id) apply to corpora of token ids. `rules` say what to redact,
    `documents` which documents to leave out.
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
        made = Made(raw["parts"], ShardStats.read(raw["stats"]), [(name, cause) for name, cause in raw["skipped"]])
        return made if all(self.part(task, number).is_file() for number in range(made.parts)) else None


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
    stats, num_parts, num_waiting = ShardStats(), 0, 0
    waiting: list[Encoded] = []
    skipped: list[tuple[str, str]] = []
    num_skipped = 0
    separator, redaction = Separator.of(shards.document_separator), Redaction.of(shards.rules)
    exclusion = Exclusion.of(shards.documents)
    unknown = _unknown(shards, num_threads)

    def leave_out(bad: BadDocument) -> None:
        nonlocal num_skipped
        num_skipped += 1
        if len(skipped) < NAMED:
            skipped.append((bad.name, bad.cause))

    with Counter(shards.counters, task) as counter:
        on_bad = guarded(leave_out if shards.skip_bad else None, redaction)
        for batch in _batches(shards, pieces, num_threads, on_bad, separator, redaction, exclusion, notices):
            for segments in by_document(batch.documents):
                size = sum(len(segment.tokens) for segment in segments)
                if waiting and (num_waiting + size > _PART_TOKENS or len(waiting) >= _PART_DOCUMENTS):
                    _finish_part(shards.part(task, num_parts), waiting, then)
                    waiting, num_waiting, num_parts = [], 0, num_parts + 1
                waiting += segments
                num_waiting += size
            stats += _stats_of(batch, unknown)
            counter.add(batch.num_read, batch.num_tokens)
    if waiting:
        _finish_part(shards.part(task, num_parts), waiting, then)
        num_parts += 1
    num_separators, redacted = separator.num_found if separator else 0, redaction.counts if redaction else ()
    num_excluded, excluded_by = (exclusion.num_documents, tuple(exclusion.matched)) if exclusion else (0, ())
    stats += ShardStats(
        num_skipped=num_skipped,
        num_separators=num_separators,
        num_excluded=num_excluded,
        redacted=redacted,
        excluded_by=excluded_by,
    )
    made = Made(num_parts, stats, skipped)
    write_atomically(shards.mark(task), json.dumps(asdict(made)).encode())
    return made, notices


def _finish_part(path: Path, documents: list[Encoded], then: Then | None) -> None:
    write_part(path, documents)
    if then is not None:
        then(path.name, TokenStream.of([document for document in documents if document.split == TRAIN]))


def _stats_of(batch: Batch, unknown: int | None) -> ShardStats:
    held_out = [document for document in batch.documents if document.split == HELD_OUT]
    return ShardStats(
        num_documents(batch.documents),
        sum(document.num_bytes for document in batch.documents),
        batch.num_tokens,
        num_documents(held_out),
        sum(len(document.tokens) for document in held_out),
        num_separators=batch.num_separators,
        num_left_out=batch.num_left_out,
        num_unknown=0 if unknown is None else sum(int((each.tokens == unknown).sum()) for each in batch.documents),
    )


def _unknown(shards: Shards, num_threads: int) -> int | None:
    return _tokenizer_of(shards, num_threads)[0].unknown if shards.tokenizer_sha else None


def _tokenizer_of(shards: Shards, num_threads: int) -> tuple[Tokenizer, list[str]]:
    path = shards.staging / "tokenizer.json"
    return _tokenizer(path, shards.tokenizer_sha, shards.backend, num_threads, shards.tokenizer_source)


def _batches(
    shards: Shards,
    pieces: Sequence[Piece],
    num_threads: int,
    on_bad: OnBad | None,
    separator: Separator | None,
    redaction: Redaction | None,
    exclusion: Exclusion | None,
    notices: list[str],
) -> Iterator[Batch]:
    tokenizer = None
    if shards.tokenizer_sha:
        tokenizer, said = _tokenizer_of(shards, num_threads)
        said.clear()
    files = [piece for piece in pieces if isinstance(piece, SourceFile)]
    if files:
        assert tokenizer is not None
        of_text = (shards.text_field, shards.held_out, on_bad, separator, redaction, exclusion)
        yield from encode_texts(files, tokenizer, *of_text)
        notices += said
        return
    byte_lengths = None if tokenizer is None else tokenizer.byte_lengths()
    for piece in pieces:
        assert not isinstance(piece, SourceFile)
        limits = (shards.separator, shards.largest)
        yield from take_tokens(*piece, *limits, byte_lengths, shards.held_out, on_bad, exclusion)


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
