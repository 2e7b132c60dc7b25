"""Whether a tokenizer gives texts the ids that another gives, by what is in them: files that differ may say the same."""

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
            """What it encodes with."""

    AnyTokenizer: TypeAlias = str | os.PathLike[str] | tokenizers.Tokenizer | FastTokenizer

_PARTS = ("normalizer", "pre_tokenizer", "model", "added_tokens")  # all that ids depend on


def check_same_tokenizer(given: AnyTokenizer, sha256: str, copies: Sequence[Path], whose: str) -> None:
    """Refuse a tokenizer that does not give the ids of the one whose file has this SHA-256 and may lie at one of `copies`.

    Raises:
        MismatchedArtifacts: they differ, or it cannot be told.
        BadSetting: it is no tokenizer. InputMissing, StorageFailure, BadData: its file cannot be read, or is none.
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
            f"{name}: SHA-256 {sha[:12]}, {whose} was made with {sha256[:12]}, of which it has no copy to compare with",
            hint,
        )
    parts, own_parts = _parts(content, name), _parts(own, whose) | {"dropout": None}
    differing = [each for each in (*_PARTS, "dropout") if parts[each] != own_parts[each]]
    if differing:
        raise MismatchedArtifacts(
            f"{name}: not the tokenizer that {whose} was made with (SHA-256 {sha256[:12]}), other {', '.join(differing)}",
            hint,
        )


def _content(given: Any) -> tuple[bytes, str]:
    """A tokenizer as JSON, and what to call it."""
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        try:
            return path.read_bytes(), str(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise InputMissing(f"{path}: no such tokenizer file", "name a tokenizer.json") from error
        except OSError as error:
            raise StorageFailure(f"{path}: cannot be read ({error.strerror})") from error
    import tokenizers  # noqa: PLC0415 - where a path of the right hash is given, it is not needed

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
    """All that the ids of a text depend on, as the tokenizers library of this process writes it."""
    import tokenizers  # noqa: PLC0415 - see above

    try:
        raw = json.loads(tokenizers.Tokenizer.from_str(content.decode()).to_str())
    except Exception as error:  # the library raises nothing more special
        reason = " ".join(str(error).split())
        raise BadData(
            f"{name}: not a tokenizer.json ({reason})", "expected a file of the tokenizers library"
        ) from error
    raw["dropout"] = raw["model"].pop("dropout", None)
    raw["added_tokens"] = [
        {**token, "special": None} for token in raw["added_tokens"]
    ]  # text is not searched for those
    return {part: raw[part] for part in (*_PARTS, "dropout")}
