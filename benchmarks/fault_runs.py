"""Runs commands that are killed or meet a broken disk, for `bench_faults.py`, and says what a workspace then holds. Linux only.

A run is forked from a process that has imported what the stages import: starting Python would take most of the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scone_cli.artifacts.manifest import check_files, digest_json, read_manifest
from scone_cli.artifacts.registry import current_name, is_registry_name, versions
from scone_cli.console import cli
from scone_cli.errors import SconeError

# Every run of a training or an evaluation writes other times into these files.
_TIMED = ("log.parquet", "log.jsonl", "results.parquet", "results.json", "report.html")
_TIMES = ("seconds", "tokens_per_second")
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MS_REMOUNT, _MS_RDONLY = 0x20000, 0x4000, 0x40000, 0x20, 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code (negative: by that signal), its seconds, and what it wrote to stderr."""

    code: int
    seconds: float
    said: str

    @property
    def phase(self) -> str:
        """The work that was told last."""
        told = re.findall(r"^([a-z][^:/>\n]*): ", self.said, re.MULTILINE)
        works = [
            what for what in told if what not in ("note", "warning", "error", "hint") and "will replace" not in what
        ]
        return works[-1] if works else "start"


def import_all() -> None:
    """Import what the stages import; it starts no thread, which a fork would lose."""
    for name in (
        "torch._dynamo",
        "scone_cli.console.commands",
        "scone_cli.counting.count",
        "scone_cli.serving.loaded_model",
        "scone_cli.training.loop",
        "scone_cli.evaluation.measure",
        "scone_cli.report.eval_files",
    ):
        importlib.import_module(name)


def start(args: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """Begin `scone ARGS` in a process group of its own, after `prepare()`; returns the process."""
    sys.stdout.flush()
    child = os.fork()
    with contextlib.suppress(OSError):  # both call it, so that neither is too late; the other may have ended
        os.setpgid(child, child)
    if child:
        return child
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    code = 1
    try:
        prepare()
        cli.main(args)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what the interpreter would do
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def run(
    args: list[str],
    log: Path,
    kill_after: float | None = None,
    with_workers: bool = True,
    prepare: Callable[[], None] = lambda: None,
) -> Ended:
    """Run `scone ARGS` to its end, or send it SIGKILL after some seconds, to its worker processes too or not."""
    log.unlink(missing_ok=True)
    started = time.perf_counter()
    child = start(args, log, prepare)
    if kill_after is not None:
        while time.perf_counter() < started + kill_after and not _has_ended(child):
            time.sleep(0.0005)
        (os.killpg if with_workers else os.kill)(child, signal.SIGKILL)
    return wait_for(child, log, started)


def wait_for(child: int, log: Path, started: float) -> Ended:
    """Wait for a run; returns how it ended."""
    status = os.waitpid(child, 0)[1]
    said = log.read_text(errors="replace") if log.exists() else ""
    return Ended(os.waitstatus_to_exitcode(status), time.perf_counter() - started, said)


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# ---- disks that fail ---------------------------------------------------------------------------------------------


def in_own_mounts(work: Callable[[], str]) -> str:
    """Run `work` in a process that sees mounts of its own; returns its text, or why there can be none."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if _LIBC.unshare(_CLONE_NEWNS) or mount(b"none", b"/", flags=_MS_REC | _MS_PRIVATE):
                said = f"not tried: {os.strerror(ctypes.get_errno())}"
            else:
                said = work()
        except BaseException:  # noqa: BLE001 - told by the parent
            said = traceback.format_exc()
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def mount(source: bytes, target: bytes, kind: bytes | None = None, flags: int = 0, options: bytes | None = None) -> int:
    """Mount a file system; returns 0, or -1 with errno set."""
    return int(_LIBC.mount(source, target, kind, flags, options))


def small_disk(target: Path, num_bytes: int) -> None:
    """Mount a file system in memory that holds so many bytes."""
    if mount(b"tmpfs", os.fsencode(target), b"tmpfs", options=b"size=%d" % num_bytes):
        raise OSError(ctypes.get_errno(), "tmpfs cannot be mounted")


def resize(target: Path, num_bytes: int, read_only: bool = False) -> None:
    """Change the size of a disk of `small_disk`, or whether it can be written to."""
    flags = _MS_REMOUNT | (_MS_RDONLY if read_only else 0)
    if mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, b"size=%d" % num_bytes):
        raise OSError(ctypes.get_errno(), "tmpfs cannot be mounted again")


def failing_fsync(number: int) -> Callable[[], None]:
    """What makes the fsync of this number (from 1), and all after it, fail in a process."""

    def prepare() -> None:
        left, fsync = [number], os.fsync

        def broken(descriptor: int) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(descriptor)

        os.fsync = broken

    return prepare


# ---- what is there -----------------------------------------------------------------------------------------------


def state_of(folder: Path) -> dict[str, str]:
    """What a folder with `work/` and `registry/` holds, every byte checked: a digest of each artifact, version and of `current`.

    Raises:
        SconeError: an artifact or a version is damaged, or half of one is there.
    """
    found = {}
    for path in sorted((folder / "work").iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found[path.name] = _digest(path)
    name = folder / "registry" / "name"
    if is_registry_name(name):
        for version in versions(name):
            check_files_of(version.folder)
            found[f"version {version.sequence}"] = version.content_sha256
        now = current_name(name)
        if now is None or not (name / "versions" / now / "version.json").is_file():
            raise SconeError(f"{name}: current leads to {now}")
        found["current"] = next(each.content_sha256 for each in versions(name) if each.name == now)
    return found


def check_files_of(version: Path) -> None:
    """Check every byte of a published version."""
    for part in ("table", "vocab", "eval"):
        check_files(version / part, read_manifest(version / part), hashes=True)


def left_over(folder: Path) -> list[str]:
    """Hidden files and folders, but the locks and notes of runs."""
    places = (folder / "work", folder / "registry" / "name", folder / "registry" / "name" / "versions")
    kept = {".lock", ".runs", ".make"}
    return [path.name for place in places if place.is_dir() for path in place.iterdir()
            if path.name.startswith(".") and path.name not in kept]  # fmt: skip


def _digest(folder: Path) -> str:
    """A hash of what equal runs have in common: all bytes, but for times."""
    manifest = read_manifest(folder)
    check_files(folder, manifest, hashes=True)
    facts = [manifest.fingerprint, {name: stamp.sha256 for name, stamp in manifest.files.items() if name not in _TIMED}]
    if (results := folder / "results.json").is_file():
        rows = json.loads(results.read_text())["results"]
        facts.append([{name: value for name, value in row.items() if name not in _TIMES} for row in rows])
    return digest_json(facts)[:16]


def copy(source: Path, to: Path) -> Path:
    """Replace a folder by a copy of another."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to, symlinks=True)
    return to
