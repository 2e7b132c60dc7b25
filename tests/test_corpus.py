import contextlib
import hashlib
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scone_cli import corpus
from scone_cli.corpus import (
    HELD_OUT,
    TRAIN,
    ShardStats,
    TokenStream,
    encode_corpus,
    find_files,
    iter_shards,
    read_tokens,
    split_of,
    write_token_shards,
)
from scone_cli.errors import BadData, InputMissing
from scone_cli.progress import silent
from scone_cli.schemas import TOKENS
from scone_cli.tokenizer import Tokenizer, train_tokenizer

TEXTS = [f"Document {number} says hello {number % 7} times, and the end.\n" * (number % 5 + 1) for number in range(120)]
CONTENT = train_tokenizer(iter(TEXTS), 300)
TOKENIZER = Tokenizer(CONTENT, "tokenizer.json")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten JSON Lines files of twelve documents each, and three plain ones."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(10):
        records = (json.dumps({"text": text}) + "\n" for text in TEXTS[number * 12 : number * 12 + 12])
        (folder / f"{number}.jsonl").write_text("".join(records))
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"plain {number} " * 10)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that the little corpus makes many tasks, parts and batches."""
    monkeypatch.setattr(corpus, "_TASK_BYTES", 4000)
    monkeypatch.setattr(corpus, "_PART_TOKENS", 500)
    monkeypatch.setattr(corpus, "_BATCH_BYTES", 700)


def shards(source: Path, staging: Path, held_out: float = 0.2, progress=silent) -> ShardStats:
    return write_token_shards(find_files([source]), TOKENIZER, staging, held_out, "text", progress)


def contents(staging: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in staging.iterdir() if path.is_file()}


def documents(stream: TokenStream) -> list[tuple[str, str]]:
    return [
        (name, TOKENIZER.decode(stream.tokens[start:end]))
        for name, start, end in zip(stream.names, stream.starts, stream.starts[1:], strict=False)
    ]


# ---- the split ---------------------------------------------------------------------------------------------------


def test_split_worked_by_hand():
    digest = hashlib.blake2b("Grüße".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    assert split_of("Grüße", math.nextafter(share, 1)) == HELD_OUT
    assert split_of("Grüße", math.nextafter(share, 0)) == TRAIN
    assert (TRAIN, HELD_OUT) == ("train", "held-out")


def test_split_holds_out_about_its_share():
    sides = [split_of(str(number), 0.25) for number in range(4000)]
    assert 900 < sides.count(HELD_OUT) < 1100


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_documents_and_more(text, one, other):
    if split_of(text, min(one, other)) == HELD_OUT:
        assert split_of(text, max(one, other)) == HELD_OUT
    assert (split_of(text, 0), split_of(text, 1)) == (TRAIN, HELD_OUT)


# ---- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_shards_hold_the_corpus(source, tmp_path):
    stats = shards(source, tmp_path / "out")
    texts = TEXTS + [f"plain {number} " * 10 for number in range(3)]
    streams = {split: read_tokens(tmp_path / "out", split) for split in (TRAIN, HELD_OUT)}
    for split, stream in streams.items():
        assert sorted(text for _, text in documents(stream)) == sorted(t for t in texts if split_of(t, 0.2) == split)
        assert stream.num_bytes.tolist() == [len(text.encode()) for _, text in documents(stream)]
    assert stats == ShardStats(
        num_files=13,
        num_documents=123,
        num_bytes=sum(len(text.encode()) for text in texts),
        num_tokens=sum(len(stream.tokens) for stream in streams.values()),
        num_held_out_documents=len(streams[HELD_OUT].names),
        num_held_out_tokens=len(streams[HELD_OUT].tokens),
    )
    assert 0 < stats.num_held_out_documents < 123


@pytest.mark.usefixtures("small")
def test_parts_have_the_schema_the_names_and_the_size(source, tmp_path):
    shards(source, tmp_path / "out")
    names = sorted(contents(tmp_path / "out"))
    assert names[:2] == ["part-00000-000.parquet", "part-00000-001.parquet"]
    assert "part-00001-000.parquet" in names
    for name in names:
        table = pq.read_table(tmp_path / "out" / name)
        assert table.schema.equals(TOKENS)
        assert sum(map(len, table["tokens"].to_pylist())) <= 500


@pytest.mark.usefixtures("small")
def test_a_document_larger_than_a_part_stays_whole(tmp_path):
    (tmp_path / "a.txt").write_text("hello " * 1000)
    shards(tmp_path / "a.txt", tmp_path / "out", held_out=0)
    assert documents(read_tokens(tmp_path / "out", TRAIN)) == [("a.txt", "hello " * 1000)]


@pytest.mark.usefixtures("small")
def test_renamed_files_give_the_same_tokens(source, tmp_path):
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir(), reverse=True)):
        shutil.copy(path, other / "sub" / f"{number:02d}{path.suffix}")
    assert shards(source, tmp_path / "x") == shards(other, tmp_path / "y")
    for split in (TRAIN, HELD_OUT):
        x, y = (read_tokens(tmp_path / out, split) for out in "xy")
        for field in ("tokens", "starts", "num_bytes"):
            assert np.array_equal(getattr(x, field), getattr(y, field))


def test_limits_of_batches_change_nothing(source, tmp_path, monkeypatch):
    shards(source, tmp_path / "x")
    monkeypatch.setattr(corpus, "_BATCH_BYTES", 1)
    shards(source, tmp_path / "y")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


# ---- going on after an interruption ------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [1, 3, 5, 9, 14])
def test_interrupted_run_goes_on_to_the_same_bytes(source, tmp_path, after):
    expected = shards(source, tmp_path / "whole")
    calls = 0

    def kill(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed

    with pytest.raises(Killed):
        shards(source, tmp_path / "out", progress=kill)
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    assert shards(source, tmp_path / "out") == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_what_a_kill_leaves_is_written_again(source, tmp_path):
    out = tmp_path / "out"
    expected, before = shards(source, out), contents(out)
    (out / "work" / "task-00001.json").unlink()  # this task had not ended,
    (out / "part-00001-001.parquet").unlink()  # lacked a part,
    (out / "part-00001-000.parquet").write_bytes(b"stale")
    (out / ".part-00001-001.parquet.tmp").write_bytes(b"half")  # and was writing it
    shutil.copy(out / "part-00001-000.parquet", out / "part-00001-099.parquet")  # of a file that was longer then;
    (out / "part-00002-000.parquet").unlink()  # this one is marked as complete, but is not
    assert shards(source, out) == expected
    assert contents(out) == before


@pytest.mark.usefixtures("small")
def test_finished_tasks_are_not_done_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    expected = shards(source, out)
    (out / "work" / "task-00002.json").unlink()
    encoded = []
    encode = TOKENIZER.encode_batch
    monkeypatch.setattr(TOKENIZER, "encode_batch", lambda texts: encoded.extend(texts) or encode(texts))
    assert shards(source, out) == expected
    assert 0 < len(encoded) < 123 / 2


def write_with(staging: Path, files, odd: set[str], failing: str = "", progress=silent) -> list[str]:
    """Write shards with a fast library that gives other ids for `odd` texts; returns what it announces."""
    notices: list[str] = []
    tokenizer = Tokenizer(CONTENT, "t.json", notices.append)
    encode = tokenizer._encode_fast

    def fast(texts):
        if failing in texts:
            raise ValueError("match limit exceeded")
        return [ids[::-1].copy() if text in odd else ids for text, ids in zip(texts, encode(texts), strict=True)]

    tokenizer._encode_fast = fast
    with contextlib.suppress(Killed):
        write_token_shards(files, tokenizer, staging, 0.2, "text", progress)
    return notices


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [1, 4, 8, 11, 17])
@pytest.mark.parametrize(
    ("odd", "failing", "notice"),
    [
        ([0, -1], None, "gives other ids"),  # seen at once, so that the last document is the reference's
        (range(40, 123), None, ""),  # never seen: all documents are the fast library's
        (range(40, 123), 60, "cannot encode"),  # a batch is the reference's, those after it are not
    ],
)
def test_interrupted_run_goes_on_with_the_same_library(source, tmp_path, after, odd, failing, notice):
    files = find_files([source])
    texts = [document.text for file in files for document in corpus.read_documents(file)]
    settings = {"odd": {texts[i] for i in odd}, "failing": "none" if failing is None else texts[failing]}
    calls = itertools.count()

    def kill(*_: object) -> None:
        if next(calls) >= after:
            raise Killed

    notices = write_with(tmp_path / "whole", files, **settings)
    assert len(notices) == bool(notice)
    assert notice in "".join(notices)
    write_with(tmp_path / "out", files, **settings, progress=kill)
    assert contents(tmp_path / "out") != contents(tmp_path / "whole")
    write_with(tmp_path / "out", files, **settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ---- progress and errors -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_progress_goes_from_nothing_to_everything(source, tmp_path):
    total = sum(path.stat().st_size for path in source.iterdir())
    first: list[tuple] = []
    again: list[tuple] = []
    for told in (first, again):
        shards(source, tmp_path / "out", progress=lambda *now, told=told: told.append(now))
        assert told[0] == ("tokenising", 0, total, "B", "0.0M tokens")
        assert told[-1][:4] == ("tokenising", total, total, "B")
        assert [now[1] for now in told] == sorted(now[1] for now in told)
    num_tasks = len(list((tmp_path / "out" / "work").glob("task-*")))
    assert len(first) > 2 * num_tasks
    assert len(again) == 1 + num_tasks


def test_corpus_without_text(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(InputMissing, match="no document with text"):
        shards(tmp_path, tmp_path / "out")
    with pytest.raises(InputMissing, match="no document with text"):
        encode_corpus(find_files([tmp_path / "a.txt"]), TOKENIZER, "text", silent)


def test_corpus_all_held_out(source, tmp_path):
    with pytest.raises(InputMissing, match=r"all 123 document\(s\) are held out") as caught:
        shards(source, tmp_path / "out", held_out=1)
    assert "--held-out" in caught.value.hint


def test_nothing_held_out_is_no_error(source, tmp_path):
    assert shards(source, tmp_path / "out", held_out=0).num_held_out_documents == 0
    stream = read_tokens(tmp_path / "out", HELD_OUT)
    assert (len(stream.tokens), stream.starts.tolist(), stream.names, len(stream.num_bytes)) == (0, [0], [], 0)


@pytest.mark.usefixtures("small")
def test_bad_document_stops_it(source, tmp_path):
    (source / "5.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(BadData, match=r"5\.jsonl: line 2: not UTF-8"):
        shards(source, tmp_path / "out")


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_parts_one_by_one_are_the_whole_stream(source, tmp_path):
    shards(source, tmp_path / "out")
    for split in (TRAIN, HELD_OUT):
        whole = read_tokens(tmp_path / "out", split)
        parts = list(iter_shards(tmp_path / "out", split))
        assert [name for name, _ in parts] == sorted(contents(tmp_path / "out"))
        assert [document for _, part in parts for document in documents(part)] == documents(whole)
        assert np.concatenate([part.num_bytes for _, part in parts]).tolist() == whole.num_bytes.tolist()
        for stream in (whole, *(part for _, part in parts)):
            assert (stream.tokens.dtype, stream.starts.dtype, stream.num_bytes.dtype) == (np.uint32, np.int64, np.int64)
            assert (stream.starts[0], stream.starts[-1]) == (0, len(stream.tokens))
    assert whole.tokens.flags.writeable


def test_documents_without_tokens_keep_their_place(tmp_path):
    rows = [("a", TRAIN, 1, [1]), ("b", TRAIN, 1, []), ("c", HELD_OUT, 1, []), ("d", TRAIN, 1, [2, 3])]
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, schema=TOKENS), tmp_path / "part-00000-000.parquet")
    train, held_out = (read_tokens(tmp_path, split) for split in (TRAIN, HELD_OUT))
    assert (train.names, train.tokens.tolist(), train.starts.tolist()) == (["a", "b", "d"], [1, 2, 3], [0, 1, 1, 3])
    assert (held_out.names, held_out.tokens.tolist(), held_out.starts.tolist()) == (["c"], [], [0, 0])


@pytest.mark.usefixtures("small")
def test_encoded_corpus_is_everything_in_order(source):
    files = find_files([source])
    stream = encode_corpus(files, TOKENIZER, "text", silent)
    expected = [(document.name, document.text) for file in files for document in corpus.read_documents(file)]
    assert documents(stream) == expected
    assert stream.num_bytes.sum() == sum(len(text.encode()) for _, text in expected)
    assert stream.starts.dtype == np.int64
