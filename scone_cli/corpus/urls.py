"""URLs of corpora: what is fetched, what may be shown, and what a file is called. Nothing is fetched here.

A URL may hold a secret: a user and a password are refused, and values of a query (`?X-Amz-Signature=...`) are never shown.
"""

from __future__ import annotations

import glob
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from scone_cli.errors import BadSetting

SCHEMES = ("s3", "gs", "hf", "https", "http")
_WEB = ("https", "http")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_VALUE = re.compile(r"=[^&;]*")
# What signs a URL, and is another each time the same file is signed: AWS, Google, CloudFront, Azure.
_SIGNATURE = re.compile(
    r"(x-amz-.*|x-goog-.*|signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|sig|se|st|sp|sv|sr|spr|sk.*)=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Url:
    """A URL that was given as a corpus, or that was found under one. Its text is what may be shown: without any secret.

    Attributes:
        full: what is fetched; it may hold secrets, so it is never printed or written.
    """

    full: str = field(repr=False)

    def __str__(self) -> str:
        return self.location

    @property
    def scheme(self) -> str:
        """The part before `://`, in lower case."""
        return self.full.partition("://")[0].lower()

    @property
    def location(self) -> str:
        """The URL for people: the names of a query stay, its values do not."""
        path, mark, query = self._parts()
        return f"{self.scheme}://{path}{mark}{_VALUE.sub('=…', query) if '=' in query else '…' * bool(query)}"

    @property
    def path(self) -> str:
        """What stands after `://`, without a query."""
        return self._parts()[0]

    @property
    def identity(self) -> str:
        """A hash of what the URL names: the same for every signature of one file."""
        path, _, query = self._parts()
        lasting = [part for part in query.split("&") if part and not _SIGNATURE.match(part)]
        return hashlib.sha256("\n".join([self.scheme, path, *lasting]).encode()).hexdigest()

    @property
    def is_web(self) -> bool:
        """Whether it is one file of a web server, which lists nothing."""
        return self.scheme in _WEB

    @property
    def is_pattern(self) -> bool:
        """Whether it has a wildcard; on the web, `?` and `[` belong to names and queries."""
        return not self.is_web and glob.has_magic(self.path)

    @property
    def fixed(self) -> Url:
        """The folder before the first component with a wildcard; the URL itself if there is none."""
        if not self.is_pattern:
            return self
        parts = self.path.split("/")
        first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        return Url(f"{self.scheme}://{'/'.join(parts[:first])}")

    @property
    def name(self) -> str:
        """The last component of the path before a wildcard: of a file its name, of a bucket alone the bucket's."""
        return self.fixed.path.rstrip("/").rpartition("/")[2]

    def _parts(self) -> tuple[str, str, str]:
        """The path, `?` if there is a query, and the query."""
        rest = self.full.partition("://")[2]
        return re.sub(r"#.*", "", rest, flags=re.DOTALL).partition("?") if self.is_web else (rest, "", "")

    def check(self) -> None:
        """Refuse a URL that cannot be a corpus; the message has no secret.

        Raises:
            BadSetting: an unknown scheme, a user or a password, no host or bucket, a wildcard or a query in the wrong place.
        """
        host = re.split(r"[/?#]", self.full.partition("://")[2], maxsplit=1)[0]
        if "@" in host:
            raise BadSetting(
                f"{self.scheme}://…@{host.rpartition('@')[2]}: a URL with a user or a password, which others could read",
                "leave them out; keys are read from where the library of the store keeps them (docs/inputs.md)",
            )
        if self.scheme not in SCHEMES:
            raise BadSetting(
                f"{self.scheme}://: not a scheme that is read, expected {', '.join(f'{each}://' for each in SCHEMES)}",
                "name a folder or a file of this machine without a scheme",
            )
        if not self.is_web and (query := re.search(r"\?[\w.-]+=", self.path)):
            raise BadSetting(
                f"{self.scheme}://{self.path[: query.start()]}?…: a query, which {self.scheme}:// does not have",
                "give a signed URL as https://",
            )
        if not host or (glob.has_magic(host) and not self.is_web):
            what = "host" if self.is_web else "name of a data set's kind" if self.scheme == "hf" else "bucket"
            raise BadSetting(f"{self}: no {what} before the first slash", "name it: wildcards stand after it")
        if self.is_web and "*" in self.path:
            raise BadSetting(
                f"{self}: a web server lists no files, so a pattern finds none", "name every file by its URL"
            )


Corpus = Path | Url


def corpus_of(text: str) -> Corpus:
    """A corpus as it is written on the command line: a URL, or a path (`Path` would join the slashes of a URL)."""
    return Url(text) if _URL.fullmatch(text) else Path(text)


def without_secrets(text: str) -> str:
    """A message of a library without the queries, users and passwords of the URLs in it."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "…@", re.sub(r"\?[^\s'\")>\]]+", "?…", text))
