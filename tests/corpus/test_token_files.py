"""Files of token ids in every known form, written by hand; each is read whole, and cut in every place."""

import itertools
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import refusal

from scone_cli.corpus import token_documents
from scone_cli.corpus.files import SourceFile, find_files
from scone_cli.corpus.formats import TOKENS
from scone_cli.corpus.token_documents import LARGEST_ID, largest_id, read_token_documents
from scone_cli.corpus.token_files import TokenFile, recognise
from scone_cli.errors import BadData

END = 9  # the separator
IDS = [END, 1, 2, 3, END, 4, END, END, 5, 6]
DOCUMENTS = {1: [1, 2, 3], 5: [4], 8: [5, 6]}  # by the position of the first token


def opened(path: Path, token_dtype: str | None = None, wide: bool = False, text_field: str = "text") -> TokenFile:
    (file,) = find_files([path])
    found = recognise(file, text_field, token_dtype, wide)
    assert found is not None
    return found


def documents(file: TokenFile, first: int = 0, last: int | None = None, separator: int | None = END, **more) -> dict:
    stop = file.num_units if last is None else last
    found = list(read_token_documents(file, first, stop, separator, more.pop("largest", LARGEST_ID), **more))
    assert all(tokens.dtype == np.uint32 for _, tokens in found)
    return {name.partition(":")[2]: tokens.tolist() for name, tokens in found}


def texts(found: dict[int, list[int]]) -> dict[str, list[int]]:
    return {str(position): tokens for position, tokens in found.items()}


def llmc(ids: list[int], magic: int, dtype: str) -> bytes:
    header = np.zeros(256, "<i4")
    header[:3] = magic, {20240520: 1, 20240801: 7}[magic], len(ids)
    return header.tobytes() + np.array(ids, dtype).tobytes()


def megatron(folder: Path, sequences: list[list[int]], documents: list[int], code: int = 8, dtype: str = "<u2") -> Path:
    """`documents`: the sequence with which each begins, and the number of sequences."""
    flat = list(itertools.chain.from_iterable(sequences))
    (folder / "a.bin").write_bytes(np.array(flat, dtype).tobytes())
    lengths = [len(sequence) for sequence in sequences]
    pointers = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * np.dtype(dtype).itemsize if lengths else []
    (folder / "a.idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, code, len(sequences), len(documents))
        + np.array(lengths, "<i4").tobytes()
        + np.array(pointers, "<i8").tobytes()
        + np.array(documents, "<i8").tobytes()
    )
    return folder / "a.bin"


@pytest.fixture
def tiny(monkeypatch):
    """Blocks so small that every document is read in several."""
    monkeypatch.setattr(token_documents, "_BLOCK_TOKENS", 3)


# ---- every form --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("name", ["a.bin", "a.npy"])
def test_numbers_without_a_header(tmp_path, name, dtype):
    path = tmp_path / name
    path.write_bytes(np.array(IDS, dtype).tobytes())
    file = opened(path, dtype)
    assert (file.num_tokens, largest_id(file), file.is_flat) == (10, 9, True)
    assert documents(file) == texts(DOCUMENTS)
    assert documents(opened(path, wide=dtype == "uint32")) == texts(DOCUMENTS)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("magic", "dtype"), [(20240520, "<u2"), (20240801, "<u4")])
def test_llm_c(tmp_path, magic, dtype):
    path = tmp_path / "a.bin"
    path.write_bytes(llmc(IDS, magic, dtype))
    file = opened(path, "uint16")  # its header knows better
    assert (file.num_tokens, largest_id(file)) == (10, 9)
    assert documents(file) == texts(DOCUMENTS)
    path.write_bytes(llmc(IDS, magic, dtype)[:-4])
    with refusal(BadData, "header"):
        opened(path)
    path.write_bytes(llmc(IDS[1:], magic, dtype))  # an odd number: the file is no multiple of four bytes
    assert documents(opened(path)) == {"0": [1, 2, 3], "4": [4], "7": [5, 6]}
    path.write_bytes(llmc(IDS, magic, dtype) + b"\0\0")
    with refusal(BadData, "a.bin", "header") as caught:
        opened(path)
    assert "--token-dtype" not in caught.value.hint, "the header knows better"
    path.write_bytes(llmc(IDS, magic, dtype)[:100])
    with refusal(BadData, "a.bin", 100, 1024):
        opened(path)
    path.write_bytes(llmc(IDS, magic, dtype)[:4] + b"\2\0\0\0" + llmc(IDS, magic, dtype)[8:])
    with refusal(BadData, "version 2"):
        opened(path)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4", "<i8", ">u2", "u1"])
def test_npy_with_its_header(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array(IDS, dtype))
    assert documents(opened(tmp_path / "a.npy")) == texts(DOCUMENTS)


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.uint16), np.zeros(3, np.float32)])
def test_npy_of_another_kind(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with refusal(BadData, "a.npy", "dimension", "whole numbers"):
        opened(tmp_path / "a.npy")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("code", "dtype"), [(1, "u1"), (8, "<u2"), (4, "<i4"), (5, "<i8")])
def test_megatron(tmp_path, code, dtype):
    sequences = [[1, 2], [3, END], [4, END], [], [5, END, 6, END], [7]]
    path = megatron(tmp_path, sequences, [0, 2, 3, 5, 6], code, dtype)
    file = opened(path)
    assert (file.num_tokens, file.is_flat, largest_id(file)) == (11, False, END)
    assert documents(file) == {"0": [1, 2, 3], "4": [4], "6": [5], "8": [6], "10": [7]}
    whole = {"0": [1, 2, 3, END], "4": [4, END], "6": [5, END, 6, END], "10": [7]}
    assert documents(file, separator=None) == whole
    (by_index,) = find_files([tmp_path / "a.idx"])
    (by_tokens,) = find_files([tmp_path])
    assert by_index == by_tokens == file.source


def test_megatron_hash_is_of_both_files(tmp_path):
    (before,) = find_files([megatron(tmp_path, [[1, 2]], [0, 1])])
    (after,) = find_files([megatron(tmp_path, [[1], [2]], [0, 1, 2])])
    assert before.sha256 != after.sha256
    assert (before.name, before.bytes) == (after.name, after.bytes)


def test_bad_megatron_index(tmp_path):
    path = megatron(tmp_path, [[1, 2], [3]], [0, 1, 2])
    index = (tmp_path / "a.idx").read_bytes()
    for content, expected in (
        (b"no index at all" * 10, None),
        (index[:20], None),
        (index[:17] + b"\x07" + index[18:], None),
        (index[:-1], "truncated"),
    ):
        (tmp_path / "a.idx").write_bytes(content)
        with refusal(BadData, "a.idx", *([expected] if expected else [])):
            opened(path)
    (tmp_path / "a.idx").write_bytes(index)
    path.write_bytes(path.read_bytes() + b"\0\0")
    with refusal(BadData, "6 bytes", "a.bin", "8"):
        opened(path)
    path.unlink()
    with refusal(BadData, "a.idx", ".bin"):
        find_files([tmp_path])


def test_a_megatron_index_whose_documents_are_not_all_sequences(tmp_path):
    sequences = [[1, 2], [3, 4], [5, 6], [7, 8]]
    for starts, facts in (
        ([0, 1, 2], ("sequence 0", "2", "4")),
        ([1, 2, 4], ("sequence 1", "4")),
        ([0, 2, 5], ("sequence 0", "5", "4")),
    ):
        with refusal(BadData, "a.idx", *facts):
            opened(megatron(tmp_path, sequences, starts))
    for starts, facts in (([0, 7, 4], ("document 1", "sequence 7")), ([0, -1, 4], ("document 1", "sequence -1"))):
        with refusal(BadData, "a.idx", *facts):
            documents(opened(megatron(tmp_path, sequences, starts)))
    with refusal(BadData, "a.idx", "document 1", "6", "2"):
        documents(opened(megatron(tmp_path, sequences, [0, 3, 1, 4])))


@pytest.mark.parametrize(("dtype", "code"), [("<u2", 8), ("<i4", 4)])
def test_megatron_beyond_two_and_four_billion_tokens(tmp_path, dtype, code):
    """Their lengths are int32, and so are sums of them where they are not taken care of; the files are sparse."""
    lengths, width = [1 << 30] * 4 + [3, 1 << 28, 2], np.dtype(dtype).itemsize
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    path = megatron(tmp_path, [[]] * len(lengths), list(range(len(lengths) + 1)), code, dtype)
    head = (tmp_path / "a.idx").read_bytes()[:34]
    tail = np.arange(len(lengths) + 1, dtype="<i8").tobytes()
    (tmp_path / "a.idx").write_bytes(head + np.array(lengths, "<i4").tobytes() + (starts[:-1] * width).tobytes() + tail)
    with path.open("r+b") as file:
        file.truncate(int(starts[-1]) * width)
        for at, ids in ((starts[4], [5, 6, 7]), (starts[6], [8, 9])):
            file.seek(int(at) * width)
            file.write(np.array(ids, dtype).tobytes())
    found = path.stat()
    source = SourceFile(
        str(path), "a.bin", found.st_size, "", found.st_mtime_ns, TOKENS, "", index=str(tmp_path / "a.idx")
    )
    file = recognise(source, "text", None, False)
    assert file.num_tokens == sum(lengths) > 1 << 32
    read = documents(file, 1 << 32, (1 << 32) + 1, None)
    assert read == {str(1 << 32): [5, 6, 7]}
    assert documents(file, int(starts[5]) + 1, None, None) == {str(starts[6]): [8, 9]}


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.uint16()), pa.large_list(pa.int64()), pa.list_(pa.int32(), 5), pa.list_view(pa.int32())]
)
@pytest.mark.parametrize("column", ["tokens", "input_ids", "ids"])
def test_parquet(tmp_path, kind, column):
    rows = [[1, 2, 3, 4, 5], [6, END, 7, END, END], [8, 8, 8, 8, 8]]
    table = pa.table({"id": [1, 2, 3], column: pa.array(rows, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    file = opened(tmp_path / "a.parquet", text_field="ids" if column == "ids" else "text")
    assert (file.num_tokens, file.num_units, largest_id(file)) == (15, 3, END)
    expected = {"0": [1, 2, 3, 4, 5], "1": [6], "1:2": [7], "2": [8] * 5}
    assert documents(file) == expected
    assert documents(file, 0, 1) | documents(file, 1, 3) == expected
    assert documents(file, separator=None)["1"] == rows[1]


def test_a_parquet_column_whose_name_is_the_path_of_another(tmp_path):
    pq.write_table(pa.table({"a": pa.array([{"b": 1}]), "a.b": pa.array([[5, 6]])}), tmp_path / "a.parquet")
    assert documents(opened(tmp_path / "a.parquet", text_field="a.b")) == {"0": [5, 6]}


def test_parquet_of_text_is_no_token_file(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "tokens": pa.array([[1]])}), tmp_path / "a.parquet")
    (file,) = find_files([tmp_path])
    assert recognise(file, "text", None, False) is None


def test_parquet_with_columns_that_hold_no_token_ids(tmp_path):
    for kind, values in (
        (pa.list_(pa.float64()), [[1.0]]),
        (pa.list_(pa.list_(pa.int32())), [[[1]]]),
        (pa.int32(), [1]),
    ):
        pq.write_table(pa.table({"tokens": pa.array(values, kind)}), tmp_path / "a.parquet")
        with refusal(BadData, "a.parquet", "'text'", "'tokens'", "whole numbers", hint=("--text-field",)):
            opened(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["text", "tokens"])
def test_parquet_with_several_columns_of_one_name(tmp_path, name):
    pq.write_table(pa.Table.from_arrays([pa.array([[1]])] * 2, names=[name] * 2), tmp_path / "a.parquet")
    with refusal(BadData, "a.parquet", "2 columns", name):
        opened(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array([[1]])] * 3, names=["x", "x", "tokens"]), tmp_path / "a.parquet")
    assert documents(opened(tmp_path / "a.parquet")) == {"0": [1]}


def test_parquet_with_a_dot_in_a_column_name(tmp_path):
    pq.write_table(pa.table({"a.b": pa.array([[1, 2]])}), tmp_path / "a.parquet")
    file = opened(tmp_path / "a.parquet", text_field="a.b")
    assert (file.num_tokens, documents(file)) == (2, {"0": [1, 2]})


@pytest.mark.parametrize(("separator", "expected"), [(END, 4), (7, 0)])
def test_separators_are_counted(tmp_path, separator, expected):
    (tmp_path / "a.bin").write_bytes(np.array(IDS, np.uint16).tobytes())
    met = []
    documents(opened(tmp_path / "a.bin", "uint16"), separator=separator, on_separator=lambda: met.append(1))
    assert len(met) == expected
    pq.write_table(pa.table({"tokens": pa.array([IDS])}), tmp_path / "a.parquet")
    documents(opened(tmp_path / "a.parquet"), separator=separator, on_separator=lambda: met.append(1))
    assert len(met) == 2 * expected


def test_parquet_rows_that_are_null_or_empty(tmp_path):
    table = pa.table({"tokens": pa.array([[1], None, [], [2]], pa.list_(pa.uint16()))})
    pq.write_table(table, tmp_path / "a.parquet")
    file = opened(tmp_path / "a.parquet")
    with refusal(BadData, "a.parquet", "row 1", "null"):
        documents(file)
    bad = []
    assert documents(file, on_bad=bad.append) == {"0": [1], "3": [2]}
    assert [(error.name, error.cause) for error in bad] == [("a.parquet:1", "null")]
    pq.write_table(pa.table({"tokens": pa.array([[1, None]], pa.list_(pa.uint16()))}), tmp_path / "a.parquet")
    with refusal(BadData, "row 0", "token 1", "null"):
        documents(opened(tmp_path / "a.parquet"))


# ---- pieces ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([END, 1, 2]), max_size=40), st.integers(1, 9), st.integers(1, 7))
def test_pieces_hold_every_document_once(tmp_path_factory, ids, step, block):
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "a.bin").write_bytes(np.array(ids, np.uint16).tobytes())
    file = opened(folder / "a.bin", "uint16")
    expected, start = {}, 0
    for is_end, run in itertools.groupby(ids, lambda token: token == END):
        run = list(run)  # noqa: PLW2901
        if not is_end:
            expected[str(start)] = run
        start += len(run)
    before = token_documents._BLOCK_TOKENS
    token_documents._BLOCK_TOKENS = block
    try:
        pieces = [documents(file, *piece) for piece in file.pieces(2 * step)]
    finally:
        token_documents._BLOCK_TOKENS = before
    assert sum(map(len, pieces)) == len(expected)
    assert {name: tokens for piece in pieces for name, tokens in piece.items()} == expected


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_pieces_of_megatron(tmp_path, step):
    file = opened(megatron(tmp_path, [[1, 2], [3], [], [4, 5, 6], [7]], [0, 1, 2, 3, 4, 5]))
    pieces = [documents(file, *piece, separator=None) for piece in file.pieces(2 * step)]
    assert len(pieces) == -(-7 // step)
    assert [tokens for piece in pieces for tokens in piece.values()] == [[1, 2], [3], [4, 5, 6], [7]]


# ---- what is wrong -----------------------------------------------------------------------------------------------


def test_id_beyond_the_vocabulary_is_named_with_its_place(tmp_path):
    (tmp_path / "a.bin").write_bytes(np.array([*IDS, 500], np.uint16).tobytes())
    with refusal(BadData, "a.bin", "10", "500", "0", "99"):
        documents(opened(tmp_path / "a.bin", "uint16"), largest=99)
    np.save(tmp_path / "b.npy", np.array([1, -2], np.int32))
    with refusal(BadData, "b.npy", "1", "-2"):
        documents(opened(tmp_path / "b.npy"))
    (tmp_path / "c.bin").write_bytes(np.array([1, 1 << 30], np.uint32).tobytes())
    with refusal(BadData, "c.bin", "1", 1073741824):
        largest_id(opened(tmp_path / "c.bin", "uint32"))


def test_numbers_of_another_size(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"123")
    with refusal(BadData, "3 bytes", "2"):
        opened(tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes(np.array(IDS, np.uint32).tobytes())
    with refusal(BadData, "0") as caught:
        opened(tmp_path / "b.bin")
    assert "--token-dtype" in caught.value.hint


def test_compressed_tokens_are_refused(tmp_path):
    (tmp_path / "a.bin.gz").write_bytes(b"x")
    with refusal(BadData, "a.bin.gz"):
        opened(tmp_path / "a.bin.gz")


@pytest.mark.usefixtures("tiny")
def test_a_document_beyond_the_largest(tmp_path, monkeypatch):
    monkeypatch.setattr(token_documents, "_LARGEST_DOCUMENT", 4)
    (tmp_path / "a.bin").write_bytes(np.array([1, END, 2, 2, 2, 2, 2, 2, 2, END, 3], np.uint16).tobytes())
    file = opened(tmp_path / "a.bin", "uint16")
    with refusal(BadData, "a.bin", "2", "4 tokens", "separator") as caught:
        documents(file)
    assert "--separator" in caught.value.hint
    bad = []
    assert documents(file, on_bad=bad.append) == {"0": [1], "10": [3]}
    assert [error.name for error in bad] == ["a.bin:2"]


def test_file_that_changes(tmp_path):
    (tmp_path / "a.bin").write_bytes(np.array(IDS, np.uint16).tobytes())
    file = opened(tmp_path / "a.bin", "uint16")
    (tmp_path / "a.bin").write_bytes(np.array(IDS[:4], np.uint16).tobytes())
    with refusal(BadData, "a.bin", "changed"):
        documents(file)
