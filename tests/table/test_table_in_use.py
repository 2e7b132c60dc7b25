"""A table as a Python program uses it: what it tells of itself, what it takes and refuses, until when, and from which thread."""

from __future__ import annotations

import gc
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_table, random_documents, slow_ranking, trie_of
from messages import refusal

from scone_cli.errors import BadSetting, DamagedArtifact
from scone_cli.table import fetch
from scone_cli.table.stored_file import StoredFile
from scone_cli.table.table import PLACEMENTS, Table
from scone_cli.vocab import matcher
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N, DIM = 7, 4, 6
FGRAMS = slow_ranking(random_documents(0, NUM_TOKENS, [300]), MAX_N, 50, 1)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
ROWS = torch.randn(50, DIM, generator=torch.Generator().manual_seed(0)).half()
TEXT = random_documents(1, NUM_TOKENS, [200])[0]
IDS = [3, NONE, 49, 3, NONE]
PARAMETRIZE_PLACEMENT = pytest.mark.parametrize("placement", PLACEMENTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("table"), TRIE, ROWS)


@pytest.fixture(scope="module", params=PLACEMENTS)
def table(request, folder):
    return Table.open(folder, request.param)


# ---- what it is --------------------------------------------------------------------------------------------------


def test_it_tells_what_it_is(table, folder):
    assert (len(table), table.num_rows, table.dim, table.vocab_size) == (50, 50, DIM, NUM_TOKENS)
    assert (table.dtype, table.format, table.tokenizer_sha256) == (torch.float16, "float16", "t" * 64)
    assert table
    said = repr(table)
    assert len(said.splitlines()) == 1
    for fact in (str(folder), "50 rows of 6 float16", "7 tokens", table.placement):
        assert fact in said


def test_a_table_without_rows_is_true(tmp_path):
    """`if table` asks whether there is one."""
    empty = Table.open(make_table(tmp_path, TRIE, ROWS[:0]))
    assert len(empty) == 0
    assert empty
    assert empty.matcher().match(TEXT).tolist() == [NONE] * 200
    assert empty.rows([NONE, NONE]).tolist() == [[0] * DIM] * 2
    assert empty.prewarm() > 0


def test_it_is_not_pickled(table):
    with refusal(TypeError, "Table", "copied"):
        pickle.dumps(table)


# ---- what it takes -----------------------------------------------------------------------------------------------


def test_a_path_is_text_or_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for path in (str(folder), folder, "table", Path("table"), "./table/"):
        assert len(Table.open(path)) == 50


@pytest.mark.parametrize("path", [None, 3, b"table", ["table"]], ids=str)
def test_what_is_no_path_is_refused(path):
    with refusal(BadSetting, type(path).__name__, "path"):
        Table.open(path)


@pytest.mark.parametrize(
    "kind",
    [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor(ids)[None][0], lambda ids: np.array(ids, ">i8")],
)
def test_ids_of_any_kind_are_the_same(table, kind):
    expected = table.rows(np.array(IDS, np.uint32))
    assert torch.equal(table.rows(kind(IDS)), expected)
    assert torch.equal(table.rows(kind([3])), expected[:1])
    assert table.rows(kind([])).shape == (0, DIM) if kind in (list, tuple) else True


def test_ids_that_cannot_be_written_to_and_steps_are_the_same(table):
    ids = np.array(IDS, np.uint32)
    fixed = np.frombuffer(ids.tobytes(), np.uint32)
    for same in (fixed, np.repeat(ids, 3)[::3], ids[::-1][::-1]):
        assert torch.equal(table.rows(same), table.rows(ids))


@pytest.mark.parametrize(
    ("ids", "facts"),
    [
        (np.array([1.0]), ["float64"]),
        ([1.0, 2.0], ["float64"]),
        (np.array([True]), ["bool"]),
        (np.array([1, None]), ["object"]),
        (np.zeros(0), ["float64"]),
        (3, ["int"]),
        (np.uint32(3), ["shape ()"]),
        (None, ["NoneType"]),
        ("3", ["str"]),
        (np.zeros((1, 1), np.uint32), ["(1, 1)"]),
        (torch.ones(2), ["float32"]),
        (torch.ones(2, dtype=torch.int64, device="meta"), ["meta"]),
        ([[1], [2, 3]], ["in memory"]),
    ],
    ids=str,
)
def test_what_are_no_ids_is_refused(table, ids, facts):
    with refusal(ValueError, "ids of f-grams", "expected whole numbers", *facts):
        table.rows(ids)


@pytest.mark.parametrize("wrong", [50, 2**32 - 2, -1, 2**32, 2**40, -(2**40)])
def test_an_id_of_no_row_is_named(table, wrong):
    for ids in ([wrong], [0, wrong, 1]):
        with refusal(IndexError, f"f-gram {wrong}", "50 rows"):
            table.rows(ids)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_into_an_array_of_numpy(table, dtype):
    expected = table.rows(IDS).numpy()
    out = np.full((7, DIM), 5, dtype)
    assert table.rows(IDS, out) is out
    assert (out[[0, 2, 3]] == expected[[0, 2, 3]].astype(dtype)).all()
    assert (out[[1, 4, 5, 6]] == 5).all()
    steps = np.full((14, DIM), 5, dtype)[::2]
    assert (table.rows(IDS, out=steps) == out).all()
    assert table.rows([], out=np.zeros((0, DIM), dtype)).size == 0


def fixed(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "facts"),
    [
        (np.zeros((4, DIM)), ["[4, 6]"]),
        (np.zeros((5, DIM + 1)), ["[5, 7]"]),
        (np.zeros(5 * DIM), ["[30]"]),
        (np.zeros((5, DIM), np.int64), ["int64"]),
        (np.zeros((5, DIM), bool), ["bool"]),
        (np.zeros((5, DIM), complex), ["complex128"]),
        (np.zeros((5, DIM), object), ["object"]),
        (np.zeros((5, DIM))[:, ::-1], ["stride"]),
        (np.zeros((5, DIM), ">f4"), ["byte order"]),
        (fixed(np.zeros((5, DIM), np.float16)), ["cannot be written to"]),
        (torch.zeros(5, DIM, dtype=torch.int32), ["int32"]),
        (torch.zeros(5, DIM, dtype=torch.float8_e4m3fn), ["float8_e4m3fn"]),
        (torch.zeros(1, DIM).expand(5, DIM), ["on one another"]),
        (torch.zeros(5, DIM, device="meta"), ["meta"]),
        (torch.zeros(5, DIM, dtype=torch.float16).to_sparse(), ["[5, 6]"]),
        (torch.zeros(5, DIM)._neg_view(), ["another sign"]),
        ([[0.0] * DIM] * 5, ["list"]),
        ("out", ["str"]),
    ],
    ids=lambda given: f"{type(given).__name__} {getattr(given, 'dtype', '')}",
)
def test_a_place_that_rows_cannot_be_written_into_is_refused(table, out, facts):
    with refusal(ValueError, "out", *facts):
        table.rows(IDS, out)


def test_a_parameter_is_written_into(table):
    for dtype in (torch.float16, torch.float32):
        out = torch.nn.Parameter(torch.zeros(5, DIM, dtype=dtype))
        assert table.rows(IDS, out) is out
        assert torch.equal(out.detach(), table.rows(IDS).to(dtype))


# ---- until when, and from where ----------------------------------------------------------------------------------


def open_files(folder):
    """The files of the folder that this process has open or mapped."""
    links = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [path for path in [*links, *maps] if str(folder.resolve()) in path]


@PARAMETRIZE_PLACEMENT
@pytest.mark.parametrize("used", [True, False])
def test_a_closed_table_says_so_and_keeps_no_file(tmp_path, placement, used):
    folder = make_table(tmp_path, TRIE, ROWS)
    with Table.open(folder, placement) as table:
        matcher, kept = table.matcher(2), table.rows([3, 4])
        if used:
            matcher.match(TEXT)
    table.close()
    assert torch.equal(kept, ROWS[3:5])
    for ask in (
        table.matcher,
        table.prewarm,
        lambda: table.rows([3]),
        lambda: table.rows(np.array([3], np.uint32)),
        lambda: table.rows([]),
        lambda: matcher.match(TEXT),
        lambda: matcher.match(np.array([1], np.uint32)),
        lambda: matcher.match([1, 2], [0, 1, 2]),
        lambda: matcher.match([]),
    ):
        with refusal(ValueError, str(folder), "closed"):
            ask()
    assert "closed" in repr(table)
    assert len(table) == 50
    matcher.reset(1)
    ask = matcher = None
    gc.collect()  # of what was raised
    if Path("/proc/self/maps").exists():
        assert not open_files(folder)


def test_the_first_calls_of_a_prewarmed_table_compile_nothing(folder):
    kernels = (
        fetch.gather,
        fetch.gather_one,
        fetch.read_cached,
        matcher._match_first,
        matcher._match_token,
        matcher._match_pieces,
    )
    table = Table.open(folder)
    table.prewarm(0)
    before = [len(kernel.signatures) for kernel in kernels]
    matching = table.matcher(2)
    for tokens, pieces in (
        (TEXT, [0, 50, 200]),
        (np.array(TEXT, np.uint32), None),
        (torch.tensor(TEXT), None),
        ([1], None),
    ):
        table.rows(matching.match(tokens, pieces))
    matching.match(np.array([1], np.uint32))
    matching.match(np.frombuffer(bytes(8), np.uint32))
    for placement in PLACEMENTS:
        opened = Table.open(folder, placement)
        for _ in range(70):  # until rows are copied from the mapped files
            opened.rows([3, NONE, 4])
            opened.rows([3])
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_what_is_prewarmed_is_the_index_then_rows_in_their_order(tmp_path, monkeypatch):
    folder = make_table(tmp_path, TRIE, ROWS, part_bytes=12 * 20)
    size = (folder / "index.bin").stat().st_size
    read = []
    real = StoredFile.read_into
    monkeypatch.setattr(
        StoredFile,
        "read_into",
        lambda self, memory, at: (read.append((self.path.name, memory.size)), real(self, memory, at)),
    )
    table = Table.open(folder)
    everything = [
        ("index.bin", size),
        ("rows-00000.parquet", 240),
        ("rows-00001.parquet", 240),
        ("rows-00002.parquet", 120),
    ]
    for budget, expected in (
        (None, everything),
        (0, []),
        (10, [("index.bin", 10)]),
        (size + 300, [*everything[:2], ("rows-00001.parquet", 60)]),
        (10**12, everything),
    ):
        read.clear()
        assert table.prewarm(budget) == sum(count for _, count in expected)
        assert read == expected
    assert Table.open(folder, "ram").prewarm() == 0
    for wrong in (-1, 1.5, "all", True):
        with refusal(ValueError, "budget", repr(wrong), "0 or more"):
            table.prewarm(wrong)


def test_a_file_that_became_shorter_is_found_when_it_is_prewarmed(tmp_path):
    folder = make_table(tmp_path, TRIE, ROWS)
    table = Table.open(folder)
    os.truncate(folder / "rows-00000.parquet", 100)
    with refusal(DamagedArtifact, "rows-00000.parquet", "cut short"):
        table.prewarm()


def test_threads_share_a_table(table):
    """Each with a matcher of its own, all with the same answers; and one closes it while others ask."""
    texts = random_documents(3, NUM_TOKENS, [2000] * 8)
    expected = [table.rows(table.matcher().match(text)) for text in texts]

    def use(text):
        matcher = table.matcher()
        pieces = [table.rows(matcher.match(text[at : at + 7])) for at in range(0, len(text), 7)]
        return torch.cat(pieces)

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(*each) for each in zip(pool.map(use, texts), expected, strict=True))


@PARAMETRIZE_PLACEMENT
def test_a_table_is_closed_while_threads_read_it(folder, placement):
    """They get rows or are told; memory that is let go of is read by none."""
    table = Table.open(folder, placement)
    ids = np.random.default_rng(0).integers(50, size=20_000).astype(np.uint32)

    def use(_):
        try:
            for _ in range(1000):
                table.matcher().match(TEXT)
                assert torch.equal(table.rows(ids)[-1], ROWS[ids[-1]])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        told = pool.map(use, range(3))
        table.close()
        assert all("closed" in each for each in told)
