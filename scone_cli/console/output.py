"""The standard streams: results go to stdout, messages to stderr."""

from __future__ import annotations

import contextlib
import io
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

# ---- the streams -------------------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Make the three standard streams safe to use, however the program was started.

    A closed stream is opened here: else the next file would get its number, and would receive the messages of libraries.
    stdin is then empty and stderr is discarded; a result for a closed stdout is an error, as for a full disk. Characters
    that a stream cannot encode are escaped, so that text of a corpus does not fail on an ASCII terminal.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)  # it gets the lowest number that is free: this one
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stream(number: int, mode: str) -> TextIO:
    return open(number, mode, encoding="utf-8", closefd=False)  # type: ignore[return-value]


# ---- stdout ------------------------------------------------------------------------------------------------------


def print_result(text: str) -> None:
    """Write a result and the end of its line to stdout; see `write_result`."""
    write_result(text + "\n")


def print_json(result: Mapping[str, Any]) -> None:
    """Write a result to stdout as one JSON object on one line, with the version of the names in it."""
    print_result(json.dumps({"schema_version": JSON_SCHEMA, **result}))


def write_result(text: str) -> None:
    """Write to stdout and flush, so that a full disk or a closed pipe is noticed here and not at exit.

    Raises:
        StorageFailure: stdout cannot be written.
        click.exceptions.Exit: the reader of the pipe has ended, which is not an error.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        forget_unwritten()
        if isinstance(error, BrokenPipeError):
            raise click.exceptions.Exit(BROKEN_PIPE) from error
        raise StorageFailure(f"stdout: the result could not be written ({error.strerror})") from error


def forget_unwritten() -> None:
    """Discard what stdout did not accept: the interpreter flushes again at exit, and would fail again."""
    with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


# ---- stderr ------------------------------------------------------------------------------------------------------


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str) -> None:
    """Write one line to stderr; a log that cannot be written does not stop the work."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def say_error(message: str, hint: str | None = None) -> None:
    """Show an error in one line and the hint in a second; control characters in names are escaped."""
    colour = is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
    say((click.style("error: ", fg="red", bold=True) if colour else "error: ") + harmless(message))
    if hint:
        say((click.style("hint: ", bold=True) if colour else "hint: ") + harmless(hint))
