"""Tasks that tests run on a Ray cluster: the nodes import this module by its name."""

import os
import signal
import time
from pathlib import Path

from scone_cli.errors import BadData


def square(number: int) -> int:
    return number * number


def beat(path: Path, seconds: float) -> int:
    """Write to a file, every tenth of a second, that this task is at work; returns the process."""
    for _ in range(round(seconds * 10)):
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.1)
    return os.getpid()


def attend(folder: Path, number: int) -> int:
    """Note that this task is at work, and wait until there is a file `go`."""
    (folder / f"at-{number}-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        die()
    return "second"


def refuse() -> None:
    raise BadData("line 7 is no text", "mend it")


def fail() -> None:
    raise ZeroDivisionError("a bug")


def process() -> tuple[int, str]:
    return os.getpid(), str(Path.cwd())
