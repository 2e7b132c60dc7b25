"""The settings of `count-ngrams` that `tokens/` depends on, and how they are in its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts.manifest import digest_file
from scone_cli.corpus.separators import SEPARATOR_HELP
from scone_cli.settings import setting

if TYPE_CHECKING:
    from scone_cli.corpus.document_list import DocumentList
    from scone_cli.corpus.files import SourceFile
    from scone_cli.corpus.redaction_rules import Rules

STAGE = "count-ngrams"
STAGE_VERSION = 3


@dataclass(frozen=True)
class TokenSettings:
    """The settings of `count-ngrams` that `tokens/` depends on."""

    vocab_size: int = setting(32768, "Size of the byte-level BPE trained on the corpus (ignored with --tokenizer).")
    tokenizer: Path | None = setting(None, "Take this tokenizer.json instead of training one.")
    text_field: str = setting("text", "JSON Lines field or column (Parquet, Arrow) of the text, or of the token ids.")
    document_separator: str | None = setting(None, f"In plain text: {SEPARATOR_HELP}  [default: a file is a document]")
    redact: Path | None = setting(
        None,
        "Leave out of the text what the rules of this TOML file find (docs/privacy.md): it is in no token, count or row. A "
        "document ends there, and goes on behind it.",
    )
    exclude_documents: Path | None = setting(
        None,
        "Leave out the documents that this file names, one a line: an id, such as `law/a.jsonl:17` or the value of the field "
        "`id`, or the SHA-256 of the text (docs/inputs.md).",
    )
    held_out: float = setting(
        0.01,
        "Share of documents that are neither counted nor trained on, chosen by hash; a single document is cut in two.",
    )
    on_bad_document: str = setting(
        "fail",
        "What to do about a document that cannot be read: stop, or leave it out and name it (the first 100 in the "
        "manifest of tokens/). A damaged file, such as a truncated archive, is always an error.",
        choices=("fail", "skip"),
    )
    separator: int | None = setting(
        None, "In a corpus of token ids: the id between documents.  [default: the one that --tokenizer names]"
    )
    token_dtype: str | None = setting(
        None,
        "Number type in files of token ids without a header.  [default: uint16, or uint32 if --tokenizer needs it]",
        choices=("uint16", "uint32"),
    )


def rules_of(config: TokenSettings) -> Rules | None:
    """The rules of `--redact`, or None if there are none; raises what `read_rules` does."""
    from scone_cli.corpus.redaction_rules import read_rules  # noqa: PLC0415 - heavy: what the help reads does not need it

    return None if config.redact is None else read_rules(config.redact)


def documents_of(config: TokenSettings) -> DocumentList | None:
    """The list of `--exclude-documents`, or None if it names nothing; raises what `read_document_list` does."""
    from scone_cli.corpus.document_list import read_document_list  # noqa: PLC0415 - see above

    documents = None if config.exclude_documents is None else read_document_list(config.exclude_documents)
    return documents if documents is not None and documents.entries else None


def token_settings(config: TokenSettings, rules: Rules | None, documents: DocumentList | None = None) -> dict[str, Any]:
    """The settings in the fingerprint of `tokens/`; files are replaced by the SHA-256 of what they say.

    `rules` and `documents` are those that the settings name.
    """
    settings = {item.name: getattr(config, item.name) for item in dataclasses.fields(TokenSettings)}
    if config.tokenizer is not None:
        settings["tokenizer"] = digest_file(config.tokenizer)
        del settings["vocab_size"]
    settings["redact"] = None if rules is None else rules.digest
    settings["exclude_documents"] = None if documents is None else documents.digest
    return settings


def settings_found(
    settings: Mapping[str, Any],
    by_hash: bool,
    library: str,
    texts: Sequence[SourceFile],
    documents: DocumentList | None,
) -> dict[str, Any]:
    """The settings in the manifest: those of the fingerprint, and what follows from them and the corpus.

    `by_hash`: see `HeldOut.is_by_hash`. `library` tokenises, chosen by comparing documents of this corpus; "" if not known yet.
    `exclude_folders`: a hash for each folder of `texts` that `documents` names, as nothing of this list is shown; "" for others.
    """
    found = {**settings, "held_out_by_hash": by_hash}
    if library:
        found["tokenizer_library"] = library
    if texts and documents is not None:
        folders = sorted(set(documents.folders_named(texts)))
        found["exclude_folders"] = [folder and hashlib.sha256(folder.encode()).hexdigest() for folder in folders]
    return found


def digest_of(files: Sequence[SourceFile], documents: DocumentList | None = None) -> str:
    """One hash of the names and contents of all files: a list of a million files would make the manifest too large.

    Names of folders are in it where the list `documents` has them: there they decide what is left out.
    """
    digest = hashlib.sha256()
    folders = [""] * len(files) if documents is None else documents.folders_named(files)
    for file, folder in zip(files, folders, strict=True):
        facts = [file.name, file.sha256, folder] if folder else [file.name, file.sha256]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()
