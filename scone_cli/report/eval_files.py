"""Writes the files of an evaluation: all results as JSON, the metrics as Parquet, and the page as HTML."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from scone_cli.artifacts.publish import write_atomically, write_parquet
from scone_cli.artifacts.schemas import RESULTS
from scone_cli.evaluation.result_types import Results
from scone_cli.report.eval_page import render


def write_results(folder: Path, results: Results) -> None:
    """Write `results.json`, `results.parquet` and `report.html`.

    Raises:
        OSError: a file cannot be written.
    """
    known = _known(results)
    write_atomically(folder / "results.json", (json.dumps(known, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / "report.html", render(known).encode())
    write_parquet(folder / "results.parquet", RESULTS, pa.Table.from_pylist(results["results"], RESULTS))


def _known(value: Any) -> Any:
    """The value with None (null in JSON) in the place of nan and infinity, which mean not known."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
