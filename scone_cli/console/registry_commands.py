"""`scone publish`, `scone rollback` and `scone fetch`: the versions of a table that others read."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from scone_cli.artifacts.current_version import roll_back
from scone_cli.artifacts.fetch_version import fetch_version
from scone_cli.artifacts.manifest import read_manifest
from scone_cli.artifacts.publish import workspace_lock
from scone_cli.artifacts.publish_version import Published, check_vocabulary, publish_version
from scone_cli.artifacts.registry import Version, is_registry_name
from scone_cli.console import help_texts, output, registry_texts
from scone_cli.console.options import PlainPath, Session, SettingOption
from scone_cli.console.progress_bars import listening
from scone_cli.console.results import result_text
from scone_cli.console.run_notes import begins
from scone_cli.errors import SconeError
from scone_cli.evaluation.gate import check_evaluated
from scone_cli.formatting import harmless, seconds_text
from scone_cli.progress import Progress
from scone_cli.runtime.resources import storage_failures

PATH = PlainPath()
_JSON = click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")


# ---- publish -----------------------------------------------------------------------------------------------------


@click.command(help=registry_texts.PUBLISH_ABOUT, short_help=help_texts.PUBLISHING["publish"])
@click.option("--to", type=PATH, metavar="REGISTRY/NAME", required=True, help="Folder of the versions of this table.")
@click.option("--table", type=PATH, metavar="DIR", help="The table.  [default: table in the workspace]")
@click.option(
    "--vocab", type=PATH, metavar="DIR", help="Its vocabulary.  [default: vocab in the workspace, or beside the table]"
)
@click.option(
    "--eval", "evaluation", type=PATH, metavar="DIR", help="Its evaluation.  [default: eval in the workspace]"
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Remove all but the N versions that were current last.  [default: remove none]",
)
@click.option(
    "--recipient",
    cls=SettingOption,
    multiple=True,
    metavar="AGE_KEY",
    help="Encrypt all files to this public key of age; may be given several times.",
)
@_JSON
@click.pass_obj
def publish(
    session: Session,
    /,
    to: Path,
    table: Path | None,
    vocab: Path | None,
    evaluation: Path | None,
    keep: int | None,
    recipient: tuple[str, ...],
    as_json: bool,
) -> None:
    """Publish a table as a version."""
    started, workspace = time.monotonic(), session.workspace
    parts = {"table": table or workspace / "table", "eval": evaluation or workspace / "eval"}
    no_stage_writes = workspace_lock(workspace) if workspace.is_dir() else contextlib.nullcontext()
    with storage_failures(to), no_stage_writes, listening(session.quiet, session.verbose) as progress:
        if workspace.is_dir():
            begins(workspace, "publish", str(to.absolute()))
        found = _publish(to, parts, _vocabulary(workspace, parts["table"], vocab), keep, recipient, progress)
    for name in found.in_use:
        output.say(harmless(f"note: version {name} is kept: somebody reads it"))
    facts = {"name": str(to), **_facts(found.version), "new": found.is_new, "was": found.was}
    facts |= {"pruned": found.pruned, "in_use": found.in_use, "seconds": round(time.monotonic() - started, 3)}
    if as_json:
        output.print_json(facts)
    else:
        output.print_result(_publish_text(to, found, facts))


def _publish(
    to: Path,
    parts: dict[str, Path],
    vocab: Path,
    keep: int | None,
    recipients: tuple[str, ...],
    progress: Progress,
) -> Published:
    """Publish what has passed the gate, and can be opened.

    Raises:
        SconeError: see `check_evaluated`, `Table.open` and `publish_version`.
    """
    manifest = read_manifest(parts["table"], "table")
    figures = check_evaluated(parts["table"], manifest, parts["eval"])
    from scone_cli.table.table import Table  # heavy: not for `scone publish --help`

    Table.open(parts["table"]).close()
    return publish_version(to, {**parts, "vocab": vocab}, figures, progress, recipients, keep)


def _vocabulary(workspace: Path, table: Path, given: Path | None) -> Path:
    """The folder of the table's vocabulary: in the workspace, or beside the table if only that is the right one."""
    own, beside = given or workspace / "vocab", table.resolve().parent / "vocab"
    if given is None:
        with contextlib.suppress(SconeError):  # publishing tells what is wrong with the workspace's own
            check_vocabulary(table, read_manifest(table, "table"), beside, read_manifest(beside, "vocab"))
            return own if own.is_dir() and own.samefile(beside) else beside
    return own


def _publish_text(to: Path, found: Published, facts: dict[str, Any]) -> str:
    """What was done, and the figures, for people."""
    version = found.version
    how = f"published in {seconds_text(facts['seconds'])}" if found.is_new else "published before"
    if found.was == version.name:
        moved = "it was current already"
    else:
        moved = f"current instead of {found.was}" if found.was else "current"
    shown: dict[str, Any] = {"version": version.name, "date": version.date, "bytes": version.bytes}
    shown |= {"encrypted": True} if version.is_encrypted else version.figures
    shown |= {"pruned": ", ".join(found.pruned)} if found.pruned else {}
    return result_text(harmless(f"publish -> {to} ({how}; {moved})"), shown)


def _facts(version: Version) -> dict[str, Any]:
    return {
        "version": version.name,
        "folder": str(version.folder),
        "sequence": version.sequence,
        "date": version.date,
        "bytes": version.bytes,
        "encrypted": version.is_encrypted,
        "figures": version.figures,
        "made_from": version.made_from,
    }


# ---- rollback, fetch ---------------------------------------------------------------------------------------------


@click.command(help=registry_texts.ROLLBACK_ABOUT, short_help=help_texts.PUBLISHING["rollback"])
@click.argument("name", metavar="REGISTRY/NAME", type=PATH)
@click.argument("version", required=False)
@_JSON
def rollback(name: Path, version: str | None, as_json: bool) -> None:
    """Go back to an earlier version."""
    if is_registry_name(name):
        begins(name, "rollback")
    with storage_failures(name):
        found, was = roll_back(name, version)
    if as_json:
        output.print_json({"name": str(name), **_facts(found), "was": was})
    elif was == found.name:
        output.print_result(harmless(f"rollback {name}: {found.name} was current already, nothing to do"))
    else:
        output.print_result(
            harmless(f"rollback {name}: {found.name} (published {found.date}) is current instead of {was or 'none'}")
        )


@click.command(help=registry_texts.FETCH_ABOUT, short_help=help_texts.PUBLISHING["fetch"])
@click.argument("name", metavar="REGISTRY/NAME", type=PATH)
@click.argument("out", metavar="DIR", type=PATH)
@click.option("--identity", type=PATH, metavar="FILE", help="File with a secret key of age, for an encrypted version.")
@click.option("--version", metavar="VERSION", help="The version.  [default: the current one]")
@_JSON
@click.pass_obj
def fetch(
    session: Session, /, name: Path, out: Path, identity: Path | None, version: str | None, as_json: bool
) -> None:
    """Copy or decrypt a version into a private folder."""
    started = time.monotonic()
    with storage_failures(out), listening(session.quiet, session.verbose) as progress:
        found = fetch_version(name, out, progress, version, identity)
    seconds = round(time.monotonic() - started, 3)
    if as_json:
        output.print_json({"name": str(name), "out": str(out), **_facts(found), "seconds": seconds})
    else:
        shown = {"version": found.name, "date": found.date, "bytes": found.bytes, **found.figures}
        output.print_result(result_text(harmless(f"fetch {name} -> {out} (in {seconds_text(seconds)})"), shown))
