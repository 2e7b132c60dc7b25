"""The `scone` command: the click group, its options, and the exit codes of errors.

It loads no torch, polars, pyarrow or numpy: the commands are in `commands`, which is imported when one of them is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from scone_cli import __version__
from scone_cli.console import output
from scone_cli.console.help_texts import GROUP_ABOUT, GROUP_EPILOG, LOOKING, PUBLISHING, STAGES
from scone_cli.console.hints import DEFAULT_WORKSPACE, completed
from scone_cli.console.options import PlainPath, Session
from scone_cli.console.recipes import read_recipe
from scone_cli.console.run_notes import recorded
from scone_cli.errors import BadData, SconeError, StorageFailure
from scone_cli.formatting import did_you_mean, harmless
from scone_cli.private import begin_private
from scone_cli.runtime.signals import Stopped, stop_signals
from scone_cli.runtime.threads import settle_threads
from scone_cli.runtime.torchrun import speaks, speaks_here


class LazyGroup(click.Group):
    """A click group that builds a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The stages in their order, then the commands that look at artifacts, then those of the registry."""
        return [*STAGES, *LOOKING, *PUBLISHING]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build a command, which imports its modules."""
        if cmd_name not in self.list_commands(ctx):
            return None
        from scone_cli.console.commands import build_command  # heavy: not for `scone --help`

        return build_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of this name; for an unknown name an error with the most similar one."""
        names = self.list_commands(ctx)
        if args[0] not in names and (meant := did_you_mean(args[0], names)):
            raise click.UsageError(f"no such command '{args[0]}'; {meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; add the workspace and the recipe to the commands in hints of errors.

        If a signal ends it, note whether the same command would continue the work: it does for stages.
        """
        try:
            with recorded(ctx):
                return super().invoke(ctx)
        except SconeError as error:
            error.hint = error.hint and completed(error.hint, ctx.params["workspace"], ctx.params["config"])
            raise
        except Stopped as stop:
            stop.continues = ctx.invoked_subcommand in STAGES
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from static text."""
        with formatter.section("Stages, in order"):
            formatter.write_dl([(name, f"\b\n{stage.short}\n{stage.flow}") for name, stage in STAGES.items()])
        with formatter.section("Looking at artifacts"):
            formatter.write_dl(list(LOOKING.items()))
        with formatter.section("Publishing"):
            formatter.write_dl(list(PUBLISHING.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    help=GROUP_ABOUT,
    epilog=GROUP_EPILOG,
    invoke_without_command=True,
)
@click.option(
    "--workspace",
    type=PlainPath(),
    metavar="DIR",
    default=DEFAULT_WORKSPACE,
    show_default=True,
    help="Folder of all artifacts; variable SCONE_WORKSPACE.",
)
@click.option("--config", type=PlainPath(), metavar="RECIPE", help="TOML file of settings, one table per command.")
@click.option(
    "--private",
    is_flag=True,
    help="Let only you read what is made, scratch files too (0600, folders 0700), whatever the umask; variable SCONE_PRIVATE=1.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--verbose",
    is_flag=True,
    help="Show every setting and its source, the time each piece of work took, and results that were up to date.",
)
@click.version_option(__version__, message="scone %(version)s")
@click.pass_context
def scone(
    ctx: click.Context, /, workspace: Path, config: Path | None, private: bool, quiet: bool, verbose: bool
) -> None:
    """Read the recipe and keep the options that hold for every command."""
    if private:
        begin_private()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude one another")
    recipe = None
    if config:
        recipe = read_recipe(config, workspace)
        ctx.default_map = recipe.tables
    if not quiet and speaks():
        for note in recipe.notes if recipe and ctx.invoked_subcommand != "eval" else ():  # eval checks them itself
            output.say(harmless(f"note: {note}"))
        _tell_unread_variables(ctx, ctx.invoked_subcommand)
    ctx.obj = Session(workspace, recipe, quiet, verbose)


def _tell_unread_variables(ctx: click.Context, command: str) -> None:
    """Note environment variables of this command that no option reads: a misspelt name would go unnoticed."""
    prefix = f"{ctx.auto_envvar_prefix}_{command.replace('-', '_').upper()}_"
    given = [name for name in os.environ if name.startswith(prefix)]
    if not given or (found := scone.get_command(ctx, command)) is None:
        return
    read = [f"{prefix}{param.name.upper()}" for param in found.params if param.name]
    for name in sorted(set(given) - set(read)):
        meant = did_you_mean(name, read)
        output.say(harmless(f"note: no option of {command} reads the variable {name}{'; ' * bool(meant)}{meant}"))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code; an unexpected error shows its traceback."""
    output.prepare_streams()
    settle_threads()
    sys.exit(_run(args))


def _usage_hint(error: click.ClickException) -> str | None:
    if isinstance(error, click.NoSuchOption) and any(error.option_name in param.opts for param in scone.params):
        return f"it goes before the command: scone {error.option_name} ..."
    context = getattr(error, "ctx", None)
    return f"see: {context.command_path} --help" if context else None


def _run(args: Sequence[str] | None) -> int:
    try:
        with stop_signals():
            return scone.main(args, "scone", auto_envvar_prefix="SCONE", standalone_mode=False) or 0
    except click.ClickException as error:
        output.say_error(" ".join(error.format_message().split()), _usage_hint(error))
        return error.exit_code
    except click.Abort as abort:  # click makes it of EOFError or KeyboardInterrupt, which here can only be a bug
        raise (abort.__cause__ or abort) from None
    except SconeError as error:
        if not error.told:
            output.say_error(error.message, error.hint)
        return error.exit_code
    except OSError as error:  # from click's own output or a look at a path; stages report their own
        output.forget_unwritten()
        output.say_error(f"{error.filename or 'stdout'}: {error.strerror or error}")
        return StorageFailure.exit_code
    except RecursionError:  # recursion is used only to read nested input
        output.say_error("the input is nested too deeply to be read")
        return BadData.exit_code
    except Stopped as stop:
        if speaks_here():
            kept = "; finished work is kept, and the same command continues from there" if stop.continues else ""
            output.say_error(f"stopped by {stop}{kept}")
        return stop.exit_code
