"""Which version of a table is current: moving to one, going back, and the history of both.

One run at a time writes to a REGISTRY/NAME: a lock that goes with the process. `current` is moved by one rename, so it always
leads to a whole version.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from scone_cli.artifacts.publish import beside_of, fsync, workspace_lock, write_atomically
from scone_cli.artifacts.registry import (
    CURRENT,
    FORMAT,
    HISTORY,
    PUBLISHED,
    VERSIONS,
    Move,
    Version,
    current_name,
    facts_text,
    history,
    read_version,
    versions,
)
from scone_cli.artifacts.verify import check_version
from scone_cli.errors import ForeignArtifact, InputMissing
from scone_cli.progress import silent

ROLLED_BACK, LINKED = "rollback", "link"  # actions of a move; the second: somebody changed the link
_MOST_MOVES = 200  # that the history keeps


def roll_back(path: Path, name: str | None = None) -> tuple[Version, str | None]:
    """Make the version `name` current; None: the one that was current before. Returns it, and the one that was current.

    A second call goes one further back: what was rolled back counts no longer. Only sizes are checked: it takes no time.

    Raises:
        InputMissing: there is no such version, or none that was current before.
        DamagedArtifact: a file of it is missing, or has another size.
        WorkspaceLocked, ForeignArtifact: see `publish_version`.
    """
    versions(path)  # before a folder is made for the lock
    with writing(path):
        known = {version.name: version for version in versions(path)}
        was, moves = current_name(path), history(path)
        before = [each for each in _stack(moves, was) if each in known and each != was]
        if name is None and not before:
            raise InputMissing(f"{path}: no version was current before {was}", _to_name(path, known))
        name = before[-1] if name is None else name
        if name not in known:
            raise InputMissing(f"{path}: no version {name}", _to_name(path, known))
        check_version(known[name], silent, hashes=False)
        make_current(path, name, ROLLED_BACK, was, moves)
        return read_version(known[name].folder), was


def _to_name(path: Path, known: Mapping[str, Version]) -> str:
    return f"name one: scone rollback {path} VERSION; there are {', '.join(known)}"


def make_current(path: Path, name: str, action: str, was: str | None, moves: list[Move]) -> list[Move]:
    """Move `current` to a version, by one rename; returns the history with this move.

    The history is written first: if the run is killed between the two, the next one finds that the move did not happen.
    """
    moves = _settled(moves, was)
    if name == was:
        return moves
    moves = [*moves, Move(name, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", action)][-_MOST_MOVES:]
    told = {"format": FORMAT, "moves": [vars(move) for move in moves]}
    write_atomically(path / HISTORY, facts_text(told).encode())
    beside = beside_of(path / CURRENT)
    beside.symlink_to(Path(VERSIONS, name))
    beside.replace(path / CURRENT)
    fsync(path)
    return moves


def _settled(moves: list[Move], current: str | None) -> list[Move]:
    """The history, without a last move that a killed run announced only; with a move if somebody changed the link."""
    if moves and moves[-1].version != current:
        if current == (moves[-2].version if len(moves) > 1 else None):
            return moves[:-1]
        if current is not None:
            return [*moves, Move(current, moves[-1].date, LINKED)]
    return moves


def _stack(moves: list[Move], current: str | None) -> list[str]:
    """The versions that were current and were not rolled back, oldest first; the last is `current`."""
    stack = list[str]()
    for move in _settled(moves, current):
        if move.action != PUBLISHED and move.version in stack:
            del stack[len(stack) - stack[::-1].index(move.version) :]
        elif stack[-1:] != [move.version]:
            stack.append(move.version)
    return stack


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lock a REGISTRY/NAME, which is made if it is not there, and remove what a killed run left.

    Raises:
        WorkspaceLocked: another run writes there.
        ForeignArtifact: it holds something else.
        StorageFailure: it cannot be made.
    """
    ours = {CURRENT, VERSIONS, HISTORY}
    if path.is_dir() and not (path / VERSIONS).is_dir():
        others = sorted(each.name for each in path.iterdir() if each.name not in ours and not each.name.startswith("."))
        if others:
            raise ForeignArtifact(
                f"{path}: holds {others[0]}, and no version", "name a folder of its own: --to REGISTRY/NAME"
            )
    with workspace_lock(path, "registry"):
        (path / VERSIONS).mkdir(exist_ok=True)
        _remove_left(path)
        try:
            yield
        finally:
            _remove_left(path)


def _remove_left(path: Path) -> None:
    for folder in (path / VERSIONS).glob(".*"):
        shutil.rmtree(folder, ignore_errors=True)
    for link in path.glob(".*.tmp"):
        link.unlink(missing_ok=True)
