"""Benchmark of evaluation: the speed of `scone eval` as a share of the bare forward passes of its arms.

    python benchmarks/bench_eval.py --workspace demo/scone-work
    python benchmarks/bench_eval.py --workspace demo/scone-work --against PLAIN_MODEL_DIR

Bare passes: the same batches, embedded beforehand, through the main model and the token losses, arm by arm; for `live`
also A_f-gram over the distinct f-grams of the batch. Evaluation: everything that `scone eval` does with a text except
reading it: matching, batching, rows from the mapped table, embedding, word boundaries, and all sums. The two run in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import arguments, finish, in_turn
from torch import Tensor

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import TokenStream, end_of_document, iter_shards
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.evaluation.arms import load_arms, opened
from scone_cli.evaluation.measure import Reading, evaluate_text
from scone_cli.evaluation.results import NONE as WITHOUT
from scone_cli.evaluation.run_arms import Arm, batches_of, inputs_of, matches_of
from scone_cli.evaluation.texts import Text, training_counts
from scone_cli.model.losses import token_losses
from scone_cli.progress import silent
from scone_cli.vocab.index import NONE
from scone_cli.vocab.trie import distinct_matches


def main() -> None:
    chosen = arguments(__doc__, needs="table", repeats=5, tokens=100_000, against="")
    work = chosen.workspace
    found = opened(work, [Path(chosen.against)] if chosen.against else [], [])
    arms, trie = load_arms(found, ladder=False)
    end = end_of_document(work / "tokens", read_manifest(work / "tokens"))
    stream = beginning(work, chosen.tokens)
    counts = training_counts(work / "tokens", arms[-1].model.config.vocab_size)
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    reading = Reading(end, counts, Speller(tokenizer), trie, [*found.rivals, WITHOUT])
    text = Text(HELD_OUT, stream.tokens.size, "tokens", lambda: iter([(stream, stream.tokens.size)]))
    with torch.inference_mode():
        passes = {arm.name: list(bare_passes(arm, stream, end)) for arm in arms}
    rivals: dict[str, Callable[[], object]] = {f"bare {arm}": runs(each) for arm, each in passes.items()}
    rivals["evaluation"] = lambda: evaluate_text(text, arms, reading, silent)
    walls, processors = in_turn(rivals, chosen.repeats)
    bare = {name: sum(each for what, each in seconds.items() if what.startswith("bare")) for name, seconds in
            (("wall", walls), ("processor", processors))}  # fmt: skip
    finish(
        "how close does evaluation come to the bare forward passes of its arms",
        work,
        threads=torch.get_num_threads(),
        arms=len(arms),
        tokens=stream.tokens.size,
        documents=len(stream.names),
        wall_seconds=walls,
        processor_seconds=processors,
        tokens_per_second_and_arm=len(arms) * stream.tokens.size / walls["evaluation"],
        share_of_bare_by_the_clock=bare["wall"] / walls["evaluation"],
        share_of_bare_by_processor_time=bare["processor"] / processors["evaluation"],
    )


def beginning(work: Path, tokens: int) -> TokenStream:
    """The first whole held-out documents, at most `tokens` tokens, but at least one document."""
    stream = next(stream for _, stream in iter_shards(work / "tokens", HELD_OUT) if stream.tokens.size)
    last = max(1, int(np.searchsorted(stream.starts, tokens, side="right")) - 1)
    size = int(stream.starts[last])
    return TokenStream(stream.tokens[:size], stream.starts[: last + 1], stream.names[:last], stream.num_bytes[:last])


def bare_passes(arm: Arm, stream: TokenStream, end: int) -> Iterator[Callable[[], Tensor]]:
    """The bare forward pass and loss of each batch of an arm, as functions to time."""
    model, inputs, ids = arm.model, inputs_of(stream, end), matches_of(stream, arm.index)[0]
    for batch in batches_of(stream, model.config.context, model.history):
        tokens = inputs[np.concatenate([batch.earlier, batch.at], axis=1)]
        matched = np.where(batch.inside, ids[batch.at], np.uint32(NONE))
        read = torch.from_numpy(tokens[:, model.history :].astype(np.int64))
        embedded = model.main.embed(read, *arm.rows(tokens, matched)).clone()
        targets = torch.from_numpy(stream.tokens[batch.at].astype(np.int64))
        distinct = distinct_matches(matched)[0] if arm.trie is not None else None

        def run(embedded: Tensor = embedded, targets: Tensor = targets, distinct: object = distinct) -> Tensor:
            if distinct is not None:
                model.rows(arm.trie, distinct)
            return token_losses(model.main(embedded), model.main.logits, targets)

        yield run


def runs(passes: list[Callable[[], Tensor]]) -> Callable[[], None]:
    @torch.inference_mode()
    def run_all() -> None:
        for each in passes:
            each()

    return run_all


if __name__ == "__main__":
    main()
