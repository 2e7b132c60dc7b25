"""Rows of all f-grams: the live ones, the same bytes whoever computes them, and found out when they are wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import random_documents, slow_ranking, tiny_model, trie_of
from messages import refusal

from scone_cli.errors import BadSetting, SconeError
from scone_cli.model.devices import CUDA_LIBRARIES
from scone_cli.model.model import SconeModel
from scone_cli.progress import silent
from scone_cli.table import fgram_forward, pieces
from scone_cli.table.fgram_forward import RowMaker
from scone_cli.table.pieces import InPlace, PieceFiles, Pieces, gather, part_groups, piece_size
from scone_cli.table.precompute import SAMPLE, Sizes, check_rows, compute_rows, plan_memory, row_alone
from scone_cli.table.row_files import RowFiles
from scone_cli.table.row_formats import FORMATS, decode, row_bytes

NUM_TOKENS, MAX_N = 7, 4
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 50, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
INDEX = TRIE.index()
ALL = np.arange(50)
MODELS = [{}, {"combine": "add"}, {"combine": "add", "learned_rows": 20}, {"fgram_layers": 1, "heads": 1}]
PARAMETRIZE_MODEL = pytest.mark.parametrize("changes", MODELS, ids=str)


@pytest.fixture
def in_small_pieces(monkeypatch):
    """Pieces of 16 f-grams, computed 8 at a time, which 50 are no multiple of."""
    monkeypatch.setattr(fgram_forward, "CPU_FGRAMS", 8)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 16 * 32)


def made(folder: Path, model: SconeModel, dtype: str = "float16", threads: int = 1, ranks: int = 1) -> RowFiles:
    """All rows, made by so many processes one after the other, the last one first."""
    folder.mkdir(exist_ok=True)
    files = RowFiles(folder, 50, row_bytes(dtype, 16), 700)
    files.create()
    maker = RowMaker(model, TRIE)
    cut = Pieces(TRIE.token_order(), piece_size(files.row_bytes, maker.num_fgrams))
    store = InPlace(files, folder, cut.size)
    for rank in reversed(range(ranks)):
        compute_rows(maker, cut, dtype, store, range(rank, len(cut), ranks), threads, silent)
    return files


def content(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("rows-*"))]


# ---- they are the live ones --------------------------------------------------------------------------------------


@PARAMETRIZE_MODEL
def test_a_maker_gives_the_rows_of_the_model_and_of_each_fgram_alone(changes):
    model = tiny_model(NUM_TOKENS, MAX_N, **changes)
    ids = np.random.default_rng(1).permutation(50)
    rows = RowMaker(model, TRIE)(ids)
    torch.testing.assert_close(rows, model.rows(TRIE, ids).detach(), rtol=1e-5, atol=1e-5)
    alone = torch.stack([row_alone(model, INDEX, FGRAMS[i]) for i in ids])
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-4)


def test_where_there_are_no_kernels_a_maker_asks_the_model():
    model = tiny_model(NUM_TOKENS, MAX_N).to(torch.bfloat16)
    assert torch.equal(RowMaker(model, TRIE)(ALL), model.rows(TRIE, ALL))


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("dtype", FORMATS)
def test_precomputed_rows_are_the_live_ones(tmp_path, dtype):
    model = tiny_model(NUM_TOKENS, MAX_N, combine="add", learned_rows=20)
    files = made(tmp_path, model, dtype)
    live = model.rows(TRIE, ALL).detach()
    room = FORMATS[dtype].error * live.abs().amax(1, keepdim=True) + 1e-5
    assert bool(((decode(files.read(ALL), dtype, 16).float() - live).abs() <= room).all())
    assert check_rows(model, TRIE, INDEX, files, dtype, 0, silent) == 50


# ---- the same bytes ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize(("threads", "ranks"), [(3, 1), (1, 2), (2, 3), (1, 9)])
def test_any_number_of_processes_and_threads_makes_the_same_bytes(tmp_path, threads, ranks):
    model = tiny_model(NUM_TOKENS, MAX_N)
    made(tmp_path / "one", model)
    made(tmp_path / "many", model, threads=threads, ranks=ranks)
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert len(list((tmp_path / "many").glob("piece-*"))) == 4


@pytest.mark.usefixtures("in_small_pieces")
@pytest.mark.parametrize("at_a_time", [1, 2, 3])
def test_files_put_together_from_pieces_have_the_same_bytes(tmp_path, at_a_time):
    """As several machines make them."""
    model = tiny_model(NUM_TOKENS, MAX_N)
    made(tmp_path / "one", model)
    maker, files = RowMaker(model, TRIE), RowFiles(tmp_path / "many", 50, 32, 700)
    cut = Pieces(TRIE.token_order(), piece_size(32, maker.num_fgrams))
    store = PieceFiles(tmp_path / "many", 32, cut.size)
    files.folder.mkdir()
    for rank in (1, 0):
        compute_rows(maker, cut, "float16", store, range(rank, len(cut), 2), 2, silent)
    assert files.num_parts == 3
    for parts in part_groups(files, at_a_time * 700, 1):
        assert len(parts) <= at_a_time
        gather(cut, store, files, parts)
    assert content(tmp_path / "many") == content(tmp_path / "one")


@pytest.mark.usefixtures("in_small_pieces")
def test_only_pieces_without_a_mark_are_computed_again(tmp_path, monkeypatch):
    model, computed = tiny_model(NUM_TOKENS, MAX_N), list[int]()
    made(tmp_path, model)
    expected, call = content(tmp_path), RowMaker.__call__
    files = RowFiles(tmp_path, 50, 32, 700)
    missing = TRIE.token_order()[16:32]
    files.write(missing, np.zeros((16, 32), np.uint8))
    (tmp_path / "piece-000001-of-16").unlink()
    monkeypatch.setattr(RowMaker, "__call__", lambda self, ids: computed.extend(ids.tolist()) or call(self, ids))
    made(tmp_path, model)
    assert computed == missing.tolist()
    assert content(tmp_path) == expected


@pytest.mark.usefixtures("in_small_pieces")
def test_pieces_of_another_size_are_not_taken_for_done(tmp_path, monkeypatch):
    """As those that were made on a CPU, when a GPU goes on."""
    model = tiny_model(NUM_TOKENS, MAX_N)
    files = made(tmp_path, model)
    files.write(ALL, np.zeros((50, 32), np.uint8))
    for mark in tmp_path.glob("piece-*"):
        if "000001" not in mark.name:
            mark.unlink()
    monkeypatch.setattr(fgram_forward, "CPU_FGRAMS", 32)
    assert made(tmp_path, model).read(ALL).any(1).all()


@pytest.mark.usefixtures("in_small_pieces")
def test_what_fails_in_a_thread_fails(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(RowFiles, "write", fail)
    with pytest.raises(OSError, match="disk on fire"):
        made(tmp_path, tiny_model(NUM_TOKENS, MAX_N))
    assert not list(tmp_path.glob("piece-*"))


# ---- the check ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_row_that_is_another_ones_is_named(tmp_path, dtype):
    model = tiny_model(NUM_TOKENS, MAX_N)
    files = made(tmp_path, model, dtype)
    files.write(np.array([31]), files.read(np.array([32])))
    with refusal(SconeError, "row 31", f"tokens {' '.join(map(str, FGRAMS[31]))}", hint=("again",)):
        check_rows(model, TRIE, INDEX, files, dtype, 0, silent)


def test_a_row_that_holds_no_number_is_named(tmp_path):
    model = tiny_model(NUM_TOKENS, MAX_N)
    files = made(tmp_path, model)
    raw = files.read(np.array([7]))
    raw.view(np.float16)[0, 3] = np.nan
    files.write(np.array([7]), raw)
    with refusal(SconeError, "row 7", "number 3", "nan"):
        check_rows(model, TRIE, INDEX, files, "float16", 0, silent)


def test_a_trie_that_mixes_up_prefixes_is_found(tmp_path):
    """What is checked against is computed without it."""
    model = tiny_model(NUM_TOKENS, MAX_N)
    files = RowFiles(tmp_path, 50, 64)
    files.create()
    nodes = TRIE.prefix_nodes.copy()
    bigrams = np.flatnonzero(TRIE.lengths == 2)
    nodes[bigrams] = np.roll(nodes[bigrams], 1)
    maker = RowMaker(model, replace(TRIE, prefix_nodes=nodes))
    cut = Pieces(TRIE.token_order(), piece_size(64, maker.num_fgrams))
    compute_rows(maker, cut, "float32", InPlace(files, tmp_path, cut.size), range(len(cut)), 1, silent)
    with refusal(SconeError, "f-gram", "row"):
        check_rows(model, TRIE, INDEX, files, "float32", 0, silent)


def test_a_large_table_is_checked_by_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("scone_cli.table.precompute.SAMPLE", 10)
    assert SAMPLE >= 100
    model = tiny_model(NUM_TOKENS, MAX_N)
    assert check_rows(model, TRIE, INDEX, made(tmp_path, model), "float16", 0, silent) == 10


# ---- memory ------------------------------------------------------------------------------------------------------


def test_threads_are_as_many_as_the_memory_holds():
    sizes = Sizes(2048, 1 << 30, 1 << 29, 4096, 1_000_000)
    libraries = CUDA_LIBRARIES >> 20
    memories = (2700 + libraries, 3000 + libraries, 8000)
    plans = [plan_memory(memory << 20, 1, 8, sizes) for memory in memories]
    assert plans[0].num_threads < plans[1].num_threads < plans[2].num_threads == 8
    assert all(plan.memory <= memory << 20 for plan, memory in zip(plans, memories, strict=True))
    assert plan_memory(16 << 30, 2, 8, sizes).memory == 2 * plan_memory(8 << 30, 1, 8, sizes).memory


@pytest.mark.parametrize("processes", [1, 2])
def test_too_little_memory_is_refused_with_what_is_needed(processes):
    sizes = Sizes(256, 1 << 20, 1 << 19, 512, 10_000_000)
    with refusal(BadSetting, "--memory", "536,870,912", "10,000,000", hint=("--memory",)) as caught:
        plan_memory(512 << 20, processes, 4, sizes)
    needed = int(re.search(r"--memory (\d+)MiB", str(caught.value.hint))[1])
    assert plan_memory(needed << 20, processes, 4, sizes).num_threads >= 1
    with pytest.raises(BadSetting):
        plan_memory((needed - 1) << 20, processes, 4, sizes)


def test_memory_of_many_rows_goes_by_their_number_not_by_their_bytes():
    """Rows are written as they come: of a table of a terabyte no more is held than of one of 100 GB."""
    narrow, wide = (
        plan_memory(1 << 40, 1, 1, Sizes(2048, 1 << 30, 1 << 29, bytes_, 250_000_000)) for bytes_ in (400, 4096)
    )
    assert wide.memory - narrow.memory < 64 << 20
