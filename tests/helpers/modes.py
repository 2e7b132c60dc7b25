"""Which files and folders others than their owner may read, and a watch of them while a command runs."""

import os
import stat
import threading
from pathlib import Path
from typing import Self


def open_paths(*folders: Path) -> set[str]:
    """What others may read, of all that is there just now."""
    found = set()
    for folder in folders:
        for top, folders_there, files in os.walk(folder):
            for name in [".", *folders_there, *files]:
                path = f"{top}/{name}"
                try:
                    status = os.lstat(path)
                except FileNotFoundError:  # renamed meanwhile
                    continue
                if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o077:
                    found.add(f"{path} {stat.S_IMODE(status.st_mode):04o}")
    return found


class Watch:
    """Looks at folders again and again while a command runs: scratch files too must be private as long as they are there."""

    def __init__(self, *folders: Path) -> None:
        self._folders, self._ended = folders, threading.Event()
        self.found, self.looks = set[str](), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.found |= open_paths(*self._folders)
            self.looks += 1
