"""`scone recipe`: lists and prints the recipes and scripts that come with scone.

They are in `pipelines/` of a checkout; the build puts that folder into the package.
"""

from __future__ import annotations

from pathlib import Path

import click

from scone_cli.console import help_texts, output
from scone_cli.console.results import result_text
from scone_cli.errors import BadSetting
from scone_cli.formatting import did_you_mean
from scone_cli.settings import shipped


@click.command(help=help_texts.RECIPE_ABOUT, short_help=help_texts.LOOKING["recipe"])
@click.argument("name", required=False)
@click.option("--list", "lists", is_flag=True, help="List all, one per line; the default without NAME.")
@click.option("--path", "as_path", is_flag=True, help="Print the path of the file instead of its content.")
@click.option("as_json", "--json", is_flag=True, help="Print the list as one JSON object.")
def recipe(name: str | None, lists: bool, as_path: bool, as_json: bool) -> None:
    """Print a recipe, or list them."""
    folder = shipped()
    if lists or (name is None and not as_path):
        files = {each: path for each, path in _files(folder).items() if path.suffix != ".jsonl"}  # data of tasks
        found = [{"name": each, "about": _about(path)} for each, path in files.items()]
        told = {"folder": str(folder), "files": found}
        if as_json:
            output.print_json(told)
        else:
            output.print_result(result_text(str(folder), {"files": found}))
        return
    path = folder if name is None else _find(folder, name)
    if as_path:
        output.print_result(str(path))
    elif path.is_dir():
        raise BadSetting(f"{name}: a folder", f"name a file in it, or run: scone recipe --path {name}")
    else:
        output.write_result(path.read_text(encoding="utf-8"))


def _files(folder: Path) -> dict[str, Path]:
    """All files by name: the path within the folder, for recipes without .toml."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix().removesuffix(".toml"): path for path in found}


def _find(folder: Path, name: str) -> Path:
    """The file of this name: its path within the folder, with or without .toml, or the last part of the path."""
    files = _files(folder)
    places = files | {path.name: path for path in files.values()} | {"tasks": folder / "tasks"}
    if name not in places:
        hint = did_you_mean(name, places) or "run: scone recipe --list"
        raise BadSetting(f"there is no recipe '{name}' with this scone", hint)
    return places[name]


def _about(path: Path) -> str:
    """The first sentence or line of a file's first comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    told = [line.strip('#" ') for line in lines[:2] if line.startswith(("#", '"""')) and not line.startswith("#!")]
    return told[0] if told else ""
