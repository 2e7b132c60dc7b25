"""`scone select-vocab`: the best n-grams of all lengths become the f-gram vocabulary (paper, section 3.1)."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts.manifest import Manifest, fingerprint, open_artifact, read_manifest
from scone_cli.artifacts.publish import SCRATCH, place_of, publish, published, staging_folder, up_to_date
from scone_cli.artifacts.replacing import replaces, tell_replacing, what_is_replaced
from scone_cli.errors import BadSetting, MismatchedArtifacts, SconeError
from scone_cli.progress import Progress
from scone_cli.settings import ROW_DTYPES, Quantity, parse_bytes, parse_count, setting
from scone_cli.stages import Report

if TYPE_CHECKING:
    from scone_cli.vocab.coverage import Ladder, Rung
    from scone_cli.vocab.disk_ladder import DiskLadder
    from scone_cli.vocab.plan import SelectionPlan

STAGE = "select-vocab"
STAGE_VERSION = 2

DEFAULT_SIZE = 1_000_000
_LEAST_MEMORY = 1 << 30  # bytes: the least that is taken as the limit where none is given
AUTO = "auto"


@dataclass(frozen=True)
class SelectVocab:
    """Settings of `select-vocab`."""

    size: Quantity | None = setting(
        None,
        "Keep at most this many f-grams, such as 500k, or `auto`: the last doubling with a gain of --min-gain.  "
        f"[default: {DEFAULT_SIZE:_}, unless --budget or --coverage is given]",
    )
    budget: Quantity | None = setting(
        None,
        "Keep as many f-grams as fit in a table (rows and index, with --dim and --dtype) of this size, such as 8GiB.",
    )
    coverage: float | None = setting(
        None, "Keep the smallest number of f-grams that match this share of the positions in held-out text."
    )
    min_gain: float = setting(
        0.05, "For --size auto: the share of held-out positions that a doubling must match in addition."
    )
    dim: int = setting(128, "Width of the model, from which the bytes of the table follow.")
    dtype: str = setting(
        "float16",
        "Number format of the rows, from which the bytes of the table follow.",
        choices=ROW_DTYPES,
    )
    by: str = setting(
        "count",
        "Rank n-grams by `count`, as the paper does, or by `prediction`: the count, weighted by how much more an n-gram "
        "predicts of the next token than its suffix; better for a small vocabulary.",
        choices=("count", "prediction"),
    )
    min_count: int | None = setting(
        None, "Keep only n-grams that occur at least this often.  [default: all that were counted]"
    )
    min_docs: int | None = setting(
        None, "Keep only n-grams that occur in at least this many documents.  [default: all that were counted]"
    )
    max_n: int | None = setting(
        None, "Keep only n-grams of at most this many tokens.  [default: all that were counted]"
    )
    memory: Quantity | None = setting(
        None,
        "Memory limit, such as 2GiB. n-grams that do not fit are ranked block by block, with files on disk.  "
        "[default: half of the free memory]",
        affects_result=False,
    )


def run(config: SelectVocab, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `counts/` of the workspace `inputs` and write the vocabulary folder `out`.

    Raises:
        BadSetting: a setting is out of its range or contradicts another, or no n-gram is left.
        MismatchedArtifacts: the counts were not made from these tokens.
    """
    # 1. The inputs. Nothing to do if the vocabulary is there.
    made = _open(config, inputs)
    if not force and (manifest := up_to_date(out, "vocab", made.mark)):
        return Report.of(out, manifest, up_to_date=True)
    tell_replacing(progress, out, _replaced(made, config, inputs, out, force))

    from scone_cli.runtime.resources import check_disk  # heavy: only when the stage runs
    from scone_cli.table.sizes import table_bytes
    from scone_cli.vocab.coverage import write_ladder
    from scone_cli.vocab.ways import ladder_of, ranked

    # 2. The plan: in memory, or block by block with files in the scratch folder.
    limits, num_tokens = made.limits, made.tokens.summary["vocab_size"]
    found = _planned(made, config)
    progress("plan", 0, 0, detail=found.described(_num_counted(made)))
    check_disk(place_of(out).parent, found.disk, "selecting")
    staging = staging_folder(out, made.mark)
    try:
        # 3. Rank all n-grams within the limits.
        where = found.block, staging / SCRATCH, progress
        ranking, num_ngrams = ranked(inputs / "counts", limits, num_tokens, config.by, *where)
        if not num_ngrams:
            raise BadSetting(
                f"--min-count {limits['min_count']} --min-docs {limits['min_docs']}: "
                f"no n-gram in {inputs / 'counts'} occurs that often",
                "give smaller ones, to scone count-ngrams too, or more text",
            )

        # 4. Decide the size, by what every size would match of the held-out text.
        ladder = ladder_of(ranking, inputs / "tokens", *where)
        wanted = _size(made.goal, config, ladder, num_tokens)
        size = min(wanted, ladder.sizes[-1])
        fewer = {}
        if wanted > size and (config.size or config.budget) is not None:
            fewer = {"fgrams_asked": wanted, "notice": _too_few(limits, made.counts.settings)}
            progress("f-grams", 0, 0, detail=f"{size:,}, {wanted:,} were asked for: {fewer['notice']}")
        found.check_fgrams(size)

        # 5. Write the first `size` n-grams, and the ladder of sizes.
        rungs = ladder.rungs(sorted({*ladder.sizes, size}))
        ranking.first(size).write(staging / "vocab.parquet")
    except SconeError:
        shutil.rmtree(staging, ignore_errors=True)  # another setting is needed, and nothing here continues
        raise
    num_bytes = [table_bytes(rung.size, config.dim, config.dtype, num_tokens) for rung in rungs]
    write_ladder(staging / "ladder.parquet", rungs, size, num_bytes)
    manifest = Manifest.new(
        "vocab",
        stage=STAGE,
        stage_version=STAGE_VERSION,
        fingerprint=made.mark,
        settings=made.settings | {"num_tokens": num_tokens},
        inputs=made.made_from,
        tokenizer=made.tokens.tokenizer,
        summary={"fgrams": size} | fewer | _summary(rungs, size, ladder.num_positions, config, num_tokens),
    )
    return Report.of(out, publish(staging, out, manifest), up_to_date=False)


def plan(config: SelectVocab, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:  # noqa: ARG001
    """What `run` would select at most, and the memory and disk it would take, from the counts alone; nothing is written.

    Raises:
        BadSetting, MismatchedArtifacts: as `run` before it begins.
    """
    from scone_cli.table.sizes import fgrams_within, table_bytes  # heavy: only when the stage runs

    made = _open(config, inputs)
    num_tokens = made.tokens.summary["vocab_size"]
    counted, found = _num_counted(made), _planned(made, config)
    within = fgrams_within(made.goal.get("budget", sys.maxsize), config.dim, config.dtype, num_tokens)
    most = min(counted, within, made.goal["size"] if isinstance(made.goal.get("size"), int) else counted)
    facts = {
        "ngrams_counted": counted,
        "size_decided_by": ", ".join(f"{name} {value}" for name, value in made.goal.items()),
        "fgrams_at_most": most,
        "table_bytes": table_bytes(most, config.dim, config.dtype, num_tokens),
        "memory_bytes": found.memory,
        "disk_bytes": found.disk,
    }
    done = not force and published(out, "vocab", made.mark) is not None
    return Report(
        STAGE, out, done, facts | ({} if done else replaces(out, _replaced(made, config, inputs, out, force)))
    )


def _num_counted(made: _Made) -> int:
    """The number of counted n-grams of up to `max_n` tokens: with other limits, there are at most so many."""
    return sum(row["ngrams"] for row in made.counts.summary["counts"] if row["n"] <= made.limits["max_n"])


def _planned(made: _Made, config: SelectVocab) -> SelectionPlan:
    """The plan that keeps within the limit.

    Raises:
        BadSetting: the memory is too small.
    """
    from scone_cli.runtime.resources import available_memory  # heavy: only when the stage runs
    from scone_cli.table.sizes import fgrams_within
    from scone_cli.vocab.plan import make_plan

    limit = max(available_memory() // 2, _LEAST_MEMORY)
    memory = limit if config.memory is None else parse_bytes(config.memory, "--memory")
    summary, counted = made.tokens.summary, _num_counted(made)
    known = made.goal["size"] if isinstance(made.goal.get("size"), int) else 0
    if "budget" in made.goal:
        known = fgrams_within(made.goal["budget"], config.dim, config.dtype, summary["vocab_size"])
    held_out = summary.get("held_out_tokens", 0)
    return make_plan(counted, summary["vocab_size"], min(known, counted), config.by, memory, held_out)


def _replaced(made: _Made, config: SelectVocab, inputs: Path, out: Path, force: bool) -> str:
    return what_is_replaced(inputs, out, "vocab", config, made.settings, made.made_from, force)


@dataclass(frozen=True)
class _Made:
    """What a vocabulary depends on: the goal of its size, the limits of the ranking, and the input artifacts."""

    goal: dict[str, Any]
    limits: dict[str, int]
    settings: dict[str, Any]
    tokens: Manifest
    counts: Manifest

    @property
    def made_from(self) -> dict[str, str]:
        """Fingerprints of the inputs."""
        return {"tokens": self.tokens.fingerprint, "counts": self.counts.fingerprint}

    @property
    def mark(self) -> str:
        """The fingerprint of the vocabulary."""
        inputs = self.made_from | {"tokenizer": self.tokens.tokenizer}
        return fingerprint(STAGE, STAGE_VERSION, self.settings, inputs)


def _open(config: SelectVocab, inputs: Path) -> _Made:
    """Open the input artifacts and check that they belong together."""
    tokens = open_artifact(inputs / "tokens", "tokens")
    counts = open_artifact(inputs / "counts", "counts")
    if counts.inputs["tokens"] != tokens.fingerprint or counts.tokenizer != tokens.tokenizer:
        raise MismatchedArtifacts(
            f"{inputs / 'counts'}: made from other tokens than {inputs / 'tokens'}", "run: scone count-ngrams CORPUS"
        )
    return _Made(*_settings(config, counts), tokens, counts)


def _settings(config: SelectVocab, counts: Manifest) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """The goal of the size, the limits of the ranking, and all settings together."""
    goal, limits = _goal(config), _limits(config, counts.settings)
    return goal, limits, goal | limits | {"by": config.by, "dim": config.dim, "dtype": config.dtype}


def settings_now(config: SelectVocab, workspace: Path, _: Manifest) -> dict[str, Any]:
    """The settings with which `run` would make the vocabulary of the workspace again.

    Raises:
        SconeError: as `run` before it begins.
    """
    return _settings(config, read_manifest(workspace / "counts", "counts"))[2]


# ---- settings ----------------------------------------------------------------------------------------------------


def _goal(config: SelectVocab) -> dict[str, Any]:
    """The setting that decides the size, in a normal form: 1M and 1000000 give the same.

    Raises:
        BadSetting: more than one of --size, --budget and --coverage is given, or its value is invalid.
    """
    asked = {"--size": config.size, "--budget": config.budget, "--coverage": config.coverage}
    given = [f"{option} {value}" for option, value in asked.items() if value is not None]
    if len(given) > 1:
        raise BadSetting(
            f"{' and '.join(given)}: each of them decides the size, expected only one",
            "leave the others out, also from the recipe and from variables SCONE_SELECT_VOCAB_...",
        )
    if config.dim < 1:
        raise BadSetting(f"--dim {config.dim}: expected 1 or more")
    if config.budget is not None:
        return {"budget": parse_bytes(str(config.budget), "--budget")}
    if config.coverage is not None:
        if not 0 < config.coverage <= 1:
            raise BadSetting(f"--coverage {config.coverage}: expected a share above 0, up to 1")
        return {"coverage": config.coverage}
    if config.size == AUTO:
        if not 0 < config.min_gain < 1:
            raise BadSetting(f"--min-gain {config.min_gain}: expected a share between 0 and 1")
        return {"size": AUTO, "min_gain": config.min_gain}
    size = DEFAULT_SIZE if config.size is None else parse_count(str(config.size), "--size")
    if size >= 2**32:
        raise BadSetting(f"--size {config.size}: expected less than {2**32:,}, as ids have 32 bits")
    return {"size": size}


def _limits(config: SelectVocab, counted: dict[str, Any]) -> dict[str, int]:
    """The limits of the ranking: the settings, or else those of the counts.

    Raises:
        BadSetting: a limit would need n-grams that were not counted.
    """
    limits = {}
    for name, floor in (("min_count", counted["min_count"]), ("min_docs", counted.get("min_docs", 1))):
        option, asked = f"--{name.replace('_', '-')}", getattr(config, name)
        limits[name] = floor if asked is None else asked
        if not 1 <= limits[name] < 2**63:
            raise BadSetting(f"{option} {asked}: expected 1 or more")
        if limits[name] < floor:
            raise BadSetting(
                f"{option} {asked}: the counts leave out n-grams with less than {floor}",
                f"give {option} {floor}, or first run: scone count-ngrams {option} {asked} CORPUS",
            )
    limits["max_n"] = counted["max_n"] if config.max_n is None else config.max_n
    if not 2 <= limits["max_n"] <= counted["max_n"]:
        raise BadSetting(
            f"--max-n {config.max_n}: expected 2 to {counted['max_n']}, the longest n-grams that were counted",
            f"to have longer ones, first run: scone count-ngrams --max-n {config.max_n} CORPUS",
        )
    return limits


def _size(goal: dict[str, Any], config: SelectVocab, ladder: Ladder | DiskLadder, num_tokens: int) -> int:
    """The number of f-grams to keep, before it is limited to the number of n-grams there are."""
    from scone_cli.table.sizes import fgrams_within, table_bytes

    form = config.dim, config.dtype, num_tokens
    if "coverage" in goal:
        return ladder.size_for_coverage(goal["coverage"])
    if goal.get("size") == AUTO:
        return ladder.size_by_gain(goal["min_gain"])
    size = goal["size"] if "size" in goal else fgrams_within(goal["budget"], *form)
    if not size:
        needed = table_bytes(1, *form)
        raise BadSetting(f"--budget {config.budget}: a table of one row takes {needed:,} bytes")
    return size


def _too_few(limits: dict[str, int], counted: dict[str, Any]) -> str:
    """Why there are fewer f-grams than asked for, and which setting would give more."""
    often = f"{limits['min_count']:,} times" + (
        f" in {limits['min_docs']:,} documents" if limits["min_docs"] > 1 else ""
    )
    lower = [name for name in ("min_count", "min_docs") if limits[name] > 1]
    here = [f"--{name.replace('_', '-')}" for name in lower if limits[name] > counted.get(name, 1)]
    there = "a smaller --min-count of scone count-ngrams, or more text" if lower else "more text"
    return f"no more n-grams occur {often}; {f'a smaller {here[0]}' if here else there} gives more"


# ---- findings ----------------------------------------------------------------------------------------------------


def _summary(rungs: list[Rung], size: int, num_positions: int, config: SelectVocab, num_tokens: int) -> dict[str, Any]:
    """The summary of the manifest: the chosen size, and the ladder of sizes to compare it with."""
    from scone_cli.table.sizes import table_bytes

    chosen = next(rung for rung in rungs if rung.size == size)
    form = config.dim, config.dtype, num_tokens
    return {
        "ranked_by": config.by,
        "cutoff_count": chosen.cutoff_count,
        "held_out_tokens": num_positions,
        "matched": _rounded(chosen.matched, 4),
        "mean_match_length": _rounded(chosen.mean_length, 3),
        "table_dim": config.dim,
        "table_dtype": config.dtype,
        "table_bytes": table_bytes(size, *form),
        "lengths": [
            {"n": n, "fgrams": number, "occurrences": occurrences, "held_out_share": _rounded(share, 4)}
            for n, (number, occurrences, share) in enumerate(
                zip(chosen.num_fgrams, chosen.occurrences, chosen.shares, strict=True), start=2
            )
        ],
        "ladder": [
            {
                "size": rung.size,
                "cutoff_count": rung.cutoff_count,
                "matched": _rounded(rung.matched, 4),
                "mean_match_length": _rounded(rung.mean_length, 3),
                **{f"n={n}": number for n, number in enumerate(rung.num_fgrams, start=2)},
                "table_bytes": table_bytes(rung.size, *form),
            }
            | ({"chosen": True} if rung is chosen else {})
            for rung in rungs
        ],
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
