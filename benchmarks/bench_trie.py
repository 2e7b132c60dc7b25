"""Benchmark of A_f-gram in training: the trie against padded f-grams, and Scone's training step against plain's.

    python benchmarks/bench_trie.py --workspace demo/scone-work
    python benchmarks/bench_trie.py --workspace headline --tokens 524288 --fgrams 1400000 --repeats 3

It runs one batch of shuffled training windows, drawn as the trainer does, through untrained models of the given shape
(A_f-gram is as deep as the main model). Padded is the paper's layout: every match is a sequence of K tokens of its own. It
is measured on the first tokens of the batch only, because a whole large batch would not fit into memory. A step is forward
and backward, without the optimiser. On a shared machine compare processor times, not wall times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from measuring import arguments, finish, in_turn

from scone_cli.artifacts.manifest import open_artifact
from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus.token_stream import end_of_document, read_tokens
from scone_cli.model.model import ModelConfig, SconeModel
from scone_cli.training.gradients import CHUNK_FGRAMS, accumulate_gradients
from scone_cli.training.packed_text import PackedText
from scone_cli.vocab.index import NONE
from scone_cli.vocab.trie import FgramTrie, Trie, distinct_matches
from scone_cli.vocab.vocabulary import Vocabulary

PADDED_TOKENS = 4096
MICRO_TOKENS = 4096  # as the trainer does on a CPU


def main() -> None:
    chosen = arguments(
        __doc__,
        repeats=5,
        tokens=4096,
        fgrams=0,
        learned_rows=0,
        dim=64,
        layers=4,
        heads=2,
        context=256,
        threads=torch.get_num_threads(),
    )
    torch.set_num_threads(chosen.threads)
    work = chosen.workspace
    settings = open_artifact(work / "vocab", "vocab").settings
    vocab = Vocabulary.read(work / "vocab", settings["num_tokens"], settings["max_n"])
    trie = (vocab.first(chosen.fgrams) if chosen.fgrams else vocab).trie
    stream = read_tokens(work / "tokens", TRAIN)
    end = end_of_document(work / "tokens", open_artifact(work / "tokens", "tokens"))
    text = PackedText.pack(stream.tokens, stream.starts, end, trie.index(), chosen.context)
    numbers = text.order(seed=0).at(0, max(1, chosen.tokens // chosen.context))
    tokens, ids = text.windows(numbers)
    distinct, _ = distinct_matches(ids)
    scone, plain = (_model(chosen, trie, kind) for kind in ("scone", "plain"))
    micro = max(1, MICRO_TOKENS // chosen.context)
    some = ids[: max(1, PADDED_TOKENS // chosen.context)]
    layout, places = _padded(trie, some)
    whole, outputs = trie.subtrie(distinct)
    pieces, _ = trie.chunks(distinct, CHUNK_FGRAMS)
    part, part_outputs = trie.subtrie(distinct_matches(some)[0])

    def load() -> None:
        drawn, matched = text.windows(text.order(seed=0).at(0, len(numbers)))
        trie.chunks(distinct_matches(matched)[0], CHUNK_FGRAMS)
        assert drawn.size

    def fgram_of_all() -> None:
        for piece in pieces:
            scone.fgram_rows(*piece).sum().backward()

    wall, processor = in_turn(
        {
            "plain_step": lambda: accumulate_gradients(plain, tokens, np.full_like(ids, NONE), None, micro),
            "scone_step": lambda: accumulate_gradients(scone, tokens, ids, trie, micro),
            "loading_and_matching": load,
            "fgram_trie": fgram_of_all,
            "fgram_trie_of_some": lambda: scone.fgram_rows(part, part_outputs).sum().backward(),
            "fgram_padded_of_some": lambda: scone.fgram_rows(layout, places).sum().backward(),
        },
        chosen.repeats,
    )
    lengths, matches = trie.lengths.astype(np.int64), ids[ids != NONE]
    finish(
        "what does A_f-gram cost in training",
        work,
        threads=chosen.threads,
        dim=chosen.dim,
        layers=chosen.layers,
        context=chosen.context,
        fgrams=trie.num_fgrams,
        learned_rows=min(chosen.learned_rows, trie.num_fgrams),
        batch_tokens=int(ids.size),
        positions_matched=matches.size / ids.size,
        padded_forwards_per_position=trie.max_n * matches.size / ids.size,
        unpadded_forwards_per_position=int(lengths[matches].sum()) / ids.size,
        distinct_forwards_per_position=int(lengths[distinct].sum()) / ids.size,
        trie_nodes_per_position=whole.num_nodes / ids.size,
        of_them_asked_for=outputs.size / ids.size,
        scone_step_over_plain_step=wall["scone_step"] / wall["plain_step"],
        scone_step_over_plain_step_processor=processor["scone_step"] / processor["plain_step"],
        fgram_trie_over_plain_step_processor=processor["fgram_trie"] / processor["plain_step"],
        loading_and_matching_share=processor["loading_and_matching"] / processor["scone_step"],
        padded_tokens=int(some.size),
        fgram_padded_over_trie=processor["fgram_padded_of_some"] / processor["fgram_trie_of_some"],
        wall_seconds=wall,
        processor_seconds=processor,
    )


def _model(chosen: Any, trie: FgramTrie, kind: str) -> SconeModel:
    torch.manual_seed(0)
    shape = {name: getattr(chosen, name) for name in ("dim", "layers", "heads", "context")}
    config = ModelConfig(
        vocab_size=trie.num_tokens,
        max_n=trie.max_n,
        fgram_layers=chosen.layers,
        tied_head=False,
        kind=kind,
        combine="add",
        learned_rows=min(chosen.learned_rows, trie.num_fgrams) if kind == "scone" else 0,
        **shape,
    )
    return SconeModel(config)


def _padded(trie: FgramTrie, ids: np.ndarray) -> tuple[Trie, np.ndarray]:
    """The paper's layout for the same network: every match is a separate path of K tokens."""
    matches = ids[ids != NONE]
    paths = np.zeros((trie.max_n, matches.size), np.int64)
    for column, gram in enumerate(trie.tokens_of(matches)):
        paths[: len(gram), column] = gram
    size = matches.size
    parents = np.concatenate([np.full(size, -1), np.arange((trie.max_n - 1) * size)])
    layout = Trie(paths.reshape(-1), tuple(range(0, (trie.max_n + 1) * size, size)), parents)
    return layout, (trie.lengths[matches].astype(np.int64) - 1) * size + np.arange(size)


if __name__ == "__main__":
    main()
