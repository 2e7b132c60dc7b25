"""Benchmark of a night: `count-ngrams` on a corpus that has grown, beside a run from nothing.

    python benchmarks/bench_kept.py CORPUS --workspace FOLDER [--files 300] [--rounds 3]

The text of CORPUS (JSON Lines, perhaps compressed; without CORPUS, that of the demo) is written again as so many files of equal
size. A workspace has the tokens and counts of all but one in a hundred of them; then the whole corpus is counted, in turn: in an
empty workspace; in a copy of that one, whose files are kept; in a copy of a workspace of the whole corpus in which a line of
one file was changed; and in a copy of one that lacks only the counts, which shows what counting costs alone. All must end with
the same bytes as the runs from nothing. Medians of the rounds, after one that does not count.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import zstandard
from measuring import finish

from scone_cli.artifacts.manifest import MANIFEST, digest_file

COUNT = ("--max-n", "5", "--min-count", "5", "--held-out", "0.01")
DEMO = Path("demo/corpus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", default=DEMO, help=f"[{DEMO}]")
    parser.add_argument("--workspace", type=Path, default=Path("kept"), help="where it works [kept]")
    parser.add_argument("--files", type=int, default=300, help="[300]")
    parser.add_argument("--rounds", type=int, default=3, help="[3]")
    chosen = parser.parse_args()
    place: Path = chosen.workspace
    whole, changed, fewer = (place / name for name in ("corpus", "corpus-changed", "corpus-fewer"))
    names = write_files(chosen.corpus, whole, chosen.files)
    num_new = max(1, round(len(names) / 100))
    new = names[:: max(2, len(names) // num_new)][:num_new]
    link(whole, fewer, [name for name in names if name not in new])
    link(whole, changed, [name for name in names if name != names[len(names) // 2]])
    lines = (whole / names[len(names) // 2]).read_text().splitlines()
    (changed / names[len(names) // 2]).write_text("\n".join([json.dumps({"text": "Another line."}), *lines[1:]]) + "\n")

    tokenizer = place / "tokenizer.json"
    if not tokenizer.exists():
        count(place / "first", fewer, "--vocab-size", "16384")
        shutil.copyfile(place / "first" / "tokens" / "tokenizer.json", tokenizer)
    before = {"before": fewer, "before-change": changed, "whole": whole}
    for name, corpus in before.items():
        if not (place / name / "counts" / MANIFEST).exists():
            count(place / name, corpus, "--tokenizer", tokenizer)

    shutil.rmtree(place / "uncounted", ignore_errors=True)
    shutil.copytree(place / "whole", place / "uncounted", ignore=shutil.ignore_patterns("counts"))
    seconds: dict[str, list[float]] = {}
    work: dict[str, dict[str, list[float]]] = {}
    expected = ""
    arms = {
        "from nothing": None,
        f"{len(new)} of {len(names)} files new": "before",
        "one file changed": "before-change",
        "nothing new, counts removed": "uncounted",
    }
    for round_number in range(chosen.rounds + 1):
        for arm, begin in arms.items():
            folder = place / "night"
            shutil.rmtree(folder, ignore_errors=True)
            if begin:
                shutil.copytree(place / begin, folder)
            total, pieces = count(folder, whole, "--tokenizer", tokenizer)
            found = " ".join(digest_file(folder / artifact / MANIFEST) for artifact in ("tokens", "counts"))
            expected = expected or found
            if found != expected:
                sys.exit(f"{arm}: other bytes than from nothing")
            if round_number:
                seconds.setdefault(arm, []).append(total)
                for what, each in pieces.items():
                    work.setdefault(arm, {}).setdefault(what, []).append(each)
    medians = {arm: statistics.median(each) for arm, each in seconds.items()}
    finish(
        "what a corpus that has grown a little costs beside a run from nothing",
        place,
        bytes=sum((whole / name).stat().st_size for name in names),
        seconds={arm: round(each, 2) for arm, each in medians.items()},
        ratio={arm: round(each / medians["from nothing"], 3) for arm, each in medians.items()},
        **{
            f"seconds, {arm}": {what: statistics.median(each) for what, each in pieces.items()}
            for arm, pieces in work.items()
        },
    )


def write_files(corpus: Path, folder: Path, number: int) -> list[str]:
    """Write all lines of the corpus into files of about the same size; returns their names."""
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        size = sum(len(line) for line in lines_of(corpus))
        done, file, opened = 0, -1, None
        for line in lines_of(corpus):
            if done * number // size > file:
                file = done * number // size
                opened = (partial / f"{file:05d}.jsonl").open("wb")
            assert opened is not None
            opened.write(line)
            done += len(line)
        partial.rename(folder)
    return sorted(path.name for path in folder.iterdir())


def lines_of(corpus: Path) -> Iterator[bytes]:
    for path in sorted(corpus.rglob("*")):
        if path.name.endswith((".jsonl", ".jsonl.zst")):
            with path.open("rb") as raw:
                content = zstandard.ZstdDecompressor().stream_reader(raw) if path.suffix == ".zst" else raw
                yield from io.BufferedReader(content)
        elif path.is_file():
            yield json.dumps({"text": path.read_text(errors="replace")}).encode() + b"\n"


def link(source: Path, folder: Path, names: list[str]) -> None:
    """A folder with these files of another."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in names:
        (folder / name).hardlink_to(source / name)


def count(workspace: Path, corpus: Path, *args: object) -> tuple[float, dict[str, float]]:
    """Seconds of the command, and of each piece of work that it tells."""
    command = [sys.executable, "-m", "scone_cli", "--workspace", workspace, "count-ngrams", corpus, *COUNT, *args]
    started = time.perf_counter()
    ended = subprocess.run(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False
    )
    total = time.perf_counter() - started
    if ended.returncode:
        sys.exit(ended.stderr)
    told = re.findall(r"^([a-z][^:\n]*): done, .*? in (?:(\d+):)?([\d.]+)(?: s)?(?:,.*)?$", ended.stderr, re.MULTILINE)
    pieces = {what: 60 * float(minutes or 0) + float(rest) for what, minutes, rest in told}
    return total, {**pieces, "the rest": total - sum(pieces.values())}


if __name__ == "__main__":
    main()
