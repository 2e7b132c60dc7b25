"""Makes `tokens/` from the corpus paths: finds the files, detects their formats, makes the tokenizer, then runs the tasks.

There are two steps, because counting plans its memory between them: `prepare_tokens` finds out what the plan needs, and
`PreparedTokens.write` does the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts.manifest import Manifest, fingerprint
from scone_cli.artifacts.publish import (
    SCRATCH,
    discarded_if_bad,
    publish,
    staging_folder,
    up_to_date,
    write_atomically,
)
from scone_cli.artifacts.replacing import tell_replacing, what_is_replaced
from scone_cli.corpus.files import STDIN_KEPT, SourceFile, find_files, forget_stdin, move_stdin, some_paths, stdin_named
from scone_cli.corpus.formats import TEXT
from scone_cli.corpus.remarks import check_documents, remarks, shares
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
from scone_cli.errors import BadSetting, InputMissing
from scone_cli.progress import Progress, notice

if TYPE_CHECKING:
    from scone_cli.corpus.document_list import DocumentList
    from scone_cli.corpus.fetched import FileCache
    from scone_cli.corpus.held_out import HeldOut
    from scone_cli.corpus.part_writer import Then
    from scone_cli.corpus.readers import OnBad
    from scone_cli.corpus.redaction_rules import Rules
    from scone_cli.corpus.shard_stats import ShardStats
    from scone_cli.corpus.shards import Shards
    from scone_cli.corpus.token_files import TokenFile
    from scone_cli.corpus.tokenizer import Tokenizer
    from scone_cli.corpus.urls import Corpus
    from scone_cli.runtime.engine import Pool

SKIPPED = "first_skipped_documents"  # key of a summary
SHOWN = 5  # skipped documents that other reports list

_SAMPLE = "sample.json"


@dataclass(frozen=True)
class _Work:
    """The work that is left: the files, and the settings that their tasks share."""

    shards: Shards
    files: Sequence[SourceFile] | Sequence[TokenFile]
    vocab_size: int
    end_of_document: int
    num_tokens_bound: int


@dataclass(frozen=True)
class PreparedTokens:
    """What is known of `tokens/` before it is made; `write` makes it.

    Attributes:
        target: the folder where it is, or will be.
        mark: its fingerprint.
        manifest: its manifest, or None if there is work to do.
        tokenizer_sha: SHA-256 of its `tokenizer.json`; empty if the corpus is token ids and no tokenizer was given.
        vocab_size: every id is below it.
        num_tokens_bound: estimated upper bound of the tokens; exact if `tokens/` exists, or the corpus is token ids.
    """

    target: Path
    mark: str
    manifest: Manifest | None
    tokenizer_sha: str
    vocab_size: int
    num_tokens_bound: int
    _settings: dict[str, Any]
    _corpus: str
    _work: _Work | None = None
    _keeps: bool = True  # take the tokens of files that have not changed from the `tokens/` that is replaced

    @property
    def staging(self) -> tuple[Path, ...]:
        """The folder in which `tokens/` is made, if there is work to do."""
        return () if self._work is None else (self._work.shards.staging,)

    def write(self, pool: Pool, progress: Progress, then: Then | None = None, room: int | None = None) -> Manifest:
        """Make `tokens/` by tasks in `pool`, and publish it; returns its manifest, at once if it is up to date.

        `then(name, stream)` is called in the worker after each part is written and before its task is done. It gets the
        part's file name (as `iter_shards` gives it) and its documents of the train split. It may be called twice for the
        same part, is not called for tasks that an earlier run finished, and must be picklable. `room`: see `documents_within`.

        Raises:
            InputMissing: there are no documents, or none is left to train on.
            BadData, StorageFailure: see `readers.read_documents` and `token_documents.read_token_documents`.
        """
        if self.manifest is not None:
            return self.manifest
        from scone_cli.artifacts.schemas import FILES_FILE  # heavy: only when the stage runs
        from scone_cli.corpus import document_list, redact
        from scone_cli.corpus.kept import kept_files, write_files
        from scone_cli.corpus.shards import tasks_of, totals, write_shards

        assert self._work is not None
        work, staging = self._work, self._work.shards.staging
        texts = [file for file in work.files if isinstance(file, SourceFile)]
        by_hash = work.shards.held_out.is_by_hash(self._settings["held_out"])
        settings = settings_found(self._settings, by_hash, work.shards.backend, texts, work.shards.documents)
        tasks = tasks_of(work.files)
        if texts and self._keeps:
            same = (settings, STAGE_VERSION, self.tokenizer_sha)
            known, told = kept_files(self.target, texts, *same, may_rename=work.shards.documents is None)
            tasks = [
                [known.get(piece.name, piece) if isinstance(piece, SourceFile) else piece for piece in task]
                for task in tasks
            ]
            if told:
                progress("kept", 0, 0, detail=told)
        with stdin_named(staging / SCRATCH):
            made, notices = write_shards(replace(work.shards, room=room), tasks, pool, progress, then)
        for line in notices:
            notice(line)
        stats, skipped = totals(made)
        check_documents(stats, len(work.files), work.shards)
        self._warn(stats)
        if texts:
            write_files(staging / FILES_FILE, texts, work.shards.records(len(tasks)))
        summary: dict[str, Any] = {
            "files": len(work.files),
            "documents": stats.num_documents,
            "bytes": stats.num_bytes or None,  # unknown for token ids without a byte-level tokenizer
            "tokens": stats.num_tokens,
            "bytes_per_token": round(stats.num_bytes / stats.num_tokens, 3) if stats.num_bytes else None,
            "held_out_documents": stats.num_held_out_documents,
            "held_out_tokens": stats.num_held_out_tokens,
            "vocab_size": work.vocab_size,
            "end_of_document": work.end_of_document,
        }
        if (sample := staging / SCRATCH / _SAMPLE).exists():
            summary |= json.loads(sample.read_bytes())
        if stats.num_skipped:
            summary |= {"skipped_documents": stats.num_skipped, SKIPPED: skipped}
        summary |= shares(stats) | redact.summary_of(work.shards.rules, stats.redacted, stats.num_documents)
        summary |= document_list.summary_of(work.shards.documents, stats.num_excluded, stats.excluded_by)
        manifest = Manifest.new(
            "tokens",
            stage=STAGE,
            stage_version=STAGE_VERSION,
            fingerprint=self.mark,
            settings=settings,
            inputs={"corpus": self._corpus},
            tokenizer=self.tokenizer_sha,
            summary=summary,
        )
        return publish(staging, self.target, manifest)

    def _warn(self, stats: ShardStats) -> None:
        """Print warnings about problems that otherwise show up three stages later, or never."""
        assert self._work is not None
        shards, separator = self._work.shards, Separator.of(self._work.shards.document_separator)
        if separator is not None and not stats.num_separators:
            notice(separator.found_nowhere("CORPUS"))
        can_split = separator is None and any(isinstance(f, SourceFile) and f.kind == TEXT for f in self._work.files)
        for remark in remarks(stats, shards, self._settings["separator"] is not None):
            notice(remark)
        if warning := shards.held_out.warning(self._settings["held_out"], stats, can_split):
            notice(warning)


def in_short(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary of `tokens/` for reports of later stages: it lists only the first few skipped documents."""
    return {key: value[:SHOWN] if key == SKIPPED else value for key, value in summary.items()}


def prepare_tokens(
    config: TokenSettings,
    inputs: Sequence[Corpus],
    target: Path,
    progress: Progress,
    force: bool = False,
    check_size: Callable[[int], None] | None = None,
    cache: FileCache | None = None,
    begin: Callable[[Sequence[Path]], object] = lambda _: None,
    synced: bool = False,
) -> PreparedTokens:
    """Find and hash the files of `inputs`, and unless `target` is up to date, make the tokenizer.

    `check_size` gets the bytes of all files before any long work, and the estimated bytes of their text before a tokenizer is
    trained; `begin` gets some of the files, before any work. Both may raise. `synced`: see `staging_folder`.

    Raises:
        InputMissing, BadData: see `files.find_files`, `token_files.recognise` and `Tokenizer.load`.
        BadSetting: text and token ids in one corpus, no separator where one is needed, or one that is no id.
    """
    Separator.of(config.document_separator)  # an invalid pattern raises here, before any work
    if config.tokenizer is not None and not config.tokenizer.is_file():
        raise InputMissing(f"{config.tokenizer}: no such tokenizer file", "give a tokenizer.json, or none to train one")
    stdin = target.parent / STDIN_KEPT
    forget_stdin(stdin)  # left by a run that was killed while it read
    files = find_files(inputs, progress, target.parent, check_size, cache)
    rules, documents = rules_of(config), documents_of(config)
    settings, corpus = token_settings(config, rules, documents), digest_of(files, documents)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, {"corpus": corpus})
    if not force and (manifest := up_to_date(target, "tokens", mark, forget_others=True)):
        forget_stdin(stdin)
        size, bound = manifest.summary["vocab_size"], manifest.summary["tokens"]
        return PreparedTokens(target, mark, manifest, manifest.tokenizer, size, bound, settings, corpus)
    begin(some_paths(files))
    tell_replacing(progress, target, replaced_tokens(config, target, settings, corpus, force))
    staging = staging_folder(target, mark, lasting=False, synced=synced)
    files = move_stdin(files, stdin, staging / SCRATCH)
    with discarded_if_bad(staging), stdin_named(staging / SCRATCH):
        tokens = token_files(config, files)
        of_text = partial(_text, config, rules, documents, files, staging, progress, check_size)
        work = of_text() if tokens is None else _ids(config, documents, tokens, staging, progress)
    known = work.shards.tokenizer_sha, work.vocab_size, work.num_tokens_bound
    return PreparedTokens(target, mark, None, *known, settings, corpus, work, _keeps=not force)


def replaced_tokens(config: TokenSettings, target: Path, settings: Mapping[str, Any], corpus: str, force: bool) -> str:
    """How the `tokens/` in `target` differ from those that will replace them; see `what_is_replaced`."""
    return what_is_replaced(target.parent, target, "tokens", config, settings, {"corpus": corpus}, force)


def on_bad(config: TokenSettings) -> OnBad | None:
    """The handler of bad documents while looking ahead: ignore them if they are to be skipped; the tasks count them later."""
    return (lambda _: None) if config.on_bad_document == "skip" else None


def _shards(
    config: TokenSettings,
    staging: Path,
    tokenizer: Tokenizer | None,
    held_out: HeldOut,
    separator: int | None,
    largest: int,
    documents: DocumentList | None,
    rules: Rules | None = None,
) -> Shards:
    from scone_cli.corpus.shards import Shards

    sha, backend = ("", "") if tokenizer is None else (tokenizer.sha256, tokenizer.backend)
    skip_bad = config.on_bad_document == "skip"
    reading = (config.text_field, held_out, skip_bad, separator, largest, config.document_separator)
    return Shards(
        staging, sha, backend, *reading, str(config.tokenizer or staging / "tokenizer.json"), rules, documents
    )


# ---- text --------------------------------------------------------------------------------------------------------


def _text(
    config: TokenSettings,
    rules: Rules | None,
    documents: DocumentList | None,
    files: Sequence[SourceFile],
    staging: Path,
    progress: Progress,
    check_size: Callable[[int], None] | None,
) -> _Work:
    """Prepare the work for a corpus of text; trains the tokenizer if none is given."""
    from scone_cli.corpus.document_list import Exclusion
    from scone_cli.corpus.held_out import held_out_of_texts
    from scone_cli.corpus.own_tokenizer import train_on
    from scone_cli.corpus.redact import Redaction, guarded
    from scone_cli.corpus.sample import look_at
    from scone_cli.corpus.tokenizer import Tokenizer
    from scone_cli.runtime.worker_pool import give_back_memory

    for name, value in (("--separator", config.separator), ("--token-dtype", config.token_dtype)):
        if value is not None:
            raise BadSetting(
                f"{name} {value}: works only with a corpus of token ids, and this corpus is text",
                "token ids are files named .bin or .npy, or Parquet or Arrow with a column of lists (standard input: only these)",
            )
    separator, redaction = Separator.of(config.document_separator), Redaction.of(rules)
    exclusion, leave_out = Exclusion.of(documents), guarded(on_bad(config), redaction)
    look = look_at(files, config.text_field, leave_out, separator, redaction, exclusion)
    if check_size is not None:
        check_size(round(sum(file.bytes for file in files) * look.expansion))
    reading = (config.text_field, leave_out, separator, progress, exclusion)
    held_out = held_out_of_texts(files, config.held_out, *reading)
    path = staging / "tokenizer.json"
    if not path.exists():
        own = _own(config)
        if own is None:  # not `or`, because a given file may be empty
            left_out = (leave_out, separator, redaction, exclusion)
            own, facts = train_on(files, config.vocab_size, config.text_field, held_out, progress, *left_out)
            write_atomically(staging / SCRATCH / _SAMPLE, json.dumps(facts).encode())
        write_atomically(path, own)
    tokenizer = Tokenizer.load(path, source=str(config.tokenizer or path))
    note = staging / SCRATCH / "backend"  # an interrupted run may have compared other documents
    if note.is_file():
        tokenizer.keep_backend(note.read_text())
    else:
        write_atomically(note, tokenizer.choose_backend(look.texts).encode())
    bound = look.tokens_bound(tokenizer, files)
    del look
    give_back_memory()
    shards = _shards(config, staging, tokenizer, held_out, None, tokenizer.vocab_size - 1, documents, rules)
    return _Work(shards, files, tokenizer.vocab_size, tokenizer.end_of_document, bound)


def _own(config: TokenSettings) -> bytes | None:
    return None if config.tokenizer is None else config.tokenizer.read_bytes()


# ---- token ids ---------------------------------------------------------------------------------------------------


def token_files(config: TokenSettings, files: Sequence[SourceFile]) -> list[TokenFile] | None:
    """Recognise the files of token ids; returns None if all files are text, and refuses a mix of both."""
    from scone_cli.corpus.token_files import recognise

    wide = False
    if config.tokenizer is not None and any(file.name.endswith((".bin", ".npy")) for file in files):
        from scone_cli.corpus.tokenizer import Tokenizer

        wide = Tokenizer.load(config.tokenizer).vocab_size > 1 << 16
    found = [recognise(file, config.text_field, config.token_dtype, wide) for file in files]
    tokens = [file for file in found if file is not None]
    if not tokens:
        return None
    for file, kind in zip(files, found, strict=True):
        if kind is None:
            raise BadSetting(
                f"{file.location} is text and {tokens[0].source.location} holds token ids: a corpus must be one or the other",
                "name files of one kind, perhaps by a pattern",
            )
    return tokens


def _ids(
    config: TokenSettings,
    documents: DocumentList | None,
    files: Sequence[TokenFile],
    staging: Path,
    progress: Progress,
) -> _Work:
    """Prepare the work for a corpus of token ids; without a tokenizer, all files are read to find the largest id."""
    from scone_cli.corpus.document_list import Exclusion
    from scone_cli.corpus.held_out import held_out_of_tokens
    from scone_cli.corpus.token_documents import largest_id
    from scone_cli.corpus.tokenizer import Tokenizer

    if config.redact is not None:
        raise BadSetting(
            f"--redact {config.redact}: works only with a corpus of text, and this corpus is token ids",
            "redact the text, and make the token ids from it again",
        )
    exclusion = Exclusion.of_ids(documents)
    tokenizer, separator = None, config.separator
    if (content := _own(config)) is not None:
        write_atomically(staging / "tokenizer.json", content)
        tokenizer = Tokenizer.load(staging / "tokenizer.json", source=str(config.tokenizer))
        if separator is None and tokenizer.names_end_of_document:
            separator = tokenizer.end_of_document
    flat = next((file for file in files if file.is_flat), None)
    if separator is None and flat is not None:
        raise BadSetting(
            f"{flat.source.location}: token ids, and nothing says where a document ends",
            "give the id between documents (--separator 50256), or a --tokenizer that names one",
        )
    if tokenizer is not None:
        size = tokenizer.vocab_size
        end = tokenizer.end_of_document if separator is None else separator
    else:
        total, largest = len(files), separator or 0
        for number, file in enumerate(files):
            progress("looking for the largest id", number, total, "files")
            largest = max(largest, largest_id(file, separator, exclusion))
        progress("looking for the largest id", total, total, "files", f"{largest:,}")
        end = largest + 1 if separator is None else separator
        size = max(largest, end) + 1
    if separator is not None and not 0 <= separator < size:
        raise BadSetting(f"--separator {separator}: expected an id of the vocabulary, 0 to {size - 1}")
    held_out = held_out_of_tokens(files, config.held_out, separator, size - 1, on_bad(config), exclusion)
    shards = _shards(config, staging, tokenizer, held_out, separator, size - 1, documents)
    return _Work(shards, files, size, end, sum(file.num_tokens for file in files))
