"""lm-evaluation-harness as a guest: it writes no line and no file that is not wanted, and what it cannot do is one error."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError
from scone_cli.progress import Progress

_NO_NETWORK = {"ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "gaierror"}


def harness_version() -> str:
    """The version that is installed.

    Raises:
        BadSetting: none is.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError as error:
        problem = "tasks need lm-evaluation-harness, which is not installed"
        raise BadSetting(problem, "run: pip install 'scone-cli[eval]'") from error


def _is_reachable() -> bool:
    """Whether the place that data come from answers; behind a proxy that cannot be said, and is taken to be so."""
    place = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if getproxies():
        return True
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


class _LastWords(logging.Handler):
    """The last warning of the harness: it often says more than the error that follows."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()


@contextlib.contextmanager
def kept_quiet(cache: str | None, progress: Progress) -> Iterator[Progress]:
    """The harness, and the libraries it brings, write nothing and start no process.

    With a `cache` they keep to it, and to what is on this machine; else data that were fetched are where they always are,
    and none are fetched where nothing answers: they would try for minutes. What is given tells progress as before.
    """
    settings = {"DISABLE_MULTIPROC": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_HOME": cache} if cache else {}
    if cache or not _is_reachable():
        settings |= dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
    before, stderr = dict(os.environ), sys.stderr

    def aloud(what: str, done: float, total: float | None = None, unit: str = "", detail: str = "") -> None:
        with contextlib.redirect_stderr(stderr):
            progress(what, done, total, unit, detail)

    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(contextlib.redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.callback(os.environ.update, before)
        stack.callback(os.environ.clear)  # before that
        os.environ.update(settings)
        yield aloud


@contextlib.contextmanager
def one_error(what: str, ours: str) -> Iterator[None]:
    """Whatever the harness raises over a task is something about that task; what passed through our file `ours` is not.

    Raises:
        InputMissing: it wanted to fetch data, and could not.
        BadData: anything else.
    """
    log, heard = logging.getLogger("lm_eval"), _LastWords(logging.WARNING)
    log.addHandler(heard)
    try:
        yield
    except SconeError:
        raise
    except Exception as error:
        if any(frame.filename == ours for frame in traceback.extract_tb(error.__traceback__)):
            raise
        chain = list(_causes(error))
        if any(type(each).__name__ in _NO_NETWORK for each in chain):
            raise InputMissing(
                f"{what}: its data could not be fetched ({_line(error)})",
                "try where the network is there, or name a local copy (--task-data DIR), or a task file whose data lie beside it",
            ) from error
        reason = _line(chain[-1]) + (f"; it says: {_short(heard.text)}" if heard.text else "")
        raise BadData(f"{what}: lm-evaluation-harness cannot run it ({reason})", "correct the task") from error
    finally:
        log.removeHandler(heard)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_short(str(error))}"


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
