"""The one direction of imports, and what the command may load before it is asked to work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scone_cli"

# A module imports only modules of a lower rank. A new module gets a rank here, or the test fails.
RANKS = {
    "": 0,
    "errors": 0,
    "progress": 0,
    "schemas": 0,
    "artifacts": 1,
    "compression": 1,
    "exits": 1,
    "figures": 1,
    "quantities": 1,
    "row_formats": 1,
    "scales": 2,
    "weights": 2,
    "dealing": 2,
    "raw_memory": 1,
    "mapped_files": 2,
    "ngrams": 2,
    "streams": 3,
    "gathering": 3,
    "plan": 2,
    "pool": 2,
    "sources": 2,
    "stages": 3,  # what all stages share, not the stages
    "tokenizer": 2,
    "verify": 2,
    "corpus": 3,
    "legible": 3,
    "ordering": 3,
    "chart_frame": 4,
    "point_charts": 5,
    "charts": 6,
    "curves": 3,
    "training_views": 3,
    "readers": 3,
    "table_size": 3,
    "trie": 3,
    "threads": 0,
    "kernel_cache": 0,
    "fused": 1,
    "blocks": 2,
    "losses": 1,
    "trie_attention": 4,
    "direct_rows": 4,
    "model": 5,
    "merging": 4,
    "sampling": 4,
    "selection": 4,
    "tail": 4,
    "tallying": 4,
    "token_files": 4,
    "page_style": 0,
    "page": 7,
    "report_reading": 1,
    "report_words": 2,
    "report_verdict": 3,
    "report_quality": 4,
    "report_gain": 5,
    "report_cost": 4,
    "report_payback": 6,
    "report_ladder": 4,
    "report_method": 4,
    "report": 9,
    "views": 8,
    "vocabulary": 5,
    "ladder": 6,
    "counting": 5,
    "census": 5,
    "metrics": 1,
    "store_sizes": 0,
    "shapes": 5,
    "measured_costs": 6,
    "break_even": 4,
    "payback": 5,
    "token_documents": 5,
    "row_files": 4,
    "table": 5,
    "row_kernels": 2,
    "row_maker": 6,
    "row_check": 6,
    "precomputing": 7,
    "mixing": 1,
    "packing": 3,
    "packed_files": 4,
    "gradients": 6,
    "training": 8,
    "optimizers": 6,
    "checkpoints": 2,
    "training_log": 2,
    "devices": 1,
    "tracking": 1,
    "launch": 1,
    "ranks": 2,
    "encoding": 6,
    "prefixes": 3,
    "texts": 7,
    "evaluation": 7,
    "arms": 8,
    "arm_costs": 9,
    "corpus_tally": 8,
    "gains": 8,
    "quality": 9,
    "conditions": 1,
    "eval_commands": 9,
    "eval_summary": 1,
    "eval_sections": 11,
    "serving": 7,
    "lookup": 7,
    "generation": 8,
    "scoring": 9,
    "speed": 9,
    "harness": 2,
    "task_files": 2,
    "tasks": 10,
    "portrait": 6,
    "training_record": 6,
    "cutting": 7,
    "shards": 7,
    "describe": 8,
    "preparing": 8,
    "stages.count_ngrams": 9,
    "stages.select_vocab": 9,
    "stages.train_fgram": 9,
    "stages.precompute": 9,
    "stages.evaluate": 12,
    "commands": 10,
    "console": 10,
    "options": 10,
    "bars": 11,
    "recipe_shapes": 11,
    "cost_command": 12,
    "tables": 11,
    "screen": 12,
    "table_actions": 12,
    "actions": 13,
    "cli": 14,
    "__main__": 15,
}


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


def test_every_module_has_a_rank():
    assert sorted(MODULES.keys() - RANKS.keys()) == [], "give these modules a rank in RANKS"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_lower_ones(name):
    wrong = {other for other in imports_of(MODULES[name].read_text()) if RANKS[other] >= RANKS[name]}
    assert not wrong, f"{name} (rank {RANKS[name]}) must not import {', '.join(sorted(wrong))}"


def test_the_walk_sees_every_way_of_importing():
    source = """
from scone_cli import __version__, errors
import scone_cli.artifacts as a
from scone_cli.stages import Report, evaluate
def f():
    from scone_cli.model import Model
import scone_client, json
"""
    assert imports_of(source) == {"", "errors", "artifacts", "stages", "stages.evaluate", "model"}


HEAVY = {"torch", "polars", "pyarrow", "numpy", "numba", "tokenizers", "fastokens", "safetensors", "rich"}


def loaded_by(*args: str) -> set[str]:
    """The top-level modules that a run of the command has imported when it ends."""
    code = (
        "import sys\nfrom scone_cli.cli import main\n"
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
    assert not loaded_by(command, "--help") & {"torch", "polars", "numba", "tokenizers", "fastokens"}
