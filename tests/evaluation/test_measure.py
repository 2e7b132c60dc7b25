"""What is reported of a corpus: against sums over single tokens, in any pieces, and worked by hand where it can be."""

from __future__ import annotations

import math
import re
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_matches, slow_ranking, stream_of, tiny_model, trie_of
from messages import names, refusal

from scone_cli.corpus.spelling import Speller
from scone_cli.errors import BadData, InputMissing
from scone_cli.evaluation.measure import Reading, evaluate_text
from scone_cli.evaluation.run_arms import Arm, run_arm
from scone_cli.evaluation.sections import finding
from scone_cli.evaluation.texts import Text, Wording
from scone_cli.progress import silent
from scone_cli.table.sizes import table_bytes
from scone_cli.table.table import Table
from scone_cli.vocab.coverage import Prefix

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
FGRAMS = slow_ranking(random_documents(0, 7, [300]), MAX_N, 60, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
MODEL = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=40)
PLAIN = tiny_model(NUM_TOKENS, MAX_N, seed=1, kind="plain")
DOCUMENTS = random_documents(1, 7, [5, 0, 8, 1, 30, 16, 0])
NAMES = ["code/a", "code/b", "law/c", "d", "law/e", "code/f", "law/g"]
STREAM = stream_of(DOCUMENTS, NAMES)
ROWS = MODEL.rows(TRIE, np.arange(60)).detach()
TRAIN_COUNTS = np.array([0, 1, 9, 10, 99, 100, 5, 0])
READING = Reading(END, TRAIN_COUNTS, Speller(None), TRIE, ["plain", "none"], ladder=True)
METRICS = ("nats_per_token", "perplexity", "bits_per_byte")
CORPORA = {"text": [0, 1, 2, 3, 4, 5, 6], "text/.": [3], "text/code": [0, 1, 5], "text/law": [2, 4, 6]}


class Words:
    """Stands for a tokenizer: even tokens are white space, odd ones letters."""

    unknown = None

    def decode(self, ids):
        return "".join("a "[int(i) % 2 == 0] for i in ids)


def text_of(*bounds: int) -> Text:
    """The documents in pieces that end before these."""
    ends = [*bounds, len(DOCUMENTS)]
    starts = [0, *ends[:-1]]
    pieces = [stream_of(DOCUMENTS[a:b], NAMES[a:b]) for a, b in zip(starts, ends, strict=True)]
    return Text("text", 60, "tokens", lambda: iter([(piece, piece.tokens.size) for piece in pieces]))


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    table = Table.open(make_table(tmp_path_factory.mktemp("table"), TRIE, ROWS.to(torch.float16)))
    prefix = Prefix(20, TRIE.suffixes, NUM_TOKENS)
    return [
        *(Arm("plain", PLAIN), Arm("live", MODEL, trie=TRIE), Arm("table", MODEL, table=table), Arm("none", MODEL)),
        Arm("table[:20]", MODEL, table=table, prefix=prefix),
    ]


@pytest.fixture(scope="module")
def losses(arms):
    """The loss of every token under each arm, by itself."""
    return {arm.name: run_arm(arm, STREAM, END, silent).losses.astype(np.float64) for arm in arms}


@pytest.fixture(scope="module")
def report(arms):
    return evaluate_text(text_of(), arms, READING, silent)[0]


def own_losses(losses, documents):
    document = np.repeat(np.arange(7), np.diff(STREAM.starts))
    return {arm: each[np.isin(document, documents)] for arm, each in losses.items()}


# ---- the whole ---------------------------------------------------------------------------------------------------


def test_results_of_the_whole_and_of_its_folders(report, losses):
    results = {(row["arm"], row["corpus"], row["metric"]): row for row in report["results"]}
    shown = ("plain", "live", "table", "none")
    assert set(results) == {(arm, corpus, metric) for arm in shown for corpus in CORPORA for metric in METRICS}
    for corpus, documents in CORPORA.items():
        for arm, own in own_losses(losses, documents).items():
            if arm == "table[:20]":
                continue
            nats, ppl, bits = (results[arm, corpus, metric] for metric in METRICS)
            assert nats["value"] == pytest.approx(own.mean())
            assert ppl["value"] == pytest.approx(math.exp(own.mean()))
            assert bits["value"] == pytest.approx(own.mean() / math.log(2) / 3)  # a token is three bytes
            assert nats["n"] == ppl["n"] == bits["n"] == own.size
            assert (nats["stderr"] is None) == (len(documents) == 1)
            assert (nats["seconds"] is None) == (corpus != "text")  # the time of the whole is told once


def test_perplexity_a_word(arms, losses):
    """A word is what stands between white space, across tokens; errors as of any ratio of totals."""
    reading = Reading(END, TRAIN_COUNTS, Speller(None), TRIE, [])
    reading.spell.tokenizer = Words()
    # No tokens can be spelled by that: only the table's gains would do so.
    sections, tally = evaluate_text(text_of(), [arms[0]], reading, silent)
    words = sum(len("".join("x" if token % 2 else " " for token in document).split()) for document in DOCUMENTS)
    assert tally("wording")[:, 0].sum() == pytest.approx(words)
    assert words > 0
    found = {row["metric"]: row["value"] for row in sections["results"] if row["corpus"] == "text"}
    assert found["word_perplexity"] == pytest.approx(math.exp(losses["plain"].sum() / words))


@pytest.mark.parametrize("bounds", [(3,), (1, 2, 3, 4, 5, 6)])
def test_pieces_make_no_difference(arms, report, bounds):
    pieces = evaluate_text(text_of(*bounds), arms, READING, silent)[0]

    def timeless(rows):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert pieces.keys() == report.keys()
    for name, rows in report.items():
        for found, expected in zip(timeless(pieces[name]), timeless(rows), strict=True):
            assert same(found, expected), (name, found, expected)


def same(found, expected):
    """Equal, but for the last bits of sums in another order, and of batches of other sizes."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return found == (pytest.approx(expected, rel=1e-4, abs=1e-5) if isinstance(expected, float) else expected)


def test_one_piece_is_in_memory_at_a_time(arms):
    kept: list[weakref.ref] = []

    def pieces():
        for document in DOCUMENTS:
            assert all(piece() is None for piece in kept)
            stream = stream_of([document], ["a"])
            kept.append(weakref.ref(stream.tokens))
            yield stream, stream.tokens.size
            del stream

    evaluate_text(Text("text", 60, "tokens", pieces), arms, READING, silent)
    assert len(kept) == len(DOCUMENTS)


def test_progress_is_told_in_the_unit_of_the_text(arms):
    told = []
    evaluate_text(text_of(3), arms[:2], READING, lambda *args: told.append(args))
    assert {args[0] for args in told} == {"evaluating text"}
    assert [args[1] for args in told] == sorted(args[1] for args in told)
    assert (told[0][1:4], told[-1][1:4]) == ((0, 60, "tokens"), (60, 60, "tokens"))


def test_of_files_whose_bytes_are_counted_it_is_told_how_many_tokens_a_second_are_read(arms):
    told = []
    evaluate_text(replace(text_of(3), unit="B"), arms[:2], READING, lambda *args: told.append(args))
    assert all(names(detail, "2 arms", "tokens/s") for *_, detail in told[1:-1])
    assert len(told) > 2


def test_a_text_without_a_token_is_refused(arms):
    empty = stream_of([[], []])
    for pieces in ([], [(empty, 0)]):
        with refusal(InputMissing, "text"):
            evaluate_text(Text("text", 0, "B", lambda pieces=pieces: iter(pieces)), arms, READING, silent)


def test_a_model_whose_losses_are_no_numbers_is_refused(arms):
    broken = tiny_model(NUM_TOKENS, MAX_N, seed=1, kind="plain")
    with torch.no_grad():
        broken.main.token_embedding.weight[:] = math.nan
    with refusal(BadData, "text", "plain"):
        evaluate_text(text_of(), [Arm("plain", broken), *arms[1:]], READING, silent)


def test_without_a_table_nothing_is_compared():
    sections, _ = evaluate_text(
        text_of(), [Arm("none", PLAIN)], Reading(END, TRAIN_COUNTS, Speller(None), None, ["none"]), silent
    )
    assert sections["results"]
    assert {name for name, rows in sections.items() if rows} == {"results", "clusters", "tail"}
    assert all(row["differences"] == [] for row in sections["tail"])


# ---- differences -------------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_means_with_a_paired_error(report, losses):
    assert [row["against"] for row in report["differences"] if row["corpus"] == "text"] == ["plain", "live", "none"]
    sizes = np.diff(STREAM.starts)
    for row in report["differences"]:
        own = own_losses(losses, CORPORA[row["corpus"]])
        assert row["nats_per_token"] == pytest.approx((own["table"] - own[row["against"]]).mean())
        assert row["n"] == own["table"].size
        assert row["finding"] == finding(row)
        if row["corpus"] == "text/.":
            assert (row["stderr"], row["low"], row["high"]) == (None, None, None)
    (whole,) = [row for row in report["differences"] if (row["corpus"], row["against"]) == ("text", "none")]
    document = np.repeat(np.arange(7), sizes)
    total = np.bincount(document, losses["table"] - losses["none"], 7)
    spread = total - whole["nats_per_token"] * sizes
    # Five documents have tokens: so many differ, and Student's quantile is that for four degrees of freedom.
    assert whole["stderr"] == pytest.approx(math.sqrt((spread**2).sum() * 5 / 4) / 60)
    assert whole["high"] - whole["nats_per_token"] == pytest.approx(2.77645 * whole["stderr"], rel=1e-5)
    assert whole["low"] + whole["high"] == pytest.approx(2 * whole["nats_per_token"])


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (-0.2, -0.3, -0.1, "better"),
        (0.2, 0.1, 0.3, "worse"),
        (-0.2, -0.5, 0.1, "no difference shown"),
        (-0.2, None, None, "no difference shown"),
        (0.0, None, None, "the same"),
        (1e-6, -1e-3, 1e-3, "no difference shown"),
        (-1e-7, -2e-7, -1e-8, "the same"),  # rounding
    ],
)
def test_better_is_said_only_where_it_is_shown(value, low, high, expected):
    assert finding({"nats_per_token": value, "low": low, "high": high}) == expected


# ---- where -------------------------------------------------------------------------------------------------------


def test_losses_by_match_length_and_hit_rates(report, losses):
    lengths = [[0, *(len(match) for match in slow_matches(document, FGRAMS, MAX_N))][:-1] for document in DOCUMENTS]
    flat = np.array([length for document in lengths for length in document])
    rows = {row["match_length"]: row for row in report["match_lengths"]}
    assert list(rows) == sorted(set(flat.tolist()))
    for length, row in rows.items():
        assert (row["n"], row["share"]) == ((flat == length).sum(), pytest.approx((flat == length).mean()))
        assert row["losses"].keys() == {"plain", "live", "table", "none"}
        assert row["losses"]["table"] == pytest.approx(losses["table"][flat == length].mean())
    for row in report["hit_rates"]:
        here = np.array([length for i in CORPORA[row["corpus"]] for length in lengths[i]])
        assert row["hit_rate"] == pytest.approx((here > 0).mean())
        assert row["n"] == here.size
        matched = here[here > 0]
        assert row["mean_match_length"] == (pytest.approx(matched.mean()) if matched.size else None)


def test_the_tail_by_counts_in_the_training_text(report, losses):
    rows = report["tail"]
    assert [(row["first"], row["last"]) for row in rows] == [(0, 0), (1, 9), (10, 99), (100, 999)]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    for row in rows:
        count = TRAIN_COUNTS[STREAM.tokens]
        here = (count >= row["first"]) & (count <= row["last"])
        assert row["n"] == here.sum()
        assert row["losses"]["plain"] == pytest.approx(losses["plain"][here].mean())
        assert [each["against"] for each in row["differences"]] == ["plain", "none"]
        for each in row["differences"]:
            expected = (losses["table"] - losses[each["against"]])[here].mean()
            assert each["nats_per_token"] == pytest.approx(expected)
            documents = sum(here[start:end].any() for start, end in pairwise(STREAM.starts))
            assert (each["stderr"] is None) == (documents == 1)
            assert each["stderr"] is None or each["low"] < each["nats_per_token"] < each["high"]


def test_the_ladder_has_the_prefixes_and_the_whole(report, losses):
    first, whole = report["ladder"]
    assert (first["rows"], whole["rows"]) == (20, 60)
    for row, arm in ((first, "table[:20]"), (whole, "table")):
        assert row["nats_per_token"] == pytest.approx(losses[arm].mean())
        assert row["perplexity"] == pytest.approx(math.exp(losses[arm].mean()))
        assert row["bits_per_byte"] == pytest.approx(losses[arm].mean() / math.log(2) / 3)
        assert row["bytes"] == table_bytes(row["rows"], 16, "float16", NUM_TOKENS)
        assert row["is_knee"] is False  # of two points
    matched = [match for document in DOCUMENTS for match in slow_matches(document, FGRAMS[:20], MAX_N)[:-1] if match]
    assert first["hit_rate"] == pytest.approx(len(matched) / 60)
    assert whole["hit_rate"] == pytest.approx(report["hit_rates"][0]["hit_rate"])


# ---- terms, words, few documents ---------------------------------------------------------------------------------


class Spelled(Words):
    """Tokens as single letters and one blank, each a byte."""

    LETTERS = "ab cdefg"

    def decode(self, ids):
        return "".join(self.LETTERS[int(token)] for token in ids)

    def as_encoded(self, text):
        return text

    def byte_lengths(self):
        return np.ones(NUM_TOKENS, np.int64)

    def token_text(self, token):
        return self.LETTERS[token]


@pytest.mark.parametrize("bounds", [(), (3,)])
def test_terms_against_a_loop_over_their_occurrences(arms, losses, bounds):
    reading = Reading(END, TRAIN_COUNTS, Speller(Spelled()), TRIE, ["plain", "none"], terms=["a", "b d", "zzz", "d"])
    rows = evaluate_text(text_of(*bounds), arms, reading, silent)[0]["terms"]
    assert {row["term"] for row in rows} == {None, "a", "b d", "zzz", "d"}
    assert rows[0]["term"] is None
    inside, at = {term: [] for term in reading.terms}, 0
    occurrences = dict.fromkeys(reading.terms, 0)
    for document in DOCUMENTS:
        text = Spelled().decode(document)
        for term in reading.terms:
            for found in re.finditer(rf"(?<!\w){term}(?!\w)", text):
                occurrences[term] += 1
                inside[term] += range(at + found.start(), at + found.end())
        at += len(document)
    inside[None] = sorted({place for places in inside.values() for place in places})
    occurrences[None] = sum(occurrences.values())
    assert occurrences["a"] > 0
    assert occurrences["zzz"] == 0
    for row in rows:
        places = inside[row["term"]]
        assert (row["occurrences"], row["n"]) == (occurrences[row["term"]], len(places))
        if not places:
            assert (row["losses"], row["differences"]) == ({}, [])
            continue
        for arm in ("plain", "live", "table", "none"):
            assert row["losses"][arm] == pytest.approx(losses[arm][places].mean())
        assert [each["against"] for each in row["differences"]] == ["plain", "live", "none"]
        for each in row["differences"]:
            expected = (losses["table"] - losses[each["against"]])[places].mean()
            assert each["nats_per_token"] == pytest.approx(expected, abs=1e-6)
            assert (each["finding"], each["stderr"], each["low"]) == ("too few", None, None), "few blocks hold it"


def test_one_document_has_an_interval_by_blocks_of_text(arms):
    (document,) = random_documents(3, 7, [30 * 64 + 9])
    text = Text("text", len(document), "tokens", lambda: iter([(stream_of([document], ["a"]), len(document))]))
    sections, _ = evaluate_text(text, arms[:3], Reading(END, TRAIN_COUNTS, Speller(None), TRIE, ["plain"]), silent)
    assert sections["clusters"] == [{"corpus": "text", "by": "blocks", "number": 30, "mean_tokens": 64}]
    assert all(row["stderr"] > 0 for row in sections["results"])
    assert all(row["low"] < row["nats_per_token"] < row["high"] for row in sections["differences"][:1])
    live = next(row for row in sections["differences"] if row["against"] == "live")
    assert live["finding"] in ("the same", "no difference shown", "better", "worse")


@pytest.mark.parametrize(
    ("wording", "has_words"),
    [
        (Wording(1000, 5100, 0), True),  # English
        (Wording(1000, 15_000, 0), True),  # a line of code
        (Wording(1000, 8900, 4600), False),  # Japanese manual pages
        (Wording(1000, 5200, 60), True),  # English that cites some Chinese
        (Wording(10, 5000, 0), False),  # base64
        (Wording(0, 0, 0), False),
    ],
)
def test_where_blanks_tell_words_apart(wording, has_words):
    assert wording.has_words == has_words


def test_text_without_blanks_has_no_perplexity_a_word(arms):
    reading = Reading(END, TRAIN_COUNTS, Speller(None), None, [])
    reading.spell.tokenizer = type("Japanese", (), {"unknown": None, "decode": lambda _, ids: "裁判所 " * len(ids)})()
    found = evaluate_text(text_of(), [arms[0]], reading, silent)[0]["results"]
    assert {row["metric"] for row in found} == set(METRICS)
