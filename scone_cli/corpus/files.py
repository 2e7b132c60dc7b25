"""Finds the files of a corpus in folders, by patterns, by URLs or on standard input; hashes and sorts them.

Files are sorted by their SHA-256, not by their name, so the same texts give the same tokens in any folder. `readers.py` and
`token_files.py` read their content. Files of URLs are listed and fetched by `remote.py`.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scone_cli.artifacts.manifest import digest_file
from scone_cli.corpus.fetched import CACHE_SIZE, STAMP_NS, FileCache
from scone_cli.corpus.folders import fixed_part, matching, readable, walk
from scone_cli.corpus.formats import ARROW, LINES, LOOKED_BYTES, PARQUET, format_of
from scone_cli.corpus.urls import Corpus, Url
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError
from scone_cli.formatting import harmless, names_of
from scone_cli.progress import Progress, notice, silent

if TYPE_CHECKING:
    from scone_cli.corpus.remote import RemoteFile  # at run time only where a URL is given

STDIN = "-"
STDIN_KEPT = ".stdin.partial"  # name of the file with the saved standard input, until `move_stdin` moves it

_PIECE_BYTES = LOOKED_BYTES
_HASHED_BYTES = 8 << 20  # hashed at a time; then progress is reported
_LOOKED_FOR = 100  # files of a corpus that every machine is asked for
_TOLD_EVERY = 256  # files between two progress reports


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus. `name` is unique in the corpus, and does not depend on where the corpus is stored.

    There may be a million of these objects, so they are small. `kind` and `compression` are those of `formats.Format`.
    `index` is the `.idx` beside a Megatron `.bin`; then the hash covers both files. `remote` is where a file of a URL is
    fetched from, and `remote_index` its index; then a location is for messages only: files are opened by `at_hand`.
    """

    location: str
    name: str
    bytes: int
    sha256: str
    mtime_ns: int  # shows whether the file changed after it was found; it is in no fingerprint
    kind: str
    compression: str
    index: str | None = None
    remote: RemoteFile | None = None
    remote_index: RemoteFile | None = None

    @property
    def path(self) -> Path:
        """The location as a `Path`."""
        return Path(self.location)


def some_paths(files: Sequence[SourceFile]) -> list[Path]:
    """The paths of at most `_LOOKED_FOR` files, from the whole corpus, without those of URLs."""
    local = [file for file in files if file.remote is None]
    return [file.path for file in local[:: max(1, -(-len(local) // _LOOKED_FOR))]]


def at_hand(file: SourceFile) -> contextlib.AbstractContextManager[str]:
    """The path of the content of a file inside of `with`: its location, or that of a copy of a remote file."""
    return _at_hand(file.location, file.remote)


def index_at_hand(file: SourceFile) -> contextlib.AbstractContextManager[str]:
    """The path of the index of a file, as `at_hand`."""
    assert file.index is not None
    return _at_hand(file.index, file.remote_index)


def _at_hand(location: str, remote: RemoteFile | None) -> contextlib.AbstractContextManager[str]:
    if remote is None:
        return contextlib.nullcontext(location)
    from scone_cli.corpus.remote import at_hand  # noqa: PLC0415 - only where a URL is given

    return at_hand(remote)


def find_files(
    corpora: Sequence[Corpus],
    progress: Progress = silent,
    stdin_folder: Path | None = None,
    check_size: Callable[[int], None] | None = None,
    cache: FileCache | None = None,
) -> list[SourceFile]:
    """Find and hash every file of the corpora; sorted by hash and name.

    `check_size` gets the total bytes of all files before they are hashed, and may raise.

    A corpus is a file, a folder, a pattern (`'law/**/*.jsonl'`), a URL of one, or `-`, if `stdin_folder` is given: standard
    input is then saved there as `STDIN_KEPT`. Hidden files in folders are left out; links are followed. A file that is found
    more than once (by its folder and by its name, or through symbolic or hard links) counts once, with a notice. With several
    corpora, names begin with the name of the corpus folder. Files of URLs are kept in `cache`. What `datasets.save_to_disk`
    writes beside its `.arrow` files is no text, and left out.

    Raises:
        InputMissing: a path that does not exist, a broken link, a folder without files, a pattern without matches.
        BadData: a link to a folder that contains it; an index without its tokens; a format that is not supported.
        BadSetting: two files would have the same name.
        StorageFailure: a file that cannot be read.
    """
    if [str(corpus) for corpus in corpora].count(STDIN) > 1:
        raise BadSetting("'-' is given twice, and standard input can be read once")
    remote = _Remote(cache, progress)
    found = _distinct(
        (each for corpus in corpora for each in _listing(corpus, len(corpora) > 1, stdin_folder, progress, remote)),
        remote,
    )
    _without_side_files(found)
    indexes = _take_indexes(found, remote)
    total = sum(remote.files[each].bytes if each in remote.files else _size(each) for each in found.values())
    if check_size is not None:
        check_size(total)
    files = remote.source_files(found, indexes)
    local = {name: location for name, location in found.items() if location not in remote.files}
    done, total = 0, total - sum(file.bytes for file in files)
    for number, (name, location) in enumerate(local.items()):
        if number % _TOLD_EVERY == 0:
            progress("hashing files", done, total, "B")
        files.append(_hashed(name, location, indexes.get(name), partial(_tell, progress, done, total)))
        done += files[-1].bytes
    if local:
        progress("hashing files", total, total, "B")
    return sorted(files, key=lambda file: (file.sha256, file.name))


class _Remote:
    """The files of URLs that were listed, by their locations."""

    def __init__(self, cache: FileCache | None, progress: Progress) -> None:
        self.files: dict[str, RemoteFile] = {}
        self._cache, self._progress = cache, progress

    def listing(self, url: Url, prefixed: bool) -> Iterator[tuple[str, str]]:
        """The name and the location of each file of a URL."""
        from scone_cli.corpus.remote import listing  # noqa: PLC0415 - only where a URL is given

        self._cache = self._cache or FileCache.of(None, CACHE_SIZE)
        found = listing(url, self._cache, self._progress)
        is_file = len(found) == 1 and found[0][1].url.path.rstrip("/") == url.path.rstrip("/")
        for name, file in found:
            other = self.files.setdefault(file.url.location, file)
            if other.url.identity != file.url.identity:  # they differ only in what is not shown
                raise BadSetting(
                    f"{file.url} and {other.url}: two files with one name", "name one of them, or download them"
                )
            prefix = f"{url.fixed.name}/" if prefixed and not is_file else ""
            yield printable(prefix + name), file.url.location

    def has(self, location: str) -> bool:
        """Whether there is a file at a location, of a URL or of this machine."""
        if "://" not in location:
            return os.path.isfile(location)
        if location not in self.files and self._cache is not None and not Url(location).is_web:
            from scone_cli.corpus.remote import beside  # noqa: PLC0415 - only where a URL is given

            if (file := beside(Url(location), self._cache)) is not None:
                self.files[location] = file
        return location in self.files

    def source_files(self, found: Mapping[str, str], indexes: Mapping[str, str]) -> list[SourceFile]:
        """The remote ones of the files that were found, fetched if no earlier run has fetched them."""
        wanted = {location: self.files[location] for location in found.values() if location in self.files}
        if not wanted:
            return []
        from scone_cli.corpus.remote import fetched  # noqa: PLC0415 - only where a URL is given

        wanted |= {location: self.files[location] for location in indexes.values() if location in self.files}
        known = dict(zip(wanted, fetched(wanted.values(), self._progress), strict=True))
        files = []
        for name, location in found.items():
            if location in known:
                file, kind = known[location]
                index = indexes.get(name)
                of_index = None if index is None else known[index][0]
                digest = file.sha256 if of_index is None else _both(file.sha256, of_index.sha256)
                files.append(SourceFile(location, name, file.bytes, digest, STAMP_NS, *kind, index, file, of_index))
        return files


def _distinct(reached: Iterable[tuple[str, str]], remote: _Remote) -> dict[str, str]:
    """Map names to locations, each file once. If a file was reached by several names, the first in sort order is kept."""
    files, again = dict[object, tuple[str, str]](), set[object]()
    for each in reached:
        identity: object = each[1]
        if each[1] not in remote.files:
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
            digest = _both(digest, digest_file(Path(index)))
    return SourceFile(location, name, found.st_size, digest, found.st_mtime_ns, *format_of(head, location), index)


def _both(tokens: str, index: str) -> str:
    return hashlib.sha256(f"{tokens} {index}".encode()).hexdigest()


def _take_indexes(found: dict[str, str], remote: _Remote) -> dict[str, str]:
    """Remove the `.idx` files from `found`, as each belongs to a `.bin`; returns them by the name of their `.bin`."""
    for name in [name for name in found if name.endswith(".idx")]:
        tokens = found.pop(name).removesuffix(".idx") + ".bin"
        if not remote.has(tokens):
            raise BadData(
                f"{tokens.removesuffix('.bin')}.idx: the index of a .bin that is not there", f"put {tokens} beside it"
            )
        found[name.removesuffix(".idx") + ".bin"] = tokens
    beside = {name: location.removesuffix(".bin") + ".idx" for name, location in found.items() if name.endswith(".bin")}
    return {name: index for name, index in beside.items() if remote.has(index)}


def _without_side_files(found: dict[str, str]) -> None:
    """Remove what the library `datasets` writes beside its `.arrow` files: descriptions, and results of `map` and `filter`."""
    folders = {os.path.dirname(location) for location in found.values() if location.endswith(".arrow")}
    of_library = {f"{folder}/{name}" for folder in folders for name in ("dataset_info.json", "state.json")}
    of_library |= {f"{os.path.dirname(folder)}/dataset_dict.json" for folder in folders}
    saved = {os.path.dirname(location) for location in found.values() if location in of_library}
    results = []
    for name, location in list(found.items()):
        folder, _, file = location.rpartition("/")
        if location in of_library:
            del found[name]
        elif folder in saved and file.startswith("cache-") and file.endswith(".arrow"):
            results.append(name)
            del found[name]
    if results:
        notice(f"left out, results that the library datasets keeps: {names_of(sorted(results), 'files')}")


# ---- listing -----------------------------------------------------------------------------------------------------


def _listing(
    corpus: Corpus, prefixed: bool, stdin_folder: Path | None, progress: Progress, remote: _Remote
) -> Iterator[tuple[str, str]]:
    """The name and the location of each file of one corpus."""
    if isinstance(corpus, Url):
        yield from remote.listing(corpus, prefixed)
    elif stdin_folder is not None and str(corpus) == STDIN:
        path, name = _keep_stdin(sys.stdin.buffer, stdin_folder, progress)
        yield name, str(path)
    elif corpus.is_file():
        yield printable(corpus.name), str(corpus)
    elif corpus.is_dir():
        yield from _named(walk(str(corpus)), corpus, prefixed, "a folder without files (hidden ones are not read)")
    elif glob.has_magic(str(corpus)):
        base = fixed_part(corpus)
        yield from _named(matching(corpus, base), base, prefixed, "no file matches this pattern", str(corpus))
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
    return path, "stdin" + {LINES: ".jsonl", PARQUET: ".parquet", ARROW: ".arrow"}.get(kind, ".txt") + compression


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
