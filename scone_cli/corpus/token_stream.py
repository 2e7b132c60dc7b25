"""Holds tokenised documents as token streams in memory, and writes and reads them as the parts of `tokens/`.

`encode.py` turns documents into tokens; `shards.py` turns a corpus into parts.
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

_GROUP_TOKENS = 1 << 20  # tokens per row group: the memory for writing grows with it


def top_folder(document: str) -> str:
    """The sub-corpus of a document: the first folder in its name, or `.` if there is none."""
    return document.split("/", maxsplit=1)[0] if "/" in document else "."


def split_of(content: str | bytes, held_out: float) -> str:
    """The split of a document, `train` or `held-out`, drawn by the hash of its content: equal documents share a split."""
    data = content.encode() if isinstance(content, str) else content
    return HELD_OUT if draw_of(data) < held_out * 2**64 else TRAIN


def draw_of(content: bytes) -> int:
    """The hash of a document's content as a number below 2^64."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised document, with its name, split and bytes of text."""

    name: str
    split: str
    num_bytes: int
    tokens: Tokens


@dataclass(frozen=True)
class TokenStream:
    """D tokenised documents as one stream of N tokens.

    Document i has the tokens `tokens[starts[i]:starts[i + 1]]` (`starts` [D + 1], the last is N). `num_bytes` [D] is the
    UTF-8 length of its text, 0 if unknown. `num_left_out`: bytes of all texts for which there is no token, if known.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    names: list[str]
    num_bytes: npt.NDArray[np.int64]
    num_left_out: int = 0

    @classmethod
    def of(cls, documents: Sequence[Encoded], num_left_out: int = 0) -> TokenStream:
        """Concatenate documents to one stream."""
        lengths = [len(document.tokens) for document in documents]
        one = len(documents) == 1  # not copied: a single document may take a quarter of the memory
        return cls(
            documents[0].tokens if one else np.concatenate([np.zeros(0, np.uint32), *(d.tokens for d in documents)]),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            [document.name for document in documents],
            np.array([document.num_bytes for document in documents], np.int64),
            num_left_out,
        )


def write_part(path: Path, documents: Sequence[Encoded]) -> None:
    """Write the documents as one part of `tokens/`; `publish` syncs it to disk later."""
    stream = TokenStream.of(documents)
    columns = [
        pa.array(stream.names, pa.string()),
        pa.array([document.split for document in documents], pa.string()),
        pa.array(stream.num_bytes, pa.uint64()),
        pa.ListArray.from_arrays(stream.starts.astype(np.int32), stream.tokens, type=TOKENS.field("tokens").type),
    ]
    rows = max(1, len(documents) * _GROUP_TOKENS // max(1, stream.tokens.size))
    # No dictionary encoding of tokens: it costs a quarter of the time, and makes the file larger.
    # lz4: a third larger than zstd, but written and read in two thirds of the time, which sets the speed of counting.
    options = {"use_dictionary": ["split"], "compression": "lz4"}
    write_parquet(path, TOKENS, pa.Table.from_arrays(columns, schema=TOKENS), rows, **options)
    pa.default_memory_pool().release_unused()  # otherwise it keeps the memory of one part for the next


def end_of_document(folder: Path, manifest: Manifest) -> int:
    """The end-of-document id of `tokens/`; no document contains it."""
    if "end_of_document" in manifest.summary:
        return int(manifest.summary["end_of_document"])
    return Tokenizer.load(folder / "tokenizer.json").end_of_document  # an older artifact: those always have a tokenizer


def iter_shards(folder: Path, split: str) -> Iterator[tuple[str, TokenStream]]:
    """Read the documents of one split part by part, in order: file name and stream of each part (arrays are read-only)."""
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
    """Read all documents of one split in part order, with 4 bytes of memory per token."""
    room = sum(_num_values(path) for path in folder.glob("part-*.parquet"))
    tokens = np.empty(room, np.uint32)  # the room for the other split is never touched, so it takes no memory
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
    """The number of tokens in a part, from its footer; an empty document counts as one token."""
    metadata = pq.read_metadata(to_read(path))
    column = TOKENS.names.index("tokens")  # field and Parquet column have the same index: no earlier field is nested
    return sum(metadata.row_group(group).column(column).num_values for group in range(metadata.num_row_groups))
