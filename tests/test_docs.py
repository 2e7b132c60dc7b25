"""What the documentation promises: its code runs, its commands and recipes parse, its links lead somewhere.

Pages that are generated are written again with SCONE_WRITE_GOLDEN=1.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import click
import duckdb
import numpy as np
import polars as pl
import pytest
from command_pages import commands_page
from workspaces import copy_of

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.artifacts.publish_version import publish_version
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.console import cli
from scone_cli.console.options import Session
from scone_cli.console.recipes import read_recipe
from scone_cli.progress import silent
from scone_cli.serving.lookup import look_up
from scone_cli.table import Table
from scone_cli.table.row_formats import FORMATS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOR_USERS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted(DOCS.glob("*.md"))]
PAGES = [*FOR_USERS, *sorted((ROOT / "benchmarks").glob("*.md")), ROOT / "pipelines" / "README.md"]
COMMANDS_PAGE, FORMAT_PAGE, TUTORIAL = DOCS / "commands.md", DOCS / "table-format.md", DOCS / "tutorial.md"
HF_PAGE = DOCS / "huggingface.md"  # its Python is one program, beside an export


def name_of(path: object) -> str:
    return path.relative_to(ROOT).as_posix() if isinstance(path, Path) else ""


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[object]:
    found = [
        pytest.param(page, block, id=f"{name_of(page)}-{number}")
        for page in FOR_USERS
        for number, block in enumerate(blocks_of(page, language))
    ]
    assert found
    return found


# ---- Python and SQL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "block"), [block for block in blocks("python") if block.values[0] != HF_PAGE])
def test_python_runs_in_a_workspace(made, monkeypatch, capsys, tmp_path, page, block):
    monkeypatch.chdir(made / "work")
    names: dict[str, object] = {}
    if page.name == "registry.md":
        parts = {part: made / "work" / part for part in ("table", "vocab", "eval")}
        publish_version(tmp_path / "english", parts, {}, silent)
        block = block.replace("/srv/scone/english", str(tmp_path / "english"))
    exec(compile(block, page.name, "exec"), names)
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


@pytest.mark.slow
def test_the_serving_examples_run_in_a_forked_worker(made):
    serving = [block for block in blocks_of(DOCS / "serving.md", "python") if "scone_cli" in block]
    assert {name for block in serving for name in re.findall(r"import (\w+)", block)} >= {"Table", "SconeEmbedding"}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, *serving]
    ended = subprocess.run(command, cwd=made / "work", capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("<Table") == 2


@pytest.mark.slow
@pytest.mark.hf
def test_the_page_of_hugging_face_runs(small, tmp_path, scone, monkeypatch):
    """Its commands and its Python, block after block."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    work = copy_of(small / "work", tmp_path / "work")
    for call in [call for block in blocks_of(HF_PAGE, "sh") for call in scone_calls(block)]:
        code, _, err = scone("--workspace", work, *call)
        assert code == 0, f"{call}: {err}"
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks_of(HF_PAGE, "python"):
            exec(compile(block, HF_PAGE.name, "exec"), names)
    assert names["refreshed"].model.table.format == names["model"].model.table.format == "int8"
    assert names["turn"].shape[1] == names["tokens"].shape[1] + 4
    assert len(names["cache"]) > 0
    assert printed.getvalue().count("The cat sat") == 2
    assert "<Table" in printed.getvalue()
    assert (tmp_path / "tuned" / "table").is_dir()


@pytest.mark.parametrize(
    "query",
    [query.strip() for block in blocks_of(DOCS / "serving.md", "sql") for query in block.split(";") if query.strip()],
)
def test_sql_runs_in_a_workspace(made, monkeypatch, query):
    monkeypatch.chdir(made / "work")
    assert duckdb.sql(query).fetchall()


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_reader_that_follows_the_page_alone_reads_a_table(small, tmp_path, forks, monkeypatch, dtype):
    """It finds the same f-grams in two ways, as `Table` does, and decodes the same numbers in every format."""
    (block,) = blocks_of(FORMAT_PAGE, "python")
    assert set(re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE)) == {"json", "numpy", "pathlib", "pyarrow"}
    work = copy_of(small / "work", tmp_path / "work")  # other tests read it meanwhile
    ended = forks.run("--workspace", work, "precompute", "--dtype", dtype, "--out", tmp_path / "table")
    assert ended.code == 0, ended.err
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, FORMAT_PAGE.name, "exec"), names)
    reader = names["reader"]
    with Table.open("table") as table:
        for tokens in pl.read_parquet(work / "tokens/part-*.parquet")["tokens"].head(10).to_list():
            expected = table.matcher().match(tokens).tolist()
            assert reader.match_by_dictionary(tokens) == reader.match_by_index(tokens) == expected
        ids = np.arange(0, len(table), 7)
        rows = table.rows(ids).float().numpy()
        assert all(np.array_equal(reader.row(int(i)), row) for i, row in zip(ids, rows, strict=True))


def test_the_format_page_is_of_this_version():
    first = f"# Table format, version {SCHEMA_VERSIONS['table']}\n"
    assert FORMAT_PAGE.read_text(encoding="utf-8").startswith(first)


# ---- commands and recipes ----------------------------------------------------------------------------------------


def scone_calls(block: str) -> list[list[str]]:
    """The arguments of every `scone` in a block of shell."""
    calls = []
    for line in block.replace("\\\n", "").replace("\n! ", "\n").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|<>")
        words.whitespace_split = True
        commands = [list(found) for is_mark, found in groupby(words, {"|", "<", ">"}.__contains__) if not is_mark]
        calls += [command[1:] for command in commands if command[0] == "scone"]
    return calls


@pytest.mark.parametrize(("page", "block"), blocks("sh"))
def test_shell_commands_parse(tmp_path, page, block):  # noqa: ARG001
    """Whatever recipe a page names, the tutorial's stands for it."""
    (tmp_path / "recipe.toml").write_text(blocks_of(TUTORIAL, "toml")[0])
    recipe = read_recipe(tmp_path / "recipe.toml")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z][a-z-]*)", block, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for call in scone_calls(block):
        given = recipe if call[0] == "--config" else None
        name, *rest = call[2:] if given else call
        session = Session(Path("scone-work"), given, quiet=False, verbose=False)
        group = click.Context(cli.scone, info_name="scone", obj=session, **cli.scone.context_settings)
        group.default_map = given and given.tables
        command = cli.scone.get_command(group, name)
        assert command is not None, call
        command.make_context(name, rest, parent=group)


@pytest.mark.parametrize(("page", "block"), blocks("toml"))
def test_recipes_are_understood(tmp_path, page, block):  # noqa: ARG001
    (tmp_path / "recipe.toml").write_text(block)
    found = read_recipe(tmp_path / "recipe.toml")
    assert found.tables
    assert bool(found.baselines) == ("[train-fgram." in block)


def test_the_page_of_commands_is_what_help_prints():
    if os.environ.get("SCONE_WRITE_GOLDEN") == "1":
        COMMANDS_PAGE.write_text(commands_page(), encoding="utf-8")
    assert COMMANDS_PAGE.read_text(encoding="utf-8") == commands_page(), (
        "--help has changed: SCONE_WRITE_GOLDEN=1 python -m pytest tests/test_docs.py writes the page again"
    )


@pytest.mark.slow
def test_the_tutorial_runs(small, tmp_path, forks):
    """Its commands in their order with its recipe, on a small corpus with few steps."""
    (recipe,) = blocks_of(TUTORIAL, "toml")
    for setting, less in {"vocab-size": 400, "held-out": 0.1, "dim": 16, "context": 32, "steps": 6}.items():
        recipe, changed = re.subn(rf"^{setting} = [\d.]+", f"{setting} = {less}", recipe, flags=re.MULTILINE)
        assert changed == 1, setting
    recipe = recipe.replace('"corpus/"', json.dumps(str(small / "corpus")))
    (tmp_path / "recipe.toml").write_text(recipe)
    (tmp_path / "served-text").symlink_to(small / "corpus")
    (tmp_path / "terms.txt").write_text("cat\n")
    places = {"recipe.toml", "served-text/", "terms.txt", "vocab.html"}
    for block in blocks_of(TUTORIAL, "sh"):
        for call in scone_calls(block):
            there = [str(tmp_path / word) if word in places or word.startswith("scone-work") else word for word in call]
            quick = ["--no-speed"] if "eval" in call else []
            ended = forks.run("--workspace", tmp_path / "scone-work", *there, *quick)
            assert ended.code == 0, f"{call}: {ended.err}"
    assert read_manifest(tmp_path / "scone-work" / "eval", "eval").artifact == "eval"
    assert (tmp_path / "vocab.html").exists()


# ---- links, paths, lines -----------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of headings: lower case, blanks as hyphens, letters, digits, hyphens and underscores."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_lines_are_short(page):
    most = 100 if page.name == "README.md" else 120
    lines = page.read_text(encoding="utf-8").splitlines()
    is_free = page.name != "README.md"  # a table has its row in one line
    assert not [line for line in lines if len(line) > most and not (is_free and line.startswith("|"))]


def test_the_readme_names_every_page():
    assert not [page.name for page in FOR_USERS[1:] if f"]({name_of(page)}" not in README]


def test_every_room_and_benchmark_is_on_the_map():
    rooms = {path.parent.name for path in (ROOT / "scone_cli").glob("*/__init__.py")}
    assert not [room for room in rooms if f"| `{room}/` |" not in ARCHITECTURE]
    benchmarks = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    assert not [name for name in benchmarks if not re.search(rf"`{name}(\.py)?`", ARCHITECTURE)]


def test_paths_in_the_architecture_exist():
    for path in re.findall(r"`(\w+/\w+\.py)`", ARCHITECTURE):
        assert (ROOT / "scone_cli" / path).exists() or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", FOR_USERS, ids=name_of)
def test_paths_exist(page):
    for path in re.findall(r"(?<![\w/])(?:pipelines|benchmarks|tests)/[\w./-]+\w", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_the_headline_is_what_was_measured():
    """The README's small table has the numbers of `benchmarks/quality/results.json`."""
    arms = json.loads((ROOT / "benchmarks" / "quality" / "results.json").read_text())["arms"]
    measured = {arm["arm"]: arm for arm in arms}
    table = README.split("<!-- headline -->")[1].split("<!-- end of headline -->")[0]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    names = {"Scone with learned rows 1x": "scone-1x", "A_f-gram alone 1x": "scone-1x-alone"}
    assert len(rows) == 5
    for label, bits, resident, offloaded, flops in rows:
        arm = measured[names.get(label, label.replace(" ", "-"))]
        seeds = len(arm["seeds"])
        assert bits.replace("*", "") == f"{arm['bits_per_byte']['all']['value']:.4f} ({seeds} seed{'s' * (seeds > 1)})"
        assert resident == f"{arm['resident_parameters']:,}"
        assert offloaded == (f"{arm['offloaded_rows']:,}" if arm["offloaded_rows"] else "")
        assert flops == f"{arm['training_flops'] / measured['plain-1x']['training_flops']:.2f}x"


def test_the_two_shares_matched_differ_by_a_token_per_document_at_most(small):
    """As `docs/concepts.md` says: `select-vocab` counts where an f-gram ends, `eval` where one is at the input."""
    results = json.loads((small / "work" / "eval" / "results.json").read_text())
    (corpus,), rate = results["method"]["corpora"], results["hit_rates"][0]
    chosen = read_manifest(small / "work" / "vocab", "vocab").summary
    assert rate["n"] == chosen["held_out_tokens"] == corpus["tokens"]
    assert 0 <= chosen["matched"] - rate["hit_rate"] + 0.00005 <= corpus["documents"] / corpus["tokens"] + 0.0001
