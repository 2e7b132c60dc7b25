"""A process that has used everything forks, and its child uses everything: none waits for threads that only the parent has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # it starts a process that compiles kernels

# The parent computes with two threads of torch, which stay; so does the reference tokenizer with a batch.
SCRIPT = """
import hashlib, os, signal, sys
import numpy as np
import torch
from torch.utils.data import DataLoader

from scone_cli.serving import SconeEmbedding, load_model
from scone_cli.table import Table

torch.set_num_threads(2)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
workspace = sys.argv[1]
tables = [Table.open(f"{workspace}/table", placement) for placement in ("ram", "mmap")]
table = tables[0]
model = load_model(workspace, device="cpu")
live = load_model(workspace, live=True, device="cpu")
ids = np.random.default_rng(0).integers(len(table), size=200_000).astype(np.uint32)
tokens = np.random.default_rng(0).integers(table.vocab_size, size=100_000)
model.tokenizer._fast = None  # the library that shares a batch among threads


def use_everything():
    digest = hashlib.sha256()
    for table in tables:
        use_table(table, digest)
    for part in (
        model.logits(tokens[:20]),
        live.logits(tokens[:20]),
        np.array(model.tokenizer.encode_batch(["a b c"] * 300)[299]),
    ):
        digest.update(np.asarray(part).tobytes())
    digest.update(model.generate("abc", max_tokens=5).encode() + live.generate("abc", max_tokens=5).encode())
    return digest.hexdigest()


def use_table(table, digest):
    matcher = table.matcher(2)
    embedding = SconeEmbedding(model.network.main, table)
    for part in (
        table.prewarm() * 0,
        matcher.match(tokens),
        matcher.match(tokens, [0, 50_000, 100_000]),
        matcher.match(tokens[:1]),
        table.rows(ids),
        table.rows(ids[:1]),
        table.rows(ids, torch.zeros(200_000, table.dim)),
        table.rows(ids, np.zeros((200_000, table.dim), np.float16)),
        embedding(tokens),
    ):
        digest.update(np.asarray(part).tobytes())


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, at):
        return table.rows(ids).float().sum()


if __name__ == "__main__":
    expected = use_everything()
    if not (child := os.fork()):
        signal.alarm(60)
        os._exit(use_everything() != expected)
    assert os.waitpid(child, 0)[1] == 0, "the child"
    assert use_everything() == expected, "the parent, afterwards"
    loaded = list(DataLoader(Rows(), num_workers=1, multiprocessing_context="fork", timeout=60))
    assert all(each.item() == table.rows(ids).float().sum().item() for each in loaded)
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_uses_all_that_its_parent_has_used(small):
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(small / "work")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "SCONE_"))}
    ended = subprocess.run(code, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert ended.stdout == "done\n", ended.stderr
