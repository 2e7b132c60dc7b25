"""Files and folders of any name: with colons, line breaks, a tilde, or bytes that are not UTF-8."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import error_of
from workspaces import COUNT, SELECT, TRAIN

NAME = Path("run:1") / os.fsdecode(b"caf\xe9\n*")


def test_a_workspace_may_have_any_name(scone, small):
    shutil.copytree(small / "work", NAME)
    (NAME / "a:b.txt").write_text("abc cab bca " * 999)
    for args in (
        ("count-ngrams", NAME / "a:b.txt", *COUNT, "--held-out", "0", "--workers", "1"),
        ("select-vocab", *SELECT),
        ("train-fgram", *TRAIN, "--steps", "2"),
        ("precompute", "--dtype", "int4"),
        ("eval", NAME / "a:b.txt", "--no-speed"),
        ("lookup", "abc"),
        ("inspect", NAME / "counts", "--html", NAME / "counts:.html"),
        ("inspect", NAME / "model", "--html", NAME / "model:.html"),
        ("inspect", NAME / "table"),
    ):
        code, out, err = scone("--quiet", "--workspace", NAME, *args)
        assert (code, err) == (0, ""), args
        assert out
    assert (NAME / "eval" / "report.html").read_bytes().decode()


def test_a_tilde_is_no_home(scone, small):
    shutil.copytree(small / "work", "~")
    for args in (("select-vocab", *SELECT, "--force"), ("inspect", "~/vocab"), ("inspect", "~/counts")):
        assert scone("--quiet", "--workspace", "~", *args)[::2] == (0, "")


def test_parquet_with_a_colon_in_its_name_is_read(scone):
    Path("s3:x").mkdir()
    pq.write_table(pa.table({"text": ["one text, and one text again"] * 9}), Path("s3:x/a:b.parquet").absolute())
    assert scone("--quiet", "count-ngrams", "s3:x/a:b.parquet", *COUNT, "--held-out", "0", "--workers", "1")[0] == 0


def test_a_message_is_one_line_whatever_is_in_a_name(scone):
    name = "a\nb\x1b[2J" + os.fsdecode(b"\xe9")
    code, _, err = scone("verify", name)
    assert code == 66
    error_of(err, r"a\nb\x1b[2J\xe9")
    Path(name).mkdir()
    code, out, _ = scone("verify", name)
    assert code == 65
    assert len(out.splitlines()) == 2  # and what to do


@pytest.mark.parametrize("args", [("verify", "LONG"), ("inspect", "LONG"), ("--workspace", "LONG", "select-vocab")])
def test_a_name_that_is_too_long_is_told(scone, args):
    code, _, err = scone("--quiet", *("x" * 300 if arg == "LONG" else arg for arg in args))
    assert code == 74
    error_of(err, "x" * 300)


def test_json_has_names_as_python_has_them(scone, small):
    name = os.fsdecode(b"caf\xe9")
    shutil.copytree(small / "work", name)
    out = scone("--workspace", name, "select-vocab", *SELECT, "--json")[1]
    assert Path(json.loads(out)["out"]) == Path(name, "vocab")


def test_artifacts_may_lie_behind_links(scone, small, tmp_path):
    work, disk = tmp_path / "work", tmp_path / "disk"
    shutil.copytree(small / "work", work)
    disk.mkdir()
    for name in ("vocab", "counts"):
        (work / name).rename(disk / name)
        (work / name).symlink_to(disk / name)
    assert scone("--workspace", work, "select-vocab", "--size", "50", "--json")[0] == 0
    assert json.loads((disk / "vocab" / "manifest.json").read_bytes())["settings"]["size"] == 50
    assert sorted(path.name for path in disk.iterdir()) == ["counts", "vocab"]
    assert scone("inspect", work / "vocab", "--text", "abc", "--json")[0] == 0, "the tokenizer is beside the link"
