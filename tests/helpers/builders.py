"""Tiny builders that the tests of the core share, and slow, readable twins of its fast code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from scone_cli.artifacts.manifest import Manifest, digest_json
from scone_cli.artifacts.publish import publish, staging_folder, write_parquet
from scone_cli.artifacts.schemas import TOKENS, TRAIN
from scone_cli.corpus.token_stream import TokenStream
from scone_cli.counting.count import write_counts as write_in_order
from scone_cli.counting.sort import Ngrams
from scone_cli.model.model import ModelConfig, SconeModel
from scone_cli.table.given_out import DTYPES
from scone_cli.table.layout import write_index, write_rows
from scone_cli.vocab.trie import FgramTrie

Documents = Sequence[Sequence[int]]
Fgram = tuple[int, ...]


def random_documents(seed: int, num_tokens: int, lengths: Sequence[int]) -> list[list[int]]:
    """Documents in which n-grams of all lengths repeat: half of the tokens follow from the one before."""
    random = np.random.default_rng(seed)
    documents = []
    for length in lengths:
        document = [int(token) for token in random.integers(num_tokens, size=length)]
        for i in range(1, length):
            if random.random() < 0.5:
                document[i] = (document[i - 1] * 3 + 1) % num_tokens
        documents.append(document)
    return documents


def stream_of(documents: Documents, names: Sequence[str] | None = None) -> TokenStream:
    """The documents as a stream; a token counts as three bytes of text."""
    sizes = np.array([len(document) for document in documents], np.int64)
    tokens = np.array([token for document in documents for token in document], np.uint32)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return TokenStream(tokens, starts, list(names or map(str, range(len(documents)))), sizes * 3)


def write_part(
    folder: Path,
    number: int,
    documents: Documents,
    splits: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    continues: Sequence[bool] | None = None,
) -> None:
    """Write one shard of `tokens/`."""
    table = pa.table(
        {
            "doc": list(names or [f"{number}-{i}" for i in range(len(documents))]),
            "split": list(splits or [TRAIN] * len(documents)),
            "bytes": [3 * len(document) for document in documents],
            "continues": list(continues or [False] * len(documents)),
            "tokens": [list(document) for document in documents],
        },
        TOKENS,
    )
    write_parquet(folder / f"part-{number:05d}.parquet", TOKENS, table)


def slow_counts(documents: Documents, n: int, min_count: int) -> dict[Fgram, tuple[int, int]]:
    """Occurrences, and documents that hold it, of every n-gram; the slow twin of counting."""
    grams = [[tuple(document[i : i + n]) for i in range(len(document) - n + 1)] for document in documents]
    counts = Counter(gram for document in grams for gram in document)
    docs = Counter(gram for document in grams for gram in set(document))
    return {gram: (count, docs[gram]) for gram, count in sorted(counts.items()) if count >= min_count}


def write_counts(folder: Path, documents: Documents, max_n: int, min_count: int) -> None:
    """Write `counts/n=*.parquet`."""
    for n in range(2, max_n + 1):
        found = slow_counts(documents, n, min_count)
        columns = np.array(list(found.values()), np.uint64).reshape(-1, 2)
        tokens = np.array(list(found), np.uint32).reshape(-1, n)
        counts_file(folder / f"n={n}.parquet", tokens, columns[:, 0], columns[:, 1])


def counts_file(path: Path, tokens: npt.ArrayLike, counts: npt.ArrayLike, docs: npt.ArrayLike) -> None:
    """Write n-grams [M, n], with occurrences and documents [M], in any order as one file of `counts/`."""
    rows = np.asarray(tokens, np.uint32)
    order = np.lexsort((*rows.T[::-1], -np.asarray(counts, np.int64)))
    columns = np.asarray(counts, np.uint64)[order], np.asarray(docs, np.uint32)[order]
    write_in_order(path, Ngrams(rows[order], *columns))


def slow_ranking(documents: Documents, max_n: int, size: int, min_count: int) -> list[Fgram]:
    """The f-grams in the order of their ids; the slow twin of selection."""
    counts = {
        gram: count for n in range(2, max_n + 1) for gram, (count, _) in slow_counts(documents, n, min_count).items()
    }
    return sorted(counts, key=lambda gram: (-counts[gram], len(gram), gram))[:size]


def slow_matches(document: Sequence[int], fgrams: Sequence[Fgram], max_n: int) -> list[Fgram]:
    """The longest f-gram that ends at each position, or (); the slow twin of matching."""
    known = set(fgrams)
    found = []
    for end in range(1, len(document) + 1):
        suffixes = (tuple(document[max(0, end - n) : end]) for n in range(max_n, 1, -1))
        found.append(next((suffix for suffix in suffixes if suffix in known), ()))
    return found


def trie_of(fgrams: Sequence[Fgram], num_tokens: int, max_n: int) -> FgramTrie:
    """The trie of f-grams given in the order of their ids."""
    nodes = {(token,): token for token in range(num_tokens)} | {gram: num_tokens + i for i, gram in enumerate(fgrams)}
    prefixes = np.array([nodes[gram[:-1]] for gram in fgrams], np.uint32)
    last = np.array([gram[-1] for gram in fgrams], np.uint32)
    return FgramTrie(prefixes, last, np.array([len(gram) for gram in fgrams], np.uint8), num_tokens, max_n)


def tiny_model(num_tokens: int, max_n: int = 4, seed: int = 0, **changes: object) -> SconeModel:
    """A model in which every weight is random: as initialised, blocks add nothing, and a wrong one would go unseen."""
    shape = {"dim": 16, "layers": 2, "heads": 2, "fgram_layers": 2, "tied_head": True, "context": 8} | changes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SconeModel(ModelConfig(vocab_size=num_tokens, max_n=max_n, **shape))
        for parameter in model.parameters():
            nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return model


def raw_of(rows: Tensor) -> npt.NDArray[np.uint8]:
    """The bytes of the rows [S, row_bytes]."""
    return rows.contiguous().view(torch.uint8).numpy()


def make_table(folder: Path, trie: FgramTrie, rows: Tensor, part_bytes: int = 1 << 20) -> Path:
    """Publish the rows [S, D] of the first S f-grams as the table `folder/table`, made from the model mmmm..."""
    target = folder / "table"
    staging = staging_folder(target, "f" * 64)
    write_rows(staging, raw_of(rows), part_bytes)
    size = len(rows)
    first = FgramTrie(
        trie.prefix_nodes[:size], trie.last_tokens[:size], trie.lengths[:size], trie.num_tokens, trie.max_n
    )
    dtype = next(name for name, dtype in DTYPES.items() if dtype == rows.dtype)
    write_index(staging, first.index(), rows.shape[1], dtype)
    settings = {"dtype": dtype, "dim": rows.shape[1], "num_fgrams": size}
    settings |= {"num_tokens": trie.num_tokens, "max_n": trie.max_n}
    made_from = {"model": "m" * 64, "vocab": "v" * 64, "weights": digest_json({})}
    made_by = {"stage": "precompute", "stage_version": 2, "fingerprint": "f" * 64, "tokenizer": "t" * 64}
    publish(staging, target, Manifest.new("table", **made_by, settings=settings, inputs=made_from, summary={}))
    return target
