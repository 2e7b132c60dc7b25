"""Arrow files, as streams and with an index, against Parquet of the same rows; and folders of the library `datasets`."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from messages import refusal

from scone_cli.corpus.files import find_files
from scone_cli.corpus.readers import read_documents
from scone_cli.errors import BadData

TEXTS = [f"text {number} " * (number % 7) for number in range(1000)]
IDS = [list(range(number % 11)) for number in range(1000)]
CODECS = ["stream", "file", "stream-zstd", "file-lz4"]


def arrow(table: pa.Table, how: str = "stream", rows: int = 300) -> bytes:
    sink = pa.BufferOutputStream()
    kind, _, codec = how.partition("-")
    options = pa.ipc.IpcWriteOptions(compression=codec or None)
    new = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, rows)
    return sink.getvalue().to_pybytes()


def read(path: Path, field: str = "text") -> list[tuple[str, str]]:
    return [(document.name, document.text) for file in find_files([path]) for document in read_documents(file, field)]


@pytest.mark.parametrize("how", CODECS)
@pytest.mark.parametrize("name", ["a.arrow", "a", "a.arrow.gz"])
def test_the_same_documents_as_from_parquet(tmp_path, how, name):
    table = pa.table({"id": range(len(TEXTS)), "text": TEXTS})
    content = arrow(table, how)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read(tmp_path / name) == [(f"{name}:{row}", text) for row, text in enumerate(TEXTS) if text]


@pytest.mark.parametrize("how", CODECS)
@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
def test_text_columns_of_every_kind(tmp_path, how, kind):
    other = pa.array(["x", "y", "x"]).dictionary_encode()
    table = pa.table({"other": other, "text": pa.array(["a", "b", "a"]).cast(kind)})
    (tmp_path / "a.arrow").write_bytes(arrow(table, how, 2))
    assert [text for _, text in read(tmp_path / "a.arrow")] == ["a", "b", "a"]


@pytest.mark.parametrize("how", CODECS)
@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16())])
def test_tokens_are_those_of_parquet(scone, tmp_path, how, kind):
    """Only names of documents and hashes of inputs differ where the files have other names; here they have one."""
    table = pa.table({"input_ids": pa.array(IDS, kind), "text_id": range(len(IDS))})
    for folder in ("parquet", "arrow"):
        (tmp_path / folder).mkdir()
    pq.write_table(table, tmp_path / "parquet" / "ids", row_group_size=300)
    (tmp_path / "arrow" / "ids").write_bytes(arrow(table, how))
    made = {}
    for folder in ("parquet", "arrow"):
        work = tmp_path / f"work-{folder}"
        args = ("--quiet", "--workspace", work, "count-ngrams", tmp_path / folder, "--workers", "1", "--max-n", "2")
        code, _, err = scone(*args, "--separator", "5", "--held-out", "0.1")
        assert code == 0, err
        made[folder] = {path.name: path.read_bytes() for path in (work / "tokens").glob("part-*.parquet")}
        made[folder]["counts"] = (work / "counts" / "n=2.parquet").read_bytes()
        made[folder]["summary"] = json.loads((work / "tokens" / "manifest.json").read_bytes())["summary"]
    assert made["arrow"] == made["parquet"]


@pytest.mark.parametrize("how", CODECS)
def test_a_damaged_file_is_told(tmp_path, how):
    path = tmp_path / "a.arrow"
    whole = arrow(pa.table({"text": TEXTS}), how)
    for content in (b"", b"no arrow", whole[: len(whole) // 2], whole[:60]):
        path.write_bytes(content)
        with refusal(BadData, "a.arrow", "Arrow"):
            read(path)


def test_an_offset_that_points_outside_is_told(tmp_path):
    content = arrow(pa.table({"text": ["first", "second", "third"]}), rows=3)
    offsets = np.array([0, 5, 11, 16], "<i4").tobytes()
    assert content.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(content.replace(offsets, np.array([0, 1 << 30, 11, 16], "<i4").tobytes()))
    with refusal(BadData, "a.arrow", "damaged"):
        read(tmp_path / "a.arrow")


def test_bad_documents_are_those_of_parquet(tmp_path):
    column = pa.array([b"good", b"\xff", None], pa.binary()).view(pa.string())
    (tmp_path / "a.arrow").write_bytes(arrow(pa.table({"text": column})))
    (file,) = find_files([tmp_path / "a.arrow"])
    bad = []
    assert [document.text for document in read_documents(file, on_bad=bad.append)] == ["good"]
    assert [each.name for each in bad] == ["a.arrow:1", "a.arrow:2"]
    with refusal(BadData, "a.arrow", "'body'", "text"):
        read(tmp_path / "a.arrow", "body")


def test_a_folder_of_datasets_is_its_arrow_files(tmp_path, capsys):
    """As `DatasetDict.save_to_disk` writes it, with a result of `map` that lies in the same folder."""
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        (folder / "data-00000-of-00001.arrow").write_bytes(arrow(pa.table({"text": [split]})))
        (folder / "dataset_info.json").write_text('{\n  "features": {}\n}')
        (folder / "state.json").write_text('{\n  "_split": null\n}')
    (tmp_path / "saved" / "train" / "cache-1234.arrow").write_bytes(arrow(pa.table({"text": ["again"]})))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert sorted(text for _, text in read(tmp_path / "saved")) == ["test", "train"]
    assert "cache-1234.arrow" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.json").write_text('{"text": "of a state"}\n')
    assert [text for _, text in read(tmp_path / "other")] == ["of a state"]
