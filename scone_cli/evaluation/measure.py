"""One corpus evaluated: how well every arm predicts it, and where the table gains; as the sections of `results.json`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scone_cli.arrays import F64, I64
from scone_cli.corpus.remarks import LEFT_OUT, UNKNOWN
from scone_cli.corpus.spelling import Speller
from scone_cli.corpus.token_stream import end_of_document
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.counting.rarity import bounds_of
from scone_cli.errors import BadData, InputMissing
from scone_cli.evaluation import metrics
from scone_cli.evaluation.accumulators import CorpusTally, Gains
from scone_cli.evaluation.arm_cost import costs_of
from scone_cli.evaluation.arms import Opened, load_arms
from scone_cli.evaluation.clusters import Clusters, part_tokens
from scone_cli.evaluation.lm_eval import TaskOptions, open_tasks, run_tasks
from scone_cli.evaluation.metrics import Estimate
from scone_cli.evaluation.results import BETTER, NONE, NOT_SHOWN, SAME, TABLE, WORSE
from scone_cli.evaluation.run_arms import Arm, Losses, run_arms
from scone_cli.evaluation.speed import measure_speed
from scone_cli.evaluation.task_answers import Answers
from scone_cli.evaluation.term_losses import TermLosses
from scone_cli.evaluation.texts import Text, Wording, documents_trained_on, training_counts, wording_of
from scone_cli.formatting import count_text, is_bytes
from scone_cli.progress import Progress
from scone_cli.table.sizes import table_bytes
from scone_cli.vocab.coverage import knee_of
from scone_cli.vocab.trie import FgramTrie

LEAST_DIFFERENCE = 1e-5  # nats a token: what is less is rounding of losses, which are float32

Row = dict[str, Any]
Sections = dict[str, list[Row]]
Groups = dict[str, Clusters]


@dataclass(frozen=True)
class Reading:
    """What evaluating a text needs besides the arms.

    Attributes:
        end_of_document: the token that stands before a document.
        train_counts: how often each token occurs in the training text [V].
        spell: spells tokens, if there is a tokenizer, and counts words.
        trie: the f-grams of the table.
        rivals: names of the arms that the table may gain on, token by token.
        ladder: whether the first rows of the table are reported too.
        terms: of a field; what is lost on the tokens inside them is reported too. They need a tokenizer.
    """

    end_of_document: int
    train_counts: I64
    spell: Speller
    trie: FgramTrie | None
    rivals: Sequence[str]
    ladder: bool = False
    terms: Sequence[str] = ()


def evaluate_text(
    text: Text, arms: Sequence[Arm], reading: Reading, progress: Progress
) -> tuple[Sections, CorpusTally]:
    """Read a text once with all arms; what came out, and the tally of its documents.

    Raises:
        InputMissing: there is not one token in it.
        BadData: the loss of an arm is no number.
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
    """What sums up the losses inside terms; None without any."""
    if not (reading.terms and reading.spell.tokenizer):
        return None
    shown = [arm.name for arm in arms if arm.prefix is None]
    matched_by = TABLE if TABLE in shown else None
    return TermLosses(reading.terms, reading.spell.tokenizer, shown, matched_by, part_tokens(total))


def _sections(
    text: Text, arms: Sequence[Arm], reading: Reading, tally: CorpusTally, gains: Gains | None, terms: TermLosses | None
) -> Sections:
    """What came out, section by section."""
    shown = [arm for arm in arms if arm.prefix is None]
    groups = tally.groups(text.name)
    return {
        "results": _results(shown, tally, groups),
        "clusters": _clusters(tally, groups),
        "differences": _differences(shown, tally, groups) if gains else [],
        "match_lengths": _by_length(shown, tally, text.name) if gains else [],
        "hit_rates": _hit_rates(tally, groups) if gains else [],
        "tail": _tail(shown, tally, groups, reading.rivals if gains else []),
        "terms": _terms(terms, tally, groups) if terms else [],
        "tokens": gains.tokens(text.name, reading.spell) if gains else [],
        "fgrams": gains.fgrams(text.name, reading.trie, reading.spell) if gains and reading.trie else [],
        "ladder": _ladder([arm for arm in arms if arm.prefix or arm.name == TABLE], tally, groups)
        if gains and reading.ladder
        else [],
    }


def _check_losses(corpus: str, found: Losses) -> None:
    """Raise BadData where a loss is no number: nothing can be compared with that, and a condition on it never holds."""
    for arm, losses in found.losses.items():
        if not np.isfinite(losses).all():
            raise BadData(f"{corpus}: the loss of {arm} is no number", "train that model again, or leave it out")


# ---- how well ----------------------------------------------------------------------------------------------------


def _results(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Row]:
    """Every metric of every arm, on the whole and on each folder."""
    rows = []
    whole = next(iter(groups))
    for corpus, clusters in groups.items():
        count, num_bytes, wording = (clusters.sums(tally(what)) for what in ("tokens", "bytes", "wording"))
        if not count.sum():
            continue
        for arm in arms:
            nats = clusters.sums(tally("nats", arm.name))
            values = {
                "nats_per_token": metrics.nats_per_token(nats, count),
                "perplexity": metrics.perplexity(nats, count),
            }
            if Wording(*wording.sum(0)).has_words:
                values["word_perplexity"] = metrics.word_perplexity(nats, wording[:, 0], count)
            if num_bytes.any():  # none are known of token ids that came without a byte-level tokenizer
                values["bits_per_byte"] = metrics.bits_per_byte(nats, num_bytes, count)
            seconds = tally.seconds[arm.name] if corpus == whole else None  # measured for the whole only
            rows += [
                {"arm": arm.name, "corpus": corpus, "metric": metric, **asdict(value), "seconds": seconds}
                for metric, value in values.items()
            ]
    return rows


def _clusters(tally: CorpusTally, groups: Groups) -> list[Row]:
    """What the errors on each corpus and folder are clustered by, how many there are, and their mean size."""
    rows = []
    for corpus, clusters in groups.items():
        sizes = clusters.sums(tally("tokens"))
        if number := int((sizes > 0).sum()):
            about = {"corpus": corpus, "by": clusters.by, "number": number}
            rows.append(about | {"mean_tokens": round(float(sizes.sum()) / number)})
    return rows


def difference(nats: F64, against: F64, tokens: F64) -> Row:
    """Nats a token of one arm less those of another, by cluster [B], with its 95% interval."""
    paired = metrics.nats_per_token(nats - against, tokens)
    bounds = metrics.interval(paired, int((tokens > 0).sum()))
    low, high = bounds or (None, None)
    return {"nats_per_token": paired.value, "stderr": paired.stderr, "low": low, "high": high}


def finding(row: Row) -> str:
    """What a difference shows: the whole of its interval is on one side, and it is more than rounding.

    Where all of it is no more than rounding, both are the same.
    """
    known = [each for each in (row["nats_per_token"], row["low"], row["high"]) if each is not None]
    if max(map(abs, known)) < LEAST_DIFFERENCE:
        return SAME
    if row["low"] is None or abs(row["nats_per_token"]) < LEAST_DIFFERENCE:
        return NOT_SHOWN
    return BETTER if row["high"] < 0 else WORSE if row["low"] > 0 else NOT_SHOWN


def _differences(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Row]:
    """The table against every other arm, token by token."""
    rows = []
    for corpus, clusters in groups.items():
        tokens = clusters.sums(tally("tokens"))
        if not tokens.sum():
            continue
        own = clusters.sums(tally("nats", TABLE))
        for arm in arms:
            if arm.name == TABLE:
                continue
            row = difference(own, clusters.sums(tally("nats", arm.name)), tokens)
            about = {"arm": TABLE, "against": arm.name, "corpus": corpus}
            rows.append(about | row | {"n": int(tokens.sum()), "finding": finding(row)})
    return rows


# ---- where -------------------------------------------------------------------------------------------------------


def _by_length(arms: Sequence[Arm], tally: CorpusTally, corpus: str) -> list[Row]:
    """Share of positions and mean loss of each arm by the length of the f-gram at the input (0: none matched)."""
    counts = tally("tokens by length").sum(0)
    nats = {arm.name: tally("nats by length", arm.name).sum(0) for arm in arms}
    return [
        {"corpus": corpus, "match_length": length, "share": float(counts[length] / counts.sum())}
        | {
            "n": int(counts[length]),
            "losses": {arm: float(each[length] / counts[length]) for arm, each in nats.items()},
        }
        for length in np.flatnonzero(counts).tolist()
    ]


def _hit_rates(tally: CorpusTally, groups: Groups) -> list[Row]:
    """Share of positions where an f-gram is matched, and its mean length there."""
    rows = []
    for corpus, clusters in groups.items():
        counts = clusters.sums(tally("tokens by length")).sum(0)
        total, matched = int(counts.sum()), int(counts[1:].sum())
        if total:
            mean = float(counts @ np.arange(counts.size)) / matched if matched else None
            rows.append({"corpus": corpus, "hit_rate": matched / total, "mean_match_length": mean, "n": total})
    return rows


def _tail(arms: Sequence[Arm], tally: CorpusTally, groups: Groups, rivals: Sequence[str]) -> list[Row]:
    """Mean loss of each arm, and of the table against rivals, by how often the predicted token occurs in training."""
    corpus, clusters = next(iter(groups.items()))
    counts = clusters.sums(tally("tokens by decade"))
    totals = counts.sum(0)
    nats = {arm.name: clusters.sums(tally("nats by decade", arm.name)) for arm in arms}
    rows = []
    for decade in np.flatnonzero(totals).tolist():
        here = counts[:, decade]
        differences = [
            {"against": arm} | difference(nats[TABLE][:, decade], nats[arm][:, decade], here) for arm in rivals
        ]
        losses = {arm: float(each[:, decade].sum() / totals[decade]) for arm, each in nats.items()}
        about = {"corpus": corpus, **bounds_of(decade), "share": float(totals[decade] / totals.sum())}
        rows.append(about | {"n": int(totals[decade]), "losses": losses, "differences": differences})
    return rows


def _terms(terms: TermLosses, tally: CorpusTally, groups: Groups) -> list[Row]:
    """What the arms make of the tokens inside terms."""
    corpus, clusters = next(iter(groups.items()))

    def compare(nats: F64, against: F64, tokens: F64) -> Row:
        row = difference(nats, against, tokens)
        return row | {"finding": finding(row)}

    return terms.rows(corpus, clusters, int(tally("tokens").sum()), compare)


# ---- which size --------------------------------------------------------------------------------------------------


def _ladder(arms: Sequence[Arm], tally: CorpusTally, groups: Groups) -> list[Row]:
    """What every prefix of the table is worth, and what it takes."""
    corpus, clusters = next(iter(groups.items()))
    tokens, num_bytes = clusters.sums(tally("tokens")), clusters.sums(tally("bytes"))
    rows = list[Row]()
    for arm in sorted(arms, key=lambda arm: arm.prefix.rows if arm.prefix else math.inf):
        table = arm.table
        assert table is not None
        num_rows = arm.prefix.rows if arm.prefix else table.num_rows
        nats = clusters.sums(tally("nats", arm.name))
        mean: Estimate = metrics.nats_per_token(nats, tokens)
        matched = tally("matched", arm.name) if arm.prefix else tally("tokens by length")[:, 1:].sum(1)
        bits = metrics.bits_per_byte(nats, num_bytes, tokens).value if num_bytes.any() else None
        rows.append(
            {
                "corpus": corpus,
                "rows": num_rows,
                "bytes": table_bytes(num_rows, table.dim, table.format, table.index.num_tokens),
            }
            | {"nats_per_token": mean.value, "stderr": mean.stderr, "bits_per_byte": bits}
            | {"perplexity": metrics.perplexity(nats, tokens).value}
            | {"hit_rate": float(matched.sum() / tokens.sum()), "is_knee": False}
        )
    knee = knee_of([row["bytes"] for row in rows], [row["nats_per_token"] for row in rows])
    if knee is not None:
        rows[knee]["is_knee"] = True
    return rows


# ---- all of it: the sections of `results.json` but those that judge what is in the others -------------------------


_NOT_TIMED: Row = {"speed": [], "latency": [], "lookup": [], "peak_memory_bytes": None}


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
) -> Row:
    """Evaluate all arms on the texts and, with a tokenizer, on terms and tasks; of `method` what is only known then."""
    started, options = time.monotonic(), task_options or TaskOptions()
    with open_tasks(tasks, progress, options) if tasks else contextlib.nullcontext() as opened:  # may be refused: first
        folder = found.workspace / "tokens"
        end = end_of_document(folder, found.artifacts["tokens"])
        arms, trie = load_arms(found, ladder, device)
        config = arms[-1].model.config
        counts = training_counts(folder, config.vocab_size)
        reading = Reading(end, counts, Speller(tokenizer), trie, [*found.rivals, NONE], ladder, terms)
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


def _speed(found: Opened, arms: Sequence[Arm], text: Text, progress: Progress) -> Row:
    """The sections `speed`, `latency`, `lookup` and `peak_memory_bytes`, measured on the beginning of a text."""
    folders = {arm.name: table[0] for arm in arms if (table := found.table_of(arm.name))}
    return measure_speed(arms, folders, next(text.pieces())[0].tokens, progress)


def _about(texts: Sequence[Text], tallies: Sequence[CorpusTally], tokens: Path) -> list[Row]:
    """The corpora as they are described in `method`, with the shares of text and tokens that say nothing, unless they are 0."""
    known = documents_trained_on([tally.digests for tally in tallies], tokens)
    rows: list[Row] = []
    for text, tally, trained in zip(texts, tallies, known, strict=True):
        wording = Wording(*tally("wording").sum(0))
        rows.append(
            {"corpus": text.name, "documents": len(tally.folders)}
            | {what: round(tally(what).sum()) or None for what in ("tokens", "bytes")}
            | {"words": round(wording.words) if wording.has_words else None}
            | {"characters_a_word": wording.characters / wording.words if wording.words else None}
            | {"unspaced_share": wording.unspaced / wording.characters if wording.characters else None}
            | {"in_training_split": trained}
        )
    for row, text, tally in zip(rows, texts, tallies, strict=True):
        if share := text.left_out or tally.num_left_out / (row["bytes"] or 1):
            row[LEFT_OUT] = share
        if tally.num_unknown:
            row[UNKNOWN] = tally.num_unknown / row["tokens"]
    return rows
