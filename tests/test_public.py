"""What the package promises to Python programs: public names that are there, told in docstrings, and typed."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scone_cli
from scone_cli import errors, serving, table

PACKAGE = Path(scone_cli.__file__).parent
PUBLIC = [table.Table, serving.SconeEmbedding, serving.LoadedModel, serving.load_model]


def test_every_public_name_is_there_and_in_the_promise():
    for module in (table, serving, errors):
        for name in module.__all__:
            assert getattr(module, name).__doc__
        with pytest.raises(AttributeError, match="nothing"):
            module.nothing  # noqa: B018
    for name in ("table.Table", "serving.SconeEmbedding", "serving.load_model", "errors"):
        assert f"scone_cli.{name}" in scone_cli.__doc__
    assert set(errors.__all__) == {
        name for name, each in vars(errors).items() if inspect.isclass(each) and each.__module__ == errors.__name__
    }


@pytest.mark.parametrize("each", PUBLIC, ids=lambda each: each.__name__)
def test_docstrings_say_how_it_is_used(each):
    functions = (
        [each]
        if inspect.isfunction(each)
        else [
            getattr(function, "fget", function)
            for name, function in vars(each).items()
            if not name.startswith("_")
            and (inspect.isfunction(function) or isinstance(function, (property, classmethod)))
        ]
    )
    assert functions
    for function in functions:
        assert function.__doc__, function
        source = inspect.getsource(getattr(function, "__func__", function))
        if "raise " in source:
            assert "Raises:" in function.__doc__, function
    if inspect.isclass(each):
        assert re.search("[Tt]hread", each.__doc__)
        assert re.search("[Ff]ork", each.__doc__)


def test_types_are_packaged():
    assert (PACKAGE / "py.typed").is_file()
    assert '"py.typed"' in (PACKAGE.parent / "pyproject.toml").read_text()


def test_importing_the_public_rooms_loads_nothing_heavy():
    code = "import sys, scone_cli.table, scone_cli.serving, scone_cli.errors; print(*{'torch', 'numpy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"
