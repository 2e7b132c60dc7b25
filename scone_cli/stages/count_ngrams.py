"""`scone count-ngrams`: text to token shards, and the counts of every n-gram that occurs often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import Manifest, check_files, fingerprint
from scone_cli.artifacts.publish import (
    SCRATCH,
    discarded_if_bad,
    place_of,
    publish,
    published,
    staging_folder,
    unfinished_bytes,
    up_to_date,
)
from scone_cli.artifacts.replacing import tell_replacing, what_is_replaced
from scone_cli.corpus.prepare import STAGE, STAGE_VERSION, TokenSettings, in_short, prepare_tokens
from scone_cli.errors import BadSetting
from scone_cli.progress import Progress
from scone_cli.settings import Quantity, parse_bytes, setting
from scone_cli.stages import Report

_LEAST_MEMORY = "512MiB"
_MOST_IDS = 1 << 24  # of a vocabulary: some 60 times the largest in use, and --memory is not to blame beyond
_MOST_BYTES = 5  # of a file on disk that are one token, however it is written


@dataclass(frozen=True)
class CountNgrams(TokenSettings):
    """Settings of `count-ngrams`: those of the tokens, and those of the counts."""

    max_n: int = setting(5, "Longest n-gram counted (the paper's K).")
    min_count: int = setting(5, "Leave out n-grams that occur less often than this.")
    min_docs: int = setting(1, "Leave out n-grams that occur in fewer documents than this: a floor for privacy.")
    exclude_tokens: str | None = setting(
        None, "Token ids that no n-gram may hold, such as 0,13,50256.  [default: none]"
    )
    memory: Quantity | None = setting(
        None,
        "Most memory of all processes together, such as 2GiB; 512MiB or more.  [default: half of what is free]",
        affects_result=False,
    )
    workers: int | None = setting(None, "Worker processes.  [default: one a core]", affects_result=False)


def run(config: CountNgrams, inputs: Sequence[Path], out: Path, progress: Progress, force: bool = False) -> Report:
    """Read the corpora `inputs` and write `tokens/` and `counts/` into the workspace `out`.

    Raises:
        InputMissing, BadData: see `prepare_tokens` and `PreparedTokens.write`.
        BadSetting: a setting out of its range, or too little memory.
        StorageFailure: too little disk.
    """
    excluded = _check(config)
    from scone_cli.counting.count import KERNELS, CountingJob, count_ngrams  # heavy: only when the stage runs
    from scone_cli.counting.plan import CountingPlan, make_plan
    from scone_cli.runtime.resources import check_disk, num_cores
    from scone_cli.runtime.worker_pool import Pool

    memory = _memory(config)
    workers = config.workers or num_cores()
    target, limits = out / "counts", (config.max_n, config.min_count)

    def check_room(plan: CountingPlan, num_tokens: int, with_tokens: bool) -> None:
        """On every disk that is written to: `tokens/` and `counts/` may be links to several."""
        needed, places = Counter[int](), dict[int, Path]()
        for_counts = plan.disk(num_tokens, with_tokens=False)
        for_tokens = plan.disk(num_tokens, with_tokens) - for_counts
        for part, size in ((out / "tokens", for_tokens), (target, for_counts)):
            place = place_of(part).parent
            disk = place.stat().st_dev
            places.setdefault(disk, place)
            needed[disk] += size - unfinished_bytes(part)
        for disk, place in places.items():
            check_disk(place, needed[disk])

    def check_size(num_bytes: int) -> None:
        """Refuse at once what cannot be done; what is just too much is found when the tokens can be estimated."""
        least = make_plan(num_bytes // _MOST_BYTES, config.vocab_size, *limits, memory, workers, True)
        if not target.exists():  # what is there may be up to date, and need nothing
            check_room(least, num_bytes // _MOST_BYTES, with_tokens=True)

    prepared = prepare_tokens(config, inputs, out / "tokens", progress, force, check_size)
    fresh = prepared.manifest is None
    settings = _count_settings(config, excluded, prepared.vocab_size)
    made_from = {"tokens": prepared.mark}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from | {"tokenizer": prepared.tokenizer_sha})
    if not (force or fresh) and (manifest := up_to_date(target, "counts", mark)):
        return Report.of(target, manifest, up_to_date=True)
    sources = {} if fresh else made_from  # that the tokens are others has been told
    tell_replacing(progress, target, what_is_replaced(out, target, "counts", config, settings, sources, force))
    found = make_plan(prepared.num_tokens_bound, prepared.vocab_size, *limits, memory, workers, fresh)
    staging = staging_folder(target, mark, lasting=False)
    disk = found.disk(prepared.num_tokens_bound, with_tokens=fresh)
    progress("plan", 0, 0, detail=found.described(prepared.num_tokens_bound, disk))
    check_room(found, prepared.num_tokens_bound, with_tokens=fresh)
    kernels = [*KERNELS, *(["scone_cli.corpus.shards"] if fresh else [])]
    # What is bad is removed last: when no worker writes any more.
    with discarded_if_bad(staging, *prepared.staging), Pool(found.num_workers, kernels) as pool:
        ids = (prepared.vocab_size, settings["exclude_tokens"])
        job = CountingJob.begin(staging / SCRATCH, *ids, *limits, config.min_docs, found)
        tokens = prepared.write(pool, progress, job.then)
        stamps = sorted((name, stamp) for name, stamp in tokens.files.items() if name.endswith(".parquet"))
        # A part's hash is checked when it is read; those of the other files here.
        others = {name: stamp for name, stamp in tokens.files.items() if not name.endswith(".parquet")}
        check_files(out / "tokens", replace(tokens, files=others), hashes=not fresh)
        parts = [(out / "tokens" / name, None if fresh else stamp.sha256) for name, stamp in stamps]
        kept, spent = count_ngrams(job, parts, staging, pool, progress)
    manifest = Manifest.new(
        "counts",
        stage=STAGE,
        stage_version=STAGE_VERSION,
        fingerprint=mark,
        settings=settings,
        inputs=made_from,
        tokenizer=tokens.tokenizer,
        summary={**in_short(tokens.summary), "counts": kept},
    )
    return Report.of(target, publish(staging, target, manifest), up_to_date=False, seconds=spent)


def plan(config: CountNgrams, inputs: Sequence[Path], out: Path, progress: Progress, force: bool = False) -> Report:
    """What `run` would read and take; nothing is written, so tokens are estimated from above unless they are there.

    Raises:
        InputMissing, BadData, BadSetting: as `run` before it begins; standard input.
    """
    excluded = _check(config)
    from scone_cli.corpus.look_ahead import look_ahead  # heavy: only when the stage runs
    from scone_cli.counting.plan import make_plan
    from scone_cli.runtime.resources import num_cores

    ahead = look_ahead(config, inputs, out / "tokens", progress, force)
    settings = _count_settings(config, excluded, ahead.vocab_size)
    fresh = force or ahead.manifest is None
    made_from = {"tokens": ahead.mark, "tokenizer": ahead.tokenizer_sha}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    limits = (config.max_n, config.min_count)
    workers = config.workers or num_cores()
    found = make_plan(ahead.num_tokens_bound, ahead.vocab_size, *limits, _memory(config), workers, fresh)
    facts = {
        "files": ahead.num_files,
        "bytes": ahead.num_bytes,
        "tokens_at_most": ahead.num_tokens_bound,
        "vocab_size": ahead.vocab_size,
        "tokens_up_to_date": not fresh,
        "processes": found.num_workers,
        "memory_bytes": found.memory,
        "disk_bytes": found.disk(ahead.num_tokens_bound, with_tokens=fresh),
    }
    target = out / "counts"
    if not fresh and published(target, "counts", mark) is not None:
        return Report(STAGE, target, True, facts)
    sources = {"tokens": ahead.mark} if ahead.manifest else {}  # that the tokens are others is told of them
    counts = what_is_replaced(out, target, "counts", config, settings, sources, force)
    replaced = {name: said for name, said in (("tokens", ahead.replaced), ("counts", counts)) if said}
    return Report(STAGE, target, False, facts | ({"replaces": replaced} if replaced else {}))


def _memory(config: CountNgrams) -> int:
    """Bytes that all processes together may take."""
    if config.memory is not None:
        return parse_bytes(config.memory, "--memory")
    from scone_cli.runtime.resources import available_memory  # see above

    return max(available_memory() // 2, parse_bytes(_LEAST_MEMORY, "--memory"))


def _check(config: CountNgrams) -> list[int]:
    """Refuse what can be refused before the corpus is read; returns the excluded token ids."""
    if not 2 <= config.max_n <= 8:
        raise BadSetting(f"--max-n {config.max_n}: expected 2 to 8")
    for name in ("min_count", "min_docs", "workers"):
        if (value := getattr(config, name)) is not None and not 1 <= value < 1 << 32:
            raise BadSetting(f"--{name.replace('_', '-')} {value}: expected 1 to {(1 << 32) - 1}")
    if config.vocab_size > _MOST_IDS:
        raise BadSetting(f"--vocab-size {config.vocab_size}: expected {_MOST_IDS} at most")
    if config.separator is not None and not 0 <= config.separator < _MOST_IDS:
        raise BadSetting(f"--separator {config.separator}: expected a token id, 0 to {_MOST_IDS - 1}")
    if not 0 <= config.held_out < 1:
        raise BadSetting(f"--held-out {config.held_out}: expected a share from 0 up to, but not including, 1")
    try:
        return sorted({int(part) for part in (config.exclude_tokens or "").split(",") if part.strip()})
    except ValueError:
        raise BadSetting(f"--exclude-tokens {config.exclude_tokens}: expected token ids, such as 0,13,50256") from None


def _count_settings(config: CountNgrams, excluded: list[int], vocab_size: int) -> dict[str, Any]:
    """The settings on which `counts/` depends, beside its tokens."""
    if excluded and not 0 <= excluded[0] <= excluded[-1] < vocab_size:
        raise BadSetting(f"--exclude-tokens {config.exclude_tokens}: expected token ids of 0 to {vocab_size - 1}")
    limits = {"max_n": config.max_n, "min_count": config.min_count, "min_docs": config.min_docs}
    return {**limits, "exclude_tokens": excluded}
