"""Kept kernels are forgotten when a file changes that they are made of, in whichever folder it lies, and never otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scone_cli import progress
from scone_cli.runtime import kernel_cache
from scone_cli.runtime.kernel_cache import hash_of_sources

pytestmark = pytest.mark.slow  # they start processes that compile kernels

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


def kept_by(package, ending):
    """The files of the kernel."""
    return list((package / "scone_cli" / "high" / "__pycache__").glob(f"kernels-whole-*/*{ending}"))


def test_a_file_that_was_cut_short_or_holds_something_else_is_compiled_and_written_anew(package):
    """Numba would have stopped with an EOFError or an UnpicklingError, at every start."""
    call(package)
    for ending, damaged in (
        (".nbi", lambda content: content[: len(content) // 2]),
        (".nbc", lambda content: content[:-100]),
        (".nb*", lambda _: b""),
        (".nb*", lambda _: b"\x80\x04no kernel" * 50),
    ):
        paths = kept_by(package, ending)
        assert paths
        for path in paths:
            path.write_bytes(damaged(path.read_bytes()))
        assert call(package) == (20, 0)
    assert call(package) == (20, 1)


CANNOT_WRITE = """
import os, resource
may = os.access
os.access = lambda path, mode: mode != os.W_OK and may(path, mode)  # root may write where others cannot
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_a_folder_that_cannot_be_written_is_read(package):
    """As in the image of a container that brings its kernels."""
    nowhere = {"XDG_CACHE_HOME": str(package / "scone_cli" / "__init__.py")}
    assert call(package, CANNOT_WRITE + CALL, **nowhere) == (20, 0)
    call(package)
    assert call(package, CANNOT_WRITE + CALL, **nowhere) == (20, 1)


def test_a_disk_without_room_stops_nothing(package):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
    assert [call(package, full + CALL), call(package), call(package)] == [(20, 0), (20, 0), (20, 1)]


EIGHT = """
import os
from scone_cli.high.whole import whole
start, go = os.pipe()
children = []
for number in range(8):
    if not (child := os.fork()):
        os.close(go)
        os.read(start, 1)  # until all are there
        given = float(number) if number % 2 else number
        os._exit(whole(given) != 10 * (given + 1))
    children.append(child)
os.close(go)
failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
print(failed, 0)
"""


def test_eight_processes_begin_at_once_on_an_empty_folder(package):
    """Half of them with another type: one list of kernels, written by all, names each kernel for its own type."""
    assert call(package, EIGHT) == (0, 0)
    both = "from scone_cli.high.whole import whole; print(whole(1) + int(whole(0.5) == 15), sum(whole.stats.cache_hits.values()))"
    assert call(package, both) == (21, 2)


def test_compilation_is_told_and_reading_from_the_disk_is_not(package):
    listening = (
        "from scone_cli.progress import compilation; told = []; compilation.listener = told.append; "
        "from scone_cli.high.whole import whole; print(whole(1), len(told))"
    )
    assert [call(package, code=listening) for _ in range(2)] == [(20, 2), (20, 0)], "it begins and ends, once"
