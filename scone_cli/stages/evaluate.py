"""`scone eval`: what the f-grams are worth and what they cost, measured on held-out text or on any other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from scone_cli.artifacts import (
    Manifest,
    digest_weights,
    fingerprint,
    open_artifact,
    publish,
    staging_folder,
    up_to_date,
    write_atomically,
    write_parquet,
)
from scone_cli.errors import BadSetting, InputMissing, MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.schemas import RESULTS
from scone_cli.stages import Report, result_settings, setting

if TYPE_CHECKING:
    from scone_cli.corpus import TokenStream
    from scone_cli.evaluation import Arm
    from scone_cli.sources import SourceFile

STAGE = "eval"
STAGE_VERSION = 1

METRICS = ("nats_per_token", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Evaluate:
    """Settings of `eval`."""

    text_field: str = setting("text", "JSON Lines field or Parquet column that holds the text.")
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


@dataclass(frozen=True)
class Inputs:
    """What `eval` reads: a workspace with model, vocabulary and table; corpora (none: the held-out split); rivals."""

    workspace: Path
    corpora: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()


def run(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """Evaluate the arms live, table and none, and every model in `inputs.against`; write the folder `out`.

    Raises:
        MismatchedArtifacts: table, model, vocabulary and tokenizer do not belong together.
        InputMissing: there is no held-out text, and no corpus was named.
    """
    from scone_cli.sources import find_files  # noqa: PLC0415 - heavy: only when the stage runs

    opened = _open(inputs)
    if inputs.corpora and "tokenizer.json" not in opened["tokens"].files:
        raise InputMissing(
            f"{inputs.workspace / 'tokens'}: made from token ids without a tokenizer, so the text of a corpus has no ids",
            "evaluate the held-out documents (no CORPUS), or run scone count-ngrams again with --tokenizer",
        )
    files = {_name(path): find_files([path], progress) for path in inputs.corpora}
    if len(files) < len(inputs.corpora):
        raise BadSetting("two corpora have the same name: rename one of them")
    made_from = {name: manifest.fingerprint for name, manifest in opened.items()}
    made_from |= {f"{name}: weights": digest_weights(each) for name, each in opened.items() if each.artifact == "model"}
    for name, corpus in files.items():
        made_from |= {f"{name}: {file.name}": file.sha256 for file in corpus}
    settings = result_settings(config)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    if not force and (manifest := up_to_date(out, "eval", mark)):
        return Report.of(out, manifest, up_to_date=True)

    from scone_cli.corpus import end_of_document  # noqa: PLC0415
    from scone_cli.evaluation import documents_trained_on, evaluate_corpus, lookup_costs, model_costs  # noqa: PLC0415

    staging = staging_folder(out, mark)  # before the work, because it refuses to replace what is not ours
    end = end_of_document(inputs.workspace / "tokens", opened["tokens"])
    arms = _arms(inputs, opened)
    corpora = _corpora(config, inputs, files, progress)
    found: dict[str, list[dict[str, Any]]] = {"results": [], "differences": [], "match_lengths": [], "documents": []}
    for name, stream in corpora.items():
        known = documents_trained_on(stream, inputs.workspace / "tokens")
        found["documents"].append({"corpus": name, "documents": len(stream.names), "also in the training split": known})
        for key, rows in evaluate_corpus(name, stream, arms, end, progress).items():
            found[key] += rows
    first = next(iter(corpora.values()))
    found["cost"] = model_costs(arms, first)
    found["lookup"] = lookup_costs(arms, first, progress)
    write_atomically(staging / "results.json", (json.dumps(found, indent=1) + "\n").encode())
    write_parquet(staging / "results.parquet", RESULTS, pa.Table.from_pylist(found["results"], RESULTS))
    summary = _summary(found, arms[0].model.config.context)
    # A corpus of thousands of files would drown the manifest: one digest stands for all that was read.
    given = {name: manifest.fingerprint for name, manifest in opened.items()} | {"corpora": mark}
    given["weights"] = digest_weights(opened["model"])
    manifest = Manifest.new(
        "eval", STAGE, STAGE_VERSION, mark, settings, given, opened["tokens"].tokenizer, config.seed, summary
    )
    return Report.of(out, publish(staging, out, manifest), up_to_date=False)


def _open(inputs: Inputs) -> dict[str, Manifest]:
    """The manifests of all artifacts that take part, checked byte by byte and against one another."""
    workspace = inputs.workspace
    opened = {name: open_artifact(workspace / name, name) for name in ("tokens", "model")}
    if opened["model"].summary["kind"] == "scone":
        opened |= {name: open_artifact(workspace / name, name) for name in ("vocab", "table")}
        for reader, made_from in (("model", "vocab"), ("table", "model"), ("table", "vocab")):
            found, expected = opened[reader].inputs[made_from], opened[made_from].fingerprint
            if found != expected:
                raise MismatchedArtifacts(
                    f"{workspace / reader}: made from {made_from} {found[:12]}, but {workspace / made_from} is {expected[:12]}",
                    "run: scone train-fgram && scone precompute" if reader == "model" else "run: scone precompute",
                )
        if opened["table"].inputs.get("weights") != digest_weights(opened["model"]):
            raise MismatchedArtifacts(
                f"{workspace / 'table'}: made from {workspace / 'model'} before that was trained again",
                "run: scone precompute",
            )
    for folder in inputs.against:
        name = _name(folder)
        if name in opened or name in ("live", "none"):
            raise BadSetting(f"--against {folder}: an arm named '{name}' exists already", "rename the folder")
        opened[name] = open_artifact(folder, "model")
    for name, manifest in opened.items():
        if manifest.tokenizer != opened["tokens"].tokenizer:
            raise MismatchedArtifacts(
                f"{name}: made with tokenizer {manifest.tokenizer[:12]}, "
                f"but {workspace / 'tokens'} has {opened['tokens'].tokenizer[:12]}",
                "compare models of one tokenizer, made from one workspace",
            )
    return opened


def _name(path: Path) -> str:
    return path.resolve().name


def _arms(inputs: Inputs, opened: dict[str, Manifest]) -> list[Arm]:
    """The arms in the order of the report: rivals, then live, table and none."""
    from scone_cli.evaluation import Arm  # noqa: PLC0415
    from scone_cli.model import SconeModel  # noqa: PLC0415
    from scone_cli.table import Table  # noqa: PLC0415
    from scone_cli.vocabulary import trie_of_model  # noqa: PLC0415

    workspace = inputs.workspace
    arms = []
    for folder in inputs.against:
        model = SconeModel.load(folder)
        arms.append(
            Arm(_name(folder), model, trie_of_model(folder, opened[_name(folder)], workspace) if model.fgram else None)
        )
    model = SconeModel.load(workspace / "model")
    if model.fgram:
        arms.append(Arm("live", model, trie=trie_of_model(workspace / "model", opened["model"], workspace)))
        arms.append(Arm("table", model, table=Table.open(workspace / "table", model=opened["model"])))
    arms.append(Arm("none", model))
    return arms


def _corpora(
    config: Evaluate, inputs: Inputs, files: dict[str, list[SourceFile]], progress: Progress
) -> dict[str, TokenStream]:
    from scone_cli.corpus import read_tokens  # noqa: PLC0415
    from scone_cli.schemas import HELD_OUT  # noqa: PLC0415

    if files:
        from scone_cli.encoding import encode_corpus  # noqa: PLC0415
        from scone_cli.tokenizer import Tokenizer  # noqa: PLC0415

        tokenizer = Tokenizer.load(inputs.workspace / "tokens" / "tokenizer.json")
        return {name: encode_corpus(found, tokenizer, config.text_field, progress) for name, found in files.items()}
    held_out = read_tokens(inputs.workspace / "tokens", HELD_OUT)
    if not held_out.tokens.size:
        raise InputMissing(
            f"{inputs.workspace / 'tokens'}: no document is held out",
            "name a corpus (scone eval CORPUS), or run: scone count-ngrams --held-out 0.01 CORPUS",
        )
    return {HELD_OUT: held_out}


def _summary(found: dict[str, list[dict[str, Any]]], context: int) -> dict[str, Any]:
    """The tables that people read, for the terminal: by arm, by corpus, by match length, cost, look-up."""
    results = {(row["corpus"], row["arm"], row["metric"]): row for row in found["results"]}
    gains = {(row["corpus"], row["against"]): row for row in found["differences"]}
    corpora = list(dict.fromkeys(row["corpus"] for row in found["results"]))
    arms = list(dict.fromkeys(row["arm"] for row in found["results"]))
    quality = []
    for arm in arms:
        nats, ppl, bits = (results.get((corpora[0], arm, metric)) for metric in METRICS)
        assert nats is not None
        assert ppl is not None
        gain = gains.get((corpora[0], arm))
        quality.append(
            {
                "arm": arm,
                "perplexity": round(ppl["value"], 3),
                "± ppl": _rounded(ppl["stderr"], 3),
                "bits a byte": _rounded(bits["value"] if bits else None, 4),
                "nats a token": round(nats["value"], 4),
                "table minus arm": _rounded(gain["nats_per_token"] if gain else None, 4),
                "± nats": _rounded(gain["stderr"] if gain else None, 4),
            }
        )
    summary: dict[str, Any] = {
        "corpus": corpora[0],
        "tokens": results[corpora[0], arms[0], "nats_per_token"]["n"],
        "window and stride, tokens": context,
    }
    if not any(row["bits a byte"] is not None for row in quality):
        summary["bits a byte"] = "not known: no byte-level tokenizer says how much text the tokens stand for"
    if any(row["also in the training split"] for row in found["documents"]):
        summary["documents that the models have learned from"] = found["documents"]
    if len(corpora) > 1:
        summary["perplexity by corpus"] = [
            {"corpus": corpus, "tokens": results[corpus, arms[0], "perplexity"]["n"]}
            | {arm: round(results[corpus, arm, "perplexity"]["value"], 2) for arm in arms}
            for corpus in corpora
        ]
        summary["table minus arm by corpus, nats a token"] = [
            {"corpus": corpus}
            | {
                arm: f"{row['nats_per_token']:+.4f}" + ("" if row["stderr"] is None else f" ± {row['stderr']:.4f}")
                for arm in arms
                if (row := gains.get((corpus, arm)))
            }
            for corpus in corpora
        ]
    by_length = [row for row in found["match_lengths"] if row["corpus"] == corpora[0]]
    if by_length:
        summary["hit rate"] = round(
            1 - sum(row["share of positions"] for row in by_length if not row["match length"]), 4
        )
        summary["by match length"] = by_length
    # What it is all about comes last: there a terminal is still showing it.
    return summary | {"lookup, microseconds a token": found["lookup"], "cost": found["cost"], "quality": quality}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # not -0.0
