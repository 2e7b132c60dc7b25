"""`scone status`: the condition of a workspace or a registry, for people, as JSON and as metrics."""

from __future__ import annotations

from pathlib import Path

import click

from scone_cli.console import help_texts, output
from scone_cli.console.hints import completed
from scone_cli.console.options import PlainPath, Session
from scone_cli.runtime.resources import storage_failures

PATH = PlainPath()


@click.command(help=help_texts.STATUS_ABOUT, short_help=help_texts.LOOKING["status"])
@click.argument("path", metavar="[WORKSPACE | REGISTRY/NAME]", type=PATH, required=False)
@click.option("--prometheus", type=PATH, metavar="FILE", help="Write the metrics into this file, and print nothing.")
@click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def status(ctx: click.Context, /, path: Path | None, prometheus: Path | None, as_json: bool) -> None:
    """Say what is there and what is to be done."""
    from scone_cli.artifacts.publish import write_atomically  # heavy: not for `scone status --help`
    from scone_cli.console.settings_now import compare_with
    from scone_cli.console.status_text import status_text
    from scone_cli.report.prometheus import metrics_text
    from scone_cli.report.status import status_of

    session: Session = ctx.obj
    path = path or session.workspace
    assert ctx.parent is not None
    with storage_failures(prometheus or path):
        facts = status_of(path, compare_with(ctx.parent, path), session.recipe.origin if session.recipe else {})
        if facts.get("next"):
            facts["next"] = _next_command(facts["next"], path, session)
        if prometheus:
            write_atomically(prometheus, metrics_text(facts).encode())
    if as_json:
        output.print_json(facts)
    elif not prometheus:
        output.print_result(status_text(facts))


def _next_command(command: str, workspace: Path, session: Session) -> str:
    """The command with its workspace and recipe; without CORPUS only where the recipe names one."""
    recipe = session.recipe
    if recipe and recipe.tables.get("count-ngrams", {}).get("corpus"):
        command = command.removesuffix(" CORPUS")
    elif recipe and command.endswith(" count-ngrams"):
        command += " CORPUS"
    return completed(f"run: {command}", workspace, recipe.path if recipe else None).removeprefix("run: ")
