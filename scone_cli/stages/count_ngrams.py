"""`scone count-ngrams`: text to token shards, and the counts of every n-gram that occurs often enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scone_cli.artifacts import SCRATCH, Manifest, check_files, fingerprint, publish, staging_folder, up_to_date
from scone_cli.errors import BadSetting
from scone_cli.preparing import STAGE, STAGE_VERSION, TokenSettings, prepare_tokens
from scone_cli.progress import Progress
from scone_cli.stages import Report, setting


@dataclass(frozen=True)
class CountNgrams(TokenSettings):
    """Settings of `count-ngrams`: those of the tokens, and those of the counts."""

    max_n: int = setting(5, "Longest n-gram counted (the paper's K).")
    min_count: int = setting(5, "Leave out n-grams that occur less often than this.")
    workers: int | None = setting(None, "Worker processes.  [default: one a core]", affects_result=False)
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: CountNgrams, inputs: Sequence[Path], out: Path, progress: Progress, force: bool = False) -> Report:
    """Read the corpora `inputs` and write `tokens/` and `counts/` into the workspace `out`.

    Raises:
        InputMissing, BadData: see `prepare_tokens` and `PreparedTokens.write`.
        BadSetting: a setting out of its range.
    """
    _check(config)
    from scone_cli.pool import Pool, num_cores  # noqa: PLC0415 - heavy: only when the stage runs

    prepared = prepare_tokens(config, inputs, out / "tokens", progress, force)
    with Pool(config.workers or num_cores(), ["scone_cli.shards"]) as pool:
        tokens = prepared.write(pool, progress)
    fresh = prepared.manifest is None
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
    if config.workers is not None and config.workers < 1:
        raise BadSetting(f"--workers {config.workers}: expected 1 or more")
    if not 0 <= config.held_out < 1:
        raise BadSetting(f"--held-out {config.held_out}: expected a share from 0 up to, but not including, 1")
