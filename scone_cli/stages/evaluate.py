"""`scone eval`: what the f-grams are worth and what they cost, measured on held-out text or on any other.

It reads tokens/, model/ and, of a model with f-grams, vocab/ and table/; it writes `results.json` (whose sections the README
describes), its `results` again as `results.parquet`, and `report.html`. What was measured is kept when only the conditions
on it change.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from scone_cli import __version__
from scone_cli.artifacts import (
    Manifest,
    digest_weights,
    fingerprint,
    publish,
    staging_folder,
    up_to_date,
    write_atomically,
    write_parquet,
)
from scone_cli.conditions import Condition, parse
from scone_cli.errors import BadSetting, InputMissing, SconeError
from scone_cli.progress import Progress
from scone_cli.schemas import RESULTS, SCHEMA_VERSIONS
from scone_cli.stages import Report, result_settings, setting

if TYPE_CHECKING:
    from scone_cli.arms import Opened
    from scone_cli.sources import SourceFile
    from scone_cli.texts import Text

STAGE = "eval"
STAGE_VERSION = 2  # results.json in its second form

Row = dict[str, Any]


@dataclass(frozen=True)
class Evaluate:
    """Settings of `eval`."""

    text_field: str = setting("text", "JSON Lines field or Parquet column that holds the text.")
    ladder: bool = setting(False, "Also evaluate the first 1,000, 10,000, ... rows of the table: which size is enough.")
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


@dataclass(frozen=True)
class Inputs:
    """What `eval` reads: a workspace; corpora (none: the held-out split); rivals, further tables, conditions to fail by."""

    workspace: Path
    corpora: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    fail_if: tuple[str, ...] = ()


def run(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """Evaluate the arms live, table and none, further tables and every rival in `inputs`; write the folder `out`.

    Raises:
        MismatchedArtifacts: table, model, vocabulary and tokenizer do not belong together.
        InputMissing: there is no held-out text, and no corpus was named; or there is not one document in it.
        BadSetting: two arms or corpora have one name; a condition that is not understood.
    """
    from scone_cli.arms import opened  # noqa: PLC0415 - heavy: only when the stage runs

    found = opened(inputs.workspace, inputs.against, inputs.tables)
    conditions = [parse(text, found.names()) for text in inputs.fail_if]
    files = _files(inputs, found, progress)
    made_from = found.fingerprints()
    made_from |= {f"{name}: {file.name}": file.sha256 for name, corpus in files.items() for file in corpus}
    settings = result_settings(config)
    measured = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, {"measured": measured, "fail-if": json.dumps(inputs.fail_if)})
    if not force and (manifest := up_to_date(out, STAGE, mark)):
        return _report(out, manifest, up_to_date=True)

    staging = staging_folder(out, mark)  # before the work, because it refuses to replace what is not ours
    results = None if force else _measured_before(out, measured)
    if results is None:
        results = _measure(config, inputs, found, files, progress)
    problem = _judge(results, conditions)
    _write(staging, results)
    from scone_cli.eval_summary import summary_of  # noqa: PLC0415

    # A corpus of thousands of files would drown the manifest: one digest stands for all that was read.
    given = {name: each.fingerprint for name, each in found.artifacts.items()} | {"measured": measured}
    given |= {name: each.fingerprint for name, (_, each) in found.rivals.items() if name not in given}
    given["weights"] = digest_weights(found.artifacts["model"])
    tokenizer = found.artifacts["tokens"].tokenizer
    manifest = Manifest.new(
        "eval", STAGE, STAGE_VERSION, mark, settings, given, tokenizer, config.seed, summary_of(results)
    )
    report = _report(out, publish(staging, out, manifest), up_to_date=False)
    if problem:  # in how the conditions were put, and told when what was measured is safe
        raise problem
    return report


def _files(inputs: Inputs, found: Opened, progress: Progress) -> dict[str, list[SourceFile]]:
    """The files of every corpus, by its name."""
    from scone_cli.sources import find_files  # noqa: PLC0415

    if inputs.corpora and "tokenizer.json" not in found.artifacts["tokens"].files:
        raise InputMissing(
            f"{inputs.workspace / 'tokens'}: made from token ids without a tokenizer, so the text of a corpus has no ids",
            "evaluate the held-out documents (no CORPUS), or run scone count-ngrams again with --tokenizer",
        )
    files = {path.resolve().name: find_files([path], progress) for path in inputs.corpora}
    if len(files) < len(inputs.corpora):
        raise BadSetting("two corpora have the same name: rename one of them")
    return files


def _measured_before(out: Path, measured: str) -> Row | None:
    """The results in `out` if all that was measured is the same, and only what is asked of it has changed."""
    from scone_cli.artifacts import open_artifact  # noqa: PLC0415

    try:
        manifest = open_artifact(out, STAGE)
    except SconeError:
        return None
    if manifest.inputs.get("measured") != measured:
        return None
    results: Row = json.loads((out / "results.json").read_bytes())
    return results


def _judge(results: Row, conditions: list[Condition]) -> SconeError | None:
    """Put `checks` and the `verdict` into the results; what is wrong with a condition."""
    from scone_cli.report_verdict import verdict  # noqa: PLC0415

    corpora = [row["corpus"] for row in results["method"]["corpora"]]
    values = {(row["arm"], row["metric"], row["corpus"]): row["value"] for row in results["results"]}
    for arm in results["method"]["tables"]:
        values |= {(arm, "hit_rate", row["corpus"]): row["hit_rate"] for row in results["hit_rates"]}
    results["checks"], problem = [], None
    for condition in conditions:
        try:
            results["checks"].append(condition.check(values, corpora))
        except SconeError as error:
            problem = problem or error
    results["verdict"] = " ".join(filter(None, [verdict(results), (results["payback"] or {}).get("verdict")]))
    return problem


def _measure(
    config: Evaluate, inputs: Inputs, found: Opened, files: dict[str, list[SourceFile]], progress: Progress
) -> Row:
    """All sections of the results but those that judge."""
    from scone_cli.arm_costs import lookup_costs, model_costs  # noqa: PLC0415
    from scone_cli.arms import TABLE, WITHOUT, load_arms  # noqa: PLC0415
    from scone_cli.corpus import end_of_document  # noqa: PLC0415
    from scone_cli.legible import Speller  # noqa: PLC0415
    from scone_cli.quality import Reading, evaluate_text  # noqa: PLC0415
    from scone_cli.texts import documents_trained_on, training_counts  # noqa: PLC0415
    from scone_cli.tokenizer import Tokenizer  # noqa: PLC0415

    started = time.monotonic()
    folder, tokens = inputs.workspace / "tokens", found.artifacts["tokens"]
    tokenizer = Tokenizer.load(folder / "tokenizer.json") if "tokenizer.json" in tokens.files else None
    arms, trie = load_arms(found, config.ladder)
    reading = Reading(
        end_of_document(folder, tokens),
        training_counts(folder, arms[-1].model.config.vocab_size),
        Speller(tokenizer),
        trie,
        [*found.rivals, WITHOUT],
    )
    results: Row = {"schema_version": SCHEMA_VERSIONS[STAGE], "method": {}}
    corpora = []
    texts = _texts(config, found, files, tokenizer)
    for text in texts:
        sections, tally = evaluate_text(text, arms, reading, progress)
        for name, rows in sections.items():
            results.setdefault(name, []).extend(rows)
        corpora.append(
            {"corpus": text.name, "documents": len(tally.folders)}
            | {what: int(tally(what).sum()) or None for what in ("tokens", "bytes", "words")}
            | {"in_training_split": documents_trained_on(tally.digests, folder)}
        )
    shown = [arm for arm in arms if arm.prefix is None]
    lengths = {
        row["match_length"]: row["share"] for row in results["match_lengths"] if row["corpus"] == corpora[0]["corpus"]
    }
    results["tasks"] = []
    results["cost"] = model_costs(shown, [lengths.get(n, 0.0) for n in range(max(lengths, default=0) + 1)])
    results["speed"] = []
    tables = [arm.table for arm in shown if arm.name == TABLE and arm.table]
    results["lookup"] = [row for table in tables for row in lookup_costs(table, _beginning(texts[0]), progress)]
    results["peak_memory_bytes"] = None
    results["payback"] = None
    results["method"] = _method(config, inputs, found, corpora, shown[-1].model.config.context) | {
        "seconds": time.monotonic() - started
    }
    return results


def _texts(config: Evaluate, found: Opened, files: dict[str, list[SourceFile]], tokenizer: Any) -> list[Text]:
    from scone_cli.texts import held_out_text, text_of_files  # noqa: PLC0415

    if files:
        return [text_of_files(name, corpus, tokenizer, config.text_field) for name, corpus in files.items()]
    return [held_out_text(found.workspace / "tokens", found.artifacts["tokens"])]


def _beginning(text: Text) -> Any:
    """The tokens of the first piece of a text."""
    return next(text.pieces())[0].tokens


def _method(config: Evaluate, inputs: Inputs, found: Opened, corpora: list[Row], context: int) -> Row:
    """All that is needed to do it again."""
    from scone_cli.eval_commands import commands_of  # noqa: PLC0415

    own = found.artifacts["model"].fingerprint
    tables = {"table": found.artifacts["table"]} if found.has_table else {}
    tables |= {f"table:{name}": manifest for name, (_, manifest) in found.tables.items()}
    return {
        "scone": __version__,
        "corpora": corpora,
        "window": context,
        "stride": context,
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
        "commands": commands_of(found, inputs.corpora, inputs.against, inputs.tables, result_settings(config)),
        "seed": config.seed,
    }


def _write(staging: Path, results: Row) -> None:
    write_atomically(staging / "results.json", (json.dumps(_known(results), indent=1, allow_nan=False) + "\n").encode())
    write_parquet(staging / "results.parquet", RESULTS, pa.Table.from_pylist(results["results"], RESULTS))


def _known(value: Any) -> Any:
    """The same without what is no number: that is not known, which is null in JSON."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _report(out: Path, manifest: Manifest, up_to_date: bool) -> Report:
    """What was found, and which conditions to fail by hold."""
    results = json.loads((out / "results.json").read_bytes())
    held = [row for row in results["checks"] if row["holds"]]
    problem = "; ".join(
        f"--fail-if '{row['condition']}' holds: {row['left']:.6g} and {row['right']:.6g}" for row in held
    )
    return Report(STAGE, out, up_to_date, manifest.summary, details=results, problem=problem)
