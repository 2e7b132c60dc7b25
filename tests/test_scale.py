"""The borders in docs/scale.md: nothing begins again at 0. With sparse files, or by calling what must refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import random_documents, write_part
from messages import error_of, refusal
from workspaces import copy_of

from scone_cli.artifacts.opening import scan
from scone_cli.artifacts.schemas import counts_schema
from scone_cli.corpus.files import SourceFile
from scone_cli.corpus.shards import Shards, tasks_of
from scone_cli.corpus.token_files import TokenFile
from scone_cli.counting import again, merge
from scone_cli.counting.count import count_ngrams
from scone_cli.counting.job import CountingJob
from scone_cli.counting.plan import check_corpus, make_plan
from scone_cli.errors import BadData, BadSetting
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool
from scone_cli.stages.count_ngrams import CountNgrams, _count_settings
from scone_cli.table.row_files import RowFiles
from scone_cli.table.sizes import PART_BYTES, check_parts
from scone_cli.training.packed_text import PackedText, SubCorpus
from scone_cli.training.window_order import Turns, WindowOrder
from scone_cli.vocab.count_files import Column
from scone_cli.vocab.coverage import sums_by_length
from scone_cli.vocab.index import NONE, fewest_lines

GIB, TIB = 1 << 30, 1 << 40
T10 = 10**13  # tokens
BEYOND_32 = (1 << 32) + 5

# ---- corpus: documents, files, tasks -----------------------------------------------------------------------------


def source(number: int, size: int) -> SourceFile:
    return SourceFile(f"/c/{number}", f"{number}", size, "", 0, "text", "")


def test_a_corpus_of_any_size_has_no_more_tasks_than_their_names_have_room_for():
    five_bytes_a_token = [source(number, T10 // 40_000) for number in range(40_000)]  # 2T tokens
    assert len(tasks_of(five_bytes_a_token)) == 40_000  # a file of text is not divided
    of_ids = [TokenFile(each, "uint32", 0, each.bytes // 4) for each in five_bytes_a_token]
    tasks = tasks_of(of_ids)
    assert 10_000 < len(tasks) <= 100_000
    spans = [span for task in tasks for _, span in task]
    assert sum(last - first for first, last in spans) == sum(each.num_units for each in of_ids)


def test_tasks_of_a_usual_corpus_stay_as_they_are():
    assert len(tasks_of([source(number, 20 << 20) for number in range(50_000)])) == 50_000
    assert len(tasks_of([source(number, 16 << 20) for number in range(50_000)])) == 25_000


def test_more_files_than_tasks_can_hold_are_refused(monkeypatch):
    monkeypatch.setattr("scone_cli.corpus.shards._TASK_FILES", 2)
    monkeypatch.setattr("scone_cli.corpus.shards._MOST_TASKS", 10)
    assert len(tasks_of([source(number, 1) for number in range(20)])) == 10
    with refusal(BadData, "21 files", "11 tasks", 10):
        tasks_of([source(number, 1) for number in range(21)])


def test_names_of_the_most_tasks_sort_like_their_numbers(tmp_path):
    shards = Shards(tmp_path, "", "", "text", None, False, None, 0)
    names = [shards.part(task, number).name for task in (0, 9, 10, 99_999) for number in (0, 9, 10, 9_999)]
    assert names == sorted(names)


def test_the_numbers_of_documents_and_occurrences_fit_where_they_are_kept():
    documents, tokens = (1 << 32) - 1, 1 << 53
    check_corpus(documents, tokens)
    with refusal(BadData, documents + 1, "documents", documents):
        check_corpus(documents + 1, tokens)
    with refusal(BadData, tokens + 1, "tokens", tokens):
        check_corpus(documents, tokens + 1)


def test_too_many_documents_are_refused_before_they_are_counted(scone, small, tmp_path, monkeypatch):
    work = copy_of(small / "work", tmp_path / "work")
    monkeypatch.setattr("scone_cli.counting.plan._MOST_DOCUMENTS", 3)
    monkeypatch.setattr("scone_cli.counting.count.count_ngrams", None)  # it is not reached
    for _ in range(2):  # also when the tokens are there
        code, _, err = scone("--quiet", "--workspace", work, "count-ngrams", small / "corpus", "--vocab-size", 300)
        assert code == 65
        error_of(err, "documents", 3)


def test_more_ids_than_a_record_can_hold_are_refused():
    config = CountNgrams()
    assert _count_settings(config, [], 1 << 24)["max_n"] == 5
    with refusal(BadSetting, (1 << 24) + 1, 1 << 24):
        _count_settings(config, [], (1 << 24) + 1)


# ---- counting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [GIB, 100 * GIB, 100 * TIB])
@pytest.mark.parametrize(("max_n", "min_count"), [(2, 1), (5, 1), (8, 1), (5, 5)])
@pytest.mark.parametrize("num_tokens", [T10, 10**15])
def test_records_and_ngrams_of_a_group_have_32_bits(num_tokens, max_n, min_count, memory):
    plan = make_plan(num_tokens, 128_000, max_n, min_count, memory, 64, tokenising=False)
    assert plan.group_records < 1 << 32
    assert plan.piece_records < 1 << 32
    assert plan.group_records * (max_n - 1) // min_count < 1 << 32  # if all are frequent
    assert plan.memory <= memory


def test_a_bucket_of_more_ngrams_than_rows_is_refused(tmp_path, monkeypatch):
    """The border is moved: 2**32 n-grams of one bucket do not fit here."""
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    write_part(tokens, 0, random_documents(0, 30, [500]))
    (tmp_path / "scratch").mkdir()
    plan = make_plan(500, 30, 3, 1, GIB, 1, tokenising=False)
    plan = plan.__class__(**{**plan.__dict__, "bits": 1, "group_records": 10, "piece_records": 50})
    job = CountingJob.begin(tmp_path / "scratch", 30, (), 3, 1, 1, plan, lasting=False)
    monkeypatch.setattr(again, "_MOST_ROWS", 100)
    monkeypatch.setattr(again, "_FIRST_ENTRIES", 16)
    parts = [(tokens / "part-00000.parquet", None)]
    with Pool(1) as pool, refusal(BadData, "n-grams", 100, hint=("--exclude-tokens",)):
        count_ngrams(job, parts, tmp_path, pool, silent)
    assert not list(tmp_path.glob("n=*"))


def sparse_run(path: Path, n: int, rows: int, at: int) -> None:
    """A run of zeros, with one row that is not."""
    path.touch()
    with path.open("r+b") as file:
        file.truncate((4 * n + 12) * rows)
        for offset, value in (
            (4 * n * at, [3] * n),
            (4 * n * rows + 8 * at, [7, 0]),
            ((4 * n + 8) * rows + 4 * at, [2]),
        ):
            file.seek(offset)
            file.write(np.array(value, np.uint32).tobytes())


def test_runs_are_read_beyond_rows_of_32_bits(tmp_path):
    run, rows = tmp_path / "run", BEYOND_32 + 10
    sparse_run(run, 3, rows, BEYOND_32)
    assert merge.num_rows(run, 3) == rows
    tokens, counts, docs = merge._read_rows(run, 3, BEYOND_32 - 1, BEYOND_32 + 2)
    assert tokens.tolist() == [[0, 0, 0], [3, 3, 3], [0, 0, 0]]
    assert (counts.tolist(), docs.tolist()) == ([0, 7, 0], [0, 2, 0])


@pytest.mark.slow
def test_files_of_counts_may_have_more_row_groups_than_16_bits_can_number(tmp_path):
    """A file of 34e9 n-grams has as many: they are numbered with 16 bits in its footer, which no reader here uses."""
    schema, groups = counts_schema(2), (1 << 15) + 3
    common, rare = (
        pa.table({"tokens": [[token, token]], "count": [count], "docs": [1]}, schema)
        for token, count in ((7, 2), (9, 1))
    )
    path = tmp_path / "n=2.parquet"
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for number in range(groups):
            writer.write_table(common if number < groups - 1 else rare)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == groups
    assert file.read_row_group(groups - 1).to_pylist() == [{"tokens": [9, 9], "count": 1, "docs": 1}]
    found = scan(path).collect()
    assert (found.height, found["count"].sum(), found["tokens"][-1].to_list()) == (groups, 2 * groups - 1, [9, 9])


# ---- vocabulary --------------------------------------------------------------------------------------------------


def test_columns_reach_beyond_rows_of_32_bits(tmp_path):
    column = Column(tmp_path / "column", np.int64, BEYOND_32 + 10)
    column.write(BEYOND_32, np.array([BEYOND_32]))
    assert column.read(BEYOND_32 - 1, BEYOND_32 + 2).tolist() == [0, BEYOND_32, 0]


def test_the_index_tells_as_many_tokens_and_fgrams_apart_as_it_says():
    most = NONE - (1 << 22)
    assert fewest_lines(most, 1 << 22) > most / 8
    with refusal(BadSetting, (1 << 22) + 1, "tokens"):
        fewest_lines(most - 1, (1 << 22) + 1)


def test_occurrences_are_exact_up_to_53_bits():
    lengths, most = np.array([2, 2, 3], np.uint8), 1 << 53
    assert sums_by_length(lengths, np.array([most - 1, 1, most], np.uint64), 4).tolist() == [0, 0, most, most]


# ---- training ----------------------------------------------------------------------------------------------------


def test_windows_beyond_32_bits_are_where_they_are(tmp_path):
    """In a sparse file: the last window of a second sub-corpus."""
    first, context, last = BEYOND_32, 4, 9
    path = tmp_path / "tokens.bin"
    with path.open("wb") as file:
        file.seek(2 * first)
        file.write(np.arange(100, 100 + last, dtype=np.uint16).tobytes())
    pieces = (SubCorpus("a", first, 1), SubCorpus("b", last, 1))
    text = PackedText(np.memmap(path, np.uint16, mode="r"), None, context, pieces)
    assert text.num_windows == (first - 1) // 4 + 2
    tokens, ids = text.windows(np.array([text.num_windows - 1, text.num_windows - 2]))
    assert tokens.tolist() == [[104, 105, 106, 107, 108], [100, 101, 102, 103, 104]]
    assert ids.shape == (2, 4)


def test_the_order_of_windows_goes_on_beyond_positions_of_32_bits():
    """Windows of one sub-corpus lie beyond, and so does the position: three epochs of a text of four windows."""
    order = WindowOrder([BEYOND_32, 4], [1, (1 << 30) - 1], seed=0)
    order._sizes[0] = 1  # its order would take 32 GiB: 8 bytes a window
    position = 5 * BEYOND_32
    chosen = order.at(position, 12)
    assert set(chosen.tolist()) <= {0, *range(BEYOND_32, BEYOND_32 + 4)}
    assert sum(Turns([1, 2]).before(3 * BEYOND_32)) == 3 * BEYOND_32
    assert Turns([1, 2]).before(3 * BEYOND_32) == [BEYOND_32, 2 * BEYOND_32]


def test_steps_have_the_digits_of_names_of_checkpoints(scone, small, tmp_path):
    work = copy_of(small / "work", tmp_path / "work")
    code, _, err = scone("--workspace", work, "train-fgram", "--steps", 10**8, "--plan")
    assert code == 2
    error_of(err, "--steps 100000000", 10**8)
    assert scone("--workspace", work, "train-fgram", "--steps", 10**8 - 1, "--plan")[0] == 0


# ---- table -------------------------------------------------------------------------------------------------------


def test_files_of_rows_are_as_many_as_their_names_have_room_for():
    width = 8192
    most = 100_000 * (PART_BYTES // width)
    check_parts(most, width)
    with refusal(BadSetting, most + 1, "100,001 files", hint=("--dtype",)):
        check_parts(most + 1, width)


def test_rows_beyond_offsets_of_32_bits_are_read_where_they_were_written(tmp_path):
    files = RowFiles(tmp_path, (1 << 32) - 2, 3, part_bytes=1 << 60)
    files._path(0).touch()
    start = 1000  # the frame of so many rows is not built: it would be 12 GB in one page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowFiles, "_start", lambda *_: start)
        with files._path(0).open("r+b") as file:
            file.truncate(start + 3 * files.num_rows)
        ids = np.array([files.num_rows - 1, 5, 1 << 31])
        raw = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
        files.write(ids, raw)
        assert files.read(np.sort(ids)).tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]
