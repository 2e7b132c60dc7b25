"""How far the tasks are that write `tokens/`: each writes its progress to its place in one file, which the parent reads."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from scone_cli.artifacts.publish import write_atomically
from scone_cli.formatting import count_text
from scone_cli.progress import Progress

_TELL_SECONDS = 0.5
_COUNTS = struct.Struct("<QQ")


class Counter:
    """Writes the progress of one task to its place in a file that the parent process reads."""

    def __init__(self, path: Path, task: int) -> None:
        self._path, self._place = path, task * _COUNTS.size
        self._bytes = self._tokens = 0

    def __enter__(self) -> Self:
        self._file = os.open(self._path, os.O_WRONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def add(self, num_bytes: int, num_tokens: int) -> None:
        """Note what the task has done since the last call."""
        self._bytes += num_bytes
        self._tokens += num_tokens
        os.pwrite(self._file, _COUNTS.pack(self._bytes, self._tokens), self._place)


class Meter:
    """Reports the progress of all tasks, in bytes read from disk: every 0.5 s, and when a task has ended.

    What unfinished tasks have done is read from a file. On a shared folder that other nodes write to, it may come late.
    """

    def __init__(self, path: Path, sizes: list[int], tokens: Sequence[int | None], progress: Progress) -> None:
        self._path, self._sizes, self._progress = path, sizes, progress
        write_atomically(path, bytes(_COUNTS.size * len(sizes)))
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._finished = np.zeros((len(sizes), 2), np.uint64)
        for task, num_tokens in enumerate(tokens):
            self._note(task, num_tokens)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def finished(self, task: int, num_tokens: int) -> None:
        """Note that a task has ended, and its tokens."""
        with self._lock:
            self._note(task, num_tokens)
        self._tell()

    def _note(self, task: int, num_tokens: int | None) -> None:
        if num_tokens is not None:
            self._finished[task] = self._sizes[task], num_tokens

    def _tell(self) -> None:
        with self._lock:
            counts = np.fromfile(self._path, "<u8").reshape(-1, 2)
            num_bytes, num_tokens = np.maximum(counts, self._finished).sum(axis=0).tolist()
            self._progress("tokenising", num_bytes, sum(self._sizes), "B", f"{count_text(num_tokens)} tokens")

    def _watch(self) -> None:
        while not self._ended.wait(_TELL_SECONDS):
            self._tell()
