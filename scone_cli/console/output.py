"""What the user reads: results on stdout, messages on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import click

from scone_cli.errors import StorageFailure
from scone_cli.formatting import harmless

JSON_SCHEMA = (
    1  # of what `--json` prints: goes up when a name is taken away or means something else, not when one is added
)
BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended

# ---- stdout ------------------------------------------------------------------------------------------------------


def print_result(text: str) -> None:
    """Write a result and the end of its line to stdout; see `write_result`."""
    write_result(text + "\n")


def print_json(result: Mapping[str, Any]) -> None:
    """Write a result to stdout as one JSON object on one line, with the version of the names in it."""
    print_result(json.dumps({"schema_version": JSON_SCHEMA, **result}))


def write_result(text: str) -> None:
    """Write to stdout at once, so that a full disk or a reader that has gone shows here and not at exit.

    Raises:
        StorageFailure: stdout cannot be written.
        click.exceptions.Exit: the reader of the pipe has gone, which is not an error.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # the interpreter flushes once more at exit
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(BROKEN_PIPE) from error
        raise StorageFailure(f"stdout: the result could not be written ({error.strerror})") from error


# ---- stderr ------------------------------------------------------------------------------------------------------


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Write one line to stderr; a log that cannot be written does not stop the work."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say_error(message: str, hint: str | None = None) -> None:
    """Show an error in one line, and what to do about it in a second; names in them may hold anything."""
    colour = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
    say((click.style("error: ", fg="red", bold=True) if colour else "error: ") + harmless(message))
    if hint:
        say((click.style("hint: ", bold=True) if colour else "hint: ") + harmless(hint))
