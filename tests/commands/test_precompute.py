"""The stage from the command line: formats, memory, rows that turn out wrong, and several processes."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from messages import error_of
from workspaces import contents, copy_of, manifest

from scone_cli.table.fgram_forward import RowMaker
from scone_cli.table.row_formats import FORMATS, row_bytes


@pytest.fixture
def work(small, tmp_path) -> Path:
    return copy_of(small / "work", tmp_path / "work")


def leftovers(work: Path) -> list[str]:
    return [path.name for path in work.iterdir() if path.name.startswith(".table")]


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_format_makes_a_table_that_eval_reads(scone, work, dtype):
    code, out, err = scone("--verbose", "--workspace", work, "precompute", "--dtype", dtype)
    assert code == 0, err
    assert 256 in manifest(work / "table")["summary"].values()  # rows that were computed again alone, and are equal
    assert re.search(r" 256$", out, re.MULTILINE)
    table = manifest(work / "table")
    assert table["summary"]["rows_bytes"] == 600 * row_bytes(dtype, 16)
    assert table["settings"]["dtype"] == dtype
    assert scone("--workspace", work, "--quiet", "verify", work / "table")[0] == 0


def test_what_does_not_fit_into_the_memory_is_refused_before_the_work(scone, work):
    before = contents(work / "table")
    code, out, err = scone("--workspace", work, "precompute", "--dtype", "int8", "--memory", "100MiB")
    assert (code, out) == (2, "")
    error_of(err, "--memory", "104,857,600", "600", hint=("--memory",))
    assert contents(work / "table") == before
    assert not leftovers(work)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process took")
def test_with_the_memory_that_a_refusal_asks_for_no_more_is_taken(scone, work):
    err = scone("--workspace", work, "precompute", "--dtype", "int8", "--memory", "100MiB")[2]
    enough = int(re.search(r"--memory (\d+)MiB", error_of(err)[1])[1]) << 20
    args = ["--workspace", str(work), "precompute", "--dtype", "int8", "--memory", str(enough)]
    code = f"""
import atexit
from scone_cli.console import cli
atexit.register(lambda: print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM"))))
cli.main({args!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert "1 thread" in ended.stderr
    taken = int(ended.stdout.split("VmHWM:")[1].split()[0]) << 10
    assert 100 << 20 < taken <= enough


def test_rows_that_are_wrong_are_not_published(scone, work, monkeypatch):
    before, call = contents(work / "table"), RowMaker.__call__
    monkeypatch.setattr(RowMaker, "__call__", lambda self, ids: call(self, ids) * 1.5)
    code, out, err = scone("--workspace", work, "precompute", "--dtype", "int8")
    assert (code, out) == (1, "")
    message, _ = error_of(err, "row", "tokens")
    assert re.search(r"\brow \d+.*\bnumber \d+.*[\d.]+", message)
    assert contents(work / "table") == before
    assert not leftovers(work)
    monkeypatch.undo()
    assert scone("--workspace", work, "precompute", "--dtype", "int8")[0] == 0


@pytest.mark.slow
def test_torchrun_makes_the_same_bytes(forks, work, tmp_path):
    alone = copy_of(work, tmp_path / "alone")
    assert forks.run("--workspace", alone, "precompute", "--dtype", "float8_e4m3").code == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    command += ["-m", "scone_cli", "--workspace", str(work), "precompute", "--dtype", "float8_e4m3"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCONE_")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("precompute ->") == 1
    assert ended.stderr.count("precomputing: started") == 1
    assert contents(work / "table") == contents(alone / "table")
    assert not leftovers(work)
