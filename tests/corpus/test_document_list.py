"""`--exclude-documents`: what its lines name, and that `tokens/` hold nothing of it, in every format of a corpus."""

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from messages import refusal

from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.document_list import EXCLUDED, UNMATCHED, DocumentList, read_document_list
from scone_cli.corpus.prepare import prepare_tokens
from scone_cli.corpus.readers import BadDocument
from scone_cli.corpus.token_settings import TokenSettings
from scone_cli.corpus.token_stream import read_tokens
from scone_cli.errors import BadSetting, InputMissing
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool

TEXTS = [f"Document {number} says hello {number % 7} times, and the end.\n" * (number % 5 + 1) for number in range(40)]
LEFT_OUT = [3, 11, 30]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def listed(folder: Path, *lines: str) -> Path:
    path = folder / "exclude.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def tokens(work: Path, *corpora: Path, **settings: Any) -> tuple[dict[str, list[list[int]]], dict[str, Any], bytes]:
    """The documents of each split in their order, the summary, and the tokenizer."""
    config = TokenSettings(**{"vocab_size": 300, "held_out": 0.2} | settings)
    prepared = prepare_tokens(config, list(corpora), work / "tokens", silent)
    with Pool(1) as pool:
        manifest = prepared.write(pool, silent)
    streams = {split: read_tokens(work / "tokens", split) for split in (TRAIN, HELD_OUT)}
    ids = {
        name: [s.tokens[a:b].tolist() for a, b in zip(s.starts, s.starts[1:], strict=False)]
        for name, s in streams.items()
    }
    tokenizer = work / "tokens" / "tokenizer.json"
    return ids, manifest.summary, tokenizer.read_bytes() if tokenizer.exists() else b""


def _lines(path: Path, texts: dict[int, str]) -> None:
    records = ({"id": f"doc-{n}", "text": text} for n, text in texts.items())
    path.with_suffix(".jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _columns(texts: dict[int, str]) -> pa.Table:
    return pa.table({"text": list(texts.values()), "id": list(texts)})


WRITERS = {
    "lines": _lines,
    "parquet": lambda path, texts: pq.write_table(_columns(texts), path, row_group_size=7),
    "arrow": lambda path, texts: feather.write_feather(
        _columns(texts), path, chunksize=300, compression="uncompressed"
    ),
    "separated": lambda path, texts: path.write_text("".join(f"{text}-----\n" for text in texts.values())),
}
FORMS = {
    "names": {
        "lines": ["corpus/a.jsonl:4", "a.jsonl:12", "/data/corpus/a.jsonl:31"],
        "parquet": ["corpus/a:3", "a:11", "./a:30"],
        "arrow": ["corpus/a:3", "a:11", "x/corpus/a:30"],
    },
    "ids": {"lines": ["doc-3", "doc-11", "doc-30"], "parquet": ["3", "11", "30"], "arrow": ["3", "11", "30"]},
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("form", ["names", "ids", "hashes"])
def test_as_if_the_documents_had_never_been_there(tmp_path, kind, form):
    """The slow twin: a corpus without them gives the same tokenizer, the same splits and the same tokens."""
    settings = {"document_separator": "-----"} if kind == "separated" else {}
    if form == "hashes":
        lines = [sha(TEXTS[3]), f"{sha(TEXTS[11]).upper()}  request 7", f"sha256:{sha(TEXTS[30])}"]
    elif (lines := FORMS[form].get(kind, [])) == []:
        pytest.skip("these documents have no id")
    for name, kept in (("all", range(40)), ("few", (n for n in range(40) if n not in LEFT_OUT))):
        (tmp_path / name / "corpus").mkdir(parents=True)
        WRITERS[kind](tmp_path / name / "corpus" / "a", {n: TEXTS[n] for n in kept})
    exclude = listed(tmp_path, "# requests", "", *lines, "gone.txt")
    found = tokens(tmp_path / "one", tmp_path / "all" / "corpus", exclude_documents=exclude, **settings)
    expected = tokens(tmp_path / "two", tmp_path / "few" / "corpus", **settings)
    assert (found[0], found[2]) == (expected[0], expected[2])
    told = {EXCLUDED: 3, UNMATCHED: 1}
    assert found[1] == expected[1] | told


def test_files(tmp_path):
    """A file is a document, or stands for all its documents; compressed ones have the hash of their text."""
    corpus = tmp_path / "corpus"
    (corpus / "law").mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (corpus / "law" / f"{number}.txt").write_text(text)
    (corpus / "3.txt").write_text("of another folder\n" * 3)
    (corpus / "packed.txt").write_bytes(gzip.compress(TEXTS[0].encode() * 9))
    _lines(corpus / "b.jsonl", {0: "never " * 9, 1: "ever " * 9})
    exclude = listed(tmp_path, "law/3.txt", sha(TEXTS[0] * 9), "corpus/b.jsonl", str(corpus / "law" / "5.txt"))
    _, summary, tokenizer = tokens(tmp_path, corpus, exclude_documents=exclude)
    assert (summary["documents"], summary[EXCLUDED], summary[UNMATCHED]) == (len(TEXTS) - 2 + 1, 5, 0)
    assert b"ever" not in tokenizer


def test_a_list_that_says_the_same_is_up_to_date_and_another_is_not(tmp_path):
    _lines(tmp_path / "a.jsonl", dict(enumerate(TEXTS)))

    def is_there(*lines: str) -> bool:
        config = TokenSettings(vocab_size=300, exclude_documents=listed(tmp_path, *lines))
        prepared = prepare_tokens(config, [tmp_path / "a.jsonl"], tmp_path / "tokens", silent)
        if prepared.manifest is None:
            with Pool(1) as pool:
                prepared.write(pool, silent)
            return False
        return True

    assert [is_there("# none yet"), is_there(), is_there("doc-3", "doc-4"), is_there("# why", "doc-4", "doc-3")] == [
        False,
        True,
        False,
        True,
    ]
    assert not is_there("doc-3", "doc-5")
    assert "doc-" not in (tmp_path / "tokens" / "manifest.json").read_text()


def test_a_bad_document_that_is_excluded_is_neither_an_error_nor_told(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS) + "no JSON\n")
    with pytest.raises(BadDocument, match="line 41"):
        tokens(tmp_path, tmp_path / "a.jsonl")
    exclude = listed(tmp_path, "a.jsonl:41")
    _, summary, _ = tokens(tmp_path, tmp_path / "a.jsonl", exclude_documents=exclude, on_bad_document="skip")
    assert summary[EXCLUDED] == 1
    assert "skipped_documents" not in summary


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_token_ids(tmp_path, kind):
    """Rows and places name documents; the largest id of one that is left out makes no vocabulary larger."""
    documents = [[1, 2, 3], [900, 4], [5, 6, 7, 8], [2, 2]]
    if kind == "npy":
        np.save(tmp_path / "a.npy", np.concatenate([[*document, 0] for document in documents]).astype(np.uint16))
        path, line = tmp_path / "a.npy", "a.npy:4"
    else:
        path, line = tmp_path / "a.parquet", "a.parquet:1"
        pq.write_table(pa.table({"tokens": documents}), path)
    ids, summary, _ = tokens(tmp_path, path, separator=0, held_out=0.0, exclude_documents=listed(tmp_path, line))
    assert ids[TRAIN] == [documents[0], *documents[2:]]
    assert (summary[EXCLUDED], summary["vocab_size"]) == (1, 9)
    with refusal(BadSetting, "hashes of text", "token ids"):
        tokens(tmp_path, path, separator=0, exclude_documents=listed(tmp_path, sha("text")))


def test_what_a_line_names():
    documents = DocumentList.of(["corpus/a.jsonl:5", "law/b.txt", "c.parquet:3"])
    entries = documents.entries

    def named(name: str, folder: str | None = None) -> list[str]:
        return sorted(entries[number] for number in documents.naming(name, folder))

    assert named("a.jsonl:5", "corpus") == named("corpus/a.jsonl:5", "x") == named("a.jsonl:5") == ["corpus/a.jsonl:5"]
    assert named("a.jsonl:5", "law") == named("a.jsonl:55", "corpus") == named("b.txt", "corpus") == []
    assert named("b.txt:7", "law") == named("law/b.txt:9", "") == ["law/b.txt"]
    assert named("c.parquet:3:17", "x") == ["c.parquet:3"]
    assert not any(entry in repr(documents) for entry in entries)


def test_lists_that_cannot_be_read(tmp_path):
    with refusal(InputMissing, "--documents", "exclude.txt"):
        read_document_list(tmp_path / "exclude.txt", "--documents")
    for content, cause in (
        (b"a\n\xff\n", "line 2 is not UTF-8"),
        (b"\xef\xbb\xbfsecret.txt # why\n", "line 1 has a '#'"),
    ):
        (tmp_path / "exclude.txt").write_bytes(content)
        with refusal(BadSetting, "--exclude-documents", cause) as refused:
            read_document_list(tmp_path / "exclude.txt")
        assert "secret" not in str(refused.value)
    assert os.sep not in DocumentList.of([]).digest
