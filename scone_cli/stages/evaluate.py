"""`scone eval`: what the f-grams are worth and what they cost, measured on held-out text or on any other.

It reads tokens/, model/ and, of a model with f-grams, vocab/ and table/; it writes `results.json` (whose sections the README
describes), its `results` again as `results.parquet`, and `report.html`. What was measured is kept when only the conditions
on it change.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli import __version__
from scone_cli.artifacts.manifest import GIVEN, Manifest, digest_weights, fingerprint
from scone_cli.artifacts.publish import publish, published, staging_folder, up_to_date
from scone_cli.artifacts.replacing import replaces, tell_replacing, what_is_replaced
from scone_cli.artifacts.schemas import HELD_OUT, SCHEMA_VERSIONS
from scone_cli.corpus.separators import SEPARATOR_HELP, Separator
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError
from scone_cli.evaluation.break_even import Prices
from scone_cli.evaluation.fail_if import LATENCIES, Condition, parse
from scone_cli.evaluation.results import in_short, read_results
from scone_cli.progress import Progress
from scone_cli.report.eval_summary import summary_of
from scone_cli.settings import DEVICES, result_settings, setting
from scone_cli.stages import Report

if TYPE_CHECKING:
    from scone_cli.corpus.files import SourceFile
    from scone_cli.corpus.tokenizer import Tokenizer
    from scone_cli.evaluation.arms import Opened
    from scone_cli.evaluation.texts import Text

STAGE = "eval"
# Bytes of memory: libraries, and what a batch of text takes. With a small model 650 MiB were measured.
_PROCESS = 750 << 20

STAGE_VERSION = 5  # too few items of a task; the index of a live model is on disk too

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluate:
    """Settings of `eval`. The device moves the last bits of losses; what they were computed on is in no fingerprint."""

    text_field: str | None = setting(
        None, "JSON Lines field or Parquet column of text.  [default: that of count-ngrams]"
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


@dataclass(frozen=True)
class Inputs:
    """What `eval` reads: a workspace; corpora (none: the held-out split); rivals, further tables, tasks; conditions, prices."""

    workspace: Path
    corpora: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    fail_if: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    task_data: Path | None = None
    limit: int | None = None
    terms: Path | None = None
    prices: Prices = field(default_factory=Prices)


def run(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """Evaluate the arms live, table and none, further tables and every rival in `inputs`; write the folder `out`.

    Raises:
        MismatchedArtifacts: table, model, vocabulary, tokens and tokenizer do not belong together.
        InputMissing: there is no held-out text, and no corpus was named; or there is not one document in it.
        BadSetting: two arms or corpora have one name; a condition that is not understood.
    """
    from scone_cli.evaluation.arm_cost import payback_of  # heavy: only when the stage runs
    from scone_cli.report.eval_files import write_results
    from scone_cli.report.eval_verdict import verdict_of

    asked = _open(config, inputs, progress)
    config = asked.config
    found, conditions, files, measured, mark = asked.found, asked.conditions, asked.files, asked.measured, asked.mark
    settings = result_settings(config)
    if not force and up_to_date(out, STAGE, mark):
        return _report(out, conditions, up_to_date=True)

    tell_replacing(progress, out, _replaced(config, inputs, out, found, force))
    staging = staging_folder(out, mark)  # before the work, because it refuses to replace what is not ours
    results = None if force else _measured_before(out, measured)
    if results is None:
        results = _measure(config, inputs, found, files, asked.terms, progress)
    results["schema_version"] = SCHEMA_VERSIONS[STAGE]
    results["method"] |= _method(config, inputs, found)
    results["payback"] = payback_of(results, found.plain_rivals(), inputs.prices)
    results["verdict"] = verdict_of(results)
    results["checks"] = []
    for condition in conditions:
        with contextlib.suppress(BadSetting):  # told when all that was measured is safe
            results["checks"].append(_check(condition, results))
    write_results(staging, results)
    # A corpus of thousands of files would drown the manifest: one digest stands for all that was read.
    given = _parts(found) | {"measured": measured, "weights": digest_weights(found.artifacts["model"])}
    timeless = results | {"verdict": verdict_of(results | {"speed": []})}  # equal runs write equal manifests
    manifest = Manifest.new(
        "eval",
        stage=STAGE,
        stage_version=STAGE_VERSION,
        fingerprint=mark,
        settings=settings,
        inputs=given,
        tokenizer=found.artifacts["tokens"].tokenizer,
        summary={**in_short(timeless), "asked": _asked_for(inputs, found)},
    )
    publish(staging, out, manifest)
    return _report(out, conditions, up_to_date=False)


def plan(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """What `run` would measure and take; nothing is written.

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
    of_tables = [found.artifacts["table"]] if found.has_table else []
    of_tables += [table for _, table in found.tables.values()]
    indexes = sum(table.files["index.bin"].bytes for table in of_tables)
    facts = {
        "arms": found.names(),
        "corpora": [
            {"corpus": name, "tokens": None if files else held_out, "bytes": sum(each.bytes for each in files) or None}
            for name, files in asked.files.items()
        ],
        "tasks": list(inputs.tasks),
        "measured_before": not force and _measured_before(out, asked.measured) is not None,
        "memory_bytes": _PROCESS + weights + indexes,
        "mapped_bytes": sum(stamp.bytes for table in of_tables for stamp in table.files.values()),
    }
    done = not force and published(out, STAGE, asked.mark) is not None
    if not done:
        facts |= replaces(out, _replaced(asked.config, inputs, out, found, force))
    return Report(STAGE, out, done, facts)


def _replaced(config: Evaluate, inputs: Inputs, out: Path, found: Opened, force: bool) -> str:
    settings, asked = result_settings(config), _asked_for(inputs, found)
    return what_is_replaced(inputs.workspace, out, STAGE, config, settings, _parts(found), force, asked)


def _parts(found: Opened) -> dict[str, str]:
    """The fingerprints of all that takes part."""
    rivals = {name: each.fingerprint for name, (_, each) in found.rivals.items()}
    return rivals | {name: each.fingerprint for name, each in found.artifacts.items()}


@dataclass(frozen=True)
class _Asked:
    """What is evaluated and how, conditions, files, terms; the marks of what is measured, and of all."""

    config: Evaluate
    found: Opened
    conditions: list[Condition]
    files: dict[str, list[SourceFile]]
    terms: list[str]
    measured: str
    mark: str


def _open(config: Evaluate, inputs: Inputs, progress: Progress) -> _Asked:
    """Open what takes part, and find the texts."""
    from scone_cli.evaluation.arms import check_rivals, opened  # heavy: only when the stage runs

    inputs.prices.check()
    Separator.of(config.document_separator)  # it may be refused
    found = opened(inputs.workspace, inputs.against, inputs.tables)
    config = _read_alike(config, inputs, found)
    conditions = [parse(text, found.names()) for text in inputs.fail_if]
    files = _files(inputs, found, progress)
    check_rivals(found, reads_held_out=not all(files.values()))
    for condition in conditions:
        condition.check_corpora(list(files))
        if condition.needs_speed and not config.speed:
            raise BadSetting(
                f"--fail-if '{condition.text}': no latency is measured",
                "leave out --no-speed, or the recipe's speed = false (--speed for one call)",
            )
    made_from = found.fingerprints()
    made_from |= {"arms": json.dumps(found.names()), "corpora": json.dumps(list(files))}  # the first counts most
    made_from |= _task_fingerprints(inputs, found)
    terms = _terms(inputs, found)
    made_from |= {"terms": json.dumps(terms)} if terms else {}
    made_from |= {f"{name}: {file.name}": file.sha256 for name, corpus in files.items() for file in corpus}
    settings = result_settings(config)
    measured = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    also = {"measured": measured, "fail-if": json.dumps(inputs.fail_if), "prices": json.dumps(asdict(inputs.prices))}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, also)
    return _Asked(config, found, conditions, files, terms, measured, mark)


def _read_alike(config: Evaluate, inputs: Inputs, found: Opened) -> Evaluate:
    """The settings, with the text field and separator of training's corpus: else no document would be known again."""
    if not inputs.corpora:
        return config
    missing = (name for name in ("text_field", "document_separator") if getattr(config, name) is None)
    return replace(config, **{name: found.artifacts["tokens"].settings[name] for name in missing})


def _files(inputs: Inputs, found: Opened, progress: Progress) -> dict[str, list[SourceFile]]:
    """The files of every corpus, by its name; none of the held-out documents, which `held-out`, or no corpus, stands for."""
    from scone_cli.corpus.files import find_files, printable
    from scone_cli.corpus.formats import TOKENS

    named = [path for path in inputs.corpora if str(path) != HELD_OUT or path.exists()]
    if named:
        _need_tokenizer(found, "the text of a corpus has no ids", "evaluate the held-out documents (no CORPUS)")
    corpora = inputs.corpora or (Path(HELD_OUT),)
    by_name: dict[str, Path] = {}
    for path in corpora:
        name = printable(path.resolve().name)
        if other := by_name.get(name):
            twice = "is named twice" if other == path else f"and {other} have the same name, {name}"
            raise BadSetting(f"corpus {path} {twice}", "name it once" if other == path else "rename one of them")
        by_name[name] = path
    files = {name: find_files([path], progress) if path in named else [] for name, path in by_name.items()}
    if ids := next((file for corpus in files.values() for file in corpus if file.kind == TOKENS), None):
        raise BadData(
            f"{ids.location}: a file of token ids by its name, and eval reads text",
            "name the text they were made from, or hold out a part of the corpus: scone count-ngrams --held-out 0.1 CORPUS",
        )
    return files


def _need_tokenizer(found: Opened, so: str, instead: str) -> None:
    if "tokenizer.json" not in found.artifacts["tokens"].files:
        raise InputMissing(
            f"{found.workspace / 'tokens'}: made from token ids without a tokenizer, so {so}",
            f"{instead}, or run scone count-ngrams again with --tokenizer",
        )


def _task_fingerprints(inputs: Inputs, found: Opened) -> dict[str, str]:
    """What the answers to tasks depend on."""
    if not inputs.tasks:
        if inputs.task_data or inputs.limit:
            raise BadSetting(
                f"{'--task-data' if inputs.task_data else '--limit'}: no task is named", "name some: --tasks piqa"
            )
        return {}
    _need_tokenizer(found, "the text of a task has no ids", "leave --tasks out")
    from scone_cli.evaluation.lm_eval import TaskOptions, task_fingerprints

    options = TaskOptions(inputs.task_data, inputs.limit)
    return {"tasks": json.dumps(inputs.tasks)} | task_fingerprints(inputs.tasks, options)


def _terms(inputs: Inputs, found: Opened) -> list[str]:
    """The terms of the field, if there are any."""
    if inputs.terms is None:
        return []
    _need_tokenizer(found, "no term can be found in them", "leave --terms out")
    from scone_cli.corpus.terms import read_terms

    return read_terms(inputs.terms)


def _measured_before(out: Path, measured: str) -> Row | None:
    """The results in `out` if all that was measured is the same, and only what is asked of it has changed."""
    from scone_cli.artifacts.manifest import open_artifact

    try:
        manifest = open_artifact(out, STAGE)
    except SconeError:
        return None
    if manifest.inputs.get("measured") != measured:
        return None
    return read_results(out)


def _check(condition: Condition, results: Row) -> Row:
    """A row of `checks`; raises BadSetting where the condition names what there is not."""
    values = {(row["arm"], row["metric"], row["corpus"]): row["value"] for row in results["results"]}
    for arm in results["method"]["tables"]:
        values |= {(arm, "hit_rate", row["corpus"]): row["hit_rate"] for row in results["hit_rates"]}
    for row in results["latency"]:
        if row["placement"] != "ram":  # of a table, as it is mapped
            values |= {(row["arm"], metric, ""): row[metric] for metric in LATENCIES}
    return condition.check(values, [row["corpus"] for row in results["method"]["corpora"]])


def _measure(
    config: Evaluate,
    inputs: Inputs,
    found: Opened,
    files: dict[str, list[SourceFile]],
    terms: list[str],
    progress: Progress,
) -> Row:
    from scone_cli.evaluation.lm_eval import TaskOptions
    from scone_cli.evaluation.measure import measure

    tokenizer = _tokenizer(found)
    texts = _texts(config, found, files, tokenizer)
    choice: Row = {"ladder": config.ladder, "speed": config.speed, "terms": terms, "tasks": inputs.tasks}
    choice["task_options"] = TaskOptions(inputs.task_data, inputs.limit)
    return measure(found, texts, tokenizer, progress, device=config.device, **choice)


def _tokenizer(found: Opened) -> Tokenizer | None:
    """The tokenizer of all that takes part, if there is one."""
    from scone_cli.corpus.tokenizer import Tokenizer

    has_one = "tokenizer.json" in found.artifacts["tokens"].files
    return Tokenizer.load(found.workspace / "tokens" / "tokenizer.json") if has_one else None


def _texts(
    config: Evaluate, found: Opened, files: dict[str, list[SourceFile]], tokenizer: Tokenizer | None
) -> list[Text]:
    from scone_cli.evaluation.texts import held_out_text, text_of_files

    return [
        text_of_files(name, corpus, tokenizer, config.text_field, config.document_separator)
        if corpus and tokenizer
        else held_out_text(found.workspace / "tokens", found.artifacts["tokens"])
        for name, corpus in files.items()
    ]


def _method(config: Evaluate, inputs: Inputs, found: Opened) -> Row:
    """What was compared, and all that is needed to do it again."""
    from scone_cli.evaluation.arms import calls_of, commands_of

    own = found.artifacts["model"].fingerprint
    changed = {name: value for name, value in asdict(config).items() if value != getattr(Evaluate(), name)}
    tables = {"table": found.artifacts["table"]} if found.has_table else {}
    tables |= {f"table:{name}": manifest for name, (_, manifest) in found.tables.items()}
    return {
        "scone": __version__,
        "tokenizer": found.artifacts["tokens"].tokenizer,
        "models": {name: found.rivals[name][1].fingerprint if name in found.rivals else own for name in found.names()},
        "tables": {
            name: {
                "fingerprint": table.fingerprint,
                "dtype": table.settings["dtype"],
                "rows": table.settings["num_fgrams"],
            }
            for name, table in tables.items()
        },
        "commands": commands_of(found, [*map(str, inputs.corpora), *_options(inputs)], result_settings(config)),
        "calls": calls_of(
            found, [*map(str, inputs.corpora)], _options(inputs), changed, GIVEN.get().recipe.get("path")
        ),
    }


def _asked_for(inputs: Inputs, found: Opened) -> dict[str, str | None]:
    """What is evaluated by which rivals, tables, tasks, terms and conditions; None of what there is none of."""
    asked = {"corpora": [str(path) for path in inputs.corpora], "against": [*found.rivals], "table": [*found.tables]}
    asked |= {"tasks": [*inputs.tasks], "fail_if": [*inputs.fail_if]}
    asked |= {
        "terms": [str(inputs.terms)] if inputs.terms else [],
        "limit": [str(inputs.limit)] if inputs.limit else [],
    }
    return {name: ", ".join(values) or None for name, values in asked.items()}


def _options(inputs: Inputs) -> list[str]:
    """What this evaluation was given beside its corpora, as on a command line."""
    given = {"against": inputs.against, "table": inputs.tables, "tasks": inputs.tasks, "fail-if": inputs.fail_if}
    for flag, value in (("task-data", inputs.task_data), ("limit", inputs.limit), ("terms", inputs.terms)):
        given[flag] = (str(value),) if value is not None else ()
    return [word for flag, values in given.items() for value in values for word in (f"--{flag}", str(value))]


def _report(out: Path, conditions: list[Condition], up_to_date: bool) -> Report:
    """What was found, and which conditions to fail by hold; raises BadSetting where one cannot be told."""
    results = read_results(out)
    held = [row for condition in conditions if (row := _check(condition, results))["holds"]]
    problem = "; ".join(
        f"--fail-if '{row['condition']}' holds: {row['left']:.6g} and {row['right']:.6g}" for row in held
    )
    return Report(STAGE, out, up_to_date, summary_of(results), details=results, problem=problem)
