"""Measured speed: what serves is the model, the arithmetic by hand, who takes part, and an end to it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, tiny_model, trie_of

from scone_cli.evaluation import speed
from scone_cli.evaluation.run_arms import Arm
from scone_cli.evaluation.speed import LOOKUP_BATCHES, STREAMS, Server, lookup_microseconds, measure_speed
from scone_cli.progress import silent
from scone_cli.serving.embedding import LiveEmbedding
from scone_cli.table.table import Table

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 16
FGRAMS = slow_ranking(random_documents(0, 7, [300]), MAX_N, 60, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
MODEL = tiny_model(NUM_TOKENS, MAX_N, context=CONTEXT)
PLAIN = tiny_model(NUM_TOKENS, MAX_N, kind="plain", context=CONTEXT + 4)
HASHED = tiny_model(NUM_TOKENS, MAX_N, kind="hashed", hashed_rows=60, end_of_document=END, context=CONTEXT)
TEXT = np.array(random_documents(1, 7, [500])[0], np.uint32)


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path):
    return make_table(tmp_path, TRIE, MODEL.rows(TRIE, np.arange(60)).detach())


@pytest.fixture
def arms(folder):
    table = Arm("table", MODEL, table=Table.open(folder))
    return [Arm("plain", PLAIN), Arm("hashed", HASHED), Arm("live", MODEL, trie=TRIE), table, Arm("none", MODEL)]


# ---- what is timed -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_server_says_what_the_model_says_of_the_whole(arms, folder):
    """Three streams, a prompt at once and then token by token: the likeliest token after each."""
    lines = torch.from_numpy(TEXT[: 3 * CONTEXT].astype(np.int64)).view(3, CONTEXT)
    for arm in arms:
        for each in speed._contenders(arm, folder, silent):
            server = each.server(3, CONTEXT)
            found = [server.read(lines[:, :6]), *(server.read(lines[:, i : i + 1]) for i in range(6, CONTEXT))]
            for stream, line in enumerate(lines):
                trie = TRIE if arm.name in {"live", "table"} else None
                hidden = arm.model.main(LiveEmbedding(arm.model, trie)(line[None]))
                expected = (hidden[0] @ arm.model.main.head_weight.T).argmax(-1)[5:].tolist()
                assert [step[stream] for step in found] == expected, each


def test_tokens_a_second_worked_by_hand(monkeypatch, arms, folder):
    """A turn takes a hundredth of a second for each token of a stream: of 4 tokens each stream reads 400 a second in prefill."""
    monkeypatch.setattr(Server, "timed", lambda _, tokens: (tokens.shape[1] / 100, 0.0))
    monkeypatch.setattr(speed, "_slowest", lambda *_: 4 * 64 * 6 * 6 / (0.01 / 4))  # enough for 4 tokens in 64 streams
    found = measure_speed(arms, {"table": folder}, TEXT, silent)["speed"]
    assert {row["length"] for row in found if row["batch"] == 64} == {4}
    assert {row["length"] for row in found if row["batch"] < 64} == {CONTEXT // 2}  # as much as fits twice
    for row in found:
        assert row["tokens_a_second"] == pytest.approx(100 * row["batch"])
        assert row["repeats"] >= 1


def test_the_first_time_does_not_count(monkeypatch):
    """It loads what later ones find."""
    seen = set()

    def timed(_, tokens):
        is_first = tokens.shape not in seen
        seen.add(tokens.shape)
        return (1000.0 if is_first else 0.5), 0.0

    monkeypatch.setattr(Server, "timed", timed)
    contenders = list(speed._contenders(Arm("plain", PLAIN), None, silent))
    prefill, decode = speed._rates(contenders, 1, speed._times(contenders, 1, TEXT, rate=1e9, seconds=1e-6))
    assert (prefill["tokens_a_second"], prefill["repeats"]) == (10 / 0.5, 1)
    assert decode["tokens_a_second"] == 1 / 0.5


# ---- who takes part ----------------------------------------------------------------------------------------------


def test_every_arm_in_both_phases_with_every_number_of_streams(arms, folder):
    told = []
    found = measure_speed(arms, {"table": folder}, TEXT, lambda *args: told.append(args[:3]))
    rows = [(row["arm"], row["placement"], row["phase"], row["batch"]) for row in found["speed"]]
    takers = [("plain", None), ("hashed", None), ("live", None), ("table", "mmap"), ("table", "ram"), ("none", None)]
    assert len(set(rows)) == len(rows)
    assert set(rows) == {(*who, phase, batch) for who in takers for phase in ("prefill", "decode") for batch in STREAMS}
    assert all(row["tokens_a_second"] > 0 for row in found["speed"])
    lookups = [(row["placement"], row["batch"]) for row in found["lookup"]]
    assert lookups == [(placement, batch) for placement in ("mmap", "ram") for batch in LOOKUP_BATCHES]
    assert all(0 < row["median_us"] <= row["p99_us"] for row in found["lookup"])
    assert 10_000_000 < found["peak_memory_bytes"] < 2**50
    assert [done for _, done, _ in told] == list(range(10))
    assert {told[0][2], told[-1][2]} == {9}


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_table_that_memory_does_not_hold_is_read_mapped_alone(monkeypatch, arms, folder, free):
    monkeypatch.setattr(speed, "available_memory", lambda: free)
    told = []
    found = measure_speed(arms, {"table": folder}, TEXT, lambda *args: told.append(args))
    assert {row["placement"] for row in found["lookup"]} == ({"mmap", "ram"} if free else {"mmap"})
    assert {row["placement"] for row in found["speed"]} == ({None, "mmap", "ram"} if free else {None, "mmap"})
    assert any("left out" in args[-1] and "of RAM" in args[-1] for args in told) == (not free)


def test_look_ups_are_those_of_the_first_table(arms, folder, tmp_path):
    other = make_table(tmp_path / "other", TRIE, MODEL.rows(TRIE, np.arange(60)).detach().half())
    more = [*arms, Arm("table:other", MODEL, table=Table.open(other))]
    found = measure_speed(more, {"table": folder, "table:other": other}, TEXT, silent)
    assert len(found["lookup"]) == 6
    assert {row["placement"] for row in found["speed"] if row["arm"] == "table:other"} == {"mmap", "ram"}


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_text_that_is_short_is_read_again(arms, folder, length):
    found = measure_speed(arms, {"table": folder}, TEXT[:length], silent)
    assert all(row["tokens_a_second"] > 0 for row in found["speed"])
    assert all(row["median_us"] > 0 for row in found["lookup"])


def test_without_a_table_nothing_is_looked_up(arms):
    found = measure_speed([arms[0]], {}, TEXT, silent)
    assert found["lookup"] == []
    assert {row["arm"] for row in found["speed"]} == {"plain"}


def test_the_index_of_a_live_arm_is_built_once(monkeypatch, arms):
    assert arms[2].index is not None
    monkeypatch.setattr(type(TRIE), "index", lambda _: pytest.fail("built again"))
    assert measure_speed([arms[2]], {}, TEXT, silent)["speed"]


# ---- an end to it ------------------------------------------------------------------------------------------------


def test_a_slow_model_reads_less_and_is_timed_less_often(monkeypatch):
    """One that takes a hundredth of a second a call, whatever it reads: 3 numbers of streams in some twenty calls each."""
    calls = []
    read = Server.read

    def slow(self, tokens):
        calls.append(tokens.shape)
        time.sleep(0.01)
        return read(self, tokens)

    monkeypatch.setattr(Server, "read", slow)
    monkeypatch.setattr(speed, "SECONDS", 0.4)
    started = time.perf_counter()
    found = measure_speed([Arm("plain", PLAIN)], {}, TEXT, silent)["speed"]
    assert time.perf_counter() - started < 3
    assert all(1 <= row["repeats"] < 40 for row in found)
    assert len(calls) < 100


@pytest.mark.parametrize("batch", [1, 16, 4096])
def test_lookup_times(folder, batch):
    """Also in batches larger than the text; a token's share of the time is what it takes."""
    median, p99 = lookup_microseconds(Table.open(folder), TEXT, batch, seconds=0.01)
    assert 0 < median <= p99
    assert median < 1e6 / min(batch, TEXT.size)


# ---- latency -----------------------------------------------------------------------------------------------------


def test_latency_worked_by_hand():
    """A hundredth of a second a token, and one of 101 that took a second; the first time of each does not count."""
    contenders = list(speed._contenders(Arm("plain", PLAIN), None, silent))
    times = speed.Times(8, [[9.0, 0.08, 0.12, 0.10]], [[9.0, *[0.01] * 100, 1.0]])
    (row,) = speed._latency(contenders, times)
    assert (row["arm"], row["prompt_tokens"], row["prompts"], row["tokens"]) == ("plain", 8, 3, 101)
    assert (row["first_token_ms"], row["latency_ms"]) == (pytest.approx(100), pytest.approx(10))
    assert row["first_token_p99_ms"] is None  # of three times
    assert row["latency_p99_ms"] == pytest.approx(10)  # the one slow token lies beyond
    assert speed._p99_ms([0.01] * 98 + [1.0] * 2) == pytest.approx(1000)


def test_every_arm_has_a_latency_of_many_tokens(arms, folder):
    found = measure_speed(arms, {"table": folder}, TEXT, silent)["latency"]
    takers = [("plain", None), ("hashed", None), ("live", None), ("table", "mmap"), ("table", "ram"), ("none", None)]
    assert [(row["arm"], row["placement"]) for row in found] == takers
    for row in found:
        assert row["latency_ms"] > 0
        assert row["first_token_ms"] > 0
        assert (row["latency_p99_ms"] is None) == (row["tokens"] < speed.LEAST_SAMPLES)


def test_a_fast_model_is_timed_until_a_percentile_means_something(monkeypatch):
    monkeypatch.setattr(speed, "LONGER", 1e6)
    contenders = list(speed._contenders(Arm("plain", PLAIN), None, silent))
    times = speed._times(contenders, 1, TEXT, rate=1e9, seconds=1e-5)
    assert len(times.decode[0]) > speed.LEAST_SAMPLES
    several = speed._times(contenders, 2, TEXT, rate=1e9, seconds=1e-6)
    assert len(several.decode[0]) < speed.LEAST_SAMPLES
