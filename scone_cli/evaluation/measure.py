"""Measures every arm on every text: reads each text once, and makes the sections of `results.json` that need a model."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from scone_cli.arrays import I64
from scone_cli.corpus.remarks import LEFT_OUT, UNKNOWN
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import end_of_document
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, InputMissing
from scone_cli.evaluation import sections
from scone_cli.evaluation.accumulators import CorpusTally, Gains
from scone_cli.evaluation.arm_cost import costs_of
from scone_cli.evaluation.arms import Opened, load_arms
from scone_cli.evaluation.clusters import part_tokens
from scone_cli.evaluation.lm_eval import TaskOptions, open_tasks, run_tasks
from scone_cli.evaluation.result_types import Corpus, Results
from scone_cli.evaluation.results import NONE, TABLE
from scone_cli.evaluation.run_arms import Arm, Losses, run_arms
from scone_cli.evaluation.speed import measure_speed
from scone_cli.evaluation.task_answers import Answers
from scone_cli.evaluation.term_losses import TermLosses
from scone_cli.evaluation.texts import Text, Wording, documents_trained_on, training_counts, wording_of
from scone_cli.formatting import count_text, is_bytes
from scone_cli.progress import Progress
from scone_cli.vocab.trie import FgramTrie


@dataclass(frozen=True)
class Reading:
    """All that evaluating a text needs beside the text and the arms.

    Attributes:
        end_of_document: the token that stands before a document.
        train_counts: how often each token occurs in the training text [V].
        spell: spells tokens, if there is a tokenizer, and counts words.
        trie: the f-grams of the table.
        rivals: names of the arms that the table is compared with by token and by f-gram.
        ladder: whether the first rows of the table are reported too.
        terms: of a field; the loss on the tokens inside them is reported too. They need a tokenizer.
    """

    end_of_document: int
    train_counts: I64
    spell: Speller
    trie: FgramTrie | None
    rivals: Sequence[str]
    ladder: bool = False
    terms: Sequence[str] = ()


def evaluate_text(text: Text, arms: Sequence[Arm], reading: Reading, progress: Progress) -> tuple[Results, CorpusTally]:
    """Read a text once with all arms; its sections of `results.json`, and the sums that they were made of.

    Raises:
        InputMissing: there is no token in it.
        BadData: the loss of an arm is not a finite number.
    """
    names = [arm.name for arm in arms]
    gains = None
    if TABLE in names and reading.trie is not None:
        gains = Gains(TABLE, reading.rivals, reading.train_counts.size, reading.trie.num_fgrams)
    tally = CorpusTally(arms, TABLE if TABLE in names else None, reading.train_counts, text.total)
    terms = _terms_of(reading, arms, text.total)
    what, detail, done, tokens, started = f"evaluating {text.name}", f"{len(arms)} arms", 0, 0, time.monotonic()
    progress(what, done, text.total, text.unit, detail)
    for stream, size in text.pieces():

        def told(
            share: float, before: int = done, size: int = size, read: int = tokens, new: int = stream.tokens.size
        ) -> None:
            pace = ""
            if is_bytes(text.unit):  # else the listener says how many tokens a second
                pace = f", {count_text((read + share * new) / (time.monotonic() - started))} tokens/s"
            progress(what, before + math.floor(share * size), text.total, text.unit, detail + pace)

        found = run_arms(arms, stream, reading.end_of_document, told)
        _check_losses(text.name, found)
        tally.add(stream, wording_of(stream, reading.spell.tokenizer), found)
        if reading.spell.tokenizer and reading.spell.tokenizer.unknown is not None:
            tally.num_unknown += int((stream.tokens == reading.spell.tokenizer.unknown).sum())
        if gains:
            gains.add(stream, found)
        if terms:
            terms.add(stream, found)
        done += size
        tokens += stream.tokens.size
        del stream, found  # before the next piece is read
    progress(what, text.total, text.total, text.unit, detail)
    if not tally.folders or not tally("tokens").sum():
        raise InputMissing(f"{text.name}: no document with text in it", "name files or folders that hold text")
    return _sections(text, arms, reading, tally, gains, terms), tally


def _terms_of(reading: Reading, arms: Sequence[Arm], total: int) -> TermLosses | None:
    """The sums of the losses inside terms; None without terms."""
    if not (reading.terms and reading.spell.tokenizer):
        return None
    shown = [arm.name for arm in arms if arm.prefix is None]
    matched_by = TABLE if TABLE in shown else None
    return TermLosses(reading.terms, reading.spell.tokenizer, shown, matched_by, part_tokens(total))


def _sections(
    text: Text, arms: Sequence[Arm], reading: Reading, tally: CorpusTally, gains: Gains | None, terms: TermLosses | None
) -> Results:
    """The sections of one text, out of its sums."""
    shown = [arm for arm in arms if arm.prefix is None]
    groups = tally.groups(text.name)
    return {
        "results": sections.metric_rows(shown, tally, groups),
        "clusters": sections.clusterings(tally, groups),
        "differences": sections.differences(shown, tally, groups) if gains else [],
        "match_lengths": sections.match_lengths(shown, tally, text.name) if gains else [],
        "hit_rates": sections.hit_rates(tally, groups) if gains else [],
        "tail": sections.token_classes(shown, tally, groups, reading.rivals if gains else []),
        "terms": sections.term_rows(terms, tally, groups) if terms else [],
        "tokens": gains.tokens(text.name, reading.spell) if gains else [],
        "fgrams": gains.fgrams(text.name, reading.trie, reading.spell) if gains and reading.trie else [],
        "ladder": sections.rungs([arm for arm in arms if arm.prefix or arm.name == TABLE], tally, groups)
        if gains and reading.ladder
        else [],
    }


def _check_losses(corpus: str, found: Losses) -> None:
    """Raise BadData if a loss is not finite: nothing can be compared with it, and a condition on it would never hold."""
    for arm, losses in found.losses.items():
        if not np.isfinite(losses).all():
            raise BadData(
                f"{corpus}: the loss of {arm} is not a finite number", "train that model again, or leave it out"
            )


# ---- all texts, tasks and speed ------------------------------------------------------------------------------------


_NOT_TIMED: Results = {"speed": [], "latency": [], "lookup": [], "peak_memory_bytes": None}


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
    task_options: TaskOptions | None = None,
    terms: Sequence[str] = (),
) -> Results:
    """Evaluate all arms on texts, terms and tasks, and time them: all sections but those that judge.

    Of `method` it gives the keys that are known only after measuring. Terms and tasks need a tokenizer.
    """
    started, options = time.monotonic(), task_options or TaskOptions()
    with (
        open_tasks(tasks, progress, options) if tasks else contextlib.nullcontext() as opened
    ):  # first, because it may be refused
        folder = found.workspace / "tokens"
        end = end_of_document(folder, found.artifacts["tokens"])
        arms, trie = load_arms(found, ladder, device)
        config = arms[-1].model.config
        counts = training_counts(folder, config.vocab_size)
        reading = Reading(end, counts, Speller(tokenizer), trie, [*found.rivals, NONE], ladder, terms)
        parts, tallies = zip(*(evaluate_text(text, arms, reading, progress) for text in texts), strict=True)
        results = _joined(parts)
        shown = [arm for arm in arms if arm.prefix is None]
        shares = {name: lengths / lengths.sum() for name, lengths in tallies[0].lengths.items()}
        results["cost"] = costs_of(shown, found, shares)
        answers = Answers()
        results["tasks"] = (
            run_tasks(opened, shown, tokenizer, end, progress, options.limit, answers) if opened and tokenizer else []
        )
    results["task_differences"] = answers.differences(TABLE)
    results |= _speed(found, shown, texts[0], progress) if speed else _NOT_TIMED
    results["method"] = {
        "corpora": _about(texts, tallies, folder),
        "window": config.context,
        "stride": config.context,
        "seconds": time.monotonic() - started,
    }
    return results


def _joined(parts: Sequence[Results]) -> Results:
    """The sections of all texts, those of the first text first."""
    rows_of = cast("Sequence[dict[str, list[Any]]]", parts)
    return cast("Results", {name: [row for part in rows_of for row in part[name]] for name in rows_of[0]})


def _speed(found: Opened, arms: Sequence[Arm], text: Text, progress: Progress) -> Results:
    """The sections `speed`, `latency`, `lookup` and `peak_memory_bytes`, measured on the beginning of a text."""
    folders = {arm.name: table[0] for arm in arms if (table := found.table_of(arm.name))}
    return measure_speed(arms, folders, next(text.pieces())[0].tokens, progress)


def _about(texts: Sequence[Text], tallies: Sequence[CorpusTally], tokens: Path) -> list[Corpus]:
    """The section `method.corpora`; the shares of bytes without token and of unknown tokens are left out where they are 0."""
    known = documents_trained_on([tally.digests for tally in tallies], tokens)
    rows = list[Corpus]()
    for text, tally, trained in zip(texts, tallies, known, strict=True):
        wording = Wording(*tally("wording").sum(0))
        rows.append(
            {
                "corpus": text.name,
                "documents": len(tally.folders),
                "tokens": round(tally("tokens").sum()),
                "bytes": round(tally("bytes").sum()) or None,
                "words": round(wording.words) if wording.has_words else None,
                "characters_a_word": wording.characters / wording.words if wording.words else None,
                "unspaced_share": wording.unspaced / wording.characters if wording.characters else None,
                "in_training_split": trained,
            }
        )
    for row, text, tally in zip(rows, texts, tallies, strict=True):
        if share := text.left_out or tally.num_left_out / (row["bytes"] or 1):
            row[LEFT_OUT] = share
        if tally.num_unknown:
            row[UNKNOWN] = tally.num_unknown / row["tokens"]
    return rows
