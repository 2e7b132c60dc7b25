"""The facts of `scone status` as metrics, in the text format of Prometheus, for the node exporter's textfile collector."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scone_cli.report.status import KILLED, seconds_of

UNKNOWN_END = -1  # the exit code of a run that did not end

METRICS: Mapping[str, str] = {
    "scone_stage_last_exit_code": "Exit code of the last run of the stage; -1 if it was killed.",
    "scone_stage_last_run_seconds": "How long the last run of the stage that ended took.",
    "scone_stage_last_run_timestamp_seconds": "When the last run of the stage that ended did so.",
    "scone_artifact_made_timestamp_seconds": "When the artifact was made.",
    "scone_artifact_bytes": "Bytes of the artifact.",
    "scone_artifact_up_to_date": "1 if the artifact is up to date, else 0.",
    "scone_unfinished_bytes": "Bytes of unfinished work on the artifact.",
    "scone_version_current_timestamp_seconds": "When the current version was published.",
    "scone_version_current_bytes": "Bytes of the current version.",
    "scone_version_current_loss": "Loss of the current version's table, in nats per token.",
    "scone_versions": "Number of published versions.",
    "scone_versions_bytes": "Bytes of all published versions.",
}

Sample = tuple[str, dict[str, str], float | None]


def metrics_text(facts: Mapping[str, Any]) -> str:
    """All metrics of what `status_of` found; one without a value has no line.

    Every sample names its workspace or REGISTRY/NAME, by its absolute path: two files of one machine never have the same one.
    """
    samples = list(_samples(facts))
    lines = []
    for name, about in METRICS.items():
        found = [(labels, value) for metric, labels, value in samples if metric == name and value is not None]
        if found:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{_labels(labels)}}} {_number(value)}" for labels, value in found]
    return "".join(f"{line}\n" for line in lines)


def _samples(facts: Mapping[str, Any]) -> Iterator[Sample]:
    if facts["kind"] == "registry":
        for each in facts["names"]:
            yield from _of_name(each)
    elif facts["kind"] == "name":
        yield from _of_name(facts)
        yield from _of_runs(facts["runs"], {"name": _absolute(facts["name"])})
    else:
        yield from _of_workspace(facts)


def _of_workspace(facts: Mapping[str, Any]) -> Iterator[Sample]:
    place = {"workspace": _absolute(facts["path"])}
    for each in facts["artifacts"]:
        labels = place | {"artifact": each["artifact"]}
        yield "scone_artifact_made_timestamp_seconds", labels, seconds_of(each["made"])
        yield "scone_artifact_bytes", labels, each["bytes"]
        yield "scone_artifact_up_to_date", labels, each["up_to_date"]
        yield "scone_unfinished_bytes", labels, each["unfinished_bytes"]
    yield from _of_runs(facts["runs"], place)


def _of_runs(runs: Iterable[Mapping[str, Any]], place: dict[str, str]) -> Iterator[Sample]:
    for run in runs:
        labels = place | {"stage": run["stage"]}
        code = UNKNOWN_END if run["state"] == KILLED else run["exit_code"]
        yield "scone_stage_last_exit_code", labels, code
        yield "scone_stage_last_run_seconds", labels, run["seconds"]
        yield "scone_stage_last_run_timestamp_seconds", labels, seconds_of(run["ended"])


def _of_name(facts: Mapping[str, Any]) -> Iterator[Sample]:
    labels = {"name": _absolute(facts["name"])}
    yield "scone_versions", labels, len(facts["versions"])
    yield "scone_versions_bytes", labels, facts["bytes"]
    for version in facts["versions"]:
        if version["current"] and version["problem"] is None:
            yield "scone_version_current_timestamp_seconds", labels, seconds_of(version["date"])
            yield "scone_version_current_bytes", labels, version["bytes"]
            for row in version["figures"].get("corpora", ()):
                yield "scone_version_current_loss", labels | {"corpus": row["corpus"]}, row["loss"]


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - links keep their names


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    """A label's value: the format escapes three characters, and is UTF-8, which a path need not be."""
    text = value.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
