"""`scone count-ngrams`: text to token shards, and the counts of every n-gram that occurs often enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts import (
    SCRATCH,
    Manifest,
    check_files,
    digest_file,
    fingerprint,
    publish,
    staging_folder,
    up_to_date,
    write_atomically,
)
from scone_cli.errors import BadSetting, InputMissing
from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

if TYPE_CHECKING:
    from scone_cli.corpus import SourceFile

STAGE = "count-ngrams"
STAGE_VERSION = 1


@dataclass(frozen=True)
class CountNgrams:
    """Settings of `count-ngrams`."""

    vocab_size: int = setting(32768, "Size of the byte-level BPE trained on the corpus (ignored with --tokenizer).")
    tokenizer: Path | None = setting(None, "Take this tokenizer.json instead of training one.")
    text_field: str = setting("text", "JSON Lines field or Parquet column that holds the text.")
    held_out: float = setting(0.01, "Share of documents, chosen by hash, that are neither counted nor trained on.")
    max_n: int = setting(5, "Longest n-gram counted (the paper's K).")
    min_count: int = setting(5, "Leave out n-grams that occur less often than this.")
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: CountNgrams, inputs: Sequence[Path], out: Path, progress: Progress, force: bool = False) -> Report:
    """Read the corpora `inputs` and write `tokens/` and `counts/` into the workspace `out`.

    Raises:
        InputMissing, BadData: see `corpus.find_files`, `corpus.read_documents` and `Tokenizer.load`.
        BadSetting: a setting out of its range.
    """
    _check(config)
    from scone_cli.corpus import find_files  # noqa: PLC0415 - heavy: only when the stage runs

    files = find_files(inputs, progress)
    tokens, fresh = _tokens(config, files, out / "tokens", progress, force)
    settings = {"max_n": config.max_n, "min_count": config.min_count, "seed": config.seed}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, {"tokens": tokens.fingerprint, "tokenizer": tokens.tokenizer})
    target = out / "counts"
    if not (force or fresh) and (manifest := up_to_date(target, "counts", mark)):
        return Report.of(target, manifest, up_to_date=True)

    from scone_cli.counting import count_ngrams  # noqa: PLC0415

    check_files(out / "tokens", tokens, hashes=not fresh)
    staging = staging_folder(target, mark)
    kept = []
    for frequent in count_ngrams(out / "tokens", staging / SCRATCH, config.max_n, config.min_count, progress):
        num_ngrams, n = frequent.tokens.shape
        frequent.write(staging / f"n={n}.parquet")
        kept.append({"n": n, "n-grams": num_ngrams, "occurrences": int(frequent.counts.sum())})
    summary = {**tokens.summary, "counts": kept}
    manifest = Manifest.new(
        "counts",
        STAGE,
        STAGE_VERSION,
        mark,
        settings,
        {"tokens": tokens.fingerprint},
        tokens.tokenizer,
        config.seed,
        summary,
    )
    return Report.of(target, publish(staging, target, manifest), up_to_date=False)


def _check(config: CountNgrams) -> None:
    if not 2 <= config.max_n <= 8:
        raise BadSetting(f"--max-n {config.max_n}: expected 2 to 8")
    if config.min_count < 1:
        raise BadSetting(f"--min-count {config.min_count}: expected 1 or more")
    if not 0 <= config.held_out < 1:
        raise BadSetting(f"--held-out {config.held_out}: expected a share from 0 up to, but not including, 1")


def _tokens(
    config: CountNgrams, files: Sequence[SourceFile], target: Path, progress: Progress, force: bool
) -> tuple[Manifest, bool]:
    """Make `tokens/` unless it is up to date; returns its manifest and whether it was made."""
    settings: dict[str, Any] = {"text_field": config.text_field, "held_out": config.held_out}
    if config.tokenizer is None:
        settings["vocab_size"] = config.vocab_size
    elif not config.tokenizer.is_file():
        raise InputMissing(f"{config.tokenizer}: no such tokenizer file", "give a tokenizer.json, or none to train one")
    else:
        settings["tokenizer"] = digest_file(config.tokenizer)
    inputs = {file.name: file.sha256 for file in files}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, inputs)
    if not force and (manifest := up_to_date(target, "tokens", mark)):
        return manifest, False

    from scone_cli.corpus import write_token_shards  # noqa: PLC0415
    from scone_cli.tokenizer import Tokenizer  # noqa: PLC0415

    staging = staging_folder(target, mark)
    tokenizer_file = staging / "tokenizer.json"
    if not tokenizer_file.exists():
        content = config.tokenizer.read_bytes() if config.tokenizer else _train_tokenizer(config, files, progress)
        write_atomically(tokenizer_file, content)
    tokenizer = Tokenizer.load(tokenizer_file)
    stats = write_token_shards(files, tokenizer, staging, config.held_out, config.text_field, progress)
    summary = {
        "files": stats.num_files,
        "documents": stats.num_documents,
        "bytes": stats.num_bytes,
        "tokens": stats.num_tokens,
        "bytes a token": round(stats.num_bytes / max(1, stats.num_tokens), 3),
        "held-out documents": stats.num_held_out_documents,
        "held-out tokens": stats.num_held_out_tokens,
        "vocabulary size": tokenizer.vocab_size,
    }
    # Thousands of files would drown the manifest: one digest stands for them all.
    corpus = {"corpus": mark}
    manifest = Manifest.new(
        "tokens", STAGE, STAGE_VERSION, mark, settings, corpus, tokenizer.sha256, config.seed, summary
    )
    return publish(staging, target, manifest), True


def _train_tokenizer(config: CountNgrams, files: Sequence[SourceFile], progress: Progress) -> bytes:
    """Train a BPE on the documents that are not held out: what is held out must teach nothing."""
    from scone_cli.corpus import TRAIN, read_documents, split_of  # noqa: PLC0415
    from scone_cli.tokenizer import train_tokenizer  # noqa: PLC0415

    def texts() -> Any:
        done, total = 0, sum(file.bytes for file in files)
        for file in files:
            progress("reading text for the tokenizer", done, total, "B")
            for document in read_documents(file, config.text_field):
                if split_of(document.text, config.held_out) == TRAIN:
                    yield document.text
            done += file.bytes
        progress("reading text for the tokenizer", done, total, "B")
        progress("merging pairs into tokens", 0, config.vocab_size, "tokens")  # by the library, which does not say more

    trained = train_tokenizer(texts(), config.vocab_size)
    progress("merging pairs into tokens", config.vocab_size, config.vocab_size, "tokens")
    return trained
