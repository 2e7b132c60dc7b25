"""Run lm-evaluation-harness without output, files or processes of its own, and turn its exceptions into errors of scone."""

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
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError
from scone_cli.progress import Progress

_NO_NETWORK = {"ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "gaierror"}


def harness_version() -> str:
    """The installed version of the harness, found without importing it.

    Raises:
        BadSetting: the harness is not installed.
    """
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError as error:
        problem = "tasks need lm-evaluation-harness, which is not installed"
        raise BadSetting(problem, "run: pip install 'scone-cli[eval]'") from error


def _is_reachable() -> bool:
    """Whether the Hugging Face Hub accepts connections; behind a proxy this cannot be tested, and True is returned."""
    place = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if getproxies():
        return True
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


class _LastWords(logging.Handler):
    """Keeps the last warning of the harness, which often says more than the error that follows."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text of a warning."""
        self.text = record.getMessage()


@contextlib.contextmanager
def kept_quiet(cache: str | None, progress: Progress) -> Iterator[Progress]:
    """Keep the harness and its libraries from writing to the terminal and from starting processes, inside of `with`.

    With a `cache` folder they are offline and write files only there. Without one they use the user's own caches and may
    fetch data, unless the Hub does not answer, because they would retry for minutes. Yields a `progress` that is still seen.
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
        hub: Any = sys.modules.get("huggingface_hub.constants")
        if "HF_HUB_OFFLINE" in settings and hub:
            # A model of Hugging Face was loaded before: the library has read the variable already.
            stack.callback(setattr, hub, "HF_HUB_OFFLINE", hub.HF_HUB_OFFLINE)
            hub.HF_HUB_OFFLINE = True
        yield aloud


@contextlib.contextmanager
def one_error(what: str, ours: str) -> Iterator[None]:
    """Turn any exception of the harness into one error about the task `what`.

    An exception that passed through the file `ours` is a bug of scone, and is raised as it is.

    Raises:
        InputMissing: the harness could not fetch data.
        BadData: the harness raised anything else.
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
