"""Benchmark of `precompute`: its rate as a share of A_f-gram's bare matrix products, and against padded f-grams.

python benchmarks/bench_precompute.py --workspace demo/scone-work
python benchmarks/bench_precompute.py --workspace demo/scone-work --dim 256 --fgram-layers 4    # another shape, untrained

`precompute` is all the work of the stage on the rows: A_f-gram and learned rows, encoding, and writing them into the files.
`products` is only A_f-gram's matrix products for as many rows, in the same threads, on data in the cache. The two run in
turn. Processor time is the fairer measure if other programs run.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measuring import arguments, finish, in_turn

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.model.model import SconeModel
from scone_cli.progress import silent
from scone_cli.table.fgram_forward import CPU_FGRAMS, RowMaker
from scone_cli.table.pieces import InPlace, Pieces, piece_size
from scone_cli.table.precompute import compute_rows
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import row_bytes
from scone_cli.vocab.trie import FgramTrie, Trie
from scone_cli.vocab.vocabulary import Vocabulary


def main() -> None:
    chosen = arguments(__doc__, "model", dim=0, fgram_layers=0, rows=200_000, dtype="float16", repeats=3)
    model, trie = _model(chosen.workspace, chosen.dim, chosen.fgram_layers), _trie(chosen.workspace, chosen.rows)
    config, threads = model.config, torch.get_num_threads()
    tiles = -(-trie.num_fgrams // CPU_FGRAMS)
    maker, order = RowMaker(model, trie), trie.token_order()
    some = order[len(order) // 2 :][:CPU_FGRAMS]
    nodes = trie.subtrie(some)[0].num_nodes
    torch.set_num_threads(1)  # in each of the threads below
    with tempfile.TemporaryDirectory(dir=chosen.workspace) as folder, ThreadPoolExecutor(threads) as pool:
        files = RowFiles(Path(folder), trie.num_fgrams, row_bytes(chosen.dtype, config.dim))
        files.create()

        def precompute() -> None:
            for mark in Path(folder).glob("piece-*"):
                mark.unlink()
            pieces = Pieces(order, piece_size(files.row_bytes, maker.num_fgrams))
            store = InPlace(files, Path(folder), pieces.size)
            compute_rows(maker, pieces, chosen.dtype, store, range(len(pieces)), threads, silent)

        def products() -> None:
            list(pool.map(lambda _: _products(model, nodes), range(tiles)))

        wall, processor = in_turn({"precompute": precompute, "products": products}, chosen.repeats)
    finish(
        "how fast are the table's rows computed",
        chosen.workspace,
        threads=threads,
        dim=config.dim,
        fgram_layers=config.fgram_layers,
        learned_rows=config.learned_rows,
        dtype=chosen.dtype,
        rows=trie.num_fgrams,
        token_forwards_per_row=sum(
            trie.subtrie(order[first : first + CPU_FGRAMS])[0].num_nodes for first in range(0, len(order), CPU_FGRAMS)
        )
        / len(order),
        gigaflops_of_the_products=_flops(model, nodes) * tiles / wall["products"] / 1e9,
        rows_per_second={name: trie.num_fgrams / seconds for name, seconds in wall.items()},
        rows_per_processor_second={name: trie.num_fgrams / seconds for name, seconds in processor.items()},
        share_of_the_products_rate=wall["products"] / wall["precompute"],
        share_of_the_products_rate_in_processor_time=processor["products"] / processor["precompute"],
        padded_over_trie_processor_seconds=_padded_over_trie(model, trie, maker, some, chosen.repeats),
    )


def _model(workspace: Path, dim: int, fgram_layers: int) -> SconeModel:
    """The workspace's model, or an untrained one if another width or depth is asked for."""
    model = SconeModel.load(workspace / "model")
    if not dim and not fgram_layers:
        return model
    dim, fgram_layers = dim or model.config.dim, fgram_layers or model.config.fgram_layers
    torch.manual_seed(0)
    return SconeModel(replace(model.config, dim=dim, heads=max(1, dim // 64), fgram_layers=fgram_layers))


def _trie(workspace: Path, rows: int) -> FgramTrie:
    """The trie of the workspace's first f-grams; a prefix of a vocabulary is a vocabulary too."""
    settings = read_manifest(workspace / "vocab", "vocab").settings
    return Vocabulary.read(workspace / "vocab", settings["num_tokens"], settings["max_n"]).first(rows).trie


@torch.inference_mode()
def _products(model: SconeModel, nodes: int) -> None:
    """Run only the matrix products of A_f-gram for `nodes` trie nodes."""
    assert model.fgram is not None
    narrow, wide = torch.ones(nodes, model.config.dim), torch.ones(nodes, model.config.hidden)
    for block in model.fgram.blocks:
        for x, linear in ((narrow, block.qkv), (narrow, block.out), (narrow, block.gate_up), (wide, block.down)):
            x @ linear.weight.T


def _flops(model: SconeModel, nodes: int) -> int:
    assert model.fgram is not None
    return sum(2 * nodes * weight.numel() for weight in model.fgram.blocks.parameters() if weight.dim() == 2)


def _padded_over_trie(model: SconeModel, trie: FgramTrie, maker: RowMaker, ids: np.ndarray, repeats: int) -> float:
    """Time of A_f-gram on one padded sequence of K tokens per f-gram (the usual training layout), over that on the trie."""
    path = np.zeros((ids.size, trie.max_n), np.int64)
    for row, gram in enumerate(trie.tokens_of(ids)):
        path[row, : len(gram)] = gram
    chain = np.arange(ids.size)
    offsets = tuple(range(0, (trie.max_n + 1) * ids.size, ids.size))
    layout = Trie(
        path.T.reshape(-1),
        offsets,
        np.concatenate([np.full(ids.size, -1)] + [chain + offset for offset in offsets[:-2]]),
    )
    rows = (trie.lengths[ids].astype(np.int64) - 1) * ids.size + chain

    @torch.inference_mode()
    def padded() -> None:
        model.fgram_rows(layout, rows)

    _, processor = in_turn({"padded": padded, "trie": lambda: maker(ids)}, repeats)
    return processor["padded"] / processor["trie"]


if __name__ == "__main__":
    main()
