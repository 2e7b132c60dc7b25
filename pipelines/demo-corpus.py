"""Builds the demo's corpus from the Python installation it runs on: real code and real English, without a download.

Run it as ``python pipelines/demo-corpus.py OUT``. It writes JSON Lines of `id`, `text` and `source`, one folder per domain:

- ``code/``: the standard library's sources, without their docstrings (one file for the library, one for its tests);
- ``docstrings/``: one document per module, every docstring under its qualified name;
- ``topics/``: the language reference's pages as `pydoc` shows them.

No text is in two documents, because a held-out document must not be found in the training split under another name.
The result depends on the installation only. A file whose content would be the same is left alone, so that what was made
from it stays up to date. Other packages (site-packages) and files that are not UTF-8 are left out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

MAX_CODE_BYTES = 30_000_000  # the test suite grows with every release of Python; the demo must stay at ten minutes
LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}
TOPICS = Path("pydoc_data", "topics.py")
FILES = ("code/library.jsonl", "code/tests.jsonl", "docstrings/docstrings.jsonl", "topics/topics.jsonl")

Documents = dict[str, list[dict[str, str]]]


def main() -> None:
    """Build the corpus unless it is up to date, and print one line about it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    installed = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("--stdlib", type=Path, default=installed, help="standard library to read, if not this Python's")
    options = parser.parse_args()
    # Parsing the library takes about fifteen seconds, so a file beside the corpus records what it was built from.
    record = options.out.with_name(f".{options.out.name}.json")
    sources = find_sources(options.stdlib)
    inputs = describe_inputs(options.stdlib, sources)
    known = json.loads(record.read_bytes()) if record.is_file() else {}
    if known.get("inputs") == inputs and known.get("sizes") == sizes(options.out):
        print(f"{options.out}: {known['summary']}; up to date")
        return
    documents, remarks = collect(options.stdlib, sources)
    for name, rows in documents.items():
        write(options.out / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    summary = "; ".join([summarise(documents), *remarks])
    write(record, json.dumps({"inputs": inputs, "sizes": sizes(options.out), "summary": summary}).encode())
    print(f"{options.out}: {summary}")


def find_sources(stdlib: Path) -> list[Path]:
    """All sources below `stdlib`, relative to it: the library first, its tests after it, each in order of name."""
    found = []
    for folder, subfolders, names in os.walk(stdlib):
        subfolders[:] = [name for name in subfolders if name not in LEFT_OUT]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [path.relative_to(stdlib) for path in paths if path.is_file()]
    return sorted(found, key=lambda path: (is_test(path), path.as_posix()))


def is_test(path: Path) -> bool:
    """Whether a source file belongs to the test suite, not to the library."""
    return any(part in {"test", "tests", "idle_test"} for part in path.parts[:-1])


def describe_inputs(stdlib: Path, sources: list[Path]) -> str:
    """SHA-256 over all that the corpus depends on: this script, the version of Python, the sources' sizes and times."""
    stats = [(path.as_posix(), (stdlib / path).stat()) for path in sources]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    script = Path(__file__).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([script, platform.python_version(), files]).encode()).hexdigest()


def collect(stdlib: Path, sources: list[Path]) -> tuple[Documents, list[str]]:
    """Read the sources into documents, by file of the corpus; also returns remarks about what is missing."""
    documents: Documents = {name: [] for name in FILES}
    library, tests, docstrings, topics = documents.values()
    origin = f"Python {platform.python_version()} standard library"
    code_bytes = undecodable = 0
    for path in sources:
        if path == TOPICS:
            continue  # its text becomes the topics
        try:
            source = (stdlib / path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            undecodable += 1
            continue
        code, documentation = split_docstrings(source, module_name(path))
        code_bytes += len(code.encode())
        if code_bytes > MAX_CODE_BYTES:
            break
        add(tests if is_test(path) else library, f"code/{path.as_posix()}", code, origin)
        add(docstrings, f"docstrings/{module_name(path)}", documentation, origin)
    for name, text in read_topics(stdlib / TOPICS).items():
        add(topics, f"topics/{name}", text, f"Python {platform.python_version()} pydoc topics")
    remarks = [f"{undecodable} sources are not UTF-8 and left out"] if undecodable else []
    remarks += [f"this Python has no {what}" for what, rows in (("tests", tests), ("pydoc topics", topics)) if not rows]
    return documents, remarks


def add(rows: list[dict[str, str]], name: str, text: str, source: str) -> None:
    """Append a document unless its text is empty."""
    if text.strip():
        # A string literal may hold half a surrogate pair, which has no UTF-8.
        rows.append({"id": name, "text": text.encode("utf-8", "replace").decode(), "source": source})


def module_name(path: Path) -> str:
    """The dotted name of a source: `json/__init__.py` is `json`."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def split_docstrings(source: str, module: str) -> tuple[str, str]:
    """Cut the docstrings out of a module; returns what is left, and the docstrings, each under its qualified name."""
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # the test suite holds files that are wrong on purpose
        return source, ""
    lines: list[str | None] = list(source.split("\n"))  # as ast counts them: not at form feeds
    documentation = []
    for name, node in documented(tree, module):
        text, literal = ast.get_docstring(node), node.body[0]
        first, last = literal.lineno - 1, (literal.end_lineno or literal.lineno) - 1
        opening, closing = lines[first] or "", lines[last] or ""
        indent = opening[: len(opening) - len(opening.lstrip())]
        alone = len(indent) == literal.col_offset and len(closing.rstrip().encode()) == literal.end_col_offset
        if text and alone:
            documentation.append(f"{name}\n\n{text}\n")
            lines[first : last + 1] = [None] * (last + 1 - first)
            lines[first] = f"{indent}..." if len(node.body) == 1 and name != module else None
    return "\n".join(line for line in lines if line is not None), "\n".join(documentation)


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(node: ast.AST, name: str) -> Iterator[tuple[str, Documented]]:
    """All nodes at and below `node` that have a docstring, with their qualified names, in order of appearance."""
    if isinstance(node, Documented) and ast.get_docstring(node, clean=False):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from documented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # no definition hides in an expression
            yield from documented(child, name)


def read_topics(path: Path) -> dict[str, str]:
    """The pages in `pydoc_data/topics.py`, read without importing it; none where a distribution leaves them out."""
    if not path.is_file():
        return {}
    assignments = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Assign)]
    dicts = [ast.literal_eval(node.value) for node in assignments if isinstance(node.value, ast.Dict)]
    return {name: text for pages in dicts for name, text in sorted(pages.items())}


def summarise(documents: Documents) -> str:
    """Size and number of documents of every domain."""
    domains: dict[str, list[int]] = {}
    for name, rows in documents.items():
        domains.setdefault(name.split("/")[0], []).extend(len(row["text"].encode()) for row in rows)
    parts = [f"{domain} {sum(bytes_) / 1e6:.1f} MB in {len(bytes_):,}" for domain, bytes_ in domains.items()]
    return f"{', '.join(parts)} documents of Python {platform.python_version()}"


def sizes(out: Path) -> dict[str, int]:
    """Sizes in bytes of the corpus files that exist."""
    return {name: (out / name).stat().st_size for name in FILES if (out / name).is_file()}


def write(path: Path, content: bytes) -> None:
    """Write a file atomically; a file with the same content stays as it is, modification time included."""
    if not content:  # an earlier installation had this domain and this one does not
        path.unlink(missing_ok=True)
    elif not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_bytes(content)
        beside.replace(path)


if __name__ == "__main__":
    main()
