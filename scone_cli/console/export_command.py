"""`scone export`: writes a model or a table for other programs."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import click

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.registry import table_of
from scone_cli.console import help_texts, output
from scone_cli.console.options import PlainPath, Session
from scone_cli.console.progress_bars import listening
from scone_cli.console.results import result_text
from scone_cli.errors import BadSetting
from scone_cli.formatting import harmless, seconds_text
from scone_cli.progress import Progress
from scone_cli.runtime.resources import storage_failures

PATH = PlainPath()


@click.command(help=help_texts.EXPORT_ABOUT, short_help=help_texts.LOOKING["export"])
@click.argument("out", metavar="DIR", type=PATH)
@click.option(
    "--to",
    type=click.Choice(["hf", "safetensors"]),
    required=True,
    help="`hf`: the model with its table, for transformers; `safetensors`: the table alone.",
)
@click.option("--model", type=PATH, metavar="DIR", help="The model.  [default: model in the workspace]")
@click.option(
    "--table", type=PATH, metavar="DIR", help="Its table, or a REGISTRY/NAME.  [default: table in the workspace]"
)
@click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_obj
def export(session: Session, /, out: Path, to: str, model: Path | None, table: Path | None, as_json: bool) -> None:
    """Write a model or a table for other programs."""
    if model and to == "safetensors":
        raise click.UsageError("--model is for --to hf: --to safetensors writes a table alone")
    started, table = time.monotonic(), table and table_of(table)
    with storage_failures(out), listening(session.quiet, session.verbose) as progress:
        if to == "hf":
            made = _export_hf(session.workspace, model, table, out, progress)
        else:
            from scone_cli.table.exported import export_table  # heavy: not for `scone export --help`

            made = export_table(table or session.workspace / "table", out, progress)
    seconds = round(time.monotonic() - started, 3)
    result = {**made.summary, "bytes": sum(stamp.bytes for stamp in made.files.values())}
    if as_json:
        output.print_json({"to": to, "out": str(out), "seconds": seconds, **result})
    else:
        output.print_result(result_text(harmless(f"export -> {out} (made in {seconds_text(seconds)})"), result))


def _export_hf(workspace: Path, model: Path | None, table: Path | None, out: Path, progress: Progress) -> Manifest:
    """Export a model for transformers.

    Raises:
        BadSetting: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        problem = "--to hf needs transformers, which is not installed"
        raise BadSetting(problem, "run: pip install 'scone-cli[hf]'")
    from scone_cli.stages.export_hf import export_hf

    return export_hf(workspace, model, table, out, progress)
