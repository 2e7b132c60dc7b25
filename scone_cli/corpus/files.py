"""Finds the files of a corpus in folders, by patterns or on standard input; hashes and sorts them.

Files are sorted by their SHA-256, not by their name, so the same texts give the same tokens in any folder. `readers.py` and
`token_files.py` read their content.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from scone_cli.artifacts.manifest import digest_file
from scone_cli.corpus.formats import LINES, LOOKED_BYTES, PARQUET, format_of
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError, StorageFailure
from scone_cli.formatting import harmless, names_of
from scone_cli.progress import Progress, notice, silent

STDIN = "-"
STDIN_KEPT = ".stdin.partial"  # name of the file with the saved standard input, until `move_stdin` moves it

_PIECE_BYTES = LOOKED_BYTES
_HASHED_BYTES = 8 << 20  # hashed at a time; then progress is reported
_TOLD_EVERY = 256  # files between two progress reports


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus. `name` is unique in the corpus, and does not depend on where the corpus is stored.

    There may be a million of these objects, so they are small. `kind` and `compression` are those of `formats.Format`.
    `index` is the `.idx` beside a Megatron `.bin`; then the hash covers both files.
    """

    location: str
    name: str
    bytes: int
    sha256: str
    mtime_ns: int  # shows whether the file changed after it was found; it is in no fingerprint
    kind: str
    compression: str
    index: str | None = None

    @property
    def path(self) -> Path:
        """The location as a `Path`."""
        return Path(self.location)


def find_files(
    corpora: Sequence[Path],
    progress: Progress = silent,
    stdin_folder: Path | None = None,
    check_size: Callable[[int], None] | None = None,
) -> list[SourceFile]:
    """Find and hash every file of the corpora; sorted by hash and name.

    `check_size` gets the total bytes of all files before they are hashed, and may raise.

    A corpus is a file, a folder, a pattern (`'law/**/*.jsonl'`), or `-`, if `stdin_folder` is given: standard input is then
    saved there as `STDIN_KEPT`. Hidden files in folders are left out; links are followed. A file that is found more than once
    (by its folder and by its name, or through symbolic or hard links) counts once, with a notice. With several corpora,
    names begin with the name of the corpus folder.

    Raises:
        InputMissing: a path that does not exist, a broken link, a folder without files, a pattern without matches.
        BadData: a link to a folder that contains it; an index without its tokens; a format that is not supported.
        BadSetting: two files would have the same name.
        StorageFailure: a file that cannot be read.
    """
    if [str(corpus) for corpus in corpora].count(STDIN) > 1:
        raise BadSetting("'-' is given twice, and standard input can be read once")
    found = _distinct(each for corpus in corpora for each in _listing(corpus, len(corpora) > 1, stdin_folder, progress))
    indexes = _take_indexes(found)
    total = sum(_size(location) for location in found.values())
    if check_size is not None:
        check_size(total)
    done, files = 0, list[SourceFile]()
    for number, (name, location) in enumerate(found.items()):
        if number % _TOLD_EVERY == 0:
            progress("hashing files", done, total, "B")
        files.append(_hashed(name, location, indexes.get(name), partial(_tell, progress, done, total)))
        done += files[-1].bytes
    progress("hashing files", total, total, "B")
    return sorted(files, key=lambda file: (file.sha256, file.name))


def _distinct(reached: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map names to locations, each file once. If a file was reached by several names, the first in sort order is kept."""
    files, again = dict[tuple[int, int], tuple[str, str]](), set[tuple[int, int]]()
    for each in reached:
        with readable(each[1]):
            status = os.stat(each[1])  # not Path.stat: there may be a million files
        identity = status.st_dev, status.st_ino
        if identity in files:
            again.add(identity)
        files[identity] = min(each, files.get(identity, each))
    if again:
        shown = names_of(sorted(files[identity][0] for identity in again), "files")
        notice(f"reached in more than one way and counted once: {shown}")
    found: dict[str, str] = {}
    for name, location in files.values():
        if found.setdefault(name, location) != location:
            raise BadSetting(
                f"{location} and {found[name]}: two files that would both be called '{name}'",
                "give one folder that holds both, or rename one",
            )
    return found


def _size(location: str) -> int:
    with readable(location):
        return os.path.getsize(location)  # not Path: there may be a million files


def _tell(progress: Progress, before: int, total: int, done: int) -> None:
    progress("hashing files", min(before + done, total), total, "B")


def _hashed(name: str, location: str, index: str | None, tell: Callable[[int], None]) -> SourceFile:
    with readable(location), open(location, "rb", buffering=0) as file:  # not Path: a million files
        found = os.fstat(file.fileno())  # before hashing, so that any later change is noticed
        hashing, done, head = hashlib.sha256(), 0, b""
        at_once = min(_HASHED_BYTES, found.st_size + 1)  # a larger buffer would cost time to allocate
        while piece := file.read(at_once):
            hashing.update(piece)
            head = head or piece[:LOOKED_BYTES]
            done += len(piece)
            if len(piece) == _HASHED_BYTES:
                tell(done)
        digest = hashing.hexdigest()
        if index is not None:
            digest = hashlib.sha256(f"{digest} {digest_file(Path(index))}".encode()).hexdigest()
    return SourceFile(location, name, found.st_size, digest, found.st_mtime_ns, *format_of(head, location), index)


@contextlib.contextmanager
def readable(location: str) -> Iterator[None]:
    """Turn an OSError into a SconeError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputMissing(f"{error.filename or location}: was deleted while the corpus was read") from error
    except OSError as error:
        raise StorageFailure(f"{error.filename or location}: cannot be read ({error.strerror or error})") from error


def _take_indexes(found: dict[str, str]) -> dict[str, str]:
    """Remove the `.idx` files from `found`, as each belongs to a `.bin`; returns them by the name of their `.bin`."""
    for name in [name for name in found if name.endswith(".idx")]:
        tokens = found.pop(name).removesuffix(".idx") + ".bin"
        if not os.path.isfile(tokens):
            raise BadData(
                f"{tokens.removesuffix('.bin')}.idx: the index of a .bin that is not there", f"put {tokens} beside it"
            )
        found[name.removesuffix(".idx") + ".bin"] = tokens
    beside = {name: location.removesuffix(".bin") + ".idx" for name, location in found.items() if name.endswith(".bin")}
    return {name: index for name, index in beside.items() if os.path.isfile(index)}


# ---- listing -----------------------------------------------------------------------------------------------------


def _listing(corpus: Path, prefixed: bool, stdin_folder: Path | None, progress: Progress) -> Iterator[tuple[str, str]]:
    """The name and the location of each file of one corpus."""
    if stdin_folder is not None and str(corpus) == STDIN:
        path, name = _keep_stdin(sys.stdin.buffer, stdin_folder, progress)
        yield name, str(path)
    elif corpus.is_file():
        yield printable(corpus.name), str(corpus)
    elif corpus.is_dir():
        yield from _named(_walk(str(corpus)), corpus, prefixed, "a folder without files (hidden ones are not read)")
    elif glob.has_magic(str(corpus)):
        base = _fixed_part(corpus)
        yield from _named(_matching(corpus, base), base, prefixed, "no file matches this pattern", str(corpus))
    elif str(corpus) == STDIN:
        raise BadSetting(f"{STDIN}: standard input is read by count-ngrams only", "write it to a file, and name that")
    elif corpus.exists():
        raise InputMissing(f"{corpus}: neither a file nor a folder", "pipe what it gives into the command: -")
    else:
        raise InputMissing(f"{corpus}: no such file or folder", "name files or folders that hold text")


def _named(
    files: Iterable[str], base: Path, prefixed: bool, nothing: str, given: str | None = None
) -> Iterator[tuple[str, str]]:
    """Name the files by their path relative to `base`; an error if there is none."""
    prefix = f"{base.resolve().name}/" if prefixed else ""
    above = str(base).rstrip(os.sep) + os.sep
    num_files = 0
    for num_files, location in enumerate(files, 1):  # noqa: B007 - counted
        yield printable(prefix + location.removeprefix(above).replace(os.sep, "/")), location
    if not num_files:
        raise InputMissing(f"{given or base}: {nothing}", "name files or folders that hold text")


def _walk(top: str) -> Iterator[str]:
    """The files of a folder and of all folders in it."""
    for _, entries in _folders(top):
        _tell_left_out(entry.path for entry in entries if not entry.is_file())
        yield from (entry.path for entry in entries if entry.is_file())


def _tell_left_out(paths: Iterable[str]) -> None:
    """Print a notice about corpus paths that are left out: pipes, sockets and devices."""
    if found := sorted(paths):
        notice(f"left out, neither a file nor a folder: {names_of(found, 'paths')}")


def _folders(top: str) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Walk a folder and its subfolders; yields each folder with its entries that are no folders. Hidden ones are left out."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        with readable(folder), os.scandir(folder) as entries:
            found = sorted((each for each in entries if not each.name.startswith(".")), key=lambda entry: entry.name)
        for entry in found:
            if entry.is_symlink():
                _check_link(entry.path, top)
        yield folder, [entry for entry in found if not entry.is_dir()]
        waiting += (entry.path for entry in reversed(found) if entry.is_dir())


def _matching(pattern: Path, base: Path) -> Iterator[str]:
    """The files that match a pattern, and the files in folders that match it.

    The standard library's `glob` is not used: it recurses for every folder level of a `**`.
    """
    found = dict.fromkeys([str(base)])
    for part in pattern.parts[len(base.parts) :]:
        found = dict.fromkeys(path for folder in found for path in _step(folder, part, str(base)))
    folders = (
        path for path in found if os.path.isdir(path) and os.path.dirname(path) not in found
    )  # a folder inside a matching folder is walked with that one
    _tell_left_out(path for path in found if not os.path.isfile(path) and not os.path.isdir(path))
    files = itertools.chain(filter(os.path.isfile, found), *map(_walk, folders))
    yield from dict.fromkeys(files)


def _step(folder: str, part: str, base: str) -> Iterator[str]:
    """The paths in a folder that one component of a pattern matches."""
    if not os.path.isdir(folder):
        return
    if part == "**":
        yield from (each for each, _ in _folders(folder))
    elif glob.has_magic(part):
        with readable(folder):
            names = sorted(os.listdir(folder))
        for name in fnmatch.filter(names, part):
            if part.startswith(".") or not name.startswith("."):
                yield _checked(os.path.join(folder, name), base)
    elif os.path.lexists(path := os.path.join(folder, part)):
        yield _checked(path, base)


def _checked(path: str, base: str) -> str:
    if os.path.islink(path):
        _check_link(path, base)
    return path


def _fixed_part(pattern: Path) -> Path:
    """The leading folder of a pattern, before its first component with a wildcard."""
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _check_link(link: str, top: str) -> None:
    """Refuse a broken link, and a link to a folder that contains it: the walk would never end."""
    if not os.path.exists(link):
        raise InputMissing(f"{link}: a link to {os.readlink(link)}, which does not exist", "remove it or mend it")
    if not os.path.isdir(link):
        return
    target = Path(link).resolve()
    # Each folder on the path is resolved alone: behind another link, its parent on disk is not its parent on the path.
    for above in Path(link).relative_to(top).parents:
        if (top / above).resolve().is_relative_to(target):
            raise BadData(f"{link}: a link to {target}, a folder that it lies in: a loop", "remove it")


def printable(name: str) -> str:
    """A file name with non-printing characters and invalid UTF-8 bytes escaped."""
    return name if name.isprintable() else harmless(name)


# ---- standard input ----------------------------------------------------------------------------------------------


def _keep_stdin(stream: BinaryIO, folder: Path, progress: Progress) -> tuple[Path, str]:
    """Save standard input to a file, so that it can be hashed and read again; returns its path, and a name with extension."""
    folder.mkdir(parents=True, exist_ok=True)
    path, piece, done = folder / STDIN_KEPT, stream.read(_PIECE_BYTES), 0
    if not piece:
        raise InputMissing("standard input is empty", "pipe text or JSON Lines into the command")
    kind, compression = format_of(piece, "standard input")  # checked first, before waiting for the rest
    with path.open("wb") as kept:
        while piece:
            kept.write(piece)
            done += len(piece)
            progress("reading standard input", done, None, "B")
            piece = stream.read(_PIECE_BYTES)
    progress("reading standard input", done, done, "B")
    return path, "stdin" + {LINES: ".jsonl", PARQUET: ".parquet"}.get(kind, ".txt") + compression


@contextlib.contextmanager
def stdin_named(scratch: Path) -> Iterator[None]:
    """Let errors name standard input, not the file in `scratch` that `move_stdin` saved: users do not know that path."""
    try:
        yield
    except SconeError as error:
        for kept in scratch.glob("stdin.*"):
            error.message = error.message.replace(str(kept), "standard input")
        error.args = (error.message,)
        raise


def forget_stdin(kept: Path) -> None:
    """Remove the file with the saved standard input, if it exists."""
    if kept.exists():  # on a read-only file system, removing a missing file is an error too
        kept.unlink()


def move_stdin(files: Sequence[SourceFile], kept: Path, scratch: Path) -> list[SourceFile]:
    """Move the saved standard input to `scratch`, where it stays as long as the work needs it."""
    moved = []
    for file in files:
        if file.location == str(kept):
            place = scratch / file.name
            kept.replace(place)
            file = replace(file, location=str(place))  # noqa: PLW2901
        moved.append(file)
    return moved
