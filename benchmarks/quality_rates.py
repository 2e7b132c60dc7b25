"""Search for the best learning rate of plain models: runs at a quarter of a recipe's length, judged on dev documents only.

    python benchmarks/quality_rates.py CORPUS --workspace headline-long --recipe pipelines/headline-long.toml

For each arm of `CENTRES` it tries the best rate at the headline's length, two rates above and two below, a factor of sqrt(2)
apart. A run whose result stands in `rates.json` is not repeated, and a stopped run continues; after every run `rates.json`
is written again. The documents of `test` are only for reporting and are not used here.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from quality_arms import ARMS, Arm, Experiment, Run
from quality_runs import DEV, DOCUMENTS, carry_out, exit_code_of, folder_of, half_of, prepare

from scone_cli.artifacts.publish import write_atomically
from scone_cli.console.output import say
from scone_cli.evaluation.metrics import bits_per_byte, nats_per_token

HERE = Path(__file__).parent
CENTRES = {"plain-1x": 3e-2, "plain-4x": 2.5e-2}
FACTORS = [2 ** (power / 2) for power in (0, -1, 1, -2, 2)]  # the middle first
PART = 4  # runs take the recipe's steps divided by this


def main() -> int:
    """Train and measure the missing runs; returns an exit code of `scone`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="*", metavar="CORPUS", help="not needed where there are counts")
    parser.add_argument("--workspace", type=Path, default=Path("headline-long"))
    parser.add_argument("--recipe", type=Path, default=HERE.parent / "pipelines" / "headline-long.toml")
    parser.add_argument("--out", type=Path, default=HERE / "quality" / "rates.json")
    chosen = parser.parse_args()
    return exit_code_of(lambda _: search(chosen))


def search(chosen: argparse.Namespace) -> int:
    """Run every rate of every arm in turn; returns 0.

    Raises:
        SconeError: the recipe cannot be used, or training failed.
    """
    experiment, work = Experiment.read(chosen.recipe, list(CENTRES)), chosen.workspace
    prepare(experiment, chosen.corpus, work)
    found: list[dict[str, Any]] = json.loads(chosen.out.read_bytes()) if chosen.out.exists() else []
    finished = {(line["arm"], line["steps"], line["seed"]) for line in found}
    for run in (run for factor in FACTORS for run in runs_at(experiment, factor)):
        if (run.arm.name, run.config.steps, run.seed) in finished:
            continue
        say(f"== {run.title}")
        carry_out(run, work)
        found.append(result(run, work))
        write_atomically(chosen.out, (json.dumps(found, indent=1) + "\n").encode())
        say(f"{run.title}: {found[-1]['dev_nats_per_token']:.4f} nats per token on dev")
    return 0


def runs_at(experiment: Experiment, factor: float) -> list[Run]:
    """One run of each arm, at `factor` times its middle rate."""
    runs = []
    for arm in (arm for arm in ARMS if arm.name in CENTRES):
        rate = round(CENTRES[arm.name] * factor, 5)
        named = Arm(f"{arm.name}-rate-{rate}", arm.label, arm.fgrams, {**arm.settings, "learning_rate": rate})
        run = experiment.run(named, 0)
        runs.append(replace(run, config=replace(run.config, steps=run.config.steps // PART)))
    return runs


def result(run: Run, work: Path) -> dict[str, Any]:
    """The result of a run on the dev documents, with standard errors over documents."""
    table = pq.read_table(folder_of(run, work) / "documents.parquet", schema=DOCUMENTS)
    dev = np.array([half_of(name) == DEV for name in table["doc"].to_pylist()])
    num_bytes, tokens, nats = (table[name].to_numpy().astype(np.float64)[dev] for name in DOCUMENTS.names[1:])
    loss, bits = nats_per_token(nats, tokens), bits_per_byte(nats, num_bytes, tokens)
    assert math.isfinite(loss.value)
    return {
        "arm": run.arm.name,
        "learning_rate": run.config.learning_rate,
        "steps": run.config.steps,
        "training_tokens": run.config.steps * run.config.batch * run.config.context,
        "seed": run.seed,
        "dev_documents": int(dev.sum()),
        "dev_tokens": int(tokens.sum()),
        "dev_nats_per_token": round(loss.value, 5),
        "dev_bits_per_byte": round(bits.value, 5),
        "dev_bits_per_byte_error": round(bits.stderr or math.nan, 5),
    }


if __name__ == "__main__":
    sys.exit(main())
