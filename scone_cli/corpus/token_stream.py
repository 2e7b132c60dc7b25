"""Tokenised documents as streams of tokens: in memory, and in the parts of `tokens/` on disk.

What makes them is elsewhere: `encode.py` turns documents into tokens, `shards.py` a corpus into parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import HELD_OUT, TOKENS, TRAIN
from scone_cli.corpus.tokenizer import Tokenizer, Tokens

_GROUP_TOKENS = 1 << 20  # of a row group: what writing takes in memory goes by it


def top_folder(document: str) -> str:
    """The sub-corpus of a document, by its name: the first folder, or `.` where it is in none."""
    return document.split("/", maxsplit=1)[0] if "/" in document else "."


def split_of(content: str | bytes, held_out: float) -> str:
    """`train` or `held-out`, drawn by the hash of a text, or of its bytes: equal documents are always on the same side."""
    data = content.encode() if isinstance(content, str) else content
    return HELD_OUT if draw_of(data) < held_out * 2**64 else TRAIN


def draw_of(content: bytes) -> int:
    """The number below 2^64 that a text draws by its hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document as tokens."""

    name: str
    split: str
    num_bytes: int
    tokens: Tokens


@dataclass(frozen=True)
class TokenStream:
    """Documents one after the other, D of them, N tokens together.

    Document i has the tokens `tokens[starts[i]:starts[i + 1]]` (`starts`: D + 1 offsets, the last is N); `num_bytes`
    is the UTF-8 length of its text, 0 where that is not known. `num_left_out`: of these bytes, those for which there is no
    token, so far as that is known.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    names: list[str]
    num_bytes: npt.NDArray[np.int64]
    num_left_out: int = 0

    @classmethod
    def of(cls, documents: Sequence[Encoded], num_left_out: int = 0) -> TokenStream:
        """The documents as a stream."""
        lengths = [len(document.tokens) for document in documents]
        one = len(documents) == 1  # it may be a quarter of the memory: not to be copied
        return cls(
            documents[0].tokens if one else np.concatenate([np.zeros(0, np.uint32), *(d.tokens for d in documents)]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            [document.name for document in documents],
            np.array([document.num_bytes for document in documents], np.int64),
            num_left_out,
        )


def write_part(path: Path, documents: Sequence[Encoded]) -> None:
    """Write the documents as one part of `tokens/`; publishing makes it durable."""
    stream = TokenStream.of(documents)
    columns = [
        pa.array(stream.names, pa.string()),
        pa.array([document.split for document in documents], pa.string()),
        pa.array(stream.num_bytes, pa.uint64()),
        pa.ListArray.from_arrays(stream.starts.astype(np.int32), stream.tokens, type=TOKENS.field("tokens").type),
    ]
    rows = max(1, len(documents) * _GROUP_TOKENS // max(1, stream.tokens.size))
    # A dictionary of tokens costs a quarter of the time, and makes the file larger.
    # A third larger than with zstd, and written and read in two thirds of the time: counting is as fast as that.
    options = {"use_dictionary": ["split"], "compression": "lz4"}
    write_parquet(path, TOKENS, pa.Table.from_arrays(columns, schema=TOKENS), rows, **options)
    pa.default_memory_pool().release_unused()  # else it keeps what one part took for the next


def end_of_document(folder: Path, manifest: Manifest) -> int:
    """The id that `tokens/` has for the end of a document; no document holds it."""
    if "end_of_document" in manifest.summary:
        return int(manifest.summary["end_of_document"])
    return Tokenizer.load(folder / "tokenizer.json").end_of_document  # made before token ids could come without one


def iter_shards(folder: Path, split: str) -> Iterator[tuple[str, TokenStream]]:
    """The documents of one split, part by part in order: the part's file name and its stream (arrays are read-only)."""
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(to_read(path), schema=TOKENS).filter(pc.field("split") == split).combine_chunks()
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
    metadata = pq.read_metadata(to_read(path))
    column = TOKENS.names.index("tokens")  # no earlier column is nested
    return sum(metadata.row_group(group).column(column).num_values for group in range(metadata.num_row_groups))
