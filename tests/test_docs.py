"""What the README promises: its queries run on a real workspace, its file map is complete, its targets and recipes exist."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from scone_cli.console.recipes import read_recipe
from scone_cli.progress import silent
from scone_cli.serving.lookup import look_up

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs_in_a_workspace(made, monkeypatch, capsys, block):
    monkeypatch.chdir(made / "work")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names["rows"]) > 0
    printed = capsys.readouterr().out.splitlines()
    if "tokens end an f-gram" in block:
        found = look_up(Path("table"), "The cat sat", 0, silent)
        assert f"{found['matched']} of {len(found['tokens'])} tokens end an f-gram" in printed
    if "# True: " in block:
        assert "True" in printed


FORKED = """
import os, signal, sys
import torch

torch.set_num_threads(2)  # so that there are threads that a child has not
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
for block in sys.argv[1:]:
    exec(block, {})
if not (child := os.fork()):
    signal.alarm(60)
    for block in sys.argv[1:]:
        exec(block, {})
    sys.stdout.flush()
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_the_serving_examples_run_in_a_forked_worker(made):
    serving = [block for block in blocks("python") if "scone_cli" in block]
    assert {name for block in serving for name in re.findall(r"import (\w+)", block)} >= {"Table", "SconeEmbedding"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, *serving]
    ended = subprocess.run(command, cwd=made / "work", capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("<Table") == 2


@pytest.mark.parametrize(
    "query", [query.strip() for block in blocks("sql") for query in block.split(";") if query.strip()]
)
def test_sql_runs_in_a_workspace(made, monkeypatch, query):
    monkeypatch.chdir(made / "work")
    assert duckdb.sql(query).fetchall()


@pytest.mark.parametrize("block", blocks("toml"))
def test_recipes_are_understood(tmp_path, block):
    (tmp_path / "recipe.toml").write_text(block)
    found = read_recipe(tmp_path / "recipe.toml")
    assert found.tables
    assert found.baselines


def test_every_room_and_benchmark_is_on_the_map():
    rooms = {path.parent.name for path in (ROOT / "scone_cli").glob("*/__init__.py")}
    assert not [room for room in rooms if f"| `{room}/` |" not in ARCHITECTURE]
    benchmarks = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    assert not [name for name in benchmarks if not re.search(rf"`{name}(\.py)?`", README)]


def test_paths_in_the_architecture_exist():
    for path in re.findall(r"`(\w+/\w+\.py)`", ARCHITECTURE):
        assert (ROOT / "scone_cli" / path).exists() or (ROOT / path).exists(), path


def test_make_targets_and_paths_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z]+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"(?:pipelines|benchmarks|tests)/[\w./-]+\w", README):
        assert (ROOT / path).exists(), path
