"""Lists of documents, such as that of `--exclude-documents`: reads them, and tells which documents they name.

A line is the SHA-256 of a document's text (UTF-8, as it was read), or an id: a document's name, as messages and `tokens/` have
it (`law/a.jsonl:17`), with as many folders of its path before it as you like; a file, which stands for all its documents; or
the value of the field or column `id`. What is to be forgotten stands in this file, so no message repeats it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.errors import BadSetting, InputMissing, StorageFailure

if TYPE_CHECKING:
    from scone_cli.corpus.files import SourceFile

ID_FIELD = "id"  # field of JSON Lines, or column, whose value is a document's id too

EXCLUDED = "excluded_documents"  # keys of a summary
UNMATCHED = "exclusions_without_document"

# What `sha256sum FILE` prints is a line, too.
_HASH = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})(?:\s.*)?")
_HINT = "one document id, or SHA-256 of a document's text, a line; docs/inputs.md shows the forms"


@dataclass(frozen=True)
class DocumentList:
    """The distinct entries of a list, sorted, and how they are found. Only `digest` is compared, which tells what they say.

    `numbers`: an entry's place in `entries`; `paths`: the entries whose path ends in the key. Nothing of them is in its `repr`.
    """

    digest: str
    entries: Sequence[str] = field(compare=False, repr=False)
    numbers: Mapping[str, int] = field(compare=False, repr=False)
    paths: Mapping[str, tuple[int, ...]] = field(compare=False, repr=False)
    has_hashes: bool = field(compare=False)

    @classmethod
    def of(cls, entries: Iterable[str]) -> DocumentList:
        """The list of some entries; hashes are 64 small hexadecimal digits."""
        listed = sorted(set(entries))
        paths: dict[str, tuple[int, ...]] = {}
        for number, entry in enumerate(listed):
            at = entry.find("/")
            while at >= 0:
                end = entry[at + 1 :]
                paths[end] = (*paths.get(end, ()), number)
                at = entry.find("/", at + 1)
        digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
        hashes = any(_HASH.fullmatch(entry) for entry in listed)
        return cls(digest, listed, {entry: number for number, entry in enumerate(listed)}, paths, hashes)

    def naming(self, name: str, folder: str | None = None) -> set[int]:
        """The numbers of the entries that name a document or its file.

        `name`: that of `tokens/`. `folder`: the name of the corpus folder, see `folder_of`; if it is not known, an entry that
        ends in the name counts, whatever stands before it.
        """
        found = set[int]()
        for known in _names(name):
            if (number := self.numbers.get(known)) is not None:
                found.add(number)
            if folder is None:
                found.update(self.paths.get(known, ()))
            elif folder:
                below = f"{folder}/{known}"
                found.update(self.paths.get(below, ()))
                if (number := self.numbers.get(below)) is not None:
                    found.add(number)
        return found

    def folders_named(self, files: Sequence[SourceFile]) -> list[str]:
        """For each file the name of its corpus folder if an entry has it, else "": where it is, the name decides too."""
        known: dict[str, str] = {}
        for folder in map(folder_of, files):
            if folder not in known:
                has = any(f"/{folder}/" in f"/{entry}" for entry in self.entries)
                known[folder] = folder if has else ""
        return [known[folder_of(file)] for file in files]

    def saying(self, utf8: bytes, identity: Any = None) -> set[int]:
        """The numbers of the entries that are the hash of a text, or the `identity` of its record: a string or a whole number."""
        keys = [hashlib.sha256(utf8).hexdigest()] if self.has_hashes else []
        if isinstance(identity, (str, int)) and not isinstance(identity, bool):
            keys.append(str(identity))
        return {number for key in keys if (number := self.numbers.get(key)) is not None}


class Exclusion:
    """Leaves documents of a list out of a corpus; counts them, and the entries that named one."""

    def __init__(self, documents: DocumentList) -> None:
        self.documents = documents
        self.num_documents = 0
        self.matched = set[int]()
        self._folder: tuple[SourceFile | None, str] = None, ""

    @classmethod
    def of(cls, documents: DocumentList | None) -> Exclusion | None:
        """The exclusion of a list, or None if there is none."""
        return None if documents is None else cls(documents)

    @classmethod
    def of_ids(cls, documents: DocumentList | None) -> Exclusion | None:
        """The exclusion of a list from a corpus of token ids.

        Raises:
            BadSetting: the list has hashes: they are of text.
        """
        if documents is not None and documents.has_hashes:
            raise BadSetting(
                "--exclude-documents: has hashes of text, and this corpus is token ids",
                "name the documents as messages do: FILE:ROW, or FILE:TOKEN in .bin and .npy",
            )
        return cls.of(documents)

    def naming(self, file: SourceFile, name: str) -> set[int]:
        """The entries that name a document of a file; `name` is the document's."""
        if self._folder[0] is not file:
            self._folder = file, folder_of(file)
        return self.documents.naming(name, self._folder[1])

    def leave_out(self, entries: set[int]) -> bool:
        """Whether to leave a document out, which these entries name; counts it then."""
        self.num_documents += bool(entries)
        self.matched |= entries
        return bool(entries)


def read_document_list(path: Path, option: str = "--exclude-documents") -> DocumentList:
    """Read a list of documents: one a line; blank lines, and those that begin with `#`, are left out.

    `option` is named in messages, which tell the number of a line, and nothing of it.

    Raises:
        InputMissing: there is no such file.
        BadSetting: a line is not UTF-8, or ends in a comment.
        StorageFailure: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise InputMissing(f"{option}: {path}: no such file", _HINT) from None
    except OSError as error:
        raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
    return DocumentList.of(_entries(content, path, option))


def _entries(content: bytes, path: Path, option: str) -> Iterator[str]:
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            raise BadSetting(f"{option} {path}: line {number:,} is not UTF-8", _HINT) from None
        if not line or line.startswith("#"):
            continue
        if digest := _HASH.fullmatch(line):
            yield digest[1].lower()
        elif re.search(r"\s#", line):
            cause = f"line {number:,} has a '#' behind a blank: a comment stands on a line of its own"
            raise BadSetting(f"{option} {path}: {cause}", "an id with such a '#' is given as the SHA-256 of its text")
        else:
            yield line.removeprefix("./")


def folder_of(file: SourceFile) -> str:
    """The name of the folder in which the corpus names a file: `corpus` of `/data/corpus/law/a.txt`, called `law/a.txt`."""
    above = file.location.removesuffix(f"/{file.name}")
    if above == file.location:
        return "" if "/" in file.location else os.path.basename(os.getcwd())
    return os.path.basename(above if "://" in above else os.path.abspath(above))


def _names(name: str) -> Iterator[str]:
    """A document's name, and without its line, row or token: `a.parquet:3:17` is a document of the row `a.parquet:3` as well."""
    yield name
    for _ in range(2):
        name, colon, place = name.rpartition(":")
        if not colon or not place.isdecimal():
            return
        yield name


# ---- what is told ------------------------------------------------------------------------------------------------


def summary_of(documents: DocumentList | None, num_documents: int, matched: Iterable[int]) -> dict[str, Any]:
    """How many documents a list left out, and how many of its entries named none, for the summary of `tokens/`."""
    if documents is None:
        return {}
    return {EXCLUDED: num_documents, UNMATCHED: len(documents.entries) - len(set(matched))}


def unmatched(documents: DocumentList | None, matched: Iterable[int]) -> str | None:
    """A note on entries that named no document: they may have a slip, or the document is gone; None if there are none."""
    if number := summary_of(documents, 0, matched).get(UNMATCHED):
        lines, name = ("line", "names") if number == 1 else ("lines", "name")
        return f"note: of --exclude-documents, {number:,} {lines} {name} no document of this corpus (any more)"
    return None
