"""`scone count-ngrams`: text to token shards, and the counts of every n-gram that occurs often enough."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts.manifest import Manifest, check_files, fingerprint, read_manifest
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
from scone_cli.corpus.document_room import documents_within
from scone_cli.corpus.fetched import CACHE_DIR_HELP, CACHE_SIZE, CACHE_SIZE_HELP, FileCache
from scone_cli.corpus.prepare import in_short, prepare_tokens
from scone_cli.corpus.token_settings import (
    STAGE,
    STAGE_VERSION,
    TokenSettings,
    documents_of,
    rules_of,
    token_settings,
)
from scone_cli.corpus.urls import Corpus
from scone_cli.errors import BadSetting
from scone_cli.progress import Progress
from scone_cli.settings import Quantity, engine_setting, parse_bytes, ray_address_setting, setting
from scone_cli.stages import Report

if TYPE_CHECKING:
    from scone_cli.counting.plan import CountingPlan

_LEAST_MEMORY = "512MiB"
_MOST_IDS = 1 << 24  # of a vocabulary: about 60 times the largest in use; more would fail for lack of memory
_MOST_BYTES = 5  # of a file on disk per token, in any format


@dataclass(frozen=True)
class CountNgrams(TokenSettings):
    """Settings of `count-ngrams`: those of the tokens, and those of the counts."""

    max_n: int = setting(5, "Longest n-gram counted (the paper's K).")
    min_count: int = setting(5, "Leave out n-grams that occur less often than this.")
    min_docs: int = setting(1, "Leave out n-grams that occur in fewer documents than this: a floor for privacy.")
    exclude_tokens: str | None = setting(
        None, "Leave out n-grams that contain one of these token ids, such as 0,13,50256.  [default: none]"
    )
    memory: Quantity | None = setting(
        None,
        "Memory limit of all processes together, such as 2GiB; 512MiB or more.  [default: half of the free memory]",
        affects_result=False,
    )
    workers: int | None = setting(None, "Worker processes.  [default: one per core]", affects_result=False)
    engine: str = engine_setting()
    ray_address: str = ray_address_setting()
    cache_dir: Path | None = setting(None, CACHE_DIR_HELP, affects_result=False)
    cache_size: Quantity = setting(CACHE_SIZE, CACHE_SIZE_HELP, affects_result=False)


def run(config: CountNgrams, inputs: Sequence[Corpus], out: Path, progress: Progress, force: bool = False) -> Report:
    """Read the corpora `inputs` and write `tokens/` and `counts/` into the workspace `out`.

    Raises:
        InputMissing, BadData: see `prepare_tokens` and `PreparedTokens.write`.
        BadSetting: a setting out of its range, or too little memory.
        StorageFailure: too little disk.
    """
    excluded, cache = _check(config), _cache(config)
    from scone_cli.counting.count import KERNELS, count_ngrams, deal_documents  # heavy: only when the stage runs
    from scone_cli.counting.job import CountingJob
    from scone_cli.counting.plan import check_corpus, make_plan
    from scone_cli.runtime.engine import Engine, open_engine
    from scone_cli.runtime.resources import available_memory, num_cores

    target, limits = out / "counts", (config.max_n, config.min_count)

    def check_size(num_bytes: int) -> None:
        """Refuse a corpus that is certainly too large before it is read; the exact check follows when tokens are estimated."""
        num_tokens = num_bytes // _MOST_BYTES
        memory = _memory(config, available_memory())
        least = make_plan(num_tokens, config.vocab_size, *limits, memory, config.workers or num_cores(), True)
        if not target.exists():  # counts that are there may be up to date, and then need no disk
            _check_room(out, least, num_tokens, with_tokens=True)

    with contextlib.ExitStack() as context, _room_for_documents(config):
        opened: list[Engine] = []

        def engine_for(files: Sequence[Path]) -> Engine:
            """The engine, opened when there is work to do: a cluster that is not there is noticed before any long work."""
            if not opened:
                opened.append(context.enter_context(open_engine(config.engine, config.ray_address, out, files)))
            return opened[0]

        # 1. The corpus: its files, their hashes, the tokenizer.
        on_ray = config.engine == "ray"
        prepared = prepare_tokens(
            config, inputs, out / "tokens", progress, force, check_size, cache, engine_for, synced=on_ray
        )
        new_tokens = prepared.manifest is None

        # 2. Nothing to do if the counts are there.
        settings = _count_settings(config, excluded, prepared.vocab_size)
        made_from = {"tokens": prepared.mark}
        mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from | {"tokenizer": prepared.tokenizer_sha})
        if not (force or new_tokens) and (manifest := up_to_date(target, "counts", mark, forget_others=True)):
            return Report.of(target, manifest, up_to_date=True)
        told = {} if new_tokens else made_from  # that the tokens change has been reported with `tokens/`
        tell_replacing(progress, target, what_is_replaced(out, target, "counts", config, settings, told, force))

        # 3. The plan: passes and buckets that fit into memory, and the disk they need.
        engine = engine_for(())
        memory, workers = _memory(config, engine.free_memory), config.workers or engine.num_cores
        num_tokens, num_nodes = prepared.num_tokens_bound, engine.num_nodes if on_ray else 0
        found = make_plan(num_tokens, prepared.vocab_size, *limits, memory, workers, new_tokens, num_nodes)
        staging = staging_folder(target, mark, lasting=False, synced=on_ray)
        progress(
            "plan",
            0,
            0,
            detail=engine.where + found.described(num_tokens, found.disk(num_tokens, with_tokens=new_tokens)),
        )
        _check_room(out, found, num_tokens, with_tokens=new_tokens)

        # 4. Tokenise, and count each part as it is written. With bad data the staging folder is removed, after the workers' end.
        context.enter_context(discarded_if_bad(staging, *prepared.staging))
        kernels = [*KERNELS, *(["scone_cli.corpus.shards"] if new_tokens else [])]
        pool = context.enter_context(engine.pool(found.num_workers, found.memory, kernels))
        ids = (prepared.vocab_size, settings["exclude_tokens"])
        job = CountingJob.begin(staging / SCRATCH, *ids, *limits, config.min_docs, found, pool.lasting)
        tokens = prepared.write(pool, progress, partial(deal_documents, job), found.room)
        check_corpus(_num_train_documents(tokens), tokens.summary["tokens"])
        parts = {name: stamp for name, stamp in sorted(tokens.files.items()) if name.startswith("part-")}
        others = {name: stamp for name, stamp in tokens.files.items() if name not in parts}
        check_files(out / "tokens", replace(tokens, files=others), hashes=not new_tokens)
        # The hash of a part is checked when it is read.
        hashes = [(out / "tokens" / name, None if new_tokens else stamp.sha256) for name, stamp in parts.items()]
        kept, spent = count_ngrams(job, hashes, staging, pool, progress)

    # 5. Publish.
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


def plan(config: CountNgrams, inputs: Sequence[Corpus], out: Path, progress: Progress, force: bool = False) -> Report:
    """What `run` would read, and the memory and disk it would take; nothing is written.

    The number of tokens is an upper bound unless `tokens/` is there.

    Raises:
        InputMissing, BadData, BadSetting: as `run` before it begins; standard input.
    """
    excluded = _check(config)
    from scone_cli.corpus.look_ahead import look_ahead  # heavy: only when the stage runs
    from scone_cli.counting.plan import check_corpus, make_plan
    from scone_cli.runtime.engine import open_engine

    with _room_for_documents(config):
        ahead = look_ahead(config, inputs, out / "tokens", progress, force, _cache(config))
    settings = _count_settings(config, excluded, ahead.vocab_size)
    fresh = force or ahead.manifest is None
    if ahead.manifest is not None:
        check_corpus(_num_train_documents(ahead.manifest), ahead.manifest.summary["tokens"])
    made_from = {"tokens": ahead.mark, "tokenizer": ahead.tokenizer_sha}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    limits = (config.max_n, config.min_count)
    with open_engine(config.engine, config.ray_address, None, ahead.some_files) as engine:
        where = engine.where.removesuffix(": ")
        memory, workers = _memory(config, engine.free_memory), config.workers or engine.num_cores
        on_nodes = engine.num_nodes if config.engine == "ray" else 0
    found = make_plan(ahead.num_tokens_bound, ahead.vocab_size, *limits, memory, workers, fresh, on_nodes)
    facts = {
        "files": ahead.num_files,
        "bytes": ahead.num_bytes,
        "tokens_at_most": ahead.num_tokens_bound,
        "vocab_size": ahead.vocab_size,
        "tokens_up_to_date": not fresh,
        **({"kept": ahead.kept} if ahead.kept else {}),
        **({"engine": where, "nodes": found.num_nodes} if on_nodes else {}),
        "processes": found.num_workers,
        "memory_bytes": found.memory,
        "disk_bytes": found.disk(ahead.num_tokens_bound, with_tokens=fresh),
    }
    target = out / "counts"
    if not fresh and published(target, "counts", mark) is not None:
        return Report(STAGE, target, True, facts)
    sources = {"tokens": ahead.mark} if ahead.manifest else {}  # that the tokens change is reported with `tokens/`
    counts = what_is_replaced(out, target, "counts", config, settings, sources, force)
    replaced = {name: said for name, said in (("tokens", ahead.replaced), ("counts", counts)) if said}
    return Report(STAGE, target, False, facts | ({"replaces": replaced} if replaced else {}))


def settings_now(config: CountNgrams, workspace: Path, made: Manifest) -> dict[str, Any]:
    """The settings with which `run` would make the artifact `made` of the workspace, tokens or counts, again.

    Raises:
        SconeError: as `run` before it begins.
    """
    if made.artifact == "tokens":
        return token_settings(config, rules_of(config), documents_of(config))
    return _count_settings(config, _check(config), read_manifest(workspace / "tokens", "tokens").summary["vocab_size"])


def _check_room(out: Path, plan: CountingPlan, num_tokens: int, with_tokens: bool) -> None:
    """Refuse if a disk has too little room: `tokens/` and `counts/` may be links to different disks."""
    from scone_cli.runtime.resources import check_disk  # heavy: only when the stage runs

    needed, places = Counter[int](), dict[int, Path]()
    for_counts = plan.disk(num_tokens, with_tokens=False)
    for_tokens = plan.disk(num_tokens, with_tokens) - for_counts
    for part, size in ((out / "tokens", for_tokens), (out / "counts", for_counts)):
        place = place_of(part).parent
        disk = place.stat().st_dev
        places.setdefault(disk, place)
        needed[disk] += size - unfinished_bytes(part)
    for disk, place in places.items():
        check_disk(place, needed[disk])


def _cache(config: CountNgrams) -> FileCache | None:
    return FileCache.of(config.cache_dir, config.cache_size)


def _room_for_documents(config: CountNgrams) -> contextlib.AbstractContextManager[None]:
    """Bounds what one document takes of this process; that of workers is in the plan."""
    from scone_cli.counting.plan import preparing_room  # heavy: only when the stage runs
    from scone_cli.runtime.resources import available_memory

    return documents_within(preparing_room(_memory(config, available_memory())))


def _num_train_documents(tokens: Manifest) -> int:
    return int(tokens.summary["documents"] - tokens.summary.get("held_out_documents", 0))


def _memory(config: CountNgrams, free: int) -> int:
    """The memory limit of all processes of a machine together, in bytes; `free` bytes are free there."""
    if config.memory is not None:
        return parse_bytes(config.memory, "--memory")
    return max(free // 2, parse_bytes(_LEAST_MEMORY, "--memory"))


def _check(config: CountNgrams) -> list[int]:
    """Check the settings before the corpus is read; return the excluded token ids, sorted."""
    from scone_cli.runtime.engine import check_engine  # see above

    check_engine(config.engine, config.ray_address)
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
    """The settings that `counts/` depends on, apart from its tokens."""
    if vocab_size > _MOST_IDS:
        raise BadSetting(f"{vocab_size:,} token ids, expected {_MOST_IDS:,} at most", "use another tokenizer")
    if excluded and not 0 <= excluded[0] <= excluded[-1] < vocab_size:
        raise BadSetting(f"--exclude-tokens {config.exclude_tokens}: expected token ids of 0 to {vocab_size - 1}")
    limits = {"max_n": config.max_n, "min_count": config.min_count, "min_docs": config.min_docs}
    return {**limits, "exclude_tokens": excluded}
