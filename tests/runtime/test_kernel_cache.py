"""Kept kernels are forgotten when a file changes that they are made of, in whichever folder it lies, and never otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scone_cli import progress
from scone_cli.runtime import kernel_cache
from scone_cli.runtime.kernel_cache import hash_of_sources

SOURCES = {
    "scone_cli/__init__.py": "",
    "scone_cli/low/__init__.py": "",
    "scone_cli/low/words.py": "AROUND = 1\n",
    "scone_cli/low/part.py": """
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.low.words import AROUND

@kernel(inline="always")
def part(x):
    return x + AROUND
""",
    "scone_cli/high/__init__.py": "",
    "scone_cli/high/whole.py": """
from scone_cli.runtime.kernel_cache import kernel
from scone_cli.low import (
    part as lower,
)

part = lower.part

@kernel()
def whole(x):
    return 10 * part(x)
""",
    "scone_cli/high/apart.py": "",
}
CALL = "from scone_cli.high.whole import whole; print(whole(1), sum(whole.stats.cache_hits.values()))"


@pytest.fixture
def package(tmp_path):
    """A package of two rooms, whose higher one has a kernel with a part of the lower one in it."""
    files = SOURCES | {"scone_cli/runtime/kernel_cache.py": Path(kernel_cache.__file__).read_text()}
    files |= {"scone_cli/progress.py": Path(progress.__file__).read_text()}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def call(package, code=CALL, **environment):
    """What the kernel gives in a new process, and how often it was taken from the disk."""
    given = {
        **{name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"},
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(package),
        **environment,
    }
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=package, env=given, capture_output=True, text=True, check=True
    )
    value, hits = result.stdout.split()
    return int(value), int(hits)


def test_an_edit_in_one_room_forgets_the_kernel_of_another(package):
    assert [call(package), call(package)] == [(20, 0), (20, 1)]
    part = package / "scone_cli" / "low" / "part.py"
    before = part.stat()
    part.write_text(part.read_text().replace("x +", "x -"))
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))  # as after an upgrade to files that are older
    assert [call(package), call(package)] == [(0, 0), (0, 1)]


@pytest.mark.parametrize(("name", "counts"), [("low/words.py", True), ("low/part.py", True), ("high/apart.py", False)])
def test_what_a_kernel_can_be_made_of_is_what_its_file_imports(package, name, counts):
    folder = package / "scone_cli"
    before = hash_of_sources(folder / "high" / "whole.py", folder)
    (folder / name).write_text((folder / name).read_text() + "# other\n")
    assert (hash_of_sources(folder / "high" / "whole.py", folder) != before) == counts


def test_folders_of_older_sources_are_removed_after_a_day(package):
    call(package)
    kept = package / "scone_cli" / "high" / "__pycache__"
    (old,) = kept.glob("kernels-whole-*")
    with (package / "scone_cli" / "high" / "whole.py").open("a") as file:
        file.write("# other")
    call(package)
    assert len(list(kept.glob("kernels-whole-*"))) == 2
    os.utime(old, (1, 1))
    with (package / "scone_cli" / "high" / "whole.py").open("a") as file:
        file.write("# and other")
    call(package)
    assert old not in kept.glob("kernels-whole-*")
    assert len(list(kept.glob("kernels-whole-*"))) == 2


def test_where_nothing_can_be_written_kernels_are_compiled_each_time(package):
    for room in ("high", "low"):
        (package / "scone_cli" / room / "__pycache__").write_text("no folder")
    nowhere = {"XDG_CACHE_HOME": str(package / "scone_cli" / "__init__.py")}
    assert [call(package, **nowhere), call(package, **nowhere)] == [(20, 0), (20, 0)]
    elsewhere = {"NUMBA_CACHE_DIR": str(package / "given")}
    assert [call(package, **elsewhere), call(package, **elsewhere)] == [(20, 0), (20, 1)]


def test_compilation_is_told_and_reading_from_the_disk_is_not(package):
    listening = (
        "from scone_cli.progress import compilation; told = []; compilation.listener = told.append; "
        "from scone_cli.high.whole import whole; print(whole(1), len(told))"
    )
    assert [call(package, code=listening) for _ in range(2)] == [(20, 2), (20, 0)], "it begins and ends, once"
