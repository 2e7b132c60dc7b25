"""Tables with all files that `precompute` writes, with random rows in any format, and exports of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from builders import random_documents, slow_ranking, trie_of

from scone_cli.artifacts.manifest import Manifest, digest_file, digest_json
from scone_cli.artifacts.publish import publish, staging_folder
from scone_cli.progress import silent
from scone_cli.table.exported import export_table
from scone_cli.table.layout import write_index, write_rows
from scone_cli.table.row_formats import encode, row_bytes
from scone_cli.table.table import Table
from scone_cli.vocab.vocabulary import Vocabulary

NUM_TOKENS, MAX_N, DIM, NUM_ROWS = 20, 4, 9, 400
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [3000]), MAX_N, NUM_ROWS, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
COUNTS = np.arange(NUM_ROWS, 0, -1, dtype=np.uint64) * 3
TEXT = random_documents(1, NUM_TOKENS, [300])[0]
EVERY = np.arange(NUM_ROWS, dtype=np.uint32)


def make(folder: Path, dtype: str = "float16", rows_per_part: int = 150) -> Path:
    """Publish random rows as the table `folder/table`, with all files that `precompute` writes."""
    target = folder / "table"
    staging = staging_folder(target, "f" * 64)
    rows = torch.randn(NUM_ROWS, DIM, generator=torch.Generator().manual_seed(0))
    write_rows(staging, encode(rows, dtype), rows_per_part * row_bytes(dtype, DIM))
    write_index(staging, TRIE.index(), DIM, dtype)
    Vocabulary(TRIE, COUNTS, COUNTS.astype(np.uint32)).write(staging / "vocab.parquet")
    (staging / "tokenizer.json").write_text('{"not": "read here"}')
    settings = {"dtype": dtype, "dim": DIM, "num_fgrams": NUM_ROWS, "num_tokens": NUM_TOKENS, "max_n": MAX_N}
    made_by = {"stage": "precompute", "stage_version": 4, "fingerprint": digest_json(dtype), "settings": settings}
    made_by |= {"inputs": {"model": "m" * 64, "vocab": "v" * 64, "weights": digest_json({})}, "summary": {}}
    publish(staging, target, Manifest.new("table", **made_by, tokenizer=digest_file(staging / "tokenizer.json")))
    return target


def make_exported(folder: Path, dtype: str = "float16") -> Path:
    export_table(make(folder, dtype), folder / "exported", silent)
    return folder / "exported"


def raw_rows(table: Table, ids: np.ndarray = EVERY) -> np.ndarray:
    raw = np.zeros((len(ids), table.row_bytes), np.uint8)
    table.stored.read(ids, raw.ctypes.data)
    return raw
