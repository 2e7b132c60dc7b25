"""The f-gram vocabulary: ranked from the counts, written to a file, and read back as a trie (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.arrays import U8, U32, U64
from scone_cli.artifacts.manifest import Manifest, open_artifact
from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.publish import write_parquet
from scone_cli.artifacts.schemas import VOCAB
from scone_cli.errors import BadSetting, DamagedArtifact, MismatchedArtifacts
from scone_cli.vocab.ranking import RULES, rank, read_counts
from scone_cli.vocab.trie import FgramTrie

_MOST_TOKENS = 2**31 - 1  # of all f-grams together: Arrow's lists have 32-bit offsets
_REMAKE = "run: scone select-vocab --force"


@dataclass(frozen=True)
class Vocabulary:
    """The f-grams in rank order (id = row number = rank): their trie, occurrences [S] and documents [S]."""

    trie: FgramTrie
    counts: U64
    docs: U32

    @classmethod
    def rank(
        cls, counts_folder: Path, max_n: int, min_count: int, num_tokens: int, min_docs: int = 1, by: str = "count"
    ) -> Vocabulary:
        """Rank all n-grams with at least `min_count` occurrences in `min_docs` documents, by the rule `by`.

        For every rule, the first S f-grams are closed under prefixes and suffixes, even if there are ties at the cutoff. Ids
        do not depend on the order of the input. See `ranking.rank`.

        Raises:
            BadSetting: more n-grams than there are ids.
            DamagedArtifact: see `ranking.read_counts`.
        """
        with_suffixes = not RULES[by].is_closed
        ranking = rank(read_counts(counts_folder, max_n, min_count, min_docs, num_tokens, with_suffixes), by)
        trie = FgramTrie(ranking.prefix_nodes, ranking.last_tokens, ranking.lengths, num_tokens, max_n)
        return cls(trie, ranking.counts, ranking.docs)

    @classmethod
    def select(cls, counts_folder: Path, max_n: int, size: int, min_count: int, num_tokens: int) -> Vocabulary:
        """The `size` most frequent n-grams: the first of `rank`."""
        return cls.rank(counts_folder, max_n, min_count, num_tokens).first(size)

    def first(self, size: int) -> Vocabulary:
        """The vocabulary of the first `size` f-grams (all, if there are fewer).

        Raises:
            BadSetting: they have more tokens than a vocabulary file can hold.
        """
        trie = self.trie
        kept = FgramTrie(
            trie.prefix_nodes[:size], trie.last_tokens[:size], trie.lengths[:size], trie.num_tokens, trie.max_n
        )
        _check_room(kept.lengths)
        return Vocabulary(kept, self.counts[:size], self.docs[:size])

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
        table = pq.read_table(to_read(folder / "vocab.parquet"), schema=VOCAB).combine_chunks()
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
        # Checked first, because `_flat_tokens` needs it: a prefix ranks before its f-gram, and is one token shorter.
        closed = not ((n > 2) & (n[np.minimum(parents, ids)] + 1 != n)).any()
        if not closed or not np.array_equal(_flat_tokens(trie)[0], flat):
            raise DamagedArtifact(f"{folder}: an f-gram whose prefix is not in the vocabulary", _REMAKE)
        return cls(trie, table.column("count").to_numpy(), table.column("docs").to_numpy())


def trie_of_model(folder: Path, model: Manifest, workspace: Path) -> FgramTrie:
    """Find the vocabulary that a model was trained with, in this workspace or beside the model.

    Raises:
        MismatchedArtifacts: it is in neither place.
    """
    for place in (workspace / "vocab", folder.parent / "vocab"):
        if place.is_dir() and (vocab := open_artifact(place, "vocab")).fingerprint == model.inputs["vocab"]:
            return Vocabulary.read(place, vocab.settings["num_tokens"], vocab.settings["max_n"]).trie
    raise MismatchedArtifacts(
        f"{folder}: trained with vocabulary {model.inputs['vocab'][:12]}, "
        f"found neither in {workspace / 'vocab'} nor in {folder.parent / 'vocab'}",
        "put the vocab/ folder it was trained with beside the model",
    )


def _check_room(lengths: U8) -> None:
    num_tokens = int(lengths.sum(dtype=np.int64))
    if num_tokens > _MOST_TOKENS:
        largest = int(np.searchsorted(np.cumsum(lengths, dtype=np.int64), _MOST_TOKENS, side="right"))
        raise BadSetting(
            f"{lengths.size:,} f-grams: they have {num_tokens:,} tokens, expected at most {_MOST_TOKENS:,}",
            f"give --size {largest} or a smaller one",
        )


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


def num_frequent(path: Path, least: float) -> int:
    """The number of f-grams in a vocabulary file that occur `least` times or more.

    Raises:
        DamagedArtifact: it is not a vocabulary file.
    """
    try:
        counts = pq.read_table(to_read(path), columns=["count"])["count"].to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedArtifact(f"{path}: cannot be read as a vocabulary ({error})", _REMAKE) from error
    return int(np.count_nonzero(counts >= least))
