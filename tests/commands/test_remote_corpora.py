"""Whole commands on corpora of URLs: the same bytes as from local files, and no secret in anything that is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from messages import error_of, names
from stores import Files, Proxy, serving
from workspaces import COUNT, copy_of, write_small_corpus

pytest.importorskip("fsspec")
pytest.importorskip("s3fs")

pytestmark = pytest.mark.remote

KEY, SECRET, SIGNATURE = "AKIATESTKEY", "secret-of-the-test", "hunter2hunter2"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """The small corpus as one file of JSON Lines, and as plain text in a folder."""
    folder = tmp_path_factory.mktemp("local") / "corpus"
    write_small_corpus(folder)
    lines = [json.dumps({"text": path.read_text()}) for path in sorted(folder.glob("*.txt"))[:40]]
    for path in sorted(folder.glob("*.txt"))[:40]:
        path.unlink()
    (folder / "more").mkdir()
    for number in range(4):
        (folder / "more" / f"{number}.jsonl").write_text("\n".join(lines[number::4]) + "\n")
    return folder


@pytest.fixture(scope="module")
def bucket(local):
    """A proxy before a store that has the local corpus as s3://shelf/top/corpus."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    client.create_bucket(Bucket="shelf")  # moto has one memory for all its servers: no bucket of another test
    for path in local.rglob("*.*"):
        client.put_object(Bucket="shelf", Key=f"top/corpus/{path.relative_to(local)}", Body=path.read_bytes())
    proxy = Proxy(port)
    proxy.most = 15_000
    yield proxy
    proxy.close()
    server.stop()


def run(*args: object, port: int = 0) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose workers see the same variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SCONE_", "AWS_"))}
    environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "scone_cli", *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def made(workspace: Path) -> dict[str, bytes]:
    """Every file of tokens/ and counts/."""
    found = {}
    for path in sorted(workspace.rglob("*")):
        if path.is_file() and path.parent.name in ("tokens", "counts"):
            found[str(path.relative_to(workspace))] = path.read_bytes()
    assert {"tokens/manifest.json", "counts/manifest.json", "counts/n=2.parquet"} <= set(found)
    return found


def holding(secret: str, folder: Path, but: Path | None = None) -> list[Path]:
    """The files that have a secret in their name or in their content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != but]
    assert {"index.sqlite", "manifest.json"} <= {path.name for path in files}
    return [path for path in files if secret in str(path) or secret.encode() in path.read_bytes()]


def test_the_same_bytes_as_from_local_files_over_a_connection_that_breaks(bucket, local, tmp_path):
    ended = run("--workspace", tmp_path / "local", "count-ngrams", local, *COUNT)
    assert ended.returncode == 0, ended.stderr
    sizes = [path.stat().st_size for path in local.rglob("*.*")]
    bucket.cuts, bucket.num_cut = 3, 0
    small = ("--cache-dir", tmp_path / "cache", "--cache-size", max(sizes) * 2)  # the whole has several times as much
    assert sum(sizes) > max(sizes) * 3
    args = (
        "--workspace",
        tmp_path / "work",
        "count-ngrams",
        "s3://shelf/top/corpus",
        *COUNT,
        "--workers",
        "2",
        *small,
    )
    ended = run(*args, port=bucket.port)
    assert ended.returncode == 0, ended.stderr
    assert bucket.num_cut == 3
    assert "trying again" in ended.stderr  # a library itself asks again where nothing of an answer came
    assert made(tmp_path / "work") == made(tmp_path / "local")
    kept = [path.stat().st_size for path in (tmp_path / "cache").glob("files/*/*")]
    assert 0 < sum(kept) <= max(sizes) * 2
    again = run(*args, "--json", port=bucket.port)
    assert json.loads(again.stdout)["up_to_date"], again.stderr
    assert names(again.stderr, "known from earlier runs")
    for secret in (KEY, SECRET):
        assert not holding(secret, tmp_path)
        assert secret not in f"{ended.stderr} {ended.stdout} {again.stderr} {again.stdout}"


def test_a_store_that_is_not_there_is_an_error_in_plain_words(scone, tmp_path, monkeypatch):
    monkeypatch.setattr("scone_cli.corpus.remote.FIRST_PAUSE", 0.001)
    args = ("--quiet", "--workspace", tmp_path / "work", "count-ngrams", "--cache-dir", tmp_path / "cache")
    code, _, err = scone(*args, f"http://127.0.0.1:9/a.txt?token={SIGNATURE}")
    assert code == 74
    assert names(error_of(err)[0], "http://127.0.0.1:9/a.txt?token=…")
    code, _, err = scone(*args, f"s3://{KEY}:{SIGNATURE}@bucket/a")
    assert code == 2
    assert SIGNATURE not in err
    with serving(Files({})) as files:
        code, _, err = scone(*args, files.url("none.txt"))
        assert code == 66
        assert names(error_of(err)[0], files.url("none.txt"))


def test_no_secret_is_written_and_recipes_plans_and_eval_take_urls(scone, small, tmp_path):
    """The secret of a signed URL, on the command line and in a recipe, which is not ours to change."""
    cache = ("--cache-dir", tmp_path / "cache")
    (tmp_path / "recipes").mkdir()
    with serving(Files({"docs/new.txt": b"abc def " * 900, "docs/more.txt": b"dec fab " * 900})) as files:
        first, second = (
            files.url(f"docs/{name}.txt?token={SIGNATURE}&X-Amz-Signature={SIGNATURE}") for name in ("new", "more")
        )
        recipe = tmp_path / "recipes" / "recipe.toml"
        recipe.write_text(f'[count-ngrams]\ncorpus = ["{first}", "{second}"]\nworkers = 1\ncache-size = "1GiB"\n')
        told = []
        for args in (("--plan",), (), ("--json",)):
            code, out, err = scone(
                "--config", recipe, "--verbose", "--workspace", tmp_path / "work", "count-ngrams", *COUNT, *cache, *args
            )
            assert code == 0, err
            told += [out, err]
        assert json.loads(out)["up_to_date"]
        assert json.loads((tmp_path / "work" / "tokens" / "manifest.json").read_bytes())["summary"]["files"] == 2
        work = copy_of(small / "work", tmp_path / "evaluated")
        for plan in (("--plan",), ()):
            code, out, err = scone("--workspace", work, "eval", first, "--no-speed", "--json", *cache, *plan)
            assert code == 0, err
            told += [out, err]
        assert [row["corpus"] for row in json.loads(out)["method"]["corpora"]] == ["new.txt"]
        bodies = files.bodies()
        assert bodies <= 4, "each file once (a try for parts is a request too): eval has what count-ngrams fetched"
    assert not holding(SIGNATURE, tmp_path, but=recipe)
    assert not [text for text in told if SIGNATURE in text]
