"""Says in plain words what a store or its library refused, without a secret, and whether the same request may succeed later.

The libraries have no errors in common: what is looked at is the status of HTTP, if there is one, then kinds of errors and the
names of their classes, along the chain of causes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from scone_cli.corpus.urls import Url, without_secrets
from scone_cli.errors import BadData, InputMissing, SconeError, StorageFailure

_KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure (a public bucket: FSSPEC_S3_ANON=true)",
    "gs": "run: gcloud auth application-default login (a public bucket: FSSPEC_GS_TOKEN=anon)",
    "hf": "run: hf auth login; and ask for access on the page of a gated data set",
}
_WEB_KEYS = "check the URL, or sign it again; a name and a password are read from ~/.netrc"

_NO_KEYS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "DefaultCredentials", "TokenRetrieval")
_CONNECTION = (
    "Connect",
    "Timeout",
    "ServerDisconnected",
    "ResponseStreaming",
    "ClosedError",
    "Payload",
    "Protocol",
    "Incomplete",
)
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
_LASTS = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EINVAL, errno.ENOSPC, errno.EDQUOT}


def plain_error(error: BaseException, url: Url) -> SconeError:
    """The error of a store as a SconeError; its message is one line without secrets."""
    status, chain = _status(error), list(_chain(error))
    hint = _KEYS.get(url.scheme, _WEB_KEYS)
    if any(each in type(one).__name__ for one in chain for each in _NO_KEYS):
        return StorageFailure(f"{url}: no credentials were found for {url.scheme}://", hint)
    if status in (401, 403) or (status is None and any(isinstance(one, PermissionError) for one in chain)):
        return StorageFailure(f"{url}: access denied{_code(status)}", hint)
    if status in (404, 410) or (status is None and _is_missing(chain)):
        return InputMissing(
            f"{url}: no such file, folder or bucket", "check its name; some stores say so of what is not public"
        )
    if status == 412:
        return BadData(f"{url}: changed while it was being read", "run the command again")
    cause = _cause(chain)
    if is_transient(error):
        return StorageFailure(f"{url}: cannot be reached{_code(status)} ({cause})", "give the same command again later")
    return StorageFailure(f"{url}: cannot be read{_code(status)} ({cause})")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: connections, time limits, servers that are busy."""
    status, chain = _status(error), list(_chain(error))
    if status is not None and status != 206:
        return status in _MAY_PASS
    if any(each in type(one).__name__ for one in chain for each in _NO_KEYS):
        return False
    if any(_is_connection(one) for one in chain):
        return True
    return isinstance(error, OSError) and not _is_missing(chain) and error.errno not in _LASTS


def _is_connection(error: BaseException) -> bool:
    return isinstance(error, ConnectionError | TimeoutError) or any(
        name in type(error).__name__ for name in _CONNECTION
    )


def _is_missing(chain: list[BaseException]) -> bool:
    """Fsspec says of every failure on the web that there is no file: the cause decides."""
    if any(map(_is_connection, chain)):
        return False
    return any(isinstance(one, FileNotFoundError) or "NotFound" in type(one).__name__ for one in chain)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _status(error: BaseException) -> int | None:
    """The status of HTTP that the error or one of its causes has."""
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
        own = getattr(one, "status", None) or vars(one).get("code")  # aiohttp's `code` is an old name of its `status`
        for status in (told, own, getattr(response, "status_code", None)):
            if str(status).isdecimal() and 400 <= int(str(status)) < 600:
                return int(str(status))
    return None


def _code(status: int | None) -> str:
    return "" if status is None else f" (HTTP {status})"


def _cause(chain: list[BaseException]) -> str:
    """What the library says: the innermost cause that says anything."""
    said = (" ".join(without_secrets(str(one)).split()) for one in reversed(chain))
    text = next((each for each in said if each), type(chain[0]).__name__)
    return text if len(text) <= 200 else f"{text[:199]}…"
