"""Real workspaces for tests of the whole: a small one to copy and spoil, and what is in a folder, to compare.

The small workspace is made of words drawn by chance, in a second; nothing in it is worth reading, everything is there.
"""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

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


def copy_of(workspace: Path, to: Path) -> Path:
    """A copy to spoil, in the place of the one before."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(workspace, to)
    return to


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def timeless(folder: Path) -> dict[str, Any]:
    """What equal runs have in common: every byte, but for the seconds that logs and evaluations hold."""
    found: dict[str, Any] = contents(folder)
    timed = [name for name in ("log.parquet", "results.parquet", "results.json") if name in found]
    for name in timed:
        path = folder / name
        found[name] = (
            _without_times(json.loads(path.read_text()))
            if name.endswith(".json")
            else pq.read_table(path).drop_columns("seconds").to_pylist()
        )
    if (folder / "manifest.json").exists():
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in timed:
            del manifest["files"][name]
        found["manifest.json"] = _without_times(manifest)
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key != "seconds" and not key.startswith("lookup")}
        return {key: _without_times(each) for key, each in kept.items()}
    return [_without_times(each) for each in value] if isinstance(value, list) else value
