"""How fast are the table's rows computed? Beside the padded way, one sequence of K tokens an f-gram.

python benchmarks/bench_precompute.py --workspace demo/work
"""

from __future__ import annotations

import numpy as np
import torch
from measuring import arguments, finish, side_by_side

from scone_cli.artifacts import read_manifest
from scone_cli.model import SconeModel
from scone_cli.stages.precompute import CHUNK
from scone_cli.table import token_order_chunks
from scone_cli.trie import Trie
from scone_cli.vocabulary import Vocabulary


def main() -> None:
    chosen = arguments(__doc__, repeats=5)
    work = chosen.workspace
    settings = read_manifest(work / "vocab", "vocab").settings
    trie = Vocabulary.read(work / "vocab", settings["num_tokens"], settings["max_n"]).trie
    model = SconeModel.load(work / "model")
    chunks = token_order_chunks(trie.token_order(), CHUNK)
    ids = chunks[len(chunks) // 2]
    path = np.zeros((ids.size, trie.max_n), np.int64)
    for row, gram in enumerate(trie.tokens_of(ids)):
        path[row, : len(gram)] = gram
    chain = np.arange(ids.size)
    found: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def shared() -> None:
        found["trie"] = model.fgram_rows(*trie.subtrie(ids))

    @torch.inference_mode()
    def padded() -> None:
        offsets = tuple(range(0, (trie.max_n + 1) * ids.size, ids.size))
        layout = Trie(path.T.reshape(-1), offsets, (np.empty(0, np.int64), *[chain] * (trie.max_n - 1)))
        found["padded"] = model.fgram_rows(layout, (trie.lengths[ids].astype(np.int64) - 1) * ids.size + chain)

    seconds = side_by_side({"trie": shared, "padded": padded}, chosen.repeats)
    finish(
        "how fast are the table's rows computed",
        work,
        threads=torch.get_num_threads(),
        rows=int(ids.size),
        largest_difference=float((found["trie"] - found["padded"]).abs().max()),
        token_forwards_a_row=trie.subtrie(ids)[0].num_nodes / ids.size,
        rows_a_second=ids.size / seconds["trie"],
        padded_rows_a_second=ids.size / seconds["padded"],
        padded_over_trie_seconds=seconds["padded"] / seconds["trie"],
    )


if __name__ == "__main__":
    main()
