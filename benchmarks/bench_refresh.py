"""Benchmark of a refresh without training: what a table of new f-grams gives a model that was trained before them.

    python benchmarks/bench_refresh.py CORPUS --workspace FOLDER [--domain law] [--steps 400]

CORPUS is a folder whose top folders are domains. One domain is left out of counting and training; then it is counted too,
more f-grams are selected from all text, and the same model gets a table of them (`scone precompute --vocab`). Side by side
on the held-out text of each domain: the table before; one of the new size selected without the domain; the new one; and a
model trained with the domain for as many steps, with the new vocabulary. An interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import finish

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import iter_shards, top_folder
from scone_cli.table import Table
from scone_cli.vocab.index import NONE
from scone_cli.vocab.shared_fgrams import numbers_in
from scone_cli.vocab.vocabulary import Vocabulary

SHAPE = "--dim 96 --layers 2 --heads 3 --fgram-layers 2 --context 512 --batch 32 --learning-rate 0.03 --warmup 20"
COUNT = "--held-out 0.02 --max-n 5 --min-count 5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--domain", default="law", help="left out at first [law]")
    parser.add_argument("--steps", type=int, default=400, help="of 16,384 tokens [400]")
    parser.add_argument("--size", type=int, default=300_000, help="f-grams before [300000]")
    parser.add_argument("--more", type=int, default=100_000, help="f-grams that are added [100000]")
    chosen = parser.parse_args()
    before, after = chosen.workspace / "before", chosen.workspace / "after"
    known = sorted(path for path in chosen.corpus.iterdir() if path.is_dir() and path.name != chosen.domain)
    train = ["train-fgram", *SHAPE.split(), "--steps", chosen.steps, "--optimizer", "muon"]

    # The model and its table, without the domain. The names of documents begin with their domains in both workspaces.
    linked = links(chosen.workspace / "without", known)
    scone(before, "count-ngrams", linked, *COUNT.split(), "--vocab-size", 8192)
    if not (before / "old-table").exists():
        scone(before, "select-vocab", "--size", chosen.size)
        scone(before, *train)
        scone(before, "precompute", "--out", before / "old-table")
    tokenizer = before / "tokens" / "tokenizer.json"
    scone(before, "select-vocab", "--size", chosen.size + chosen.more)
    scone(before, "precompute", "--vocab", before / "vocab", "--out", before / "more-of-old")

    # The domain is counted, and the same model gets a table of the new vocabulary.
    everything = links(chosen.workspace / "with", [*known, chosen.corpus / chosen.domain])
    seconds = {"count": scone(after, "count-ngrams", everything, *COUNT.split(), "--tokenizer", tokenizer)}
    seconds["select"] = scone(after, "select-vocab", "--size", chosen.size + chosen.more)
    if not (after / "model").exists():
        shutil.copytree(before / "model", after / "model")
    seconds["precompute"] = scone(after, "precompute", "--vocab", after / "vocab")
    seconds["train with it"] = scone(after, *train, "--out", after / "with-domain")

    tables = ["--table", f"old={before / 'old-table'}", "--table", f"more={before / 'more-of-old'}"]
    scone(after, "eval", "--no-speed", *tables, "--against", f"trained={after / 'with-domain'}")
    results = json.loads((after / "eval" / "results.json").read_text())
    losses = losses_by_domain(results)
    finish(
        f"what does a table of f-grams of {chosen.domain} give a model that was trained without it",
        chosen.workspace,
        tokens_trained_on=chosen.steps * 16_384,
        fgrams={"before": chosen.size, "after": chosen.size + chosen.more},
        new_fgrams=new_fgrams(before, after, chosen.domain),
        **{f"nats a token, {domain}": arms for domain, arms in losses.items()},
        seconds={name: round(each, 1) for name, each in seconds.items()},
    )


def links(folder: Path, domains: list[Path]) -> Path:
    """A folder with a link to each domain."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in domains:
        if not (folder / domain.name).exists():
            (folder / domain.name).symlink_to(domain.resolve())
    return folder


def scone(workspace: Path, *args: object) -> float:
    """Run the command; returns its wall time. A stage that is up to date does nothing."""
    command = [sys.executable, "-m", "scone_cli", "--workspace", workspace, *args]
    print("$ scone", *map(str, command[3:]), file=sys.stderr, flush=True)
    started = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    return time.perf_counter() - started


def losses_by_domain(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Nats per token of each arm, by domain; `all` is the whole held-out text."""
    losses: dict[str, dict[str, float]] = {}
    for row in results["results"]:
        if row["metric"] == "nats_per_token":
            domain = row["corpus"].removeprefix(f"{HELD_OUT}/").replace(HELD_OUT, "all")
            losses.setdefault(domain, {})[row["arm"]] = row["value"]
    return losses


def new_fgrams(before: Path, after: Path, domain: str) -> dict[str, float]:
    """How many f-grams of the new table the old one lacks, and the share of positions that they match, by text."""
    with Table.open(before / "old-table") as old, Table.open(after / "table", "ram") as new:
        settings = read_manifest(new.folder).settings
        trie = Vocabulary.read(new.folder, settings["num_tokens"], settings["max_n"]).trie
        is_new = numbers_in(old.index, trie) == np.uint32(NONE)
        positions, matched = np.zeros(2, np.int64), np.zeros((2, 2), np.int64)  # of the domain and of others
        for _, stream in iter_shards(after / "tokens", HELD_OUT):
            ids, _ = new.index.match(stream.tokens, stream.starts)
            of_domain = np.array([top_folder(name) == domain for name in stream.names]).repeat(np.diff(stream.starts))
            for side, here in enumerate((of_domain, ~of_domain)):
                found = ids[here]
                found = found[found != np.uint32(NONE)]
                positions[side] += here.sum()
                matched[side] += found.size, is_new[found].sum()
    shares = matched / positions[:, None]
    return {
        "number": int(is_new.sum()),
        f"share of positions, {domain}": float(shares[0, 1]),
        f"share of all matches, {domain}": float(shares[0, 0]),
        "share of positions, others": float(shares[1, 1]),
        "share of all matches, others": float(shares[1, 0]),
    }


if __name__ == "__main__":
    main()
