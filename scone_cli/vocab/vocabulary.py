"""The f-gram vocabulary: ranked from the counts, written to a file, and read back as a trie (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scone_cli.arrays import U32, U64
from scone_cli.artifacts.manifest import Manifest, open_artifact
from scone_cli.artifacts.opening import to_read
from scone_cli.artifacts.publish import write_parquet_groups
from scone_cli.artifacts.schemas import LEARNED_FILE, VOCAB, VOCAB_FILE
from scone_cli.errors import DamagedArtifact, MismatchedArtifacts
from scone_cli.vocab.ranking import RULES, rank, read_counts
from scone_cli.vocab.trie import FgramTrie

_AT_ONCE = 1 << 20  # f-grams of a row group: all their tokens together would need offsets of more than 32 bits
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
        """The vocabulary of the first `size` f-grams (all, if there are fewer)."""
        trie = self.trie
        kept = FgramTrie(
            trie.prefix_nodes[:size], trie.last_tokens[:size], trie.lengths[:size], trie.num_tokens, trie.max_n
        )
        return Vocabulary(kept, self.counts[:size], self.docs[:size])

    def write(self, path: Path) -> None:
        """Write `vocab.parquet`."""
        write_parquet_groups(path, VOCAB, (self._group(first) for first in range(0, max(1, len(self.docs)), _AT_ONCE)))

    def _group(self, first: int) -> pa.Table:
        """The rows of `vocab.parquet` from `first` on, as many as a row group has."""
        trie, here = self.trie, slice(first, first + _AT_ONCE)
        lengths = trie.lengths[here]
        flat, offsets = _flat_tokens(trie, first, first + lengths.size)
        parents = pa.array(trie.prefix_nodes[here] - np.uint32(trie.num_tokens), mask=lengths == 2)
        columns = [
            pa.array(np.arange(first, first + lengths.size, dtype=np.uint32)),
            pa.array(lengths),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=VOCAB.field("tokens").type),
            pa.array(self.counts[here]),
            pa.array(self.docs[here]),
            parents,
        ]
        return pa.Table.from_arrays(columns, schema=VOCAB)

    @classmethod
    def read(cls, folder: Path, num_tokens: int, max_n: int, name: str = VOCAB_FILE) -> Vocabulary:
        """Read the vocabulary in `folder` (an artifact whose hashes have been checked), of a vocabulary, table or model.

        Raises:
            DamagedArtifact: it is not closed under prefixes, or its ids are not its row numbers.
        """
        path = folder / name
        columns = [name for name in VOCAB.names if name != "tokens"]
        table = pq.read_table(to_read(path), schema=VOCAB, columns=columns)
        n, ids = table["n"].to_numpy(), np.arange(table.num_rows)
        nodes = (table["parent"].combine_chunks().fill_null(0).to_numpy() + np.uint32(num_tokens)).astype(np.uint32)
        if not np.array_equal(table["id"].to_numpy(), ids):
            raise DamagedArtifact(f"{folder}: ids do not agree with the rows", _REMAKE)
        last = np.empty(table.num_rows, np.uint32)
        for first, lists in _token_lists(path):
            flat, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
            here = slice(first, first + len(lists))
            if not np.array_equal(np.diff(offsets), n[here]):
                raise DamagedArtifact(f"{folder}: lengths do not agree with the rows", _REMAKE)
            last[here] = flat[offsets[1:] - 1]
            nodes[here] = np.where(n[here] == 2, flat[offsets[:-1]], nodes[here])
        trie = FgramTrie(nodes, last, n, num_tokens, max_n)
        # Checked first, because `_flat_tokens` needs it: a prefix ranks before its f-gram, and is one token shorter.
        parents = np.where(n > 2, nodes - np.uint32(num_tokens), 0)
        closed = not ((n > 2) & (n[np.minimum(parents, ids)] + 1 != n)).any()
        if not closed or not all(
            np.array_equal(_flat_tokens(trie, first, first + len(lists))[0], lists.values.to_numpy())
            for first, lists in _token_lists(path)
        ):
            raise DamagedArtifact(f"{folder}: an f-gram whose prefix is not in the vocabulary", _REMAKE)
        return cls(trie, table["count"].to_numpy(), table["docs"].to_numpy())


def _token_lists(path: Path) -> Iterator[tuple[int, pa.ListArray]]:
    """The tokens of each row group, with the number of its first row."""
    with pq.ParquetFile(to_read(path)) as file:
        first = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["tokens"]).cast(pa.schema([VOCAB.field("tokens")]))
            lists = table.column(0).combine_chunks()
            yield first, lists
            first += len(lists)


def write_learned(vocab: Path, num_rows: int, path: Path) -> None:
    """Write the first `num_rows` f-grams of a vocabulary, those of a model's learned rows, as a file of that model."""

    def groups() -> Iterator[pa.Table]:
        left = num_rows
        with pq.ParquetFile(to_read(vocab / VOCAB_FILE)) as file:
            for group in range(file.num_row_groups if left else 0):
                yield (table := file.read_row_group(group).cast(VOCAB)[:left])
                left -= len(table)
                if not left:
                    break

    write_parquet_groups(path, VOCAB, groups())


def check_knows_its_fgrams(folder: Path, model: Manifest) -> None:
    """Refuse to use a model with another vocabulary than its own if it does not keep the f-grams of its learned rows.

    Raises:
        MismatchedArtifacts: it has learned rows, and an early version wrote it.
    """
    if model.settings.get("learned_rows") and LEARNED_FILE not in model.files:
        raise MismatchedArtifacts(
            f"{folder}: has {model.settings['learned_rows']:,} learned rows and no {LEARNED_FILE}, because scone "
            f"{model.code_version} wrote it; so it works only with the vocabulary that it was trained with",
            "train it again: scone train-fgram --force",
        )


def trie_of_model(folder: Path, model: Manifest, workspace: Path) -> FgramTrie:
    """The f-grams whose rows a model computes: those it was trained with, of this workspace or beside the model.

    Where these are not there any more, those of another vocabulary of the same tokenizer: rows are a function of f-grams.

    Raises:
        MismatchedArtifacts: there is none in either place; see also `check_knows_its_fgrams`.
    """
    places = [place for place in (workspace / "vocab", folder.parent / "vocab") if place.is_dir()]
    found = [(place, open_artifact(place, "vocab")) for place in dict.fromkeys(places)]
    own = [pair for pair in found if pair[1].fingerprint == model.inputs["vocab"]]
    others = [pair for pair in found if model.tokenizer and pair[1].tokenizer == model.tokenizer]
    if not own and others:
        check_knows_its_fgrams(folder, model)
    for place, vocab in own or others:
        return Vocabulary.read(place, vocab.settings["num_tokens"], vocab.settings["max_n"]).trie
    raise MismatchedArtifacts(
        f"{folder}: trained with vocabulary {model.inputs['vocab'][:12]}, "
        f"found neither in {workspace / 'vocab'} nor in {folder.parent / 'vocab'}",
        "put the vocab/ folder it was trained with beside the model",
    )


def _flat_tokens(trie: FgramTrie, first: int, last: int) -> tuple[U32, np.ndarray]:
    """The tokens of f-grams [first, last) end to end, and the offsets (int32) between them."""
    lengths = trie.lengths[first:last]
    ends = np.cumsum(lengths, dtype=np.int32)
    flat = np.empty(int(ends[-1]) if ends.size else 0, np.uint32)
    node = np.arange(first, first + lengths.size, dtype=np.int64) + trie.num_tokens
    for back in range(1, trie.max_n + 1):
        reach = np.flatnonzero(lengths >= back)
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
