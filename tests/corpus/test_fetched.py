"""The cache of fetched files: what is dropped, what stays, and several processes at once."""

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from messages import refusal

from scone_cli.corpus.fetched import FileCache
from scone_cli.corpus.formats import Format
from scone_cli.errors import BadSetting, StorageFailure


def writer(content: bytes, calls: list[bytes] | None = None):
    def write(out) -> str:
        if calls is not None:
            calls.append(content)
        out.write(content)
        return hashlib.sha256(content).hexdigest()

    return write


def fetch(cache: FileCache, key: str, content: bytes, calls: list[bytes] | None = None) -> bytes:
    with os.fdopen(cache.fetch(key, len(content), writer(content, calls)), "rb") as file:
        return file.read()


def kept(cache: FileCache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("files/*/*"))


def test_a_file_is_fetched_once_and_its_hash_outlives_it(tmp_path):
    cache, calls = FileCache(tmp_path / "cache", 25), []
    for _ in range(2):
        assert fetch(cache, "a", b"0123456789", calls) == b"0123456789"
    assert len(calls) == 1
    fetch(cache, "b", b"1" * 10)
    fetch(cache, "c", b"2" * 10)
    assert kept(cache) == ["b", "c"]
    assert cache.known("abx") == {
        key: hashlib.sha256(content).hexdigest() for key, content in (("a", b"0123456789"), ("b", b"1" * 10))
    }


def test_the_file_used_longest_ago_is_dropped_and_can_be_read_to_its_end(tmp_path, monkeypatch):
    cache = FileCache(tmp_path / "cache", 25)
    monkeypatch.setattr("scone_cli.corpus.fetched._TOUCH", 0.0)
    fetch(cache, "a", b"0" * 10)
    fetch(cache, "b", b"1" * 10)
    reading = cache.open("b", 10)
    os.close(cache.open("a", 10))  # used after b
    fetch(cache, "c", b"2" * 10)
    assert kept(cache) == ["a", "c"]
    assert Path(f"/dev/fd/{reading}").read_bytes() == b"1" * 10
    os.close(reading)


def test_a_file_that_somebody_changed_is_not_taken(tmp_path):
    cache, calls = FileCache(tmp_path / "cache", 100), []
    fetch(cache, "a", b"right", calls)
    (path,) = cache.folder.glob("files/*/a")
    path.write_bytes(b"wrong")
    assert fetch(cache, "a", b"right", calls) == b"right"
    assert len(calls) == 2


def test_a_failed_fetch_leaves_nothing_and_takes_no_room(tmp_path):
    cache = FileCache(tmp_path / "cache", 10)

    def fail(out) -> str:
        out.write(b"half")
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - ours
        cache.fetch("a", 10, fail)
    assert kept(cache) == []
    assert cache.known(["a"]) == {}
    assert fetch(cache, "b", b"0" * 10) == b"0" * 10


def test_formats_are_kept_for_the_code_that_found_them(tmp_path, monkeypatch):
    cache = FileCache(tmp_path / "cache", 10)
    cache.note_format("a", Format("text", ".gz"))
    assert cache.format("a") == ("text", ".gz")
    monkeypatch.setattr("scone_cli.corpus.fetched._rules", lambda: "others")
    assert cache.format("a") is None


def test_a_folder_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with refusal(StorageFailure, str(tmp_path / "file" / "cache"), hint=("--cache-dir",)):
        FileCache(tmp_path / "file" / "cache", 10).known([])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "index.sqlite").write_text("no database, but long enough to be taken for one" * 99)
    with refusal(StorageFailure, str(tmp_path / "cache"), hint=("--cache-dir",)):
        FileCache(tmp_path / "cache", 10).known(["a"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert FileCache.of(None, "2GiB") == FileCache(tmp_path / "xdg" / "scone" / "corpus", 2 << 30)
    with refusal(BadSetting, "--cache-size", "much"):
        FileCache.of(None, "much")


# ---- several processes -------------------------------------------------------------------------------------------


def fetch_slowly(folder: Path, key: str, limit: int, started: Path, seconds: float) -> None:
    def write(out) -> str:
        with started.open("a") as log:
            log.write("x")
        out.write(b"0" * 10)
        time.sleep(seconds)
        return "0" * 64

    os.close(FileCache(folder, limit).fetch(key, 10, write))


def begun(*args: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=fetch_slowly, args=args)
    process.start()
    return process


def test_of_two_processes_one_fetches(tmp_path):
    both = [begun(tmp_path / "cache", "a", 100, tmp_path / "log", 0.5) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "x"


def test_the_room_of_a_process_that_was_killed_is_free_again(tmp_path):
    cache, log = FileCache(tmp_path / "cache", 10), tmp_path / "log"
    process = begun(cache.folder, "a", 10, log, 60)
    while not log.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(kept(cache)) == 1
    assert fetch(cache, "b", b"1" * 10) == b"1" * 10
    assert kept(cache) == ["b"]


def test_a_fetch_waits_for_the_room_of_another(tmp_path):
    cache, log = FileCache(tmp_path / "cache", 15), tmp_path / "log"
    process = begun(cache.folder, "a", 15, log, 1)
    while not log.exists():
        time.sleep(0.01)
    fetch(cache, "b", b"1" * 10)
    assert kept(cache) == ["b"]
    process.join()
    assert process.exitcode == 0
