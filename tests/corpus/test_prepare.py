"""From a corpus of any kind to `tokens/`, in this process."""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from messages import names, refusal

from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.prepare import SKIPPED, PreparedTokens, prepare_tokens
from scone_cli.corpus.token_settings import TokenSettings
from scone_cli.corpus.token_stream import read_tokens, split_of
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadData, BadSetting, InputMissing, StorageFailure
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool

TEXTS = [f"Document {number} says hello {number % 7} times, and the end.\n" * (number % 5 + 1) for number in range(60)]
CONTENT = train_tokenizer(iter(TEXTS), 300)
TOKENIZER = Tokenizer(CONTENT, "tokenizer.json")
END = TOKENIZER.end_of_document


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "tokenizer.json").write_bytes(CONTENT)
    return tmp_path / "work"


def prepare(corpus: Path | str, work: Path, **settings) -> PreparedTokens:
    config = TokenSettings(**{"vocab_size": 300, "held_out": 0.2} | settings)
    return prepare_tokens(config, [Path(corpus)], work / "tokens", silent)


def make(corpus: Path | str, work: Path, **settings) -> dict:
    """The summary of `tokens/`; it must be up to date then."""
    prepared = prepare(corpus, work, **settings)
    assert prepared.manifest is None
    with Pool(1) as pool:
        manifest = prepared.write(pool, silent)
    assert (manifest.tokenizer, manifest.summary["vocab_size"]) == (prepared.tokenizer_sha, prepared.vocab_size)
    assert manifest.summary["tokens"] <= prepared.num_tokens_bound
    assert not [path for path in work.iterdir() if path.name.startswith(".")]
    return manifest.summary


def flat(path: Path, dtype: str = "uint16", texts: list[str] = TEXTS) -> Path:
    """The texts as a file of token ids, each followed by the end of a document."""
    ids = [np.append(tokens, END) for tokens in TOKENIZER.encode_batch(texts)]
    path.write_bytes(np.concatenate(ids).astype(dtype).tobytes())
    return path


def lines(path: Path, texts: list[str] = TEXTS) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def documents(work: Path) -> list[list[int]]:
    streams = [read_tokens(work / "tokens", split) for split in (TRAIN, HELD_OUT)]
    return sorted(
        stream.tokens[start:end].tolist()
        for stream in streams
        for start, end in zip(stream.starts, stream.starts[1:], strict=False)
    )


# ---- text --------------------------------------------------------------------------------------------------------


def test_text_and_a_trained_tokenizer(tmp_path, work):
    summary = make(lines(tmp_path / "a.jsonl"), work)
    assert (summary["files"], summary["documents"], summary["bytes"]) == (1, 60, sum(map(len, TEXTS)))
    assert summary["tokenizer_documents"] == 60 - summary["held_out_documents"]
    assert 0 < summary["tokenizer_bytes"] < summary["bytes"]
    assert summary["end_of_document"] == 0
    again = prepare(tmp_path / "a.jsonl", work)
    assert (again.manifest.summary, again.num_tokens_bound) == (summary, summary["tokens"])
    assert prepare(tmp_path / "a.jsonl", work, held_out=0.3).manifest is None


def test_the_tokenizer_that_was_given(tmp_path, work):
    make(lines(tmp_path / "a.jsonl"), work, tokenizer=tmp_path / "tokenizer.json")
    assert (work / "tokens" / "tokenizer.json").read_bytes() == CONTENT
    assert documents(work) == sorted(tokens.tolist() for tokens in TOKENIZER.encode_batch(TEXTS))
    same = {"tokenizer": tmp_path / "tokenizer.json"}
    assert prepare(tmp_path / "a.jsonl", work, **same, vocab_size=999).manifest is not None
    with refusal(InputMissing, "nothing.json", "tokenizer"):
        prepare(tmp_path / "a.jsonl", work, tokenizer=tmp_path / "nothing.json")


@pytest.mark.parametrize("setting", ["on_bad_document", "text_field"])
def test_settings_belong_to_the_fingerprint(tmp_path, work, setting):
    path = lines(tmp_path / "a.jsonl")
    one = prepare(path, work)
    two = prepare(path, work, **{setting: {"on_bad_document": "skip", "text_field": "text"}[setting]})
    assert (one.mark != two.mark) == (setting == "on_bad_document")


def test_documents_left_out_are_in_the_manifest(tmp_path, work):
    path = lines(tmp_path / "a.jsonl")
    with path.open("a") as file:
        file.write('{"text": "half \\ud800"}\n{"body": "x"}\n')
    with refusal(BadData, "a.jsonl", "line 61", "surrogate") as caught:
        make(path, work)
    assert "--on-bad-document skip" in caught.value.hint
    summary = make(path, work, on_bad_document="skip")
    assert (summary["documents"], summary["skipped_documents"]) == (60, 2)
    first, second = summary[SKIPPED]
    assert first["document"] == "a.jsonl:61"
    assert names(first["cause"], "surrogate", "U+D800", "5")
    assert second["document"] == "a.jsonl:62"
    assert names(second["cause"], "'text'", "'body'")


def test_too_large_a_text_is_refused_before_a_tokenizer_is_trained(tmp_path, work):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(tmp_path / "a.jsonl").read_bytes()))
    told = []

    def check_size(num_bytes: int) -> None:
        told.append(num_bytes)
        if len(told) == 2:
            raise StorageFailure("too large")

    with pytest.raises(StorageFailure, match="too large"):
        prepare_tokens(TokenSettings(vocab_size=300), [path], work / "tokens", silent, check_size=check_size)
    assert told == [path.stat().st_size, sum(map(len, TEXTS))]
    assert not list(work.rglob("tokenizer.json"))


def test_nothing_but_bad_documents(tmp_path, work):
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with refusal(InputMissing, "document", "text", 1):
        make(tmp_path / "a.txt", work, on_bad_document="skip")


@pytest.mark.parametrize(("held_out", "expected"), [(0.0, "text"), (0.999999, "held out")])
def test_nothing_to_train_on(tmp_path, work, held_out, expected):
    path = lines(tmp_path / "a.jsonl", [] if held_out == 0 else TEXTS)
    with refusal(InputMissing, "document", expected):
        make(path, work, held_out=held_out)


@pytest.mark.parametrize("text", ["one\r\ntwo\r\n", "nul \0 in\0side", "\r\n", "\ufeffmark"])
def test_awkward_text_comes_back_as_it_is(tmp_path, work, text):
    (tmp_path / "a.txt").write_bytes(text.encode())
    make(tmp_path / "a.txt", work, held_out=0.0)
    stream = read_tokens(work / "tokens", TRAIN)
    assert Tokenizer.load(work / "tokens" / "tokenizer.json").decode(stream.tokens) == text
    assert stream.num_bytes.tolist() == [len(text.encode())]


@pytest.mark.parametrize("parity", [True, False])
def test_the_backend_is_chosen_once_and_kept(tmp_path, work, monkeypatch, capsys, parity):
    encode, compared = Tokenizer._encode_fast, []
    if not parity:
        monkeypatch.setattr(Tokenizer, "_encode_fast", lambda *args: [ids[::-1].copy() for ids in encode(*args)])
    compare = Tokenizer._compare
    monkeypatch.setattr(Tokenizer, "_compare", lambda self, texts: compared.append(texts) or compare(self, texts))
    make(lines(tmp_path / "a.jsonl"), work, tokenizer=tmp_path / "tokenizer.json")
    assert documents(work) == sorted(tokens.tolist() for tokens in TOKENIZER._encode_reference(TEXTS))
    assert compared == [TEXTS]
    assert capsys.readouterr().err.count("fastokens") == (not parity)


# ---- many documents in one text, and what is held out of few -----------------------------------------------------


def test_a_text_of_many_documents(tmp_path, work, capsys):
    (tmp_path / "a.txt").write_text("\n-----\n".join(TEXTS))
    own = {"tokenizer": tmp_path / "tokenizer.json"}
    summary = make(tmp_path / "a.txt", work, **own, document_separator="-----")
    assert (summary["files"], summary["documents"]) == (1, 60)
    assert 0 < summary["held_out_documents"] < 60
    assert documents(work) == sorted(
        tokens.tolist() for tokens in TOKENIZER.encode_batch([f"{t}\n" for t in TEXTS[:-1]] + TEXTS[-1:])
    )
    assert "document-separator" not in capsys.readouterr().err
    assert prepare(tmp_path / "a.txt", work, **own, document_separator="====").manifest is None  # made with another


def test_a_trained_tokenizer_sees_no_document_that_is_held_out(tmp_path, work):
    (tmp_path / "a.txt").write_text("\n-----\n".join(TEXTS))
    summary = make(tmp_path / "a.txt", work, document_separator="-----")
    assert summary["tokenizer_documents"] == 60 - summary["held_out_documents"]


def test_a_separator_that_occurs_nowhere_is_told(tmp_path, work, capsys):
    (tmp_path / "a.txt").write_text(" = Title = \n text\n" * 50)
    make(tmp_path / "a.txt", work, document_separator="^ == [^=]")
    assert names(capsys.readouterr().err, "--document-separator", "^ == [^=]")
    with refusal(BadSetting, "--document-separator", "^("):
        prepare(tmp_path / "a.txt", work, document_separator="^(")


@pytest.mark.parametrize("kind", ["text", "ids"])
def test_the_end_of_a_single_document_is_held_out(tmp_path, work, capsys, kind):
    if kind == "text":
        (tmp_path / "a.txt").write_text("".join(TEXTS))
        summary = make(tmp_path / "a.txt", work, held_out=0.1)
    else:
        summary = make(flat(tmp_path / "a.bin", texts=["".join(TEXTS)]), work, held_out=0.1, separator=END)
    assert (summary["documents"], summary["held_out_documents"]) == (2, 1)
    assert 0.05 < summary["held_out_tokens"] / summary["tokens"] < 0.15
    err = capsys.readouterr().err
    assert names(err, "held out", "only document")
    assert ("--document-separator" in err) == (kind == "text")


@pytest.mark.parametrize("kind", ["text", "ids"])
def test_one_of_few_documents_is_held_out(tmp_path, work, capsys, kind):
    few = [text for text in TEXTS if split_of(text, 0.001) == TRAIN][:5]
    corpus = lines(tmp_path / "a.jsonl", few) if kind == "text" else flat(tmp_path / "a.bin", texts=few)
    own = {} if kind == "text" else {"separator": END}
    summary = make(corpus, work, held_out=0.001, **own)
    assert (summary["documents"], summary["held_out_documents"]) == (5, 1)
    assert names(capsys.readouterr().err, "1 of 5", "--held-out 0.1")


def test_nothing_is_said_where_enough_is_held_out(tmp_path, work, capsys):
    make(lines(tmp_path / "a.jsonl", [f"{number} {text}" for text in TEXTS for number in range(3)]), work, held_out=0.3)
    assert capsys.readouterr().err == ""


# ---- standard input ----------------------------------------------------------------------------------------------


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("line", ["not JSON", '{"text": 1}', "\xff"])
def test_errors_name_standard_input(tmp_path, work, monkeypatch, line):
    pipe(monkeypatch, lines(tmp_path / "a.jsonl").read_bytes() + line.encode("latin-1"))
    with pytest.raises(BadData) as caught:
        make("-", work)
    assert str(caught.value).startswith("standard input: line 61")
    assert str(work) not in f"{caught.value.message} {caught.value.hint}"


def test_a_separator_with_text_says_what_token_ids_are(tmp_path, work, monkeypatch):
    pipe(monkeypatch, lines(tmp_path / "a.jsonl").read_bytes())
    with refusal(BadSetting, "--separator 5") as caught:
        prepare("-", work, separator=5)
    assert names(caught.value.hint, ".bin", ".npy", "standard input")


def test_standard_input_is_skipped_resumed_and_cleared_away(tmp_path, work, monkeypatch):
    content = lines(tmp_path / "a.jsonl").read_bytes()
    pipe(monkeypatch, content)
    first = prepare("-", work)  # as if it were killed now
    pipe(monkeypatch, content)
    summary = make("-", work)
    assert (summary["files"], summary["documents"]) == (1, 60)
    pipe(monkeypatch, content)
    again = prepare("-", work)
    assert (again.mark, again.manifest.summary) == (first.mark, summary)
    assert [path.name for path in work.iterdir()] == ["tokens"]
    pipe(monkeypatch, content[:-1])
    assert prepare("-", work).manifest is None


# ---- token ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_token_ids_with_their_tokenizer_are_as_the_text(tmp_path, work, dtype):
    own = {"tokenizer": tmp_path / "tokenizer.json"}
    text = make(lines(tmp_path / "a.jsonl"), work, **own, held_out=0.0)
    expected = documents(work)
    ids = make(flat(tmp_path / "a.bin", dtype), work, **own, held_out=0.0, token_dtype=dtype)
    assert documents(work) == expected
    assert ids == text
    assert read_tokens(work / "tokens", TRAIN).names[0] == "a.bin:0"


def test_token_ids_without_a_tokenizer(tmp_path, work):
    summary = make(flat(tmp_path / "a.bin"), work, separator=END)
    assert documents(work) == sorted(tokens.tolist() for tokens in TOKENIZER.encode_batch(TEXTS))
    assert (summary["bytes"], summary["bytes_per_token"], summary["end_of_document"]) == (None, None, END)
    assert summary["vocab_size"] == max(map(max, documents(work))) + 1
    assert 0 < summary["held_out_documents"] < 60
    assert not (work / "tokens" / "tokenizer.json").exists()
    assert prepare(tmp_path / "a.bin", work, separator=END).manifest.tokenizer == ""


def test_documents_that_an_index_tells_apart_need_no_separator(tmp_path, work):
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table({"input_ids": [[1, 2], [3, 7, 3]]}), tmp_path / "a.parquet")
    summary = make(tmp_path / "a.parquet", work, held_out=0.0)
    assert documents(work) == [[1, 2], [3, 7, 3]]
    assert (summary["end_of_document"], summary["vocab_size"]) == (8, 9)


def test_what_makes_no_sense_together(tmp_path, work):
    path, text = flat(tmp_path / "a.bin"), lines(tmp_path / "a.jsonl")
    with refusal(BadSetting, "a.bin", "token ids", "document") as caught:
        prepare(path, work)
    assert "--separator" in caught.value.hint
    with refusal(BadSetting, "token ids", "text"):
        prepare(text, work, separator=0)
    with refusal(BadSetting, "--separator", "300", "0", "299"):
        prepare(path, work, separator=300, tokenizer=tmp_path / "tokenizer.json")
    with refusal(BadSetting, "--separator", "-1"):
        prepare(path, work, separator=-1)
    with refusal(BadSetting, "a.jsonl", "text", "a.bin", "token ids"):
        prepare(tmp_path / "a.*", work, separator=0)


def test_ids_that_the_tokenizer_does_not_know(tmp_path, work):
    path = tmp_path / "a.bin"
    path.write_bytes(np.array([1, END, 2, 300], np.uint16).tobytes())
    with refusal(BadData, "a.bin", "3", "300", "0", "299"):
        make(path, work, tokenizer=tmp_path / "tokenizer.json")
