"""Holds tokenised documents as token streams in memory, and writes and reads them as the parts of `tokens/`.

`encode.py` turns documents into tokens; `shards.py` turns a corpus into parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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
    """One tokenised document, or a segment of one, with its name, split and bytes of text.

    A document from which text was redacted is several segments in a row; all but the first `continues` it.
    """

    name: str
    split: str
    num_bytes: int
    tokens: Tokens
    continues: bool = False


@dataclass(frozen=True)
class TokenStream:
    """D tokenised segments of documents as one stream of N tokens; a document is one segment, or several if it was redacted.

    Segment i has the tokens `tokens[starts[i]:starts[i + 1]]` (`starts` [D + 1], the last is N). `num_bytes` [D] is the
    UTF-8 length of its text, 0 if unknown. `num_left_out`: bytes of all texts for which there is no token, if known.
    `continues` [D]: whether it belongs to the document of the segment before; None if each is a document.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    names: list[str]
    num_bytes: npt.NDArray[np.int64]
    num_left_out: int = 0
    continues: npt.NDArray[np.bool_] | None = None

    @property
    def document_of(self) -> npt.NDArray[np.int64]:
        """The number of the document, from 0, of each segment [D]."""
        return documents_of(self.continues_document)

    @property
    def continues_document(self) -> npt.NDArray[np.bool_]:
        """`continues`, for every stream [D]."""
        return np.zeros(len(self.names), np.bool_) if self.continues is None else self.continues

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
            np.array([document.continues for document in documents], np.bool_),
        )


def by_document(segments: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """The segments of each document, which come in a row."""
    found: list[Encoded] = []
    for segment in segments:
        if found and not segment.continues:
            yield found
            found = []
        found.append(segment)
    if found:
        yield found


def num_documents(segments: Iterable[Encoded]) -> int:
    """The number of documents of these segments."""
    return sum(not segment.continues for segment in segments)


def documents_of(continues: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The number of the document, from 0, of each segment [D]; the first segment begins one, whatever it says."""
    begins = ~continues
    begins[:1] = True
    return np.cumsum(begins) - 1


def write_part(path: Path, documents: Sequence[Encoded]) -> None:
    """Write the documents as one part of `tokens/`; `publish` syncs it to disk later."""
    stream = TokenStream.of(documents)
    columns = [
        pa.array(stream.names, pa.string()),
        pa.array([document.split for document in documents], pa.string()),
        pa.array(stream.num_bytes, pa.uint64()),
        pa.array(stream.continues),
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
    """Read the documents of one split part by part, in order: file name and stream of each part (arrays are read-only).

    No document is in two parts.
    """
    for path in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(to_read(path), schema=TOKENS).filter(pc.field("split") == split).combine_chunks()
        lists = table.column("tokens").combine_chunks()
        starts = lists.offsets.to_numpy().astype(np.int64)
        num_bytes = table.column("bytes").to_numpy().astype(np.int64)
        continues = continues_of(table)
        tokens, names = lists.flatten().to_numpy(), table.column("doc").to_pylist()
        yield path.name, TokenStream(tokens, starts - starts[0], names, num_bytes, continues=continues)


def continues_of(table: pa.Table) -> npt.NDArray[np.bool_]:
    """The column `continues` of a part of `tokens/` [D]; parts of version 1 have none."""
    if "continues" not in table.column_names:
        return np.zeros(table.num_rows, np.bool_)
    return np.asarray(table.column("continues").fill_null(False).to_numpy(), np.bool_)


def read_tokens(folder: Path, split: str) -> TokenStream:
    """Read all documents of one split in part order, with 4 bytes of memory per token."""
    room = sum(_num_values(path) for path in folder.glob("part-*.parquet"))
    tokens = np.empty(room, np.uint32)  # the room for the other split is never touched, so it takes no memory
    filled = 0
    starts, names, num_bytes = [np.zeros(1, np.int64)], list[str](), [np.zeros(0, np.int64)]
    continues = [np.zeros(0, np.bool_)]
    for _, shard in iter_shards(folder, split):
        tokens[filled : filled + len(shard.tokens)] = shard.tokens
        starts.append(shard.starts[1:] + filled)
        filled += len(shard.tokens)
        names += shard.names
        num_bytes.append(shard.num_bytes)
        continues.append(shard.continues_document)
    all_starts, all_bytes = np.concatenate(starts), np.concatenate(num_bytes)
    return TokenStream(tokens[:filled], all_starts, names, all_bytes, continues=np.concatenate(continues))


def _num_values(path: Path) -> int:
    """The number of tokens in a part, from its footer; an empty document counts as one token."""
    metadata = pq.read_metadata(to_read(path))
    column = metadata.num_columns - 1  # the tokens are the last column in every version
    return sum(metadata.row_group(group).column(column).num_values for group in range(metadata.num_row_groups))
