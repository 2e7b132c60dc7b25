"""Encrypting files with age (https://age-encryption.org/v1), through `pyrage`, the extra `private`.

Files are encrypted and decrypted piece by piece: a piece of 64 KiB is in memory, however large the file is. age tells if a
file was changed or cut, but not who made it: whoever knows a recipient can encrypt to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from scone_cli.artifacts.manifest import FileStamp
from scone_cli.errors import BadData, BadSetting, InputMissing, StorageFailure

SUFFIX = ".age"
_SECRET = "AGE-SECRET-KEY-1"  # noqa: S105 - what every secret key begins with


class CannotDecrypt(BadData):
    """The file is not for these identities, or was changed or cut."""


def recipients_of(keys: Sequence[str]) -> list[Any]:
    """The recipients `age1...` as pyrage has them.

    Raises:
        BadSetting: one is no recipient, or pyrage is not installed.
    """
    pyrage = _pyrage("--recipient")
    found = []
    for key in keys:
        if key.upper().startswith(_SECRET):  # it is not repeated: messages go to logs
            raise BadSetting("--recipient: a secret key", "give its public key: age-keygen -y FILE prints it")
        try:
            found.append(pyrage.x25519.Recipient.from_str(key))
        except pyrage.RecipientError as error:
            hint = "give a public key as age-keygen prints it: age1..."
            raise BadSetting(f"--recipient {key}: not a recipient of age ({error})", hint) from error
    return found


def identities_of(path: Path) -> list[Any]:
    """The secret keys in a file as `age-keygen` writes it: one a line, and comments.

    Raises:
        InputMissing: there is no such file.
        BadSetting: it has no key, or a line that is none; pyrage is not installed.
        StorageFailure: it cannot be read.
    """
    pyrage, hint = _pyrage("--identity"), "name the file that age-keygen -o FILE wrote"
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputMissing(f"--identity {path}: no such file", hint) from error
    except OSError as error:
        raise StorageFailure(f"--identity {path}: cannot be read ({error.strerror})") from error
    found = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            try:
                found.append(pyrage.x25519.Identity.from_str(line))
            except pyrage.IdentityError as error:  # the line is not repeated: it may be a mistyped key
                raise BadSetting(f"--identity {path}: line {number} is no secret key of age", hint) from error
    if not found:
        raise BadSetting(f"--identity {path}: no secret key in it", hint)
    return found


def encrypt(source: BinaryIO, target: BinaryIO, recipients: Sequence[Any]) -> tuple[FileStamp, FileStamp]:
    """Encrypt a file; returns the sizes and hashes of what was read and of what was written.

    Raises:
        OSError: the one that reading or writing raised.
    """
    read, written = _Counted(source), _Counted(target)
    _run(_pyrage("--recipient").encrypt_io, read, written, recipients)
    return read.stamp(), written.stamp()


def decrypt(source: BinaryIO, target: BinaryIO, identities: Sequence[Any]) -> FileStamp:
    """Decrypt a file; returns the size and hash of what was written.

    Raises:
        CannotDecrypt: the file is not for these identities, or was changed or cut.
        OSError: the one that reading or writing raised.
    """
    read, written = _Counted(source), _Counted(target)
    _run(_pyrage("--identity").decrypt_io, read, written, identities)
    return written.stamp()


def _run(work: Any, read: _Counted, written: _Counted, keys: Sequence[Any]) -> None:
    """Call pyrage. It hides errors of the two files, in errors of its own or altogether: these are raised."""
    pyrage = _pyrage("age")
    try:
        work(read, written, list(keys))
    except (pyrage.DecryptError, pyrage.EncryptError, OSError) as error:
        if (failed := read.failed or written.failed) is None:
            raise CannotDecrypt(str(error)) from error
        raise failed from error
    if failed := read.failed or written.failed:
        raise failed


class _Counted:
    """A file that counts and hashes what goes through it, and keeps the error that ended it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self._bytes = file, hashlib.sha256(), 0
        self.failed: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            piece = self._file.read(size)
        except BaseException as error:
            self.failed = error
            raise
        self._count(piece)
        return piece

    def write(self, piece: bytes) -> int:
        try:
            self._file.write(piece)
        except BaseException as error:
            self.failed = error
            raise
        self._count(piece)
        return len(piece)

    def flush(self) -> None:
        """Do nothing: the owner of the file flushes it."""

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._bytes += len(piece)

    def stamp(self) -> FileStamp:
        return FileStamp(self._bytes, self._hash.hexdigest())


def _pyrage(option: str) -> Any:
    try:
        import pyrage  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise BadSetting(
            f"{option}: needs pyrage, which is not installed", "run: pip install 'scone-cli[private]'"
        ) from error
    return pyrage
