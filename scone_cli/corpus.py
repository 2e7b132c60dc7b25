"""Documents to token shards: split, encode, write in parts; and token shards back to streams of tokens.

Writing can be interrupted anywhere and goes on where it stopped. The readers of the corpus itself are in `readers.py`,
and are offered here too: who works with a corpus needs this module only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scone_cli.artifacts import SCRATCH, write_atomically, write_parquet
from scone_cli.errors import InputMissing
from scone_cli.progress import Progress
from scone_cli.readers import Document, SourceFile, find_files, read_documents, read_with_position
from scone_cli.schemas import TOKENS
from scone_cli.tokenizer import Tokenizer, Tokens

__all__ = [
    "HELD_OUT",
    "TRAIN",
    "Document",
    "ShardStats",
    "SourceFile",
    "TokenStream",
    "encode_corpus",
    "find_files",
    "iter_shards",
    "read_documents",
    "read_tokens",
    "split_of",
    "write_token_shards",
]

TRAIN = "train"
HELD_OUT = "held-out"

_TASK_BYTES = 32 << 20  # of files on disk: what an interrupted run may have to do again
_PART_TOKENS = 4_000_000  # a part in memory is 16 MB, and a few times that while it is written
_BATCH_BYTES = 4 << 20  # of text encoded at a time


# ---- token shards ------------------------------------------------------------------------------------------------


def split_of(text: str, held_out: float) -> str:
    """`train` or `held-out`, drawn by the text's own hash: equal documents are always on the same side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return HELD_OUT if int.from_bytes(digest, "big") < held_out * 2**64 else TRAIN


@dataclass(frozen=True)
class ShardStats:
    """What token shards hold: files, documents, bytes of text and tokens in all, and what of it is held out."""

    num_files: int = 0
    num_documents: int = 0
    num_bytes: int = 0
    num_tokens: int = 0
    num_held_out_documents: int = 0
    num_held_out_tokens: int = 0

    def __add__(self, other: ShardStats) -> ShardStats:
        return ShardStats(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


@dataclass(frozen=True)
class _Encoded:
    name: str
    split: str
    num_bytes: int
    tokens: Tokens


@dataclass(frozen=True)
class _Batch:
    documents: list[_Encoded]
    num_read: int  # bytes of the files, as they lie on disk, read since the batch before

    @property
    def num_tokens(self) -> int:
        return sum(len(document.tokens) for document in self.documents)


def write_token_shards(
    files: Sequence[SourceFile],
    tokenizer: Tokenizer,
    staging: Path,
    held_out: float,
    text_field: str,
    progress: Progress,
) -> ShardStats:
    """Encode the corpus into `staging/part-<task>-<k>.parquet`, going on where an interrupted call stopped.

    A task is a run of consecutive files; its mark in the scratch folder, written last, says that its parts are whole.
    The parts depend only on the arguments: a rerun writes those of an unfinished task again, with the same bytes.

    Raises:
        InputMissing: no document has text, or none is left to train on.
        BadData, StorageFailure: see `read_documents`.
    """
    (staging / SCRATCH).mkdir(parents=True, exist_ok=True)
    stats = ShardStats(num_files=len(files))
    meter = _Meter(files, progress)
    for number, task in enumerate(_tasks(files)):
        finished = _finished(staging, number)
        if finished is None:
            batches = _with_one_backend(_encode(task, tokenizer, text_field, held_out), tokenizer, staging)
            finished = _write_task(staging, number, batches, meter)
        else:
            meter.add(sum(file.bytes for file in task), finished.num_tokens)
        stats += finished
    if not stats.num_documents:
        raise InputMissing(f"no document with text in {len(files):,} file(s)", "name files or folders that hold text")
    if stats.num_held_out_documents == stats.num_documents:
        raise InputMissing(
            f"all {stats.num_documents:,} document(s) are held out (--held-out {held_out:g}), none is left to train on",
            "give a smaller --held-out, or more documents",
        )
    return stats


class _Meter:
    """Tells how far tokenising is, in bytes of the files as they lie on disk."""

    def __init__(self, files: Sequence[SourceFile], progress: Progress) -> None:
        self._progress = progress
        self._total = sum(file.bytes for file in files)
        self._bytes = self._tokens = 0
        self.add(0, 0)

    def add(self, num_bytes: int, num_tokens: int) -> None:
        self._bytes += num_bytes
        self._tokens += num_tokens
        self._progress("tokenising", self._bytes, self._total, "B", f"{self._tokens / 1e6:.1f}M tokens")


def _tasks(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    tasks: list[list[SourceFile]] = []
    size = 0
    for file in files:
        if not tasks or size + file.bytes > _TASK_BYTES:
            tasks.append([])
            size = 0
        tasks[-1].append(file)
        size += file.bytes
    return tasks


def _mark(staging: Path, number: int) -> Path:
    return staging / SCRATCH / f"task-{number:05d}.json"


def _part(staging: Path, number: int, k: int) -> Path:
    return staging / f"part-{number:05d}-{k:03d}.parquet"


def _finished(staging: Path, number: int) -> ShardStats | None:
    """What a task of an earlier run wrote, if it was completed."""
    mark = _mark(staging, number)
    if not mark.is_file():
        return None
    raw = json.loads(mark.read_bytes())
    if not all(_part(staging, number, k).is_file() for k in range(raw["parts"])):
        return None
    return ShardStats(**raw["stats"])


def _write_task(staging: Path, number: int, batches: Iterator[_Batch], meter: _Meter) -> ShardStats:
    """Write the parts of one task, then its mark."""
    for stale in staging.glob(f"part-{number:05d}-*.parquet"):
        stale.unlink()  # of a run that met a file as it changed: there may be more of them than will be overwritten
    stats = ShardStats()
    waiting: list[_Encoded] = []
    num_waiting = num_parts = 0
    for batch in batches:
        for document in batch.documents:
            size = len(document.tokens)
            if waiting and num_waiting + size > _PART_TOKENS:
                _write_part(_part(staging, number, num_parts), waiting)
                waiting, num_waiting, num_parts = [], 0, num_parts + 1
            waiting.append(document)
            num_waiting += size
            held_out = document.split == HELD_OUT
            stats += ShardStats(0, 1, document.num_bytes, size, int(held_out), size * held_out)
        meter.add(batch.num_read, batch.num_tokens)
    if waiting:
        _write_part(_part(staging, number, num_parts), waiting)
        num_parts += 1
    write_atomically(_mark(staging, number), json.dumps({"parts": num_parts, "stats": asdict(stats)}).encode())
    return stats


def _encode(files: Sequence[SourceFile], tokenizer: Tokenizer, text_field: str, held_out: float) -> Iterator[_Batch]:
    """The documents of the files, encoded a few MB at a time across files; the last batch may be empty."""
    waiting: list[Document] = []
    size = before = told = 0

    def batch(position: int) -> _Batch:
        tokens = tokenizer.encode_batch([document.text for document in waiting])
        documents = [
            _Encoded(document.name, split_of(document.text, held_out), document.num_bytes, ids)
            for document, ids in zip(waiting, tokens, strict=True)
        ]
        return _Batch(documents, position - told)

    for file in files:
        for document, position in read_with_position(file, text_field):
            waiting.append(document)
            size += document.num_bytes
            if size >= _BATCH_BYTES:
                yield batch(before + position)
                waiting, size, told = [], 0, before + position
        before += file.bytes
    yield batch(before)


def _with_one_backend(batches: Iterator[_Batch], tokenizer: Tokenizer, staging: Path) -> Iterator[_Batch]:
    """Hold on to what the corpus's first batch says of the backend: another run would judge by other documents."""
    note = staging / SCRATCH / "backend"
    if note.is_file():
        tokenizer.keep_backend(note.read_text())
    for batch in batches:
        if not note.is_file():
            write_atomically(note, tokenizer.backend.encode())
        yield batch


def _write_part(path: Path, documents: Sequence[_Encoded]) -> None:
    stream = _stream(documents)
    columns = [
        pa.array(stream.names, pa.string()),
        pa.array([document.split for document in documents], pa.string()),
        pa.array(stream.num_bytes, pa.uint64()),
        pa.ListArray.from_arrays(stream.starts.astype(np.int32), stream.tokens, type=TOKENS.field("tokens").type),
    ]
    write_parquet(path, TOKENS, pa.Table.from_arrays(columns, schema=TOKENS))


# ---- token streams -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenStream:
    """Documents one after the other, D of them, N tokens together.

    Document i has the tokens `tokens[starts[i]:starts[i + 1]]` (`starts`: D + 1 offsets, the last is N); `num_bytes`
    is the UTF-8 length of its text.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    names: list[str]
    num_bytes: npt.NDArray[np.int64]


def encode_corpus(
    files: Sequence[SourceFile], tokenizer: Tokenizer, text_field: str, progress: Progress
) -> TokenStream:
    """All documents of the files, in memory, in the order of `files`.

    Raises:
        InputMissing: no document has text.
        BadData, StorageFailure: see `read_documents`.
    """
    documents: list[_Encoded] = []
    meter = _Meter(files, progress)
    for batch in _encode(files, tokenizer, text_field, held_out=0.0):
        documents += batch.documents
        meter.add(batch.num_read, batch.num_tokens)
    if not documents:
        raise InputMissing(f"no document with text in {len(files):,} file(s)", "name files or folders that hold text")
    return _stream(documents)


def iter_shards(folder: Path, split: str) -> Iterator[tuple[str, TokenStream]]:
    """The documents of one split, part by part in order: the part's file name and its stream (arrays are read-only)."""
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(path, schema=TOKENS).filter(pc.field("split") == split).combine_chunks()
        lists = table.column("tokens").combine_chunks()
        starts = lists.offsets.to_numpy().astype(np.int64)
        num_bytes = table.column("bytes").to_numpy().astype(np.int64)
        yield (
            path.name,
            TokenStream(lists.flatten().to_numpy(), starts - starts[0], table.column("doc").to_pylist(), num_bytes),
        )


def read_tokens(folder: Path, split: str) -> TokenStream:
    """All documents of one split in part order, in 4 bytes of memory a token."""
    room = sum(_num_values(path) for path in folder.glob("part-*.parquet"))
    tokens = np.empty(room, np.uint32)  # what the other split would fill is never touched, and costs nothing
    filled = 0
    starts, names, num_bytes = [np.zeros(1, np.int64)], list[str](), [np.zeros(0, np.int64)]
    for _, shard in iter_shards(folder, split):
        tokens[filled : filled + len(shard.tokens)] = shard.tokens
        starts.append(shard.starts[1:] + filled)
        filled += len(shard.tokens)
        names += shard.names
        num_bytes.append(shard.num_bytes)
    return TokenStream(tokens[:filled], np.concatenate(starts), names, np.concatenate(num_bytes))


def _num_values(path: Path) -> int:
    """Tokens in a part, from its footer; an empty document counts as one."""
    metadata = pq.read_metadata(path)
    column = TOKENS.names.index("tokens")  # no earlier column is nested
    return sum(metadata.row_group(group).column(column).num_values for group in range(metadata.num_row_groups))


def _stream(documents: Sequence[_Encoded]) -> TokenStream:
    lengths = [len(document.tokens) for document in documents]
    return TokenStream(
        np.concatenate([document.tokens for document in documents]),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        [document.name for document in documents],
        np.array([document.num_bytes for document in documents], np.int64),
    )
