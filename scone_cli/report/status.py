"""What `scone status` tells of a workspace, of a REGISTRY/NAME and of a registry, as facts for JSON, metrics and a terminal.

The keys are documented in docs/operations.md; a key keeps its meaning.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scone_cli.artifacts.conditions import IN_ORDER, Compare, Condition, conditions_of, is_workspace
from scone_cli.artifacts.manifest import Manifest, digest_file
from scone_cli.artifacts.registry import VERSIONS, Version, current_name, is_registry_name, read_version
from scone_cli.artifacts.run_records import RunRecord, read_records
from scone_cli.artifacts.verify import check_version
from scone_cli.errors import ForeignArtifact, InputMissing, SconeError
from scone_cli.evaluation.gate import check_evaluated
from scone_cli.evaluation.results import NONE, TABLE, judged_corpora, read_results, value_of
from scone_cli.formatting import count_text, plain

ENDED, AT_WORK, KILLED, ELSEWHERE = "ended", "at work", "did not end", "did not end here"  # states of a run

Facts = dict[str, Any]


def status_of(path: Path, compare: Compare, recipe: Mapping[str, str]) -> Facts:
    """The facts of what `path` is; for a workspace see `conditions_of`.

    Raises:
        InputMissing: there is no such folder.
        ForeignArtifact: it is neither a workspace nor a registry.
    """
    if not path.exists():
        raise InputMissing(f"{path}: no such folder", "run: scone count-ngrams CORPUS")
    if is_registry_name(path):
        return {"kind": "name", **_name_facts(path), "runs": _runs(path)}
    if is_workspace(path):
        return {"kind": "workspace", **_workspace_facts(path, compare, recipe)}
    if path.is_dir() and (names := [each for each in sorted(path.iterdir()) if is_registry_name(each)]):
        return {"kind": "registry", "path": str(path), "names": [_name_facts(each) for each in names]}
    raise ForeignArtifact(
        f"{path}: neither a workspace nor a REGISTRY/NAME", "name the folder that holds the artifacts"
    )


def date_text(seconds: float | None) -> str | None:
    """A time as text, in UTC: 2026-01-31T23:59:59Z; None for None."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def seconds_of(date: str | None) -> float | None:
    """The time, in seconds since 1970, that `date_text` wrote."""
    return None if date is None else datetime.fromisoformat(date).timestamp()


# ---- a workspace -------------------------------------------------------------------------------------------------


def _workspace_facts(path: Path, compare: Compare, recipe: Mapping[str, str]) -> Facts:
    conditions, records = conditions_of(path, compare, recipe), read_records(path)
    next_command, told = _next(path, conditions, records)
    return {
        "path": str(path),
        "recipe": recipe.get("path"),
        "made_with": _made_with(conditions),
        "up_to_date": all(each.is_up_to_date for each in conditions if each.name in IN_ORDER),
        "artifacts": [_artifact_facts(each) for each in conditions],
        "runs": _runs(path),
        "unfinished_bytes": sum(each.unfinished for each in conditions),
        "next": next_command or None,
        "next_because": told,
    }


def _artifact_facts(found: Condition) -> Facts:
    manifest = found.manifest
    return {
        "artifact": found.name,
        "state": found.state,
        "up_to_date": found.is_up_to_date,
        "reasons": list(found.reasons),
        "notes": list(found.notes),
        "made": date_text(found.made),
        "bytes": found.bytes,
        "holds": _holds(found.folder, manifest) if manifest else None,
        "made_from": manifest.inputs if manifest else None,
        "fingerprint": manifest.fingerprint if manifest else None,
        "unfinished_bytes": found.unfinished,
        "unfinished_steps": found.steps,
    }


def _perplexity(folder: Path, manifest: Manifest) -> str:
    results, arm = read_results(folder), TABLE if TABLE in manifest.inputs else NONE
    row = value_of(results, arm, judged_corpora(results)[0], "perplexity")
    return f"perplexity {plain(row['value'])}" if row else manifest.artifact


_HOLDS: Mapping[str, Callable[[Path, Manifest], str]] = {
    "tokens": lambda _, made: f"{count_text(made.summary['tokens'])} tokens",
    "counts": lambda _, made: f"{count_text(sum(row['ngrams'] for row in made.summary['counts']))} n-grams",
    "vocab": lambda _, made: f"{count_text(made.summary['fgrams'])} f-grams",
    "model": lambda _, made: f"{made.summary['kind']}, {count_text(made.summary['steps'])} steps",
    "table": lambda _, made: f"{count_text(made.summary['rows'])} rows, {made.summary['dtype']}",
    "eval": _perplexity,
}


def _holds(folder: Path, manifest: Manifest) -> str:
    """What is in an artifact, in a few words."""
    try:
        return _HOLDS[manifest.artifact](folder, manifest)
    except (LookupError, TypeError, ValueError, SconeError, OSError):  # another kind, an early version, or damaged
        return manifest.artifact


def _made_with(conditions: Sequence[Condition]) -> Facts | None:
    """The recipe of the newest artifact that has one: its path, and whether it has changed since."""
    made = [each for each in conditions if each.manifest and each.manifest.recipe]
    if not made:
        return None
    recipe = max(made, key=lambda each: each.made or 0).manifest.recipe  # type: ignore[union-attr]
    try:
        changed: bool | None = digest_file(Path(recipe["path"])) != recipe["sha256"]
    except OSError:
        changed = None
    return {"recipe": recipe["path"], "changed": changed}


def _next(path: Path, conditions: Sequence[Condition], records: Sequence[RunRecord]) -> tuple[str, str]:
    """The next command to give, empty if there is none, and why."""
    for record in records:
        if record.is_at_work():
            return "", f"{record.stage} is at work"
    for each in conditions:
        if each.name in IN_ORDER and not each.is_up_to_date:
            goes_on = ", and unfinished work continues" if each.unfinished else ""
            return each.command, f"{each.name}/ is {each.state}{goes_on}"
    by_name = {each.name: each for each in conditions}
    if "table" not in by_name:
        return "", "all is up to date; the model has no table to publish"
    table, evaluation = by_name["table"].manifest, by_name["eval"].manifest
    assert table is not None
    assert evaluation is not None
    try:
        check_evaluated(path / "table", table, path / "eval")
    except SconeError as error:
        return "", f"publish would refuse: {error.message}"
    last = next((record for record in records if record.stage == "publish"), None)
    to = last.to if last else ""
    if last and to and _is_published(last, evaluation, by_name["eval"].made or 0):
        return "", f"all is up to date, and published to {to}{_failed(records)}"
    return (
        f"scone publish --to {shlex.quote(to) if to else 'REGISTRY/NAME'}",
        f"all is up to date, and not published{_failed(records)}",
    )


def _failed(records: Sequence[RunRecord]) -> str:
    """A word on stages whose last run failed: a night that stops at its text leaves all artifacts as they were."""
    found = [f"{each.stage} ({each.exit_code})" for each in records if each.ended is not None and each.exit_code]
    return f"; but the last run failed of {', '.join(found)}: see its log" if found else ""


def _is_published(last: RunRecord, evaluation: Manifest, made: float) -> bool:
    """Whether the current version has this evaluation; an encrypted one does not tell, so the last run to publish does."""
    name = Path(last.to)
    with contextlib.suppress(SconeError, OSError):
        current = read_version(name / VERSIONS / (current_name(name) or ""))
        if current.is_encrypted:
            return last.exit_code == 0 and (last.ended or 0) > made
        return bool(current.made_from.get("fingerprints", {}).get("eval") == evaluation.fingerprint)
    return False


def _runs(folder: Path) -> list[Facts]:
    """The last run of every stage, in the order of the stages; while one is at work, the end of the run before."""
    order = ("count-ngrams", "select-vocab", "train-fgram", "precompute", "eval", "publish", "rollback")
    found = []
    for record in read_records(folder):
        state = ENDED if record.ended is not None else AT_WORK if record.is_at_work() else ELSEWHERE
        state = KILLED if state == ELSEWHERE and not record.is_elsewhere() else state
        last: Mapping[str, Any] = record.before if record.ended is None else vars(record)
        found.append(
            {
                "stage": record.stage,
                "state": state,
                "began": date_text(record.began),
                "ended": date_text(last.get("ended")),
                "seconds": last.get("seconds"),
                "exit_code": last.get("exit_code"),
                "error": last.get("error") or None,
                "pid": record.process.get("pid"),
                "host": record.process.get("host"),
            }
        )
    place = {name: number for number, name in enumerate(order)}
    return sorted(found, key=lambda run: (place.get(run["stage"].partition(".")[0], len(order)), run["stage"]))


# ---- a registry --------------------------------------------------------------------------------------------------


def _name_facts(path: Path) -> Facts:
    """The versions of a REGISTRY/NAME, oldest first; one that cannot be read has a `problem`."""
    current, problem = None, None
    try:
        current = current_name(path)
    except SconeError as error:
        problem = error.message
    found = list[Facts]()
    for folder in (path / VERSIONS).iterdir():
        if folder.name.startswith("."):
            continue  # in the making, or being removed
        try:
            version = read_version(folder)
            problem = _damage(version)
            if problem is None or folder.is_dir():  # else pruned meanwhile
                found.append(_version_facts(version) | {"problem": problem})
        except FileNotFoundError:
            continue  # pruned meanwhile
        except SconeError as error:
            found.append({"version": folder.name, "current": folder.name == current, "problem": error.message})
    found.sort(key=lambda each: (each.get("sequence", 0), each["version"]))
    if problem is None and current not in {each["version"] for each in found}:
        problem = f"current leads to {current}, which is not there" if current else "no version is current"
    size = sum(each.get("bytes", 0) for each in found)
    return {"name": str(path), "current": current, "problem": problem, "bytes": size, "versions": found}


def _damage(version: Version) -> str | None:
    """What is wrong with the files of a version: no byte of them is read, only their sizes."""
    try:
        check_version(version, lambda *_: None, hashes=False)
    except SconeError as error:
        return error.message
    return None


def _version_facts(version: Version) -> Facts:
    return {
        "version": version.name,
        "current": version.is_current,
        "problem": None,
        "sequence": version.sequence,
        "date": version.date,
        "age_seconds": round(time.time() - (seconds_of(version.date) or 0)),
        "bytes": version.bytes,
        "encrypted": version.is_encrypted,
        "figures": dict(version.figures),
        "made_from": dict(version.made_from),
    }
