"""Evaluation against a loop over single tokens; live = table; all arms together = each alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_matches, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli.evaluation import run_arms as evaluation
from scone_cli.evaluation.run_arms import Arm, inputs_of, matches_of, run_arm, run_arms, windows_of
from scone_cli.progress import silent
from scone_cli.table.table import Table
from scone_cli.vocab.coverage import Prefix
from scone_cli.vocab.index import NONE

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
    stream = stream_of([[1, 2, 1], [], [2, 1]])
    tokens = inputs_of(stream, END)
    ids, lengths = matches_of(stream, trie_of([(1, 2)], 8, 2).index())
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


# ---- all arms in one pass ----------------------------------------------------------------------------------------


def test_together_arms_find_what_each_finds_alone(tmp_path):
    """Also with another context, another history, and a prefix of the table."""
    table = table_arm(tmp_path)
    arms = [
        Arm("short", tiny_model(NUM_TOKENS, MAX_N, seed=1, kind="plain", context=3)),
        Arm("hashed", tiny_model(NUM_TOKENS, MAX_N, kind="hashed", hashed_rows=60, end_of_document=END)),
        LIVE,
        table,
        Arm("first rows", MODEL, table=table.table, prefix=Prefix(20, TRIE.suffixes, NUM_TOKENS)),
        NONE_ARM,
    ]
    told = []
    found = run_arms(arms, STREAM, END, told.append)
    assert (told[-1], told) == (1, sorted(told))
    for arm in arms:
        alone = run_arm(arm, STREAM, END, silent)
        assert found.losses[arm.name].tolist() == alone.losses.tolist()
        assert found.matches[arm.name][1].tolist() == alone.matched.tolist()
        assert found.seconds[arm.name] > 0


def test_a_text_is_matched_once_for_every_index(tmp_path, monkeypatch):
    table = table_arm(tmp_path)
    asked = []
    monkeypatch.setattr(
        evaluation, "matches_of", lambda stream, index: asked.append(index) or matches_of(stream, index)
    )
    same = Arm("same", MODEL, trie=TRIE, found_by=table.table.index)
    prefix = Arm("first rows", MODEL, table=table.table, prefix=Prefix(20, TRIE.suffixes, NUM_TOKENS))
    run_arms([same, table, prefix, NONE_ARM], STREAM, END)
    assert asked == [table.table.index, None]


def test_a_prefix_of_a_table_is_the_table_of_the_first_fgrams(tmp_path):
    """Against a table made of these rows alone, and against single tokens."""
    whole = table_arm(tmp_path / "whole").table
    for rows in (1, 7, 20, 59):
        (tmp_path / str(rows)).mkdir()
        first = Table.open(make_table(tmp_path / str(rows), TRIE, ROWS[:rows]))
        expected = run_arm(Arm("first", MODEL, table=first), STREAM, END, silent)
        arm = Arm("prefix", MODEL, table=whole, prefix=Prefix(rows, TRIE.suffixes, NUM_TOKENS))
        found = run_arm(arm, STREAM, END, silent)
        assert found.losses.tolist() == expected.losses.tolist()
        assert found.matched.tolist() == expected.matched.tolist()
        np.testing.assert_allclose(found.losses, slow_losses(FGRAMS[:rows]), atol=1e-5)
