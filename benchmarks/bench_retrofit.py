"""Benchmark of a retrofit: what rows bring to a pretrained model, beside LoRA, beside hashed rows, and with both.

    python benchmarks/bench_retrofit.py BASE CORPUS --workspace W --other A.jsonl --other B.jsonl    hours

BASE is a folder of Hugging Face with its tokenizer.json, CORPUS one domain, `--other` texts of other domains: what is forgotten?
Every arm trains on the same tokens in the same order. Its rate is the one with the lowest held-out loss after a quarter of the
steps, among those in `ARMS`. Then all arms are evaluated in one pass, paired. A finished run is not repeated, and a stopped one
continues; `W/runs.jsonl` has a line for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import finish

from scone_cli.artifacts.manifest import read_manifest

COMMON = (
    "--context 256 --batch 8 --micro-batch 8 --precision bfloat16 --warmup 10 --eval-tokens 16384 --checkpoint-every 16"
)
ROWS, LORA, MATRICES = "--row-learning-rate", "--base-learning-rate", "--learning-rate"


@dataclass(frozen=True)
class Arm:
    """A way to adapt a base: its options; the option that is chosen, and its candidates."""

    options: str
    rate: str
    candidates: tuple[float, ...]


ARMS = {
    "lora": Arm("--kind plain --train-base lora", LORA, (5e-4, 1e-3, 2e-3)),
    "rows": Arm("--fgram-layers 0", ROWS, (0.03, 0.1, 0.3)),
    "fgram": Arm("--fgram-layers 2 --learned-rows 0", MATRICES, (3e-3, 1e-2)),
    "donor": Arm("--fgram-base {base} --learned-rows 0", MATRICES, (1e-2, 3e-2)),
    "fgram+rows": Arm("--fgram-layers 2", ROWS, (0.03, 0.1, 0.3)),
    "hashed": Arm("--kind hashed", ROWS, (0.03, 0.1, 0.3)),
    "lora+rows": Arm("--fgram-layers 0 --train-base lora", ROWS, (0.03, 0.1, 0.3)),
    "lora+hashed": Arm("--kind hashed --train-base lora", ROWS, (0.03, 0.1, 0.3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--other", type=Path, action="append", default=[], help="a text of another domain")
    parser.add_argument("--steps", type=int, default=128, help="of 2,048 tokens [128]")
    parser.add_argument("--size", default="100k", help="f-grams [100k]")
    parser.add_argument("--arms", default=",".join(ARMS), help="[all]")
    chosen = parser.parse_args()
    work, base = chosen.workspace, chosen.base.absolute()
    count = ("--tokenizer", base / "tokenizer.json", "--held-out", 0.01, "--max-n", 5, "--min-count", 4)
    scone(work, "count-ngrams", chosen.corpus, *count)
    scone(work, "select-vocab", "--size", chosen.size)
    names = chosen.arms.split(",")
    for name in names:
        arm = ARMS[name]
        options = arm.options.format(base=base).split()
        if "lora" in name and arm.rate != LORA:
            options += [LORA, best(work, "lora", ARMS["lora"], chosen.steps)]
        for rate in arm.candidates:
            train(work, base, f"{name}-{rate:g}", [*options, arm.rate, rate], chosen.steps // 4)
        train(work, base, name, [*options, arm.rate, best(work, name, arm, chosen.steps)], chosen.steps)
    figures = evaluated(work, base, names, chosen.other)
    finish("what do rows bring to a model that exists", work, **figures)


def best(work: Path, name: str, arm: Arm, steps: int) -> float:
    """The candidate with the lowest held-out loss after a quarter of the steps."""
    del steps
    return min(arm.candidates, key=lambda rate: held_out(work / "arms" / f"{name}-{rate:g}"))


def held_out(folder: Path) -> float:
    """The held-out loss of a trained model, nats per token."""
    return float(read_manifest(folder, "model").summary["held_out_loss"])


def train(work: Path, base: Path, name: str, options: list[Any], steps: int) -> None:
    """Train an arm, and note its losses and its speed."""
    folder, begun = work / "arms" / name, time.monotonic()
    is_there = (folder / "manifest.json").exists()
    (work / "arms").mkdir(exist_ok=True)
    every = ("--eval-every", max(8, steps // 4))
    scone(work, "train-fgram", "--base", base, *COMMON.split(), *options, "--steps", steps, *every, "--out", folder)
    if not is_there:
        seconds = time.monotonic() - begun
        line = {"arm": name, "options": list(map(str, options)), "steps": steps, "seconds": round(seconds)}
        with (work / "runs.jsonl").open("a") as file:
            file.write(json.dumps(line | {"held_out": held_out(folder)}) + "\n")


def evaluated(work: Path, base: Path, names: list[str], others: list[Path]) -> dict[str, Any]:
    """All arms on held-out text and on other corpora, each against `rows`, the workspace's own model."""
    own = next(name for name in names if "rows" in name)
    model = work / "model"
    model.unlink(missing_ok=True)
    model.symlink_to(Path("arms") / own)
    scone(work, "precompute")
    rivals = [each for name in names if name != own for each in ("--against", f"{name}={work / 'arms' / name}")]
    scone(work, "eval", "--no-speed", "held-out", *others, "--against", f"base={base}", *rivals)
    found = json.loads((work / "eval" / "results.json").read_text())
    nats = {
        f"{row['corpus']} {own if row['arm'] == 'table' else row['arm']}": f"{row['value']:.4f} ± {row['stderr'] or 0:.4f}"
        for row in found["results"]
        if row["metric"] == "nats_per_token"
    }
    return {"nats": nats, "runs": len(list((work / "arms").iterdir()))}


def scone(work: Path, *args: object) -> None:
    """Run the command in the workspace."""
    command = [sys.executable, "-m", "scone_cli", "--workspace", work, *args]
    ended = subprocess.run(list(map(str, command)), env=os.environ, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, args))}: exit code {ended.returncode}")


if __name__ == "__main__":
    main()
