"""Estimates what `tokens/` will be without writing anything but the cache of fetched files, for `scone count-ngrams --plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scone_cli.artifacts.manifest import Manifest, fingerprint
from scone_cli.artifacts.publish import published
from scone_cli.corpus.document_list import Exclusion
from scone_cli.corpus.fetched import FileCache
from scone_cli.corpus.files import STDIN, find_files, some_paths
from scone_cli.corpus.kept import kept_files
from scone_cli.corpus.prepare import on_bad, replaced_tokens, token_files
from scone_cli.corpus.redact import Redaction, guarded
from scone_cli.corpus.sample import look_at
from scone_cli.corpus.separators import Separator
from scone_cli.corpus.token_settings import (
    STAGE,
    STAGE_VERSION,
    TokenSettings,
    digest_of,
    documents_of,
    rules_of,
    settings_found,
    token_settings,
)
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.corpus.urls import Corpus
from scone_cli.errors import BadSetting, InputMissing
from scone_cli.progress import Progress


@dataclass(frozen=True)
class Ahead:
    """What is known of `tokens/` before it is made: the input files, and an upper bound of its tokens."""

    num_files: int
    num_bytes: int
    vocab_size: int
    num_tokens_bound: int
    mark: str
    manifest: Manifest | None  # None if there is work to do
    tokenizer_sha: str
    replaced: str = ""  # how the present tokens/ differs, if it will be replaced
    kept: str = ""  # of which files its tokens are kept, if the held-out rule and the tokenizer library stay
    some_files: Sequence[Path] = ()  # see `PreparedTokens.some_files`


def look_ahead(
    config: TokenSettings,
    inputs: Sequence[Corpus],
    target: Path,
    progress: Progress,
    force: bool = False,
    cache: FileCache | None = None,
) -> Ahead:
    """Find and hash the files of `inputs`, and read the beginning of some of them to estimate the number of tokens.

    Raises:
        InputMissing, BadData, BadSetting: as `prepare_tokens`; or `inputs` has standard input, which can be read only once.
    """
    if STDIN in map(str, inputs):
        raise BadSetting("--plan: standard input can be read only once", "name files, or leave --plan out")
    if config.tokenizer is not None and not config.tokenizer.is_file():
        raise InputMissing(f"{config.tokenizer}: no such tokenizer file", "give a tokenizer.json, or none to train one")
    files = find_files(inputs, progress, cache=cache)
    num_bytes = sum(file.bytes for file in files)
    rules, documents = rules_of(config), documents_of(config)
    settings, corpus = token_settings(config, rules, documents), digest_of(files, documents)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, {"corpus": corpus})
    if (manifest := published(target, "tokens", mark)) is not None:
        known = manifest.summary
        size, bound, sha = known["vocab_size"], known["tokens"], manifest.tokenizer
        return Ahead(len(files), num_bytes, size, bound, mark, manifest, sha)
    replaced = replaced_tokens(config, target, settings, corpus, force)
    tokenizer = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
    size = config.vocab_size if tokenizer is None else tokenizer.vocab_size
    kept = ""
    if (ids := token_files(config, files)) is not None:
        bound = sum(file.num_tokens for file in ids)
    else:
        if not force:
            found = settings_found(settings, True, "", files, documents)
            same = (found, STAGE_VERSION, "" if tokenizer is None else tokenizer.sha256)
            _, kept = kept_files(target, files, *same, may_rename=documents is None)
        separator, redaction = Separator.of(config.document_separator), Redaction.of(rules)
        leave_out, exclusion = guarded(on_bad(config), redaction), Exclusion.of(documents)
        look = look_at(files, config.text_field, leave_out, separator, redaction, exclusion)
        bound = look.tokens_bound(size if tokenizer is None else tokenizer, files)
    return Ahead(len(files), num_bytes, size, bound, mark, None, "", replaced, kept, some_paths(files))
