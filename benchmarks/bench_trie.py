"""What does A_f-gram cost in training? Trie nodes a position beside padded f-grams, and Scone's step beside plain's.

    python benchmarks/bench_trie.py --workspace demo/work

One batch of shuffled training windows, as the trainer draws it. Padded is what the paper does: every match is a sequence
of K tokens of its own. The step of each is forward and backward, on the same batch.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from measuring import arguments, finish, side_by_side

from scone_cli.artifacts import read_manifest
from scone_cli.corpus import read_tokens
from scone_cli.gradients import accumulate_gradients
from scone_cli.model import ModelConfig, SconeModel
from scone_cli.ngrams import NONE
from scone_cli.packing import PackedText
from scone_cli.schemas import TRAIN
from scone_cli.tokenizer import Tokenizer
from scone_cli.trie import Trie, distinct_matches
from scone_cli.vocabulary import Vocabulary


def main() -> None:
    chosen = arguments(__doc__, repeats=5, tokens=0)
    work = chosen.workspace
    settings = read_manifest(work / "vocab", "vocab").settings
    trie = Vocabulary.read(work / "vocab", settings["num_tokens"], settings["max_n"]).trie
    config = ModelConfig(**json.loads((work / "model" / "config.json").read_text()))
    batch_size = read_manifest(work / "model", "model").settings["batch"]
    if chosen.tokens:
        batch_size = chosen.tokens // config.context
    stream = read_tokens(work / "tokens", TRAIN)
    end = Tokenizer.load(work / "tokens" / "tokenizer.json").end_of_document
    text = PackedText.pack(stream.tokens, stream.starts, end, trie.index(), config.context)
    tokens, ids = text.windows(text.order(seed=0).at(0, batch_size))
    matches = ids[ids != NONE]
    distinct, _ = distinct_matches(ids)
    subtrie, _ = trie.subtrie(distinct)
    lengths = trie.lengths.astype(np.int64)
    scone = SconeModel(config)
    plain = SconeModel(ModelConfig(**{**config.__dict__, "fgram_layers": 0}))

    def padded() -> None:
        """Every match a trie of its own, K tokens long: the paper's layout, through the same network."""
        assert scone.fgram is not None
        path = np.zeros((matches.size, config.max_n), np.int64)
        for row, gram in enumerate(trie.tokens_of(matches)):
            path[row, : len(gram)] = gram
        chain = np.arange(matches.size)
        offsets = tuple(range(0, (config.max_n + 1) * matches.size, matches.size))
        layout = Trie(path.T.reshape(-1), offsets, (np.empty(0, np.int64), *[chain] * (config.max_n - 1)))
        scone.fgram_rows(layout, (lengths[matches] - 1) * matches.size + chain).sum().backward()

    def shared() -> None:
        layout, outputs = trie.subtrie(distinct)
        scone.fgram_rows(layout, outputs).sum().backward()

    micro = max(1, 16_384 // config.context)
    seconds = side_by_side(
        {
            "plain_step": lambda: accumulate_gradients(plain, tokens, np.full_like(ids, NONE), None, micro),
            "scone_step": lambda: accumulate_gradients(scone, tokens, ids, trie, micro),
            "fgram_trie": shared,
            "fgram_padded": padded,
        },
        chosen.repeats,
    )
    finish(
        "what does A_f-gram cost in training",
        work,
        threads=torch.get_num_threads(),
        batch_tokens=int(ids.size),
        positions_matched=matches.size / ids.size,
        padded_forwards_a_position=config.max_n * matches.size / ids.size,
        unpadded_forwards_a_position=int(lengths[matches].sum()) / ids.size,
        distinct_forwards_a_position=int(lengths[distinct].sum()) / ids.size,
        trie_nodes_a_position=subtrie.num_nodes / ids.size,
        scone_step_over_plain_step=seconds["scone_step"] / seconds["plain_step"],
        fgram_padded_over_trie=seconds["fgram_padded"] / seconds["fgram_trie"],
        plain_step_seconds=seconds["plain_step"],
        scone_step_seconds=seconds["scone_step"],
    )


if __name__ == "__main__":
    main()
