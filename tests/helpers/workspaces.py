"""Real workspaces for tests of the whole: a small one to copy and spoil, a real one to look at; and what is in them.

The small one is made of words drawn by chance, in seconds; nothing in it is worth reading, everything is there. The real
one comes from `pipelines/tiny.toml` through the installed command.
"""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

RECIPE = Path(__file__).parents[2] / "pipelines" / "tiny.toml"
SCONE = Path(sys.executable).with_name("scone")

_CORPUS_BYTES = 1_500_000

WRITES = {
    "count-ngrams": ("tokens", "counts"),
    "select-vocab": ("vocab",),
    "train-fgram": ("model",),
    "precompute": ("table",),
    "eval": ("eval",),
}

_SHAPE = "--dim 16 --heads 1 --layers 1 --fgram-layers 1 --context 32 --batch 4 --eval-tokens 500 --eval-every 3"
COUNT = ("--vocab-size", "400", "--held-out", "0.1", "--max-n", "4")
SELECT = ("--size", "600")
TRAIN = (*_SHAPE.split(), "--steps", "6", "--checkpoint-every", "2")


def write_small_corpus(folder: Path) -> None:
    """Sixty plain documents, some 280 kB."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(400)]
    folder.mkdir()
    for number in range(60):
        text = " ".join(words[min(int(chance.paretovariate(0.6)), 399)] for _ in range(900))
        (folder / f"{number}.txt").write_text(text)


# ---- a real one --------------------------------------------------------------------------------------------------


def texts() -> list[str]:
    """Real English and real code, from the Python that runs the tests, in pieces of a page or two: many documents."""
    library = Path(sysconfig.get_path("stdlib"))
    sources = [library / "pydoc_data" / "topics.py", *sorted(library.glob("*.py"))]
    found, size = [], 0
    for path in sources:
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [text[start : start + 5000] for start in range(0, len(text), 5000)]
        size += len(text)
        if size > _CORPUS_BYTES:
            break
    return found


def write_corpus(folder: Path, documents: list[str]) -> Path:
    """The documents in every format that is read: plain text, JSON Lines, Parquet, and compressed."""
    folder.mkdir(parents=True)
    (folder / "plain").mkdir()
    plain, lines, packed, columns = (documents[part::4] for part in range(4))
    for number, text in enumerate(plain):
        (folder / "plain" / f"{number}.txt").write_bytes(text.encode())
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    (folder / "b.jsonl.zst").write_bytes(
        zstandard.compress("".join(json.dumps({"text": text}) + "\n" for text in packed).encode())
    )
    pq.write_table(pa.table({"text": columns}), folder / "c.parquet")
    return folder


def installed(workspace: Path, *args: object, recipe: Path = RECIPE) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own, without settings from outside."""
    return _run([SCONE, "--config", recipe, "--workspace", workspace, *args])


def rebuilt(corpus: Path, workspace: Path) -> str:
    """What `pipelines/rebuild.mk` prints on stdout, with the installed command and the recipe."""
    variables = [f"SCONE={SCONE}", f"CORPUS='{corpus}'", f"WORKSPACE={workspace}", f"RECIPE={RECIPE}"]
    return _run(["make", "--no-print-directory", "-f", RECIPE.with_name("rebuild.mk"), *variables]).stdout


def _run(command: list[object]) -> subprocess.CompletedProcess[str]:
    outside = ("SCONE_", "MAKE", "MFLAGS")  # and what the make that runs these tests would tell another
    environment = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def commands(corpus: Path) -> list[tuple[object, ...]]:
    """The five stages, and the plain baseline, in their order, as `pipelines/rebuild.mk` has them."""
    return [
        ("count-ngrams", corpus),
        ("select-vocab",),
        ("train-fgram",),
        ("train-fgram", "--baseline", "plain"),
        ("precompute",),
        ("eval",),
    ]


# ---- what is in them ---------------------------------------------------------------------------------------------


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Change what an artifact says of itself, as if it had been made so; like early versions, without a hash of it."""
    facts.pop("sha256", None)
    (folder / "manifest.json").write_text(json.dumps(facts))


def quality(workspace: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of `eval/results.json` on the whole held-out split, by arm and metric."""
    rows = json.loads((workspace / "eval" / "results.json").read_text())["results"]
    return {(row["arm"], row["metric"]): row for row in rows if row["corpus"] == "held-out"}


def copy_of(workspace: Path, to: Path) -> Path:
    """A copy to spoil, in the place of the one before."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(workspace, to)
    return to


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones too, but for the records of runs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".runs" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def timeless(folder: Path) -> dict[str, Any]:
    """What equal runs have in common: every byte, but for the seconds that logs and evaluations hold, and for a page of them."""
    found: dict[str, Any] = contents(folder)
    page = found.pop("report.html", None)
    timed = [name for name in ("log.parquet", "log.jsonl", "results.parquet", "results.json") if name in found]
    for name in timed:
        path = folder / name
        if name.endswith(".parquet"):
            content = pq.read_table(path).to_pylist()
        else:
            content = json.loads(
                f"[{','.join(path.read_text().splitlines())}]" if name.endswith("l") else path.read_text()
            )
        found[name] = _without_times(content)
    if (folder / "manifest.json").exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in [*timed, *(["report.html"] if page else [])]:
            del manifest["files"][name]
        if timed or page:
            del manifest["sha256"]
        found["manifest.json"] = _without_times(manifest)
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, str):  # a verdict tells how fast it was
        return re.sub(r" It generates [^.]*\.", "", value)
    if isinstance(value, dict):
        times = ("seconds", "tokens_per_second", "speed", "latency", "peak_memory_bytes")
        kept = {key: each for key, each in value.items() if key not in times and not key.startswith("lookup")}
        return {key: _without_times(each) for key, each in kept.items()}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def wait_for_step(work: Path, step: int) -> None:
    """Wait until the training that goes on in a workspace has done so many steps."""
    deadline = time.monotonic() + 200
    while not any(log.read_bytes().count(b"\n") >= step for log in work.glob(".model.partial-*/work/log.jsonl")):
        assert time.monotonic() < deadline, f"step {step} did not come"
        time.sleep(0.002)
