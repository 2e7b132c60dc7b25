"""Checks whether two tokenizers give the same ids, by comparing their parts: different files may define the same tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from scone_cli.errors import BadData, BadSetting, InputMissing, MismatchedArtifacts, StorageFailure

if TYPE_CHECKING:
    import tokenizers

    class FastTokenizer(Protocol):
        """A fast tokenizer of transformers."""

        @property
        def backend_tokenizer(self) -> tokenizers.Tokenizer:
            """The `tokenizers.Tokenizer` that encodes."""

    AnyTokenizer: TypeAlias = str | os.PathLike[str] | tokenizers.Tokenizer | FastTokenizer

_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")  # the parts that decide the ids, besides dropout


def check_same_tokenizer(given: AnyTokenizer, sha256: str, copies: Sequence[Path], whose: str) -> None:
    """Refuse a tokenizer that gives other ids than the expected one: the one whose file has the SHA-256 `sha256`.

    A file with this SHA-256 may be at one of the paths `copies`. `whose` names its artifact in messages.

    Raises:
        MismatchedArtifacts: they differ, or there is no copy to compare with.
        BadSetting: `given` is not a tokenizer.
        InputMissing, StorageFailure, BadData: its file is missing, cannot be read, or is not a tokenizer.json.
    """
    content, name = _content(given)
    if hashlib.sha256(content).hexdigest() == sha256:
        return
    if not sha256:
        raise MismatchedArtifacts(
            f"{whose}: made from token ids without a tokenizer, so none can be compared with it", "leave tokenizer out"
        )
    own = next((found for path in copies if (found := _of_hash(path, sha256)) is not None), None)
    hint = "give the tokenizer.json that it was made with"
    if own is None:
        sha = hashlib.sha256(content).hexdigest()
        raise MismatchedArtifacts(
            f"{name}: SHA-256 {sha[:12]}, {whose} was made with {sha256[:12]}, and there is no copy of that to compare with",
            hint,
        )
    parts, own_parts = _parts(content, name), _parts(own, whose) | {"dropout": None}
    differing = [each for each in (*_PARTS, "dropout") if parts[each] != own_parts[each]]
    if differing:
        raise MismatchedArtifacts(
            f"{name}: not the tokenizer that {whose} was made with (SHA-256 {sha256[:12]}), it differs in {', '.join(differing)}",
            hint,
        )


def _content(given: Any) -> tuple[bytes, str]:
    """A tokenizer as JSON bytes, and its name for messages."""
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        try:
            return path.read_bytes(), str(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise InputMissing(f"{path}: no such tokenizer file", "name a tokenizer.json") from error
        except OSError as error:
            raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
    import tokenizers  # noqa: PLC0415 - heavy, and not needed for a path

    inner = getattr(given, "backend_tokenizer", given)
    if not isinstance(inner, tokenizers.Tokenizer):
        raise BadSetting(
            f"tokenizer {type(given).__name__}: expected the path of a tokenizer.json, a tokenizers.Tokenizer, "
            "or a fast tokenizer of transformers"
        )
    return inner.to_str().encode(), f"tokenizer {type(given).__name__}"


def _of_hash(path: Path, sha256: str) -> bytes | None:
    content = path.read_bytes() if path.is_file() else b""
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _parts(content: bytes, name: str) -> dict[str, Any]:
    """The parts of a tokenizer that the ids of a text depend on, as JSON of the installed tokenizers library."""
    import tokenizers  # noqa: PLC0415 - see above

    try:
        raw = json.loads(tokenizers.Tokenizer.from_str(content.decode()).to_str())
    except Exception as error:  # the library raises no more specific class
        reason = " ".join(str(error).split())
        raise BadData(
            f"{name}: not a tokenizer.json ({reason})", "expected a file of the tokenizers library"
        ) from error
    raw["dropout"] = raw["model"].pop("dropout", None)
    raw["added_tokens"] = [
        {**token, "special": None} for token in raw["added_tokens"]
    ]  # `special` does not change ids: special tokens are not recognised in text
    return {part: raw[part] for part in (*_PARTS, "dropout")}
