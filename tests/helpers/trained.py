"""Model folders as `train-fgram` publishes them, with a log of any length: nothing is trained."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
from builders import tiny_model

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import publish, staging_folder, write_parquet
from scone_cli.artifacts.schemas import LOG
from scone_cli.model.model import SconeModel

BATCH = 64  # tokens a step


def log_rows(steps: int, eval_every: int, nodes: int) -> list[dict[str, Any]]:
    """A loss that falls from 6 to about 4 in waves, on held-out text rises at the end; a second a step and one a look."""
    return [
        {
            "step": step,
            "tokens": step * BATCH,
            "loss": 4 + 2 * math.exp(-5 * step / steps) + 0.1 * math.sin(step),
            "learning_rate": 0.003 * min(1.0, 10 * step / steps),
            "gradient_norm": 0.5 + (step == 2),
            "held_out_loss": 4 + 2 * abs(0.7 - step / steps) if step % eval_every == 0 else None,
            "trie_nodes": nodes,
            "fgrams": nodes * 3 // 4,
            "tokens_per_second": float(BATCH),
            "seconds": float(step + step // eval_every),
        }
        for step in range(1, steps + 1)
    ]


def publish_model(target: Path, rows: list[dict[str, Any]], schema: pa.Schema = LOG, **changes: object) -> SconeModel:
    """Publish a tiny model of 50 tokens as the folder `target`, with that log."""
    model = tiny_model(50, **changes)
    mark = "d" * 64
    staging = staging_folder(target, mark)
    model.save(staging)
    known = [{name: row[name] for name in schema.names} for row in rows]
    write_parquet(staging / "log.parquet", schema, pa.Table.from_pylist(known, schema))
    settings = {"steps": len(rows), "learning_rate": 0.003}
    publish(staging, target, Manifest("model", 1, "train-fgram", 1, mark, settings, {}, "t" * 64, {}))
    return model
