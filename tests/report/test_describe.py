"""`scone inspect` and `scone verify`."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from messages import error_of, names

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import publish, staging_folder, write_parquet
from scone_cli.artifacts.schemas import TOKENS, VOCAB, counts_schema, table_schema
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.table.row_formats import FORMATS, encode

TEXT = "the cat sat on the mat \x1b[31m\n" * 20


def put(kind: str, print_: str, files: dict[str, object], tokenizer: str, **changes: object) -> None:
    """Publish an artifact in the workspace; a file is bytes or (schema, rows)."""
    target = Path("scone-work") / kind
    staging = staging_folder(target, print_)
    for name, content in files.items():
        if isinstance(content, bytes):
            (staging / name).write_bytes(content)
        else:
            schema, rows = content
            write_parquet(staging / name, schema, pa.Table.from_pylist(rows, schema))
    inputs = changes.pop("inputs", {})
    settings = changes.pop("settings", {"size": 10, "max_n": 2, "num_tokens": 300})
    publish(staging, target, Manifest(kind, 1, "some-stage", 1, print_, settings, inputs, tokenizer, {"rows": 3}))


@pytest.fixture
def workspace():
    content = train_tokenizer(iter([TEXT]), 280)
    tokenizer = Tokenizer(content, "tokenizer.json")
    tokens = tokenizer.encode_batch([TEXT])[0].tolist()
    sha = tokenizer.sha256
    doc = {"doc": "a.txt", "split": "train", "bytes": len(TEXT), "continues": False, "tokens": tokens}
    put("tokens", "tokens-1", {"part-0.parquet": (TOKENS, [doc]), "tokenizer.json": content}, sha)
    grams = [{"tokens": tokens[i : i + 2], "count": 9 - i, "docs": 1} for i in range(3)]
    put("counts", "counts-1", {"n=2.parquet": (counts_schema(2), grams)}, sha, inputs={"corpus": "x"})
    fgrams = [{"id": i, "n": 2, **gram, "parent": None} for i, gram in enumerate(grams)]
    put("vocab", "vocab-1", {"vocab.parquet": (VOCAB, fgrams)}, sha, inputs={"counts": "counts-1"})
    rows = [{"embedding": np.array([3 * i, 4 * i, 0, 0], np.float16).tobytes()} for i in range(3)]
    files = {"rows-0.parquet": (table_schema(8), rows[:2]), "rows-1.parquet": (table_schema(8), rows[2:])}
    put("table", "table-1", files, sha, inputs={"vocab": "vocab-1"}, settings={"dtype": "float16", "dim": 4})
    return Path("scone-work")


def test_inspect_decodes_tokens(scone, workspace):
    code, out, _ = scone("inspect", workspace / "tokens", "--json")
    described = json.loads(out)
    assert code == 0
    assert (described["artifact"], described["stage"], described["settings"]["size"]) == ("tokens", "some-stage", 10)
    assert {"column": "split", "type": "string"} in described["columns"]
    files = [(row["file"], row.get("rows")) for row in described["files"]]
    assert files == [("part-0.parquet", 1), ("tokenizer.json", None)]
    (row,) = described["first_rows"]
    assert row["text"].startswith(r"the·cat·sat·on·the·mat·\x1b[31m\nthe·cat")
    assert (row["doc"], row["split"]) == ("a.txt", "train")
    vocab = json.loads(scone("inspect", workspace / "vocab", "--json", "--rows", 2)[1])
    assert [row["id"] for row in vocab["first_rows"]] == [0, 1]
    assert list(vocab["first_rows"][0]) == ["id", "n", "text", "count", "docs", "parent"]
    assert "\x1b" not in scone("inspect", workspace / "tokens")[1]


def test_inspect_shows_one_file_and_the_rows_of_a_table(scone, workspace):
    described = json.loads(scone("inspect", workspace / "table" / "rows-1.parquet", "--json")[1])
    assert described["first_rows"] == [{"id": 2, "width": 4, "norm": 10.0, "values": "6 8 0 0"}]
    by_manifest = json.loads(scone("inspect", workspace / "table" / "manifest.json", "--json")[1])
    assert [row["norm"] for row in by_manifest["first_rows"]] == [0.0, 5.0]


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_every_format_are_read(scone, workspace, name):
    raw = encode(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]), name)
    files = {"rows-0.parquet": (table_schema(raw.shape[1]), [{"embedding": row.tobytes()} for row in raw])}
    put("table", "table-2", files, "t", settings={"dtype": name, "dim": 3})
    described = json.loads(scone("inspect", workspace / "table", "--json")[1])
    row, zero = described["first_rows"]
    assert row["norm"] == pytest.approx(5, rel=FORMATS[name].error * 2)
    assert (row["width"], len(row["values"].split())) == (3, 3)
    assert (zero["id"], zero["norm"], zero["values"]) == (1, 0.0, "0 0 0")


@pytest.mark.parametrize("settings", [{}, {"dtype": "int3", "dim": 4}, {"dtype": "float16", "dim": 3}])
def test_rows_in_another_format_than_the_manifest_says_are_refused(scone, workspace, settings):
    put("table", "table-2", {"rows-0.parquet": (table_schema(8), [{"embedding": b"\0" * 8}])}, "t", settings=settings)
    code, _, err = scone("inspect", workspace / "table")
    assert code == 65
    error_of(err, "rows-0.parquet", 8)


def test_inspect_shows_ids_when_the_tokenizer_is_another(scone, workspace):
    fgram = {"id": 0, "n": 2, "tokens": [7, 8], "count": 1, "docs": 1, "parent": None}
    put("vocab", "v", {"vocab.parquet": (VOCAB, [fgram])}, "another")
    described = json.loads(scone("inspect", workspace / "vocab", "--json")[1])
    assert described["first_rows"][0]["tokens"] == "7 8"
    another = described["token_text"]
    assert names(another, "tokenizer.json")
    (workspace / "tokens").rename("moved")
    described = json.loads(scone("inspect", workspace / "vocab", "--json")[1])
    assert names(described["token_text"], "tokenizer.json")
    assert described["token_text"] != another


def test_no_rows_are_no_trouble(scone, workspace):
    put("vocab", "v", {"vocab.parquet": (VOCAB, [])}, "t")
    assert json.loads(scone("inspect", workspace / "vocab", "--json")[1])["first_rows"] == []
    asked_for_none = json.loads(scone("inspect", workspace / "table", "--json", "--rows", 0)[1])
    assert asked_for_none["first_rows"] == []


def test_inspect_lists_a_workspace(scone, workspace):
    (workspace / "counts" / "manifest.json").unlink()
    put("vocab", "vocab-2", {"vocab.parquet": (VOCAB, [])}, "another")
    listed = json.loads(scone("inspect", workspace, "--json")[1])["artifacts"]
    assert [row["folder"] for row in listed] == ["tokens", "counts", "vocab", "table"]
    tokens, counts, vocab, table = (row["state"] for row in listed)
    assert tokens == "complete"
    assert names(counts, "scone-work/counts", "manifest.json")
    assert names(vocab, "scone-work/vocab", "tokenizer")
    assert table == "complete"  # it may be of any vocabulary
    assert len({state.split(":")[0] for state in (tokens, counts, vocab)}) == 3
    assert "scone-work" in scone("inspect", workspace)[1]


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_not_an_artifact(scone, command):
    assert scone(command, "nowhere")[0] == 66
    Path("empty").mkdir()
    code, out, err = scone(command, "empty")
    assert code == 65
    assert names(out + err, "empty", "manifest.json")


def test_inspect_of_flipped_bytes_is_one_line(scone, workspace):
    path = workspace / "vocab" / "vocab.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    code, out, err = scone("inspect", workspace / "vocab")
    assert (code, out) == (65, "")
    error_of(err, "scone-work/vocab/vocab.parquet", "Parquet", hint=("scone verify scone-work/vocab",))


def test_verify_reads_every_byte(scone, workspace):
    code, out, _ = scone("verify", workspace)
    assert code == 0
    assert [line.split(":")[0].split() for line in out.splitlines()] == [
        ["ok", f"scone-work/{name}"] for name in ("tokens", "counts", "vocab", "table")
    ]
    path = workspace / "table" / "rows-1.parquet"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    code, out, err = scone("verify", workspace / "vocab", workspace / "table")
    assert code == 65
    ok, wrong, hint = out.splitlines()
    assert ok.split()[:2] == ["ok", "scone-work/vocab:"]
    assert wrong.split()[:2] == ["WRONG", "scone-work/table/rows-1.parquet:"]
    assert names(wrong, "SHA-256")
    assert hint.strip() == "make it again: scone precompute --force"
    error_of("\n".join(err.splitlines()[-2:]), 1, 2)


def test_verify_sees_artifacts_that_do_not_belong_together(scone, workspace):
    put("counts", "counts-2", {}, Tokenizer.load(workspace / "tokens" / "tokenizer.json").sha256)
    code, out, _ = scone("verify", workspace)
    assert code == 65
    (wrong,) = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert wrong.split()[1] == "scone-work/vocab:"
    assert names(wrong, "scone-work/counts")
    put("counts", "counts-1", {}, "another tokenizer")
    _, out, _ = scone("verify", workspace / "counts")
    assert out.count("\n") == 2
    assert out.split()[:2] == ["WRONG", "scone-work/counts:"]
    assert names(out, "tokenizer", "scone-work/tokens")
