"""All that an evaluation measures: the sections of `results.json` but those that judge what is in the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scone_cli.arm_costs import costs_of
from scone_cli.arms import WITHOUT, Opened, load_arms
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import end_of_document
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.corpus_tally import CorpusTally
from scone_cli.evaluation import Arm
from scone_cli.progress import Progress
from scone_cli.quality import Reading, evaluate_text
from scone_cli.speed import measure_speed
from scone_cli.tasks import run_tasks
from scone_cli.texts import Text, documents_trained_on, training_counts

Row = dict[str, Any]

_NOT_TIMED: Row = {"speed": [], "lookup": [], "peak_memory_bytes": None}


def measure(
    found: Opened,
    texts: Sequence[Text],
    tokenizer: Tokenizer | None,
    progress: Progress,
    *,
    device: str = "cpu",
    ladder: bool = False,
    speed: bool = True,
    tasks: Sequence[str] = (),
) -> Row:
    """Evaluate all arms on the texts and, with a tokenizer, on the tasks; of `method` what is only known then."""
    started = time.monotonic()
    folder = found.workspace / "tokens"
    end = end_of_document(folder, found.artifacts["tokens"])
    arms, trie = load_arms(found, ladder, device)
    config = arms[-1].model.config
    counts = training_counts(folder, config.vocab_size)
    reading = Reading(end, counts, Speller(tokenizer), trie, [*found.rivals, WITHOUT], ladder)
    results: Row = {}
    tallies = list[CorpusTally]()
    for text in texts:
        sections, tally = evaluate_text(text, arms, reading, progress)
        for name, rows in sections.items():
            results.setdefault(name, []).extend(rows)
        tallies.append(tally)
    shown = [arm for arm in arms if arm.prefix is None]
    shares = {name: lengths / lengths.sum() for name, lengths in tallies[0].lengths.items()}
    results["cost"] = costs_of(shown, found, shares)
    results["tasks"] = run_tasks(tasks, shown, tokenizer, end, progress) if tasks and tokenizer else []
    results |= _speed(found, shown, texts[0], progress) if speed else _NOT_TIMED
    results["method"] = {
        "corpora": _about(texts, tallies, folder),
        "window": config.context,
        "stride": config.context,
        "seconds": time.monotonic() - started,
    }
    return results


def _speed(found: Opened, arms: Sequence[Arm], text: Text, progress: Progress) -> Row:
    """The sections `speed`, `lookup` and `peak_memory_bytes`, measured on the beginning of a text."""
    folders = {arm.name: table[0] for arm in arms if (table := found.table_of(arm.name))}
    return measure_speed(arms, folders, next(text.pieces())[0].tokens, progress)


def _about(texts: Sequence[Text], tallies: Sequence[CorpusTally], tokens: Path) -> list[Row]:
    """The corpora as they are described in `method`."""
    known = documents_trained_on([tally.digests for tally in tallies], tokens)
    return [
        {"corpus": text.name, "documents": len(tally.folders)}
        | {what: int(tally(what).sum()) or None for what in ("tokens", "bytes", "words")}
        | {"in_training_split": trained}
        for text, tally, trained in zip(texts, tallies, known, strict=True)
    ]
