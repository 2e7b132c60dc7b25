"""Each stage, `publish` and `rollback` leave a record of how they ended, which `scone status` reads.

The group of commands calls `recorded` around every command; a command calls `begins` as soon as it is known where it works
and that no other run does. It imports nothing heavy: the group does so for `--help` too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from scone_cli.console.help_texts import STAGES
from scone_cli.errors import BadData, StorageFailure, WorkspaceLocked
from scone_cli.runtime.torchrun import speaks

_BEGUN = f"{__name__}.begun"  # where click's context keeps what has begun: a folder and its record


def begins(folder: Path, stage: str, to: str = "") -> None:
    """Record that the run of the current command begins in `folder`; see `run_records.begin`."""
    from scone_cli.artifacts.run_records import begin  # heavy: not for `scone --help`

    click.get_current_context().meta[_BEGUN] = (folder, begin(folder, stage, to))


@contextlib.contextmanager
def recorded(ctx: click.Context) -> Iterator[None]:
    """Record how the command of the group's context `ctx` ends, if it has begun.

    A stage that fails before, for a bad recipe or option, is recorded too: a job of every night is watched by its records.
    That another run is at work is no failure.
    """
    started, is_plan, raised = time.monotonic(), "--plan" in ctx.args, None
    try:
        yield
    except BaseException as error:
        raised = error
        raise
    finally:
        seconds, name = time.monotonic() - started, ctx.invoked_subcommand or ""
        code, kind = (0, "") if raised is None else (exit_code_of(raised), type(raised).__name__)
        if begun := ctx.meta.get(_BEGUN):
            from scone_cli.artifacts.run_records import end

            folder, record = begun
            end(folder, record, seconds, code, kind)
        elif code and not is_plan and name in {*STAGES, "publish"} and not isinstance(raised, WorkspaceLocked):
            workspace: Path = ctx.params["workspace"]
            if workspace.is_dir() and speaks():
                from scone_cli.artifacts.run_records import failed_early

                failed_early(workspace, name, seconds, code, kind)


def exit_code_of(error: BaseException) -> int:
    """The exit code of a command that ends with this error."""
    code = getattr(error, "exit_code", None)  # of our errors, of click's, and of signals
    if isinstance(code, int):
        return code
    known: dict[type[BaseException], int] = {OSError: StorageFailure.exit_code, RecursionError: BadData.exit_code}
    return next((code for kind, code in known.items() if isinstance(error, kind)), 1)
