"""The one direction of imports, and what the command may load before it is asked to work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scone_cli"

# From the ground up: a room imports rooms that stand before it, never one beside it on its line.
ROOMS = (
    ("errors", "progress", "arrays", "formatting", "settings", "private"),  # the ground: files, not folders
    ("artifacts", "runtime"),
    ("corpus",),
    ("counting",),
    ("vocab",),
    ("model",),
    ("training", "table"),
    ("serving",),
    ("evaluation",),
    ("report",),
    ("audit",),
    ("stages",),
    ("console",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
ONE_MORE = {("settings", "errors"), ("progress", "formatting"), ("private", "errors")}  # within the ground
NOT = {("serving", "training")}
OF_TABLE = {
    "table.precompute",
    "table.fgram_forward",
    "table.fgram_kernels",
    "table.row_tasks",
}  # may import `model`: a table is read without a network


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(source: str) -> set[str]:
    """The modules of the package that a source imports anywhere, functions and TYPE_CHECKING included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name.removeprefix("scone_cli.") in MODULES else base for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.removeprefix("scone_cli").removeprefix(".") for name in found if name.split(".")[0] == "scone_cli"}


def room_of(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_imports_run_one_way(name):
    room = room_of(name)
    for other in {room_of(each) for each in imports_of(MODULES[name].read_text())} - {room, ""}:
        allowed = FLOOR[other] < FLOOR[room] and (room, other) not in NOT
        assert allowed or (room, other) in ONE_MORE, f"{name} must not import {other}"
        assert (room, other) != ("table", "model") or name in OF_TABLE, f"{name} must not import {other}"


def test_stages_do_not_import_one_another():
    stages = {name for name in MODULES if name.startswith("stages.")}
    assert not [name for name in stages if imports_of(MODULES[name].read_text()) & stages]


def test_the_walk_sees_every_way_of_importing():
    source = """
from scone_cli import __version__, errors
import scone_cli.settings as a
from scone_cli.stages import Report, evaluate
def f():
    from scone_cli.arrays import U32
import scone_client, json
"""
    assert imports_of(source) == {"", "errors", "settings", "stages", "stages.evaluate", "arrays"}


HEAVY = {
    "torch",
    "polars",
    "pyarrow",
    "numpy",
    "numba",
    "tokenizers",
    "fastokens",
    "safetensors",
    "jinja2",
    "scipy",
}  # not rich: how wide characters are takes 3 ms to load


def loaded_by(*args: str) -> set[str]:
    """The top-level modules that a run of the command has imported when it ends."""
    code = (
        "import sys\nfrom scone_cli.console.cli import main\n"
        f"try: main({list(args)!r})\nexcept SystemExit as stop: assert stop.code == 0, stop.code\n"
        "print('loaded:', *{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.rsplit("loaded:", 1)[1].split())


@pytest.mark.parametrize("args", [["--help"], [], ["--version"]])
def test_the_groups_help_loads_nothing_heavy(args):
    assert not loaded_by(*args) & HEAVY


@pytest.mark.parametrize("command", ["count-ngrams", "select-vocab", "train-fgram", "precompute", "eval"])
def test_a_stages_help_loads_no_library_that_computes(command):
    assert not loaded_by(command, "--help") & {"torch", "polars", "numba", "scipy", "tokenizers", "fastokens"}
