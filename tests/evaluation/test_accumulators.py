"""Tokens and f-grams that gain and lose most: against a loop over single tokens, and examples to read."""

from collections import defaultdict

import numpy as np
import pytest
from builders import random_documents, slow_matches, slow_ranking, stream_of, trie_of

from scone_cli.corpus.spelling import Speller
from scone_cli.evaluation import accumulators
from scone_cli.evaluation.accumulators import Gains
from scone_cli.evaluation.run_arms import Losses, matches_of
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 40, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
DOCUMENTS = random_documents(1, NUM_TOKENS, [40, 0, 1, 25])
SPELL = Speller(None)


def losses_of(stream, seed):
    random = np.random.default_rng(seed)
    found = {arm: random.normal(5, 1, stream.tokens.size).astype(np.float32) for arm in ("table", "plain", "none")}
    matches = matches_of(stream, TRIE.index())
    return Losses(found, dict.fromkeys(found, matches), dict.fromkeys(found, 1.0))


def add_in_pieces(tally, pieces):
    """The documents in pieces; returns (document, place in it, f-gram, loss by arm) of every token."""
    seen = []
    for seed, documents in enumerate(pieces):
        stream = stream_of(documents)
        found = losses_of(stream, seed)
        tally.add(stream, found)
        at = 0
        for document in documents:
            matches = [(), *slow_matches(document, FGRAMS, MAX_N)]
            for place in range(len(document)):
                seen.append((document, place, matches[place], {arm: each[at] for arm, each in found.losses.items()}))
                at += 1
    return seen


@pytest.fixture
def tally():
    return Gains("table", ["plain", "none"], NUM_TOKENS, len(FGRAMS))


def test_tokens_against_a_loop(tally, monkeypatch):
    monkeypatch.setattr(accumulators, "BEFORE", 3)
    tally = Gains("table", ["plain", "none"], NUM_TOKENS, len(FGRAMS))
    seen = add_in_pieces(tally, [DOCUMENTS[:2], DOCUMENTS[2:]])
    rows = tally.tokens("text", SPELL)
    for against in ("plain", "none"):
        total, most = defaultdict(float), defaultdict(list)
        for document, place, _, losses in seen:
            difference = float(losses["table"]) - float(losses[against])
            total[document[place]] += difference
            most[document[place]].append((difference, document[max(0, place - 3) : place]))
        for direction, sign in (("gain", -1), ("loss", 1)):
            here = [row for row in rows if (row["against"], row["direction"]) == (against, direction)]
            expected = sorted(
                (token for token in total if sign * total[token] > 0), key=lambda token: -sign * total[token]
            )
            assert [row["token"] for row in here] == expected
            for row in here:
                own = [losses for document, place, _, losses in seen if document[place] == row["token"]]
                assert row["nats"] == pytest.approx(total[row["token"]], abs=1e-4)
                assert row["n"] == len(own)
                assert row["table"] == pytest.approx(np.mean([losses["table"] for losses in own]), rel=1e-5)
                assert row["against_loss"] == pytest.approx(np.mean([losses[against] for losses in own]), rel=1e-5)
                _, before = max(most[row["token"]], key=lambda pair: sign * pair[0])
                assert row["before"] == (" ".join(map(str, before)) or None)
                assert row["text"] == str(row["token"])


def test_fgrams_against_a_loop(tally):
    seen = add_in_pieces(tally, [DOCUMENTS])
    rows = tally.fgrams("text", TRIE, SPELL)
    for against in ("plain", "none"):
        total, uses = defaultdict(float), defaultdict(int)
        for _, _, match, losses in seen:
            if match:
                total[match] += float(losses["table"]) - float(losses[against])
                uses[match] += 1
        for direction, sign in (("gain", -1), ("loss", 1)):
            here = [row for row in rows if (row["against"], row["direction"]) == (against, direction)]
            expected = sorted(
                (match for match in total if sign * total[match] > 0), key=lambda match: -sign * total[match]
            )
            assert [FGRAMS[row["fgram"]] for row in here] == expected[: accumulators.SHOWN]
            for row in here:
                match = FGRAMS[row["fgram"]]
                assert (row["n"], row["text"]) == (uses[match], " ".join(map(str, match)))
                assert row["nats"] == pytest.approx(total[match], abs=1e-4)
                assert row["nats_per_use"] == pytest.approx(total[match] / uses[match], abs=1e-4)


def test_no_more_are_shown_than_can_be_read(tally, monkeypatch):
    monkeypatch.setattr(accumulators, "SHOWN", 2)
    add_in_pieces(tally, [DOCUMENTS])
    rows = tally.tokens("text", SPELL)
    assert len(rows) <= 2 * 2 * 2
    assert {row["direction"] for row in rows} == {"gain", "loss"}


def test_what_does_not_differ_is_not_shown(tally):
    stream = stream_of(DOCUMENTS)
    same = np.ones(stream.tokens.size, np.float32)
    none = np.full(stream.tokens.size, NONE, np.uint32), np.zeros(stream.tokens.size, np.uint8)
    arms = ("table", "plain", "none")
    tally.add(stream, Losses(dict.fromkeys(arms, same), dict.fromkeys(arms, none), dict.fromkeys(arms, 0.0)))
    assert tally.tokens("text", SPELL) == tally.fgrams("text", TRIE, SPELL) == []
