"""`scone eval`: what the f-grams are worth and what they cost, measured on held-out text or on any other.

It reads tokens/, model/ and, for a model with f-grams, table/. It writes `results.json` (its keys:
`evaluation/result_types.py`, docs/evaluation.md), the section `results` again as `results.parquet`, and `report.html`.
It works in two steps: measure reads the texts with all arms, judge applies conditions and prices. Each has a fingerprint, so
other conditions or prices judge the same measurements again.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.artifacts.manifest import Manifest, digest_weights, fingerprint, open_artifact
from scone_cli.artifacts.publish import publish, published, staging_folder, up_to_date
from scone_cli.artifacts.replacing import replaces, tell_replacing, what_is_replaced
from scone_cli.artifacts.schemas import SCHEMA_VERSIONS
from scone_cli.corpus.fetched import CACHE_DIR_HELP, CACHE_SIZE, CACHE_SIZE_HELP, FileCache
from scone_cli.corpus.separators import SEPARATOR_HELP, Separator
from scone_cli.corpus.urls import Corpus
from scone_cli.errors import BadSetting, SconeError
from scone_cli.evaluation.break_even import Prices
from scone_cli.evaluation.fail_if import Condition, parse, values_of
from scone_cli.evaluation.result_types import Check, Results
from scone_cli.evaluation.results import in_short, read_results
from scone_cli.progress import Progress
from scone_cli.report.eval_summary import summary_of
from scone_cli.report.eval_verdict import verdict
from scone_cli.settings import DEVICES, Quantity, result_settings, setting
from scone_cli.stages import Report

if TYPE_CHECKING:
    from scone_cli.corpus.files import SourceFile
    from scone_cli.evaluation.arms import Opened

STAGE = "eval"
# Bytes of memory: libraries, and what a batch of text takes. With a small model 650 MiB were measured.
_PROCESS = 750 << 20

STAGE_VERSION = 6  # the quantiles of Student's distribution are exact


@dataclass(frozen=True)
class Evaluate:
    """Settings of `eval`. The device changes the last bits of losses, and is in no fingerprint."""

    text_field: str | None = setting(
        None, "JSON Lines field, or column of Parquet or Arrow, with text.  [default: that of count-ngrams]"
    )
    document_separator: str | None = setting(
        None, f"In the plain text of CORPUS: {SEPARATOR_HELP}  [default: that of count-ngrams]"
    )
    speed: bool = setting(True, "Also measure how fast the arms are, in half a minute.")
    ladder: bool = setting(False, "Also evaluate the first 1,000, 10,000, ... rows of the table: which size is enough.")
    device: str = setting(
        "auto",
        "Where to compute: `auto` is a CUDA GPU if there is one, else the CPU.",
        choices=DEVICES,
        affects_result=False,
    )
    cache_dir: Path | None = setting(None, CACHE_DIR_HELP, affects_result=False)
    cache_size: Quantity = setting(CACHE_SIZE, CACHE_SIZE_HELP, affects_result=False)


@dataclass(frozen=True)
class Inputs:
    """What `eval` reads: a workspace, corpora (none: the held-out split), rivals, tables, tasks, terms; conditions and prices."""

    workspace: Path
    corpora: tuple[Corpus, ...] = ()
    against: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    fail_if: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_data: Path | None = None
    limit: int | None = None
    terms: Path | None = None
    prices: Prices = field(default_factory=Prices)


def run(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """Measure every arm on every text, judge what was measured, and write the folder `out`.

    The arms are live, table and none, further tables, and every rival in `inputs`.

    Raises:
        MismatchedArtifacts: table, model, vocabulary, tokens and tokenizer do not belong together.
        InputMissing: no document is held out and no corpus was named, or a corpus has no document.
        BadSetting: two arms or corpora have one name; a condition cannot be understood.
    """
    from scone_cli.evaluation.arm_cost import payback_of  # heavy: only when the stage runs
    from scone_cli.evaluation.method import method_of
    from scone_cli.report.eval_files import write_results
    from scone_cli.report.eval_verdict import verdict_of

    asked = _open(config, inputs, progress)
    found, settings = asked.found, result_settings(asked.config)
    if not force and up_to_date(out, STAGE, asked.judged):
        return _report(out, asked.conditions, up_to_date=True)

    tell_replacing(progress, out, _replaced(asked, out, force))
    staging = staging_folder(out, asked.judged)  # before the work, because it refuses to replace what is not ours

    # Measure: all that needs a model, and nearly all of the time.
    results = None if force else _measured_before(out, asked.measured)
    if results is None:
        results = _measure(asked, progress)

    # Judge: what follows from the measurements, conditions and prices.
    results["schema_version"] = SCHEMA_VERSIONS[STAGE]
    corpora, changed = [*map(str, inputs.corpora)], _changed(asked.config)
    results["method"].update(method_of(found, corpora, _options(inputs), settings, changed))
    results["payback"] = payback_of(results, found.plain_rivals(), inputs.prices)
    results["verdict"] = verdict_of(results)
    results["checks"] = []
    for condition in asked.conditions:
        with contextlib.suppress(BadSetting):  # `_report` raises it, after the measurements are published
            results["checks"].append(_check(condition, results))

    write_results(staging, results)
    timeless: Results = {**results, "verdict": verdict_of({**results, "speed": []})}  # equal runs write equal manifests
    manifest = Manifest.new(
        "eval",
        stage=STAGE,
        stage_version=STAGE_VERSION,
        fingerprint=asked.judged,
        settings=settings,
        # A corpus of thousands of files would drown the manifest: one digest stands for all that was read.
        inputs=_parts(found) | {"measured": asked.measured, "weights": digest_weights(found.artifacts["model"])},
        tokenizer=found.artifacts["tokens"].tokenizer,
        summary={**in_short(timeless), "asked": _asked_for(inputs, found)},
    )
    publish(staging, out, manifest)
    return _report(out, asked.conditions, up_to_date=False)


def plan(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """What `run` would measure, and the memory it would take; nothing is written.

    Raises:
        MismatchedArtifacts, InputMissing, BadSetting: as `run` before it begins.
    """
    asked = _open(config, inputs, progress)
    if inputs.tasks:
        from scone_cli.evaluation.lm_eval import check_names  # heavy: only when there are tasks

        check_names(inputs.tasks, inputs.task_data, progress)
    found, held_out = asked.found, asked.found.artifacts["tokens"].summary["held_out_tokens"]
    models = [found.artifacts["model"], *(model for _, model in found.rivals.values())]
    weights = sum(
        stamp.bytes for model in models for name, stamp in model.files.items() if name.endswith(".safetensors")
    )
    tables = [found.artifacts["table"]] if found.has_table else []
    tables += [table for _, table in found.tables.values()]
    indexes = sum(table.files["index.bin"].bytes for table in tables)
    facts = {
        "arms": found.names(),
        "corpora": [
            {"corpus": name, "tokens": None if files else held_out, "bytes": sum(each.bytes for each in files) or None}
            for name, files in asked.files.items()
        ],
        "tasks": list(inputs.tasks),
        "measured_before": not force and _measured_before(out, asked.measured) is not None,
        "memory_bytes": _PROCESS + weights + indexes,
        "mapped_bytes": sum(stamp.bytes for table in tables for stamp in table.files.values()),
    }
    done = not force and published(out, STAGE, asked.judged) is not None
    if not done:
        facts |= replaces(out, _replaced(asked, out, force))
    return Report(STAGE, out, done, facts)


# ---- what is asked -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What is evaluated and how, opened and checked.

    found: the arms. files: of every corpus, by its name. made_from: hashes of all that the measurements depend on.
    """

    config: Evaluate
    inputs: Inputs
    found: Opened
    conditions: list[Condition]
    files: dict[str, list[SourceFile]]
    terms: list[str]
    made_from: dict[str, str]

    @cached_property
    def measured(self) -> str:
        """The fingerprint of the measurements."""
        return fingerprint(STAGE, STAGE_VERSION, result_settings(self.config), self.made_from)

    @cached_property
    def judged(self) -> str:
        """The fingerprint of the artifact: of the measurements, the conditions and the prices."""
        conditions, prices = json.dumps(self.inputs.fail_if), json.dumps(asdict(self.inputs.prices))
        made_from = {"measured": self.measured, "fail-if": conditions, "prices": prices}
        return fingerprint(STAGE, STAGE_VERSION, result_settings(self.config), made_from)


def _open(config: Evaluate, inputs: Inputs, progress: Progress) -> _Asked:
    """Open what takes part, find the texts, and refuse before any work what cannot be evaluated."""
    from scone_cli.evaluation.arms import check_training_texts, opened  # heavy: only when the stage runs
    from scone_cli.evaluation.texts import files_of_corpora

    inputs.prices.check()
    Separator.of(config.document_separator)  # raises BadSetting for a bad one
    found = opened(inputs.workspace, inputs.against, inputs.tables)
    config = _read_alike(config, inputs, found)
    conditions = [parse(text, found.names()) for text in inputs.fail_if]
    files = files_of_corpora(inputs.corpora, found, progress, FileCache.of(config.cache_dir, config.cache_size))
    check_training_texts(found, reads_held_out=not all(files.values()))
    for condition in conditions:
        condition.check_corpora(list(files))
        if condition.needs_speed and not config.speed:
            raise BadSetting(
                f"--fail-if '{condition.text}': no latency is measured",
                "leave out --no-speed, or the recipe's speed = false (--speed for one call)",
            )
    made_from = found.fingerprints()
    made_from |= {
        "arms": json.dumps(found.names()),
        "corpora": json.dumps(list(files)),
    }  # their order matters: the first corpus decides the verdict
    made_from |= _task_fingerprints(inputs, found)
    terms = _terms(inputs, found)
    made_from |= {"terms": json.dumps(terms)} if terms else {}
    made_from |= {f"{name}: {file.name}": file.sha256 for name, corpus in files.items() for file in corpus}
    return _Asked(config, inputs, found, conditions, files, terms, made_from)


def _read_alike(config: Evaluate, inputs: Inputs, found: Opened) -> Evaluate:
    """The settings, with the text field and separator of the training corpus: else no document of it would be recognised."""
    if not inputs.corpora:
        return config
    missing = (name for name in ("text_field", "document_separator") if getattr(config, name) is None)
    return replace(config, **{name: found.artifacts["tokens"].settings[name] for name in missing})


def _task_fingerprints(inputs: Inputs, found: Opened) -> dict[str, str]:
    """Hashes of all that the answers to tasks depend on; empty without tasks."""
    if not inputs.tasks:
        if inputs.task_data or inputs.limit:
            raise BadSetting(
                f"{'--task-data' if inputs.task_data else '--limit'}: no task is named", "name some: --tasks piqa"
            )
        return {}
    found.need_tokenizer("the text of a task has no ids", "leave --tasks out")
    from scone_cli.evaluation.lm_eval import TaskOptions, task_fingerprints

    options = TaskOptions(inputs.task_data, inputs.limit)
    return {"tasks": json.dumps(inputs.tasks)} | task_fingerprints(inputs.tasks, options)


def _terms(inputs: Inputs, found: Opened) -> list[str]:
    """The terms of the field; empty without `--terms`."""
    if inputs.terms is None:
        return []
    found.need_tokenizer("no term can be found in them", "leave --terms out")
    from scone_cli.corpus.terms import read_terms

    return read_terms(inputs.terms)


def _asked_for(inputs: Inputs, found: Opened) -> dict[str, str | None]:
    """What was asked for beside the settings, as the manifest keeps it; None where nothing was."""
    asked = {
        "corpora": [str(path) for path in inputs.corpora],
        "against": [*found.rivals],
        "table": [*found.tables],
        "tasks": [*inputs.tasks],
        "fail_if": [*inputs.fail_if],
        "terms": [str(inputs.terms)] if inputs.terms else [],
        "limit": [str(inputs.limit)] if inputs.limit else [],
    }
    return {name: ", ".join(values) or None for name, values in asked.items()}


def _options(inputs: Inputs) -> list[str]:
    """The options of this evaluation beside its settings, as on a command line."""
    given = {"against": inputs.against, "table": inputs.tables, "tasks": inputs.tasks, "fail-if": inputs.fail_if}
    for flag, value in (("task-data", inputs.task_data), ("limit", inputs.limit), ("terms", inputs.terms)):
        given[flag] = (str(value),) if value is not None else ()
    return [word for flag, values in given.items() for value in values for word in (f"--{flag}", str(value))]


# ---- what is there already ---------------------------------------------------------------------------------------


def _changed(config: Evaluate) -> dict[str, object]:
    """The settings that are not the default."""
    return {name: value for name, value in asdict(config).items() if value != getattr(Evaluate(), name)}


def _parts(found: Opened) -> dict[str, str]:
    """The fingerprints of all that takes part."""
    rivals = {name: each.fingerprint for name, (_, each) in found.rivals.items()}
    return rivals | {name: each.fingerprint for name, each in found.artifacts.items()}


def _replaced(asked: _Asked, out: Path, force: bool) -> str:
    """How the evaluation in `out`, which will be replaced, differs from this one."""
    settings, also = result_settings(asked.config), _asked_for(asked.inputs, asked.found)
    parts, workspace = _parts(asked.found), asked.inputs.workspace
    return what_is_replaced(workspace, out, STAGE, asked.config, settings, parts, force, also)


def _measured_before(out: Path, measured: str) -> Results | None:
    """The results in `out` if they have the same measurements; None if they have others, or are damaged."""
    try:
        manifest = open_artifact(out, STAGE)
    except SconeError:
        return None
    if manifest.inputs.get("measured") != measured:
        return None
    return read_results(out)


# ---- measuring, and the report -----------------------------------------------------------------------------------


def _measure(asked: _Asked, progress: Progress) -> Results:
    """The sections that need a model, and of `method` what is known only then."""
    from scone_cli.evaluation.lm_eval import TaskOptions  # heavy
    from scone_cli.evaluation.measure import measure
    from scone_cli.evaluation.texts import texts_of

    config, inputs, tokenizer = asked.config, asked.inputs, asked.found.load_tokenizer()
    return measure(
        asked.found,
        texts_of(asked.files, asked.found, tokenizer, config.text_field, config.document_separator),
        tokenizer,
        progress,
        device=config.device,
        ladder=config.ladder,
        speed=config.speed,
        tasks=inputs.tasks,
        task_options=TaskOptions(inputs.task_data, inputs.limit),
        terms=asked.terms,
    )


def _check(condition: Condition, results: Results) -> Check:
    return condition.check(values_of(results), [row["corpus"] for row in results["method"]["corpora"]])


def _report(out: Path, conditions: list[Condition], up_to_date: bool) -> Report:
    """What was found, and which conditions hold; raises BadSetting where one asks for a value that is not there."""
    results = read_results(out)
    held = [row for condition in conditions if (row := _check(condition, results))["holds"]]
    problem = "; ".join(
        f"--fail-if '{row['condition']}' holds: {row['left']:.6g} and {row['right']:.6g}" for row in held
    )
    shown, conclusion = summary_of(results), verdict(results)
    return Report(STAGE, out, up_to_date, shown, details=results, conclusion=conclusion, problem=problem)
