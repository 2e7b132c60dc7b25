"""The page of all commands, `docs/commands.md`, made from what `--help` prints."""

import click

from scone_cli.console import cli
from scone_cli.console.help_texts import LOOKING, PUBLISHING, STAGES

_WIDTH = 100
_ABOUT = """# Commands

A test keeps this page equal to `--help`; [contributing.md](contributing.md#change-documentation) says how to write it
again.

**Where results go.** All artifacts lie in one workspace: `--workspace`, else `SCONE_WORKSPACE`, else `./scone-work`.
Results go to stdout, progress to stderr. `--json` prints one JSON object. `--plan` shows what a stage would do, and
what memory and disk it would take; it writes nothing.

**Where settings come from.** From an option, a variable (`SCONE_TRAIN_FGRAM_DIM=256`; options with several values
have one per line), a [recipe](pipelines.md#recipes), or the default, in this order.

**A second call.** A stage that is up to date does nothing: it says so in one line, and shows its results again with
`--verbose`. An interrupted stage continues when the same command is given again. Kernels are compiled when they are
first needed: in about 20 seconds for counting, in 8 for matching and fetching; progress tells.
"""


def commands_page() -> str:
    """The Markdown of the page."""
    # With the settings that `scone` itself has: click keeps the first help option it makes, for every later call.
    group = click.Context(cli.scone, info_name="scone", terminal_width=_WIDTH, **cli.scone.context_settings)
    parts = [_ABOUT, _section("scone", cli.scone.get_help(group))]
    for name in [*STAGES, *LOOKING, *PUBLISHING]:
        command = cli.scone.get_command(group, name)
        context = click.Context(command, group, name, terminal_width=_WIDTH)
        parts.append(_section(f"scone {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"
