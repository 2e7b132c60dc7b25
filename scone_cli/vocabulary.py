"""The f-gram vocabulary: chosen from the counts, written, and read back as a trie (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.artifacts import write_parquet
from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.ngrams import U8, U32, U64
from scone_cli.schemas import VOCAB
from scone_cli.trie import FgramTrie

_MOST_TOKENS = 2**31 - 1  # of all f-grams: Arrow's lists have offsets of 32 bits
_REMAKE = "run: scone select-vocab --force"


@dataclass(frozen=True)
class Vocabulary:
    """The f-grams in rank order, so that id = row number = rank: trie, occurrences [S] and documents [S] of each."""

    trie: FgramTrie
    counts: U64
    docs: U32

    @classmethod
    def select(cls, counts_folder: Path, max_n: int, size: int, min_count: int, num_tokens: int) -> Vocabulary:
        """Rank the n-grams of all lengths together by (count desc, n asc, tokens asc) and keep the first `size`.

        A prefix or suffix of an n-gram is shorter and occurs at least as often, so it ranks before it: every such set
        is closed under prefixes and suffixes, ties at the cutoff included, and ids do not depend on the input's order.

        Raises:
            BadSetting: so many f-grams have more tokens than one vocabulary can hold.
        """
        ranked = (
            pl.concat([_level(counts_folder, n) for n in range(2, max_n + 1)])
            .filter(pl.col("count") >= min_count)
            .sort(["count", "n", "row"], descending=[True, False, False])  # within one n, rows are in token order
            .head(size)
        )
        n = ranked["n"].to_numpy()
        _check_room(n, size)
        rows = ranked["row"].to_numpy()
        num_fgrams = len(ranked)
        prefix_nodes, last_tokens = np.empty(num_fgrams, np.uint32), np.empty(num_fgrams, np.uint32)
        shorter: tuple[np.ndarray, np.ndarray] | None = None  # sorted (n-1)-grams as byte strings, and their nodes
        for length in range(2, max_n + 1):
            ids = np.flatnonzero(n == length)
            tokens = _tokens(counts_folder, length)[rows[ids]]
            last_tokens[ids] = tokens[:, -1]
            if shorter is None:
                prefix_nodes[ids] = tokens[:, 0]
            else:
                prefix_nodes[ids] = shorter[1][np.searchsorted(shorter[0], _as_bytes(tokens[:, :-1]))]
            own = _as_bytes(tokens)
            order = np.argsort(own)
            shorter = own[order], (ids[order] + num_tokens).astype(np.uint32)
        trie = FgramTrie(prefix_nodes, last_tokens, n.astype(np.uint8), num_tokens, max_n)
        return cls(trie, ranked["count"].to_numpy(), ranked["docs"].to_numpy())

    def write(self, path: Path) -> None:
        """Write `vocab.parquet`."""
        trie = self.trie
        flat, offsets = _flat_tokens(trie)
        parents = pa.array(trie.prefix_nodes - np.uint32(trie.num_tokens), mask=trie.lengths == 2)
        columns = [
            pa.array(np.arange(trie.num_fgrams, dtype=np.uint32)),
            pa.array(trie.lengths),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=VOCAB.field("tokens").type),
            pa.array(self.counts),
            pa.array(self.docs),
            parents,
        ]
        write_parquet(path, VOCAB, pa.Table.from_arrays(columns, schema=VOCAB))

    @classmethod
    def read(cls, folder: Path, num_tokens: int, max_n: int) -> Vocabulary:
        """Read the vocabulary in `folder` (an artifact whose hashes have been checked).

        Raises:
            DamagedArtifact: it is not closed under prefixes, or its ids are not its row numbers.
        """
        table = pq.read_table(folder / "vocab.parquet", schema=VOCAB).combine_chunks()
        n = table.column("n").to_numpy()
        lists = table.column("tokens").chunk(0) if table.num_rows else pa.array([], VOCAB.field("tokens").type)
        flat, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
        first, last = flat[offsets[:-1]], flat[offsets[1:] - 1] if table.num_rows else flat
        parents = table.column("parent").fill_null(0).to_numpy()
        ids = np.arange(table.num_rows)
        if not np.array_equal(table.column("id").to_numpy(), ids) or not np.array_equal(np.diff(offsets), n):
            raise DamagedArtifact(f"{folder}: ids or lengths do not agree with the rows", _REMAKE)
        nodes = np.where(n == 2, first, parents + np.uint32(num_tokens)).astype(np.uint32)
        trie = FgramTrie(nodes, np.ascontiguousarray(last), n, num_tokens, max_n)
        # A prefix ranks before what continues it and is one shorter: checked first, as spelling out rests on it.
        closed = not ((n > 2) & (n[np.minimum(parents, ids)] + 1 != n)).any()
        if not closed or not np.array_equal(_flat_tokens(trie)[0], flat):
            raise DamagedArtifact(f"{folder}: an f-gram whose prefix is not in the vocabulary", _REMAKE)
        return cls(trie, table.column("count").to_numpy(), table.column("docs").to_numpy())


def _check_room(lengths: U8, size: int) -> None:
    num_tokens = int(lengths.sum(dtype=np.int64))
    if num_tokens > _MOST_TOKENS:
        largest = int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), _MOST_TOKENS, side="right"))
        raise BadSetting(
            f"--size {size}: the {lengths.size:,} most frequent n-grams have {num_tokens:,} tokens, "
            f"expected at most {_MOST_TOKENS:,}",
            f"give --size {largest} or a smaller one",
        )


def _level(counts_folder: Path, n: int) -> pl.DataFrame:
    frame = pl.read_parquet(counts_folder / f"n={n}.parquet", columns=["count", "docs"], hive_partitioning=False)
    return frame.with_row_index("row").with_columns(n=pl.lit(n, pl.UInt8))


def _tokens(counts_folder: Path, n: int) -> U32:
    column = pq.ParquetFile(counts_folder / f"n={n}.parquet").read(["tokens"]).column(0).combine_chunks()
    flat: U32 = column.flatten().to_numpy()
    return flat.reshape(-1, n)


def _as_bytes(tokens: U32) -> np.ndarray:
    """Each row as one big-endian byte string, whose order is the order of the tokens."""
    return np.ascontiguousarray(tokens, ">u4").view(f"V{4 * tokens.shape[1]}").ravel()


def _flat_tokens(trie: FgramTrie) -> tuple[U32, np.ndarray]:
    """The tokens of all f-grams end to end, and the S + 1 offsets (int32) between them."""
    ends = np.cumsum(trie.lengths, dtype=np.int32)
    flat = np.empty(int(ends[-1]) if ends.size else 0, np.uint32)
    node = np.arange(trie.num_fgrams, dtype=np.int64) + trie.num_tokens
    for back in range(1, trie.max_n + 1):
        reach = np.flatnonzero(trie.lengths >= back)
        inside = node[reach] >= trie.num_tokens
        fgram = np.where(inside, node[reach] - trie.num_tokens, 0)
        flat[ends[reach] - back] = np.where(inside, trie.last_tokens[fgram], node[reach])
        node[reach[inside]] = trie.prefix_nodes[fgram[inside]]
    return flat, np.concatenate([np.zeros(1, np.int32), ends])
