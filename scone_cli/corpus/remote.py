"""Lists the files of URLs and fetches them into the cache, through fsspec; only here is fsspec imported.

A file is read in pieces of 4 MB. When a piece cannot be had, it is asked for again after a pause, up to six times, each
pause twice as long. Before a file counts as fetched it must have the size and the version (ETag or the like) that the listing
told, and where it was fetched before, the same SHA-256.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

from scone_cli.corpus.fetched import FileCache
from scone_cli.corpus.formats import LOOKED_BYTES, Format, format_of
from scone_cli.corpus.store_errors import is_transient, plain_error
from scone_cli.corpus.urls import Url, without_secrets
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError, StorageFailure
from scone_cli.formatting import bytes_text
from scone_cli.progress import Progress, notice

_Result = TypeVar("_Result")

TRIES = 6
FIRST_PAUSE = 0.5  # seconds; each further pause is twice as long: 15.5 s in all

_PIECE_BYTES = 4 << 20
_THREADS = 8  # files fetched at once: a store answers each request late, and many at once
_UNSHOWN = logging.NullHandler()
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp", "http": "aiohttp"}
# What is told of a file, whichever of these is found first, is its version.
_VERSIONS = ("ETag", "etag", "generation", "blob_id", "md5Hash", "Last-Modified", "LastModified", "mtime", "created")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a store as it was listed; `sha256` is empty until the file was fetched once."""

    url: Url
    bytes: int
    version: str
    cache: FileCache
    sha256: str = ""

    @property
    def key(self) -> str:
        """The name of the file in the cache: another one for each of its versions."""
        return hashlib.sha256(f"{self.url.identity} {self.version} {self.bytes}".encode()).hexdigest()


# ---- listing -----------------------------------------------------------------------------------------------------


def listing(url: Url, cache: FileCache, progress: Progress) -> list[tuple[str, RemoteFile]]:
    """The files of a URL, each with its name relative to the URL's fixed part.

    A folder means everything in it, hidden files left out; a pattern means what it means for local paths.

    Raises:
        BadSetting: a URL that cannot be a corpus; a package is not installed; a file larger than the cache.
        InputMissing: there is nothing of that name, or no file matches.
        StorageFailure: the store cannot be reached, or refuses.
    """
    url.check()
    progress("listing", 0, 0, detail=str(url))
    store = _store(url)
    store.invalidate_cache()
    if url.is_web:
        return [(url.name, _listed(url, _retried(url, lambda: store.info(url.full)), cache))]
    top = url.fixed
    infos: Mapping[str, Mapping[str, Any]] = _retried(top, lambda: store.find(top.full.rstrip("/"), detail=True))
    above = f"{store._strip_protocol(top.full).rstrip('/')}/"  # noqa: SLF001 - fsspec's own way to the path of a URL
    if above[:-1] in infos:  # the URL of a file
        return [(url.name, _listed(top, infos[above[:-1]], cache))]
    if not infos:
        raise InputMissing(f"{top}: no such file, folder or bucket", "name a file, or a folder that holds text")
    pattern = url.path.rstrip("/").split("/")[len(top.path.rstrip("/").split("/")) :] if url.is_pattern else []
    found = []
    for path, info in sorted(infos.items()):
        name = path.removeprefix(above)
        if info["type"] == "file" and not name.endswith("/") and matches(name.split("/"), pattern):
            found.append((name, _listed(Url(f"{top.full.rstrip('/')}/{name}"), info, cache)))
    if not found:
        nothing = "no file matches this pattern" if pattern else "a folder without files (hidden ones are not read)"
        raise InputMissing(f"{url}: {nothing}", "name files or folders that hold text")
    return found


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern matches a path or a folder that it lies in; hidden parts match only parts that begin with a dot."""
    if not pattern:
        return not any(part.startswith(".") for part in parts)
    if not parts:
        return pattern == ["**"]
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (not parts[0].startswith(".") and matches(parts[1:], pattern))
    if parts[0].startswith(".") and not pattern[0].startswith("."):
        return False
    rest = matches(parts[1:], pattern[1:]) if len(parts) > 1 else len(pattern) == 1
    return rest and fnmatch.fnmatchcase(parts[0], pattern[0])


def beside(url: Url, cache: FileCache) -> RemoteFile | None:
    """The file of this URL, or None if there is none."""
    store = _store(url)
    try:
        return _listed(url, _retried(url, lambda: store.info(url.full)), cache)
    except InputMissing:
        return None


def _listed(url: Url, info: Mapping[str, Any], cache: FileCache) -> RemoteFile:
    version = _version_of(info)
    size = info.get("size")
    if version is None or size is None:
        missing = "size" if size is None else "version (ETag or Last-Modified)"
        raise BadData(
            f"{url}: its server tells no {missing}, so no change of the file would be noticed",
            "download it, and name the local file",
        )
    if size > cache.limit:
        raise BadSetting(
            f"{url}: {bytes_text(size)}, more than the cache of fetched files may hold ({bytes_text(cache.limit)})",
            f"raise --cache-size to {size} or more",
        )
    return RemoteFile(url, int(size), version, cache)


def _version_of(info: Mapping[str, Any]) -> str | None:
    return next((str(info[name]).strip('"') for name in _VERSIONS if info.get(name)), None)


# ---- fetching ----------------------------------------------------------------------------------------------------


def fetched(files: Iterable[RemoteFile], progress: Progress) -> list[tuple[RemoteFile, Format]]:
    """The files with their SHA-256 and their formats; those that no run has fetched are fetched.

    Raises:
        BadData: a file changed meanwhile; a format that is not read.
        InputMissing, StorageFailure: see `listing`.
    """
    files = list(files)
    if not files:
        return []
    known = files[0].cache.known(file.key for file in files)
    files = [replace(file, sha256=known.get(file.key, "")) for file in files]
    total, new = sum(file.bytes for file in files), sum(file.bytes for file in files if not file.sha256)
    told = f"{len(files):,} files of URLs, {bytes_text(total)}; fetched now: {bytes_text(new)}"
    progress("fetching", 0, 0, detail=told + ("" if new else " (all are known from earlier runs)"))
    if new and total > (limit := files[0].cache.limit):
        notice(f"more than --cache-size ({bytes_text(limit)}): each pass, up to four, fetches again what was dropped")
    done, counting, stop = 0, threading.Lock(), threading.Event()

    def tell(num_bytes: int) -> None:
        nonlocal done
        with counting:
            done += num_bytes
            progress("fetching files", min(done, new), new, "B")

    def one(file: RemoteFile) -> tuple[RemoteFile, Format]:
        return _known(file, lambda num_bytes: None if file.sha256 else tell(num_bytes), stop)

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            jobs = [pool.submit(one, file) for file in files]
            for job in as_completed(jobs):
                job.result()  # the first failure ends the work
        except BaseException:
            stop.set()
            _cancel_requests()
            pool.shutdown(cancel_futures=True)
            raise
    if new:
        progress("fetching files", new, new, "B")
    return [job.result() for job in jobs]


def _cancel_requests() -> None:
    """End the requests that are waited for: a server that does not answer would hold up the end of the work."""
    import fsspec.asyn  # noqa: PLC0415 - an extra

    loop = fsspec.asyn.get_loop()
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])


def _known(file: RemoteFile, tell: Callable[[int], None], stop: threading.Event) -> tuple[RemoteFile, Format]:
    cache = file.cache
    kind = cache.format(file.key)
    if not file.sha256 or kind is None:
        descriptor, file = _descriptor(file, tell, stop)
        with os.fdopen(descriptor, "rb") as content:
            kind = format_of(content.read(LOOKED_BYTES), file.url.location, file.url.path)
        cache.note_format(file.key, kind)
    return file, kind


@contextlib.contextmanager
def at_hand(file: RemoteFile) -> Iterator[str]:
    """The path at which the content of a file can be read inside of `with`; it is fetched again if the cache has dropped it.

    Raises:
        BadData: the file has changed since it was listed.
        InputMissing, StorageFailure: see `listing`.
    """
    descriptor, _ = _descriptor(file, lambda _: None, threading.Event())
    try:
        yield f"/dev/fd/{descriptor}"  # so the content stays when the cache drops the file
    finally:
        os.close(descriptor)


def _descriptor(file: RemoteFile, tell: Callable[[int], None], stop: threading.Event) -> tuple[int, RemoteFile]:
    """An open descriptor of a kept file, which is fetched if need be; and the file with its SHA-256."""
    sha256 = file.sha256

    def write(out: BinaryIO) -> str:
        nonlocal sha256
        found = _download(file, out, tell, stop)
        if sha256 not in ("", found):
            raise _changed(file.url)
        sha256 = found
        return found

    descriptor = file.cache.open(file.key, file.bytes) if sha256 else None
    if descriptor is None:
        descriptor = file.cache.fetch(file.key, file.bytes, write)
    return descriptor, replace(file, sha256=sha256 or file.cache.known([file.key])[file.key])


def _download(file: RemoteFile, out: BinaryIO, tell: Callable[[int], None], stop: threading.Event) -> str:
    """Write the content of a file to `out`, in pieces; returns its SHA-256."""
    url, digest, done, furthest = file.url, hashlib.sha256(), 0, 0
    with contextlib.closing(_Source(file)) as source:
        while done < file.bytes:
            if stop.is_set():
                raise _Stopped(f"{url}: stopped")
            start, piece = _retried(url, lambda at=done: source.piece(at), stop, source.close)  # type: ignore[misc]
            if start != done:  # a server that gives only whole files: from the beginning again
                digest, done = hashlib.sha256(), 0
                out.seek(0)
                out.truncate()
            _write(out, piece, file.cache)
            digest.update(piece)
            done += len(piece)
            tell(max(0, done - furthest))
            furthest = max(furthest, done)
    _retried(url, source.check_version, stop)
    return digest.hexdigest()


class _Source:
    """Reads a file of a store in pieces; after a failure and `close`, it is opened again."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._store = file, _store(file.url)
        self._open: Any = None
        self._is_new, self._has_parts = True, True

    def piece(self, start: int) -> tuple[int, bytes]:
        """The next piece and where it begins: at `start`, or at 0 if the server gives only whole files.

        Raises:
            BadData: the file has another version than the listing told.
        """
        if self._open is None:
            if not self._is_new:
                self.check_version()
            self._is_new = False
            # With a size of block, each read is a request; without one, the whole file is one request.
            self._open = self._store.open(
                self._file.url.full, "rb", block_size=_PIECE_BYTES if self._has_parts else 0, cache_type="none"
            )
            start = start if self._has_parts else 0
            self._open.seek(start)
        try:
            piece = bytes(self._open.read(min(_PIECE_BYTES, self._file.bytes - start)))
        except ValueError:  # fsspec's way to say that a web server gives no parts
            if not (self._has_parts and self._file.url.is_web):
                raise
            self._has_parts = False
            self.close()
            return self.piece(0)
        if not piece:
            raise _CutShort(f"{start:,} of {self._file.bytes:,} bytes came")
        return start, piece

    def close(self) -> None:
        """Give up the connection."""
        if self._open is not None:
            with contextlib.suppress(Exception):
                self._open.close()
            self._open = None

    def check_version(self) -> None:
        """Raise BadData unless the store still has the version that was listed."""
        self._store.invalidate_cache()
        info = self._store.info(self._file.url.full)
        if (_version_of(info), info.get("size")) != (self._file.version, self._file.bytes):
            raise _changed(self._file.url)


def _write(out: BinaryIO, piece: bytes, cache: FileCache) -> None:
    try:
        out.write(piece)
    except OSError as error:
        raise StorageFailure(
            f"{cache.folder}: the cache of fetched files cannot be written ({error.strerror})",
            "free some space, or give a smaller --cache-size or another --cache-dir",
        ) from error


def _changed(url: Url) -> BadData:
    return BadData(f"{url}: changed while it was being read", "run the command again")


class _CutShort(OSError):
    """The connection ended before the file did."""


class _Stopped(SconeError):
    """Another file has failed, which is told."""


# ---- stores ------------------------------------------------------------------------------------------------------


def _retried(
    url: Url,
    call: Callable[[], _Result],
    stop: threading.Event | None = None,
    forget: Callable[[], None] = lambda: None,
) -> _Result:
    """What `call` returns; failures that may pass are tried again after a pause. `forget` is called after each failure.

    Raises:
        SconeError: it failed too often, or for a reason that stays.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except SconeError:
            raise
        except Exception as error:  # noqa: BLE001 - each store has errors of its own
            forget()
            failure = plain_error(error, url)
            if attempt == TRIES or not is_transient(error):
                raise failure from None  # a library's error may hold a secret
            pause = FIRST_PAUSE * 2 ** (attempt - 1)
            notice(f"{failure.message}; trying again in {pause:g} s ({attempt} of {TRIES - 1})")
        if (stop or threading.Event()).wait(pause):
            break
    raise _Stopped(f"{url}: stopped")


def _store(url: Url) -> Any:
    """The file system of fsspec for a URL; its keys come from where its library looks for them.

    Raises:
        BadSetting: a package is not installed.
    """
    try:
        import fsspec  # noqa: PLC0415 - an extra

        store = fsspec.filesystem(url.scheme, **_options(url))
    except ImportError:
        package = _PACKAGES[url.scheme]
        raise BadSetting(
            f"{url.scheme}://: needs fsspec and {package}, which are not both installed",
            "pip install 'scone-cli[remote]'",
        ) from None
    except Exception as error:  # noqa: BLE001 - such as a profile of AWS that does not exist
        raise StorageFailure(f"{url}: the store cannot be used ({without_secrets(str(error))})") from None
    # What asyncio logs of a connection that was given up could show a URL with its secret; the error itself is told.
    logging.getLogger("asyncio").addHandler(_UNSHOWN)
    if url.scheme == "s3":
        store.retries = 1  # retried here, where it is told
    return store


def _options(url: Url) -> dict[str, Any]:
    if url.scheme == "s3":
        return {"use_listings_cache": False, "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    if url.is_web:
        from aiohttp import ClientTimeout  # noqa: PLC0415 - an extra

        wait = ClientTimeout(total=None, sock_connect=15, sock_read=30)
        return {
            "client_kwargs": {"timeout": wait, "trust_env": True},  # proxies, and keys in ~/.netrc
            "headers": {"Accept-Encoding": "identity"},  # a file's own bytes, not what the server makes of them
        }
    return {}
