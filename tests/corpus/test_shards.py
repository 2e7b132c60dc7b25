import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from messages import names, refusal

from scone_cli.artifacts.schemas import HELD_OUT, TOKENS, TRAIN
from scone_cli.corpus import encode as encoding
from scone_cli.corpus import part_writer, shard_progress, shards
from scone_cli.corpus.files import find_files
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.shard_stats import ShardStats
from scone_cli.corpus.shards import Shards, tasks_of, totals, write_shards
from scone_cli.corpus.token_stream import TokenStream, iter_shards, read_tokens, split_of
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadData
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool

TEXTS = [f"Document {number} says hello {number % 7} times, and the end.\n" * (number % 5 + 1) for number in range(120)]
CONTENT = train_tokenizer(iter(TEXTS), 300)
TOKENIZER = Tokenizer(CONTENT, "tokenizer.json")


@pytest.fixture(autouse=True)
def _no_tokenizer_kept():
    shards._tokenizer.cache_clear()


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
    monkeypatch.setattr(shards, "_TASK_BYTES", 4000)
    monkeypatch.setattr(part_writer, "_PART_TOKENS", 500)
    monkeypatch.setattr(encoding, "_BATCH_BYTES", 700)


def job(staging: Path, held_out: float = 0.2, skip_bad: bool = False, backend: str = "fastokens") -> Shards:
    (staging / "work").mkdir(parents=True, exist_ok=True)
    (staging / "tokenizer.json").write_bytes(CONTENT)
    return Shards(
        staging, TOKENIZER.sha256, backend, "text", HeldOut(held_out), skip_bad, None, TOKENIZER.vocab_size - 1
    )


def write(source: Path, staging: Path, held_out: float = 0.2, progress=silent, then=None) -> ShardStats:
    with Pool(1) as pool:
        made, notices = write_shards(job(staging, held_out), tasks_of(find_files([source])), pool, progress, then)
    assert notices == []
    return totals(made)[0]


def contents(staging: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in staging.glob("[!.]*.parquet")}


def documents(stream: TokenStream) -> list[tuple[str, str]]:
    return [
        (name, TOKENIZER.decode(stream.tokens[start:end]))
        for name, (start, end) in zip(stream.names, itertools.pairwise(stream.starts), strict=True)
    ]


# ---- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_shards_hold_the_corpus(source, tmp_path):
    stats = write(source, tmp_path / "out")
    texts = TEXTS + [f"plain {number} " * 10 for number in range(3)]
    streams = {split: read_tokens(tmp_path / "out", split) for split in (TRAIN, HELD_OUT)}
    for split, stream in streams.items():
        assert sorted(text for _, text in documents(stream)) == sorted(t for t in texts if split_of(t, 0.2) == split)
        assert stream.num_bytes.tolist() == [len(text.encode()) for _, text in documents(stream)]
    assert stats == ShardStats(
        num_documents=123,
        num_bytes=sum(len(text.encode()) for text in texts),
        num_tokens=sum(len(stream.tokens) for stream in streams.values()),
        num_held_out_documents=len(streams[HELD_OUT].names),
        num_held_out_tokens=len(streams[HELD_OUT].tokens),
    )
    assert 0 < stats.num_held_out_documents < 123


@pytest.mark.usefixtures("small")
def test_parts_have_the_schema_the_names_and_the_size(source, tmp_path):
    write(source, tmp_path / "out")
    names = sorted(contents(tmp_path / "out"))
    assert names[:2] == ["part-00000-0000.parquet", "part-00000-0001.parquet"]
    assert "part-00001-0000.parquet" in names
    for name in names:
        table = pq.read_table(tmp_path / "out" / name)
        assert table.schema.equals(TOKENS)
        assert sum(map(len, table["tokens"].to_pylist())) <= 500


@pytest.mark.usefixtures("small")
def test_a_document_larger_than_a_part_stays_whole(tmp_path):
    (tmp_path / "a.txt").write_text("hello " * 1000)
    write(tmp_path / "a.txt", tmp_path / "out", held_out=0)
    assert documents(read_tokens(tmp_path / "out", TRAIN)) == [("a.txt", "hello " * 1000)]


@pytest.mark.usefixtures("small")
def test_renamed_files_give_the_same_tokens(source, tmp_path):
    other = tmp_path / "other"
    (other / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir(), reverse=True)):
        shutil.copy(path, other / "sub" / f"{number:02d}{path.suffix}")
    assert write(source, tmp_path / "x") == write(other, tmp_path / "y")
    for split in (TRAIN, HELD_OUT):
        x, y = (read_tokens(tmp_path / out, split) for out in "xy")
        for field in ("tokens", "starts", "num_bytes"):
            assert np.array_equal(getattr(x, field), getattr(y, field))


def test_limits_of_batches_change_nothing(source, tmp_path, monkeypatch):
    write(source, tmp_path / "x")
    monkeypatch.setattr(encoding, "_BATCH_BYTES", 1)
    write(source, tmp_path / "y")
    assert contents(tmp_path / "x") == contents(tmp_path / "y")


# ---- going on after an interruption ------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_interrupted_run_goes_on_to_the_same_bytes(source, tmp_path, after):
    expected = write(source, tmp_path / "whole")
    calls = itertools.count()

    def kill(*_: object) -> None:
        if next(calls) >= after:
            raise Killed

    with pytest.raises(Killed):
        write(source, tmp_path / "out", then=kill)
    assert len(contents(tmp_path / "out")) == after + 1
    assert write(source, tmp_path / "out") == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small")
def test_what_a_kill_leaves_is_written_again(source, tmp_path):
    out = tmp_path / "out"
    expected, before = write(source, out), contents(out)
    (out / "work" / "task-00001.json").unlink()  # this task had not ended,
    (out / "part-00001-0001.parquet").unlink()  # lacked a part,
    (out / "part-00001-0000.parquet").write_bytes(b"stale")
    (out / ".part-00001-0001.parquet.tmp").write_bytes(b"half")  # and was writing it
    shutil.copy(out / "part-00001-0000.parquet", out / "part-00001-0099.parquet")  # of a file that was longer then;
    (out / "part-00002-0000.parquet").unlink()  # this one is marked as complete, but is not
    assert write(source, out) == expected
    assert contents(out) == before


@pytest.mark.usefixtures("small")
def test_finished_tasks_are_not_done_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    expected = write(source, out)
    (out / "work" / "task-00002.json").unlink()
    encoded: list[str] = []
    encode = Tokenizer.encode_batch
    monkeypatch.setattr(
        Tokenizer, "encode_batch", lambda self, texts, *n: encoded.extend(texts) or encode(self, texts, *n)
    )
    assert write(source, out) == expected
    assert 0 < len(encoded) < 123 / 2


@pytest.mark.usefixtures("small")
def test_a_batch_that_the_fast_library_cannot_encode_is_announced_once(source, tmp_path, monkeypatch):
    write(source, tmp_path / "whole")
    encode = Tokenizer._encode_fast

    def failing(self, texts):
        if any(text.startswith("Document 60 ") for text in texts):
            raise ValueError("match limit exceeded")
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "_encode_fast", failing)
    shards._tokenizer.cache_clear()
    with Pool(1) as pool:
        _, notices = write_shards(job(tmp_path / "out"), tasks_of(find_files([source])), pool, silent)
    assert len(notices) == 1
    assert "match limit exceeded" in notices[0]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("backend", ["fastokens", "tokenizers"])
def test_the_backend_of_the_run_encodes(source, tmp_path, monkeypatch, backend):
    monkeypatch.setattr(Tokenizer, "_compare", lambda *_: pytest.fail("compared"))
    used: list[str] = []
    encode = Tokenizer.encode_batch
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, *t: used.append(self.backend) or encode(self, *t))
    with Pool(1) as pool:
        _, notices = write_shards(job(tmp_path / "out", backend=backend), tasks_of(find_files([source])), pool, silent)
    assert set(used) == {backend}
    assert notices == []


# ---- workers, and what they do besides ---------------------------------------------------------------------------


def note(folder: Path, name: str, stream: TokenStream) -> None:
    """Counts over the train split of a part, as counting would write them."""
    (folder / name).write_text(f"{len(stream.names)} {len(stream.tokens)} {stream.starts[-1]}")


@pytest.mark.usefixtures("small")
def test_what_comes_after_a_part_is_done_in_the_worker_with_its_train_split(source, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    write(source, tmp_path / "out", then=functools.partial(note, notes))
    expected = {
        name: f"{len(stream.names)} {len(stream.tokens)} {len(stream.tokens)}"
        for name, stream in iter_shards(tmp_path / "out", TRAIN)
    }
    assert {path.name: path.read_text() for path in notes.iterdir()} == expected


@pytest.mark.slow
def test_workers_write_the_same_bytes_as_this_process(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_TASK_BYTES", 4000)
    (tmp_path / "notes").mkdir()
    expected = write(source, tmp_path / "one")
    tasks = tasks_of(find_files([source]))
    assert len(tasks) > 3
    with Pool(2, ["scone_cli.corpus.shards"]) as pool:
        then = functools.partial(note, tmp_path / "notes")
        made, _ = write_shards(job(tmp_path / "two"), tasks, pool, silent, then)
    assert totals(made)[0] == expected
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}
    assert {path.name for path in (tmp_path / "notes").iterdir()} == contents(tmp_path / "two").keys()


def die_once(folder: Path, name: str, _stream: TokenStream) -> None:
    """Kill the worker of one task, after it has written its part and before the task is marked."""
    if name == "part-00001-0000.parquet" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_the_task_of_a_worker_that_is_killed_is_done_again(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_TASK_BYTES", 4000)
    expected = write(source, tmp_path / "whole")
    tasks = tasks_of(find_files([source]))
    then = functools.partial(die_once, tmp_path)
    with Pool(2, ["scone_cli.corpus.shards"]) as pool:
        made, _ = write_shards(job(tmp_path / "out"), tasks, pool, silent, then)
    assert (tmp_path / "died").exists()
    assert totals(made)[0] == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


# ---- documents that are left out ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_bad_documents_are_left_out_counted_and_named(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "NAMED", 3)
    good = write(source, tmp_path / "good")
    with (source / "bad.jsonl").open("wb") as bad:
        bad.write(b'{"text": "fine"}\n{"text": 1}\n' + b'{"text": "\\ud800"}\n' * 9 + b'{"text": "fine too"}\n')
    (source / "bad.txt").write_bytes(b"\xff")
    with Pool(1) as pool:
        made, _ = write_shards(job(tmp_path / "out", skip_bad=True), tasks_of(find_files([source])), pool, silent)
    stats, skipped = totals(made)
    assert (stats.num_documents, stats.num_skipped) == (good.num_documents + 2, 11)
    assert len(skipped) == 3
    causes = {row["document"]: row["cause"] for row in skipped}
    assert "bad.jsonl:2" not in causes or names(causes["bad.jsonl:2"], "'text'", "number", "string")
    assert all(name.startswith("bad.") and str(tmp_path) not in cause for name, cause in causes.items())


# ---- progress and errors -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_progress_goes_from_nothing_to_everything(source, tmp_path):
    total = sum(path.stat().st_size for path in source.iterdir())
    first: list[tuple] = []
    again: list[tuple] = []
    for told in (first, again):
        write(source, tmp_path / "out", progress=lambda *now, told=told: told.append(now))
        assert told[-1][:4] == ("tokenising", total, total, "B")
        assert [now[1] for now in told] == sorted(now[1] for now in told)
    num_tasks = len(list((tmp_path / "out" / "work").glob("task-*")))
    assert first[0] == ("tokenising", 0, total, "B", "0 tokens")
    assert len(first) > num_tasks
    assert again[0] == first[-1]


@pytest.mark.usefixtures("small")
def test_progress_is_told_within_a_task(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_progress, "_TELL_SECONDS", 0.001)
    monkeypatch.setattr(shards, "_TASK_BYTES", 1 << 30)
    told: list[float] = []
    write(source, tmp_path / "out", progress=lambda _what, done, *_: told.append(done))
    assert len(set(told)) > 2


@pytest.mark.usefixtures("small")
def test_bad_document_stops_it(source, tmp_path):
    (source / "5.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    with refusal(BadData, "5.jsonl", "line 2", "UTF-8"):
        write(source, tmp_path / "out")


@pytest.mark.usefixtures("small")
def test_parts_one_by_one_are_the_whole_stream(source, tmp_path):
    write(source, tmp_path / "out")
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
