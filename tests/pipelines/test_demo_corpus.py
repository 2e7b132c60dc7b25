"""The builder of the demo's corpus, on a tiny standard library of our own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = '''"""About the module.

    And more of it.
"""
import os


class Thing:
    """About \\ud800 the thing."""

    async def method(self):
        r"""About the method."""


def one_line(): "stays where it is"


if os.name:
    def inner(x):
        """About inner."""
        return "not a docstring"
'''
TOPICS = "# pages\ntopics = {'zeta': 'Zeta page\\n', 'assert': 'Assert ' 'page\\n', 'raw': r'''Raw page\n'''}\n"


@pytest.fixture
def stdlib(tmp_path):
    files = {"thing.py": MODULE, "pack/__init__.py": "", "pack/deep.py": "x = 1\n", "pydoc_data/topics.py": TOPICS}
    files |= {"test/test_thing.py": "def test(): pass\n", "test/broken.py": 'def (:\n    """Kept."""\n'}
    files |= {"site-packages/other.py": "y = 2\n", "pack/__pycache__/deep.py": "z = 3\n", "notes.txt": "no source"}
    for name, text in files.items():
        path = tmp_path / "stdlib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "stdlib" / "latin.py").write_bytes(b"# caf\xe9\n")
    return tmp_path / "stdlib"


def build(stdlib: Path, out: Path) -> str:
    command = [sys.executable, str(ROOT / "pipelines/demo-corpus.py"), str(out), "--stdlib", str(stdlib)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.stdout


def read(out: Path) -> dict[str, dict[str, str]]:
    """File name -> document id -> text."""
    rows = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in out.rglob("*.jsonl")}
    assert all(row["source"].startswith("Python 3.") for documents in rows.values() for row in documents)
    return {
        path.relative_to(out).as_posix(): {row["id"]: row["text"] for row in documents}
        for path, documents in rows.items()
    }


def test_demo_corpus_parts_code_from_docstrings(stdlib, tmp_path):
    said = build(stdlib, tmp_path / "out")
    assert "1 sources are not UTF-8" in said
    documents = read(tmp_path / "out")
    assert documents["code/library.jsonl"] == {
        "code/pack/deep.py": "x = 1\n",
        "code/thing.py": "import os\n\n\nclass Thing:\n\n    async def method(self):\n        ...\n\n\n"
        'def one_line(): "stays where it is"\n\n\nif os.name:\n    def inner(x):\n        return "not a docstring"\n',
    }
    assert documents["code/tests.jsonl"] == {
        "code/test/broken.py": 'def (:\n    """Kept."""\n',
        "code/test/test_thing.py": "def test(): pass\n",
    }
    assert documents["docstrings/docstrings.jsonl"] == {
        "docstrings/thing": "thing\n\nAbout the module.\n\nAnd more of it.\n\nthing.Thing\n\nAbout ? the thing.\n\n"
        "thing.Thing.method\n\nAbout the method.\n\nthing.inner\n\nAbout inner.\n"
    }
    pages = {"topics/assert": "Assert page\n", "topics/raw": "Raw page\n", "topics/zeta": "Zeta page\n"}
    assert list(documents["topics/topics.jsonl"].items()) == list(pages.items())


def test_demo_corpus_is_the_same_every_time_and_left_alone(stdlib, tmp_path):
    def state(out: Path) -> dict[str, tuple[bytes, int]]:
        files = (path for path in out.rglob("*") if path.is_file())
        return {path.relative_to(out).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    said = build(stdlib, tmp_path / "out")
    first = state(tmp_path / "out")
    assert build(stdlib, tmp_path / "out") == said.replace("\n", "; up to date\n")
    (stdlib / "thing.py").touch()
    assert build(stdlib, tmp_path / "out") == said
    assert state(tmp_path / "out") == first

    build(stdlib, tmp_path / "elsewhere")
    assert {name: content for name, (content, _) in state(tmp_path / "elsewhere").items()} == {
        name: content for name, (content, _) in first.items()
    }

    (stdlib / "pack" / "deep.py").write_text("x = 2\n")
    build(stdlib, tmp_path / "out")
    changed = state(tmp_path / "out")
    assert [name for name in first if changed[name] != first[name]] == ["code/library.jsonl"]


def test_demo_corpus_mends_what_was_lost_and_drops_what_has_no_source(stdlib, tmp_path):
    out = tmp_path / "out"
    build(stdlib, out)
    (out / "code" / "tests.jsonl").unlink()
    build(stdlib, out)
    assert "code/tests.jsonl" in read(out)
    shutil.rmtree(stdlib / "test")
    shutil.rmtree(stdlib / "pydoc_data")
    said = build(stdlib, out)
    assert "this Python has no tests; this Python has no pydoc topics" in said
    assert set(read(out)) == {"code/library.jsonl", "docstrings/docstrings.jsonl"}
