"""What a table must have to be published: an evaluation of exactly this table, in which no condition held."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import Manifest, open_artifact
from scone_cli.errors import MismatchedArtifacts, SconeError
from scone_cli.evaluation.result_types import Results
from scone_cli.evaluation.results import NONE, TABLE, judged_corpora, read_results, value_of

_METRICS = {"loss": "nats_per_token", "perplexity": "perplexity", "bits_per_byte": "bits_per_byte"}


class GateClosed(SconeError):
    """A condition of the evaluation held: the table is not to be published. Exit code 1."""


def check_evaluated(table_folder: Path, table: Manifest, folder: Path) -> dict[str, Any]:
    """The figures of a table and of its evaluation in `folder`, for the registry.

    Raises:
        MismatchedArtifacts: the evaluation is of another table.
        GateClosed: a `--fail-if` of it held, or could not be worked out.
        InputMissing, BadData: see `open_artifact`.
    """
    manifest = open_artifact(folder, "eval")
    results = read_results(folder)
    arm = _arm_of(manifest, results, table)
    if arm is None:
        place = shlex.quote(str(table_folder))
        raise MismatchedArtifacts(
            f"{folder}: evaluates {_tables_of(results)}, not {table_folder}, which is {table.fingerprint[:12]}",
            f"run: scone eval, and if that is not the table of the workspace: scone eval --table {place}",
        )
    held = [row for row in results["checks"] if row["holds"]]
    if held:
        told = "; ".join(f"'{row['condition']}' holds: {row['left']:.6g} and {row['right']:.6g}" for row in held)
        raise GateClosed(
            f"{folder}: --fail-if {told}", "the version that is current stays; see the page of the evaluation"
        )
    asked = manifest.summary.get("asked", {}).get("fail_if") or ""
    if asked != ", ".join(row["condition"] for row in results["checks"]):
        raise GateClosed(
            f"{folder}: not all conditions could be worked out: --fail-if {asked}", "run scone eval again: it says why"
        )
    return _figures(table, results, arm)


def _arm_of(manifest: Manifest, results: Results, table: Manifest) -> str | None:
    """The arm that read this table; None if none did."""
    if manifest.inputs.get(TABLE) == table.fingerprint:
        return TABLE
    tables = results["method"].get("tables", {})
    return next((arm for arm, facts in tables.items() if facts["fingerprint"] == table.fingerprint), None)


def _tables_of(results: Results) -> str:
    tables = results["method"].get("tables", {})
    return ", ".join(f"{arm} ({facts['fingerprint'][:12]})" for arm, facts in tables.items()) or "no table"


def _figures(table: Manifest, results: Results, arm: str) -> dict[str, Any]:
    """What the registry tells of a version: numbers, and the names of the texts that were read."""
    corpora = []
    for corpus in judged_corpora(results):
        found: dict[str, Any] = {"corpus": corpus}
        for name, metric in _METRICS.items():
            row = value_of(results, arm, corpus, metric)
            found[name] = row and row["value"]
        none, loss = value_of(results, NONE, corpus, _METRICS["loss"]), found["loss"]
        found["gain"] = none["value"] - loss if none and loss is not None else None
        corpora.append(found)
    settings = table.settings
    return {
        "rows": settings["num_fgrams"],
        "dim": settings["dim"],
        "dtype": settings["dtype"],
        "bytes": sum(stamp.bytes for stamp in table.files.values()),
        "arm": arm,
        "corpora": corpora,
    }
