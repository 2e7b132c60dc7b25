"""Evaluation against a loop over single tokens; live = table; what is reported adds up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_matches, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli import evaluation
from scone_cli.evaluation import (
    Arm,
    evaluate_corpus,
    inputs_of,
    lookup_costs,
    lookup_microseconds,
    model_costs,
    run_arm,
    windows_of,
)
from scone_cli.metrics import fgram_forward_flops, forward_flops
from scone_cli.ngrams import NONE
from scone_cli.progress import silent
from scone_cli.table import Table

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
FGRAMS = slow_ranking(random_documents(0, 7, [300]), MAX_N, 60, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
MODEL = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=40)
DOCUMENTS = random_documents(1, 7, [5, 0, 8, 1, 30, 16, 0])
NAMES = ["code/a", "code/b", "law/c", "d", "law/e", "code/f", "law/g"]
STREAM = stream_of(DOCUMENTS, NAMES)
ROWS = MODEL.rows(TRIE, np.arange(60)).detach()


def table_arm(folder, dtype=torch.float32) -> Arm:
    return Arm("table", MODEL, table=Table.open(make_table(folder, TRIE, ROWS.to(dtype))))


LIVE, NONE_ARM = Arm("live", MODEL, trie=TRIE), Arm("none", MODEL)


@torch.no_grad()
def slow_losses(fgrams) -> list[float]:
    """Each token by itself: read its window up to the token before it, and look at one probability."""
    losses = []
    for document in DOCUMENTS:
        read = [END, *document]
        matches = [(), *slow_matches(document, fgrams, MAX_N)]
        for i, target in enumerate(document):
            first = i // CONTEXT * CONTEXT
            x = [
                ROWS[fgrams.index(match)] if match else MODEL.main.embed_tokens(torch.tensor(token))
                for token, match in zip(read[first : i + 1], matches[first : i + 1], strict=True)
            ]
            hidden = MODEL.main(torch.stack(x)[None])[0, -1]
            losses.append(-(hidden @ MODEL.main.head_weight.T).log_softmax(0)[target].item())
    return losses


# ---- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 20, 8192])
def test_every_token_is_predicted_once_as_if_it_were_the_only_one(monkeypatch, batch_tokens):
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", batch_tokens)
    told = []
    found = run_arm(LIVE, STREAM, END, lambda what, done, total, unit: told.append((what, done, total, unit)))
    np.testing.assert_allclose(found.losses, slow_losses(FGRAMS), atol=1e-5)
    assert told[-1] == ("evaluating live", 60, 60, "tokens")
    lengths = [[0, *(len(match) for match in slow_matches(document, FGRAMS, MAX_N))] for document in DOCUMENTS]
    assert found.matched.tolist() == [length for line in lengths for length in line[:-1]]


@torch.no_grad()
def test_hashed_rows_see_the_document_and_nothing_before_it():
    """Each token by itself, with the rows of the n-grams in its own document alone."""
    model = tiny_model(NUM_TOKENS, MAX_N, kind="hashed", hashed_rows=60, end_of_document=END)
    found = run_arm(Arm("hashed", model), STREAM, END, silent).losses
    expected = []
    for document in DOCUMENTS:
        read = [END] * MAX_N + document
        slots = torch.from_numpy(model.hashed.slots(np.array([read], np.uint32)))  # of the last end, then of each token
        for i, target in enumerate(document):
            first = i // CONTEXT * CONTEXT
            tokens = torch.tensor([[END, *document][first : i + 1]])
            x = model.main.embed(tokens, slots[:, first : i + 1], model.hashed.weight)
            expected.append(-(model.main(x)[0, -1] @ model.main.head_weight.T).log_softmax(0)[target].item())
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_without_fgrams_the_model_reads_tokens_only():
    found = run_arm(NONE_ARM, STREAM, END, silent)
    np.testing.assert_allclose(found.losses, slow_losses([]), atol=1e-5)
    assert set(found.matched.tolist()) == {0}
    assert np.abs(found.losses - run_arm(LIVE, STREAM, END, silent).losses).max() > 0.1


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, 1e-5), (torch.float16, 1e-2)])
def test_a_table_predicts_what_the_live_model_predicts(tmp_path, dtype, exact):
    live, table = (run_arm(arm, STREAM, END, silent) for arm in (LIVE, table_arm(tmp_path, dtype)))
    np.testing.assert_allclose(table.losses, live.losses, atol=exact)
    assert table.matched.tolist() == live.matched.tolist()


def test_a_loss_depends_on_nothing_after_its_token():
    changed = np.concatenate([STREAM.tokens[:40], (STREAM.tokens[40:] + 1) % 7]).astype(np.uint32)  # in a long document
    before = run_arm(LIVE, STREAM, END, silent).losses
    after = run_arm(LIVE, type(STREAM)(changed, STREAM.starts, NAMES, STREAM.num_bytes), END, silent).losses
    np.testing.assert_allclose(after[:40], before[:40], atol=1e-5)
    assert abs(after[40] - before[40]) > 1e-3


def test_what_predicts_a_token():
    """Documents 1 2 1 | (empty) | 2 1, with the f-gram 1 2: its id and length are told where it ends, one later."""
    tokens, ids, lengths = inputs_of(stream_of([[1, 2, 1], [], [2, 1]]), END, trie_of([(1, 2)], 8, 2).index())
    assert tokens.tolist() == [END, 1, 2, END, 2]
    assert ids.tolist() == [NONE, NONE, 0, NONE, NONE]
    assert lengths.tolist() == [0, 0, 2, 0, 0]


def test_windows_cover_every_token_once_the_longest_first():
    windows = windows_of(STREAM, CONTEXT)
    covered = sorted(place for first, size in windows for place in range(first, first + size))
    assert covered == list(range(60))
    sizes = windows[:, 1].tolist()
    assert sizes == sorted(sizes, reverse=True) == [8] * 6 + [6, 5, 1]
    ends = set(STREAM.starts.tolist())
    assert all(not any(first < end < first + size for end in ends) for first, size in windows)


def test_nothing_to_read():
    found = run_arm(LIVE, stream_of([[], []]), END, silent)
    assert (found.losses.size, found.matched.size) == (0, 0)


# ---- what is reported --------------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path):
    return evaluate_corpus("held-out", STREAM, [LIVE, table_arm(tmp_path), NONE_ARM], END, silent)


def test_results_of_the_whole_and_of_its_folders(report):
    results = {(row["arm"], row["corpus"], row["metric"]): row for row in report["results"]}
    corpora = ["held-out", "held-out/.", "held-out/code", "held-out/law"]
    assert set(results) == {
        (arm, corpus, metric)
        for arm in ("live", "table", "none")
        for corpus in corpora
        for metric in ("nats_per_token", "perplexity", "bits_per_byte")
    }
    losses = np.array(slow_losses(FGRAMS))
    doc = np.repeat(np.arange(7), np.diff(STREAM.starts))
    for corpus, inside in zip(corpora, ([0, 1, 2, 3, 4, 5, 6], [3], [0, 1, 5], [2, 4, 6]), strict=True):
        own = losses[np.isin(doc, inside)]
        nats, ppl, bits = (results["live", corpus, m] for m in ("nats_per_token", "perplexity", "bits_per_byte"))
        assert nats["value"] == pytest.approx(own.mean(), abs=1e-5)
        assert ppl["value"] == pytest.approx(math.exp(own.mean()), rel=1e-4)
        assert bits["value"] == pytest.approx(own.mean() / math.log(2) / 3, abs=1e-5)  # a token is three bytes
        assert nats["n"] == ppl["n"] == bits["n"] == own.size
        assert (nats["stderr"] is None) == (len(inside) == 1)
        assert (nats["seconds"] is None) == (corpus != "held-out")  # the time of the whole is told once


def test_differences_are_those_of_the_means_with_a_smaller_error(report):
    results = {(row["arm"], row["corpus"]): row for row in report["results"] if row["metric"] == "nats_per_token"}
    assert {row["against"] for row in report["differences"]} == {"live", "none"}
    assert len(report["differences"]) == 2 * 4
    for row in report["differences"]:
        expected = results["table", row["corpus"]]["value"] - results[row["against"], row["corpus"]]["value"]
        assert row["nats_per_token"] == pytest.approx(expected, abs=1e-9)
        assert row["n"] == results["table", row["corpus"]]["n"]
        assert row["against"] != "live" or row["stderr"] is None or row["stderr"] < 1e-5


def test_losses_by_match_length_add_up(report):
    rows = report["match_lengths"]
    assert [row["match length"] for row in rows] == [0, 2, 3, 4]
    assert sum(row["share of positions"] for row in rows) == pytest.approx(1, abs=2e-4)
    mean = sum(row["share of positions"] * row["live"] for row in rows)
    assert mean == pytest.approx(np.mean(slow_losses(FGRAMS)), abs=1e-3)


def test_one_folder_is_not_reported_twice_and_without_a_table_nothing_is_compared():
    report = evaluate_corpus("c", stream_of(DOCUMENTS, ["x/y"] * 7), [NONE_ARM], END, silent)
    assert {row["corpus"] for row in report["results"]} == {"c"}
    assert report["differences"] == report["match_lengths"] == []


# ---- costs -------------------------------------------------------------------------------------------------------


def test_costs_worked_by_hand(tmp_path):
    live, table, none = model_costs([LIVE, table_arm(tmp_path, torch.float16), NONE_ARM], STREAM)
    main, fgram = (sum(p.numel() for p in part.parameters()) for part in (MODEL.main, MODEL.fgram))
    assert [row["resident parameters"] for row in (live, table, none)] == [main + fgram, main, main]
    assert [row["resident bytes"] for row in (live, table)] == [4 * (main + fgram), 4 * main]
    assert [row["offloaded rows"] for row in (live, table, none)] == [40, 60, 0]  # 40 of them learned
    assert live["offloaded bytes"] == 40 * 16 * 4
    assert table["offloaded bytes"] == 60 * 16 * 2 + 64 * (60 // 4 + 2)
    assert none["offloaded bytes"] == 0
    base = forward_flops(16, MODEL.config.hidden, 2, NUM_TOKENS, CONTEXT)
    assert table["FLOPs a token"] == none["FLOPs a token"] == base
    matches = [match for document in DOCUMENTS for match in slow_matches(document, FGRAMS, MAX_N)]
    alone = [fgram_forward_flops(16, MODEL.config.hidden, 2, n) for match in matches for n in range(1, len(match) + 1)]
    assert live["FLOPs a token"] == round(base + sum(alone) / 60)


def test_costs_of_nothing_to_read():
    [live] = model_costs([LIVE], stream_of([[]]))
    assert live["FLOPs a token"] == forward_flops(16, MODEL.config.hidden, 2, NUM_TOKENS, CONTEXT)


@pytest.mark.parametrize("batch", [1, 16, 4096])
def test_lookup_times(tmp_path, batch):
    """Also in batches larger than the text."""
    found = lookup_microseconds(table_arm(tmp_path).table, STREAM.tokens, batch, seconds=0.01)
    assert 0 < found["median"] <= found["p99"]


def test_lookups_are_timed_where_there_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "lookup_microseconds", lambda *args: {"median": args[2] / 3, "p99": 1.0})
    told = []
    rows = lookup_costs([LIVE, table_arm(tmp_path), NONE_ARM], STREAM, lambda *args: told.append(args))
    assert rows == [{"batch": batch, "median": round(batch / 3, 3), "p99": 1.0} for batch in (1, 16, 4096)]
    assert [args[1] for args in told] == [0, 1, 2, 3]
