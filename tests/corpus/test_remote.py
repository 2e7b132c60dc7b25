"""Files of URLs: named as local copies are, fetched once, whatever breaks. Each store is on loopback."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from messages import names, refusal
from stores import Files, Proxy, serving

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("aiohttp")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from scone_cli.corpus import remote  # noqa: E402
from scone_cli.corpus.fetched import FileCache  # noqa: E402
from scone_cli.corpus.files import SourceFile, find_files  # noqa: E402
from scone_cli.corpus.readers import read_documents  # noqa: E402
from scone_cli.corpus.urls import Url  # noqa: E402
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError, StorageFailure  # noqa: E402

pytestmark = pytest.mark.remote

TREE = ["law/0.jsonl", "law/deep/1.jsonl", "law/notes.txt", "code/0.jsonl", "code/.hidden.jsonl", ".git/x.txt", "a.txt"]
BIG = b"".join(b"%07d\n" % number for number in range(40_000))  # 320 kB


def content_of(name: str) -> bytes:
    return f'{{"text": "{name}"}}\n'.encode() * 9 if name.endswith(".jsonl") else name.encode() * 9


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Pauses of a millisecond and small pieces; keys that are not real; no instance of a store from another test."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote, "_PIECE_BYTES", 50_000)
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "FSSPEC_")) or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 1 << 20)


@pytest.fixture
def web() -> Iterator[Files]:
    with serving(Files({"data/big.txt": BIG})) as files:
        yield files


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch) -> Iterator[object]:
    """A client of the store, with the tree in `bucket/top`."""
    import boto3  # noqa: PLC0415 - comes with moto
    from s3fs import S3FileSystem  # noqa: PLC0415

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto}")
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for name in TREE:
        client.put_object(Bucket="bucket", Key=f"top/{name}", Body=content_of(name))
    yield client
    for each in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=each["Key"])
    S3FileSystem.clear_instance_cache()


def found(url: str, cache: FileCache, *others: str) -> list[SourceFile]:
    return find_files([Url(each) for each in (url, *others)], cache=cache)


def text_of(files: list[SourceFile]) -> bytes:
    return b"".join(document.utf8 for file in files for document in read_documents(file))


# ---- what is found -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "**/*.jsonl",
        "*/0.jsonl",
        "law/[0-9].json?",
        "la*",
        "**",
        "*",
        "*/.hid*",
        "**/deep",
        "a*",
        "law",
        "a.txt",
        "*/**",
    ],
)
def test_the_files_of_a_pattern_are_those_of_a_local_copy(tmp_path, cache, pattern):
    for name in TREE:
        path = tmp_path / "top" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content_of(name))
    local = find_files([tmp_path / "top" / pattern])
    there = found(f"s3://bucket/top/{pattern}", cache)
    assert [(file.name, file.sha256, file.kind) for file in there] == [
        (file.name, file.sha256, file.kind) for file in local
    ]
    assert text_of(there) == text_of(local)


@pytest.mark.usefixtures("s3")
def test_several_corpora_have_the_names_of_their_folders_and_files_count_once(cache, capsys):
    files = found("s3://bucket/top/law/", cache, "s3://bucket/top/code/*", "s3://bucket/top/law/notes.txt")
    assert sorted(file.name for file in files) == ["code/0.jsonl", "law/0.jsonl", "law/deep/1.jsonl", "law/notes.txt"]
    assert names(capsys.readouterr().err, "once", "law/notes.txt")


@pytest.mark.usefixtures("s3")
def test_nothing_there(cache):
    for url in ("s3://bucket/none", "s3://bucket/none/*", "s3://no-such-bucket/a", "s3://bucket/top/*.none"):
        with refusal(InputMissing, url.removesuffix("/*")):
            found(url, cache)


def test_an_empty_file_is_one(s3, cache):
    s3.put_object(Bucket="bucket", Key="top/empty.txt", Body=b"")
    (file,) = found("s3://bucket/top/empty.txt", cache)
    assert (file.bytes, text_of([file])) == (0, b"")


def test_an_index_belongs_to_its_tokens(s3, cache):
    s3.put_object(Bucket="bucket", Key="top/ids.bin", Body=b"12")
    s3.put_object(Bucket="bucket", Key="top/ids.idx", Body=b"34")
    (file,) = found("s3://bucket/top/*.bin", cache)
    assert (file.name, file.index) == ("ids.bin", "s3://bucket/top/ids.idx")
    assert [each.name for each in found("s3://bucket/top/ids.*", cache)] == ["ids.bin"]
    s3.delete_object(Bucket="bucket", Key="top/ids.bin")
    with refusal(BadData, "s3://bucket/top/ids.idx"):
        found("s3://bucket/top/*.idx", cache)


def test_a_data_set_of_hugging_face(cache, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    top = "datasets/me/data/resolve/main"
    with serving(Files({f"{top}/law/a.txt": BIG, f"{top}/b.jsonl": b'{"text": "b"}\n'})) as files:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", files.url("").rstrip("/"))
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            files.url("{repo_id}/resolve/{revision}/{filename}"),
        )
        hub.HfFileSystem.clear_instance_cache()
        there = found("hf://datasets/me/data", cache)
        assert sorted(file.name for file in there) == ["b.jsonl", "law/a.txt"]
        assert sorted(text_of([file]) for file in there) == [BIG, b"b"]
        asked = files.bodies()
        assert [file.name for file in found("hf://datasets/me/data/**/*.txt", cache)] == ["law/a.txt"]
        assert files.bodies() == asked, "listed, not fetched again"
        with refusal(InputMissing, "hf://datasets/me/none"):
            found("hf://datasets/me/none", cache)


class Bucket(MemoryFileSystem):
    """Stands in for gcsfs, which cannot be used without its store: only what fsspec promises of both."""

    protocol = "gs"
    store: dict = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("gs://", "memory://"))

    def find(self, path: str, **_: object) -> dict[str, dict]:
        return {name: self.info(name) for name in super().find(path)}


def test_a_store_of_google_through_what_fsspec_promises(cache, monkeypatch):
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", Bucket)
    store = fsspec.filesystem("gs")
    for name in TREE:
        store.pipe_file(f"gs://bucket/top/{name}", content_of(name))
    files = found("gs://bucket/top/law/**", cache)
    assert sorted(file.name for file in files) == ["0.jsonl", "deep/1.jsonl", "notes.txt"]
    assert min(file.location for file in files) == "gs://bucket/top/law/0.jsonl"


# ---- fetched once ------------------------------------------------------------------------------------------------


def test_a_second_run_fetches_nothing_even_if_the_files_were_dropped(web, tmp_path):
    web.files["data/other.txt"] = BIG[::-1]
    small, told = FileCache(tmp_path / "cache", len(BIG)), []
    urls = [web.url("data/big.txt"), web.url("data/other.txt")]
    first = found(urls[0], small, urls[1])
    assert len(list((tmp_path / "cache").glob("files/*/*"))) == 1, "one was dropped"
    asked = web.bodies()
    again = find_files([Url(url) for url in urls], lambda *args, **more: told.append((args, more)), cache=small)
    assert (again, web.bodies()) == (first, asked)
    assert any("known from earlier runs" in more.get("detail", "") for _, more in told)
    assert {text_of([file]) for file in first} == {BIG, BIG[::-1]}, "what was dropped is fetched again"
    assert web.bodies() > asked


def test_a_file_that_is_larger_than_the_cache_is_refused_before_it_is_fetched(web, tmp_path):
    with refusal(BadSetting, web.url("data/big.txt"), hint=("--cache-size", str(len(BIG)))):
        found(web.url("data/big.txt"), FileCache(tmp_path / "cache", 1000))
    assert web.bodies() == 0


def test_a_server_that_tells_no_version_is_refused(web, cache):
    web.version = lambda _: None
    with refusal(BadData, web.url("data/big.txt"), "version", "ETag"):
        found(web.url("data/big.txt"), cache)


# ---- what breaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("cuts", [1, 4])
def test_a_connection_that_breaks_is_made_again(web, cache, capsys, ranges, cuts):
    web.ranges, web.cuts = ranges, cuts
    files = found(web.url("data/big.txt"), cache)
    assert text_of(files) == BIG
    assert web.cuts == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert len(told) == (cuts if ranges else max(0, cuts - 2))  # two requests find out that there are no parts
    assert all(names(line, web.url("data/big.txt"), "of 5") for line in told)


def test_a_connection_to_s3_that_breaks_is_made_again(s3, moto, cache, monkeypatch, capsys):
    from s3fs import S3FileSystem  # noqa: PLC0415

    s3.put_object(Bucket="bucket", Key="top/big.txt", Body=BIG)
    monkeypatch.setattr(remote, "_PIECE_BYTES", 200_000)
    proxy = Proxy(moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    S3FileSystem.clear_instance_cache()
    proxy.cuts = 3
    assert text_of(found("s3://bucket/top/big.txt", cache)) == BIG
    assert proxy.num_cut == 3
    assert capsys.readouterr().err.count("trying again") == 3
    S3FileSystem.clear_instance_cache()
    proxy.close()


def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_is_told(web, cache, capsys):
    web.statuses = [503, 503, 429, 500]  # each question is asked by HEAD, then by GET
    assert text_of(found(web.url("data/big.txt"), cache)) == BIG
    assert capsys.readouterr().err.count("trying again") == 2
    web.statuses = [503] * 100
    with refusal(StorageFailure, web.url("data/big.txt"), "503", hint=("again",)):
        found(web.url("data/big.txt"), cache)
    assert capsys.readouterr().err.count("trying again") == remote.TRIES - 1


def test_a_server_that_is_not_there(cache, capsys):
    with refusal(StorageFailure, "http://127.0.0.1:9/a.txt", "reached"):
        found("http://127.0.0.1:9/a.txt", cache)
    assert capsys.readouterr().err.count("trying again") == remote.TRIES - 1


def test_a_file_that_changes_while_it_is_fetched_is_an_error(web, cache):
    def change(path: str) -> None:
        web.files[path] = BIG[::-1]

    web.after = change
    with refusal(BadData, web.url("data/big.txt"), "changed"):
        found(web.url("data/big.txt"), cache)
    assert not list(cache.folder.glob("files/*/*"))


@pytest.mark.parametrize("same_version", [True, False])
def test_a_file_that_changed_after_it_was_dropped_is_an_error(web, tmp_path, same_version):
    if same_version:
        web.version = lambda _: "always"
    small = FileCache(tmp_path / "cache", len(BIG))
    (file,) = found(web.url("data/big.txt"), small)
    for path in (tmp_path / "cache").glob("files/*/*"):
        path.unlink()
    web.files["data/big.txt"] = BIG[::-1]
    with refusal(BadData, web.url("data/big.txt"), "changed"):
        list(read_documents(file))
    assert not list((tmp_path / "cache").glob("files/*/*"))


def test_a_file_that_is_gone_when_it_is_needed(web, cache):
    (file,) = found(web.url("data/big.txt"), cache)
    for path in cache.folder.glob("files/*/*"):
        path.unlink()
    web.files.clear()
    with refusal(InputMissing, web.url("data/big.txt")):
        list(read_documents(file))


@pytest.mark.usefixtures("s3")
def test_no_keys_and_wrong_keys(web, cache, monkeypatch, tmp_path):
    from s3fs import S3FileSystem  # noqa: PLC0415

    web.statuses = [403] * 9
    with refusal(StorageFailure, "denied", "403"):
        found(web.url("data/big.txt"), cache)
    web.statuses = [404] * 9
    with refusal(InputMissing, web.url("data/big.txt")):
        found(web.url("data/big.txt"), cache)
    web.statuses = [403] * 9
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url("").rstrip("/"))
    S3FileSystem.clear_instance_cache()
    with refusal(StorageFailure, "s3://bucket/top", "denied", hint=("AWS_ACCESS_KEY_ID",)):
        found("s3://bucket/top", cache)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    S3FileSystem.clear_instance_cache()
    with refusal(StorageFailure, "s3://bucket/top", "credentials", hint=("AWS_ACCESS_KEY_ID",)):
        found("s3://bucket/top", cache)


def test_a_package_that_is_not_installed(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with refusal(BadSetting, "gs://", "gcsfs", hint=("scone-cli[remote]",)):
        found("gs://bucket/a", cache)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with refusal(BadSetting, "s3://", "fsspec", hint=("scone-cli[remote]",)):
        found("s3://bucket/a", cache)


def test_a_failure_does_not_wait_for_a_server_that_is_silent(web, cache):
    web.files["a.txt"], web.silent = b"PK\x03\x04", "data/big.txt"
    began = time.monotonic()
    with refusal(BadData, web.url("a.txt"), "zip"):
        found(web.url("data/big.txt"), cache, web.url("a.txt"))
    assert time.monotonic() - began < 20, "the time limit is 30 s"


def test_an_archive_is_refused_and_secrets_are_in_no_message(web, cache, capsys):
    web.files["a.txt"] = b"PK\x03\x04"
    for path, statuses in (("a.txt", []), ("none", []), ("data/big.txt", [403] * 9), ("data/big.txt", [503] * 99)):
        web.statuses = statuses
        with pytest.raises(SconeError) as caught:
            found(web.url(f"{path}?token=hunter2&X-Amz-Signature=abc123"), cache)
        said = f"{caught.value.message} {caught.value.hint} {capsys.readouterr().err}"
        assert names(said, web.url(f"{path}?token=…"))
        assert "hunter2" not in said
        assert "abc123" not in said
