"""The runs of `bench_quality.py`: makes the vocabularies, trains each arm and measures it; finished work is not repeated.

Folders in the workspace: tokens/ and counts/; fgrams/SIZE/ with the vocab/ for arms with so many f-grams and a link to
tokens/; arms/NAME/seed-K with model/ and documents.parquet, the loss of every held-out document. Each run has its own
lock, so that several processes may share the work. `quality_report` evaluates the losses.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from quality_arms import ARMS, Experiment, Run

from scone_cli.arrays import F64
from scone_cli.artifacts.manifest import MANIFEST, Manifest, digest_weights, open_artifact, read_manifest
from scone_cli.artifacts.publish import workspace_lock, write_parquet
from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.console.output import say, say_error
from scone_cli.console.progress_bars import listening
from scone_cli.corpus.token_stream import read_tokens, top_folder
from scone_cli.errors import InputMissing, SconeError, WorkspaceLocked
from scone_cli.evaluation.metrics import per_document
from scone_cli.evaluation.run_arms import Arm, run_arm
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress
from scone_cli.runtime.resources import storage_failures
from scone_cli.runtime.signals import StopNote, Stopped, stop_signals
from scone_cli.stages import count_ngrams, select_vocab, train_fgram
from scone_cli.table.row_formats import row_bytes
from scone_cli.table.sizes import table_bytes
from scone_cli.training.summary import read_config, training_record
from scone_cli.vocab.vocabulary import Vocabulary

DOCUMENTS = pa.schema(
    [
        pa.field("doc", pa.string(), nullable=False),
        pa.field("bytes", pa.uint64(), nullable=False),
        pa.field("tokens", pa.uint64(), nullable=False),
        pa.field("nats", pa.float64(), nullable=False),  # sum over the document's tokens
    ]
)
_WEIGHTS = b"weights"  # key in the file's metadata: digest of the weights that were measured
DEV, TEST = "dev", "test"  # held-out documents for choosing settings, and for reporting (used once)
_TABLE_DTYPE = "float16"
_WAIT = 2.0  # seconds between two attempts to take a lock


def half_of(document: str) -> str:
    """Assign a held-out document to `DEV` or `TEST`, half of them each, by the hash of its name."""
    return (DEV, TEST)[hashlib.blake2b(document.encode(), digest_size=8).digest()[-1] % 2]


def exit_code_of(work: Callable[[StopNote], int]) -> int:
    """Run `work` like a command of `scone`: print its errors, and return its exit code; a signal sets the StopNote."""
    try:
        with stop_signals() as stop:
            return work(stop)
    except SconeError as error:
        say_error(error.message, error.hint)
        return error.exit_code
    except Stopped as stopped:
        say_error(f"stopped by {stopped}; the same command continues")
        return stopped.exit_code


@contextlib.contextmanager
def held(workspace: Path) -> Iterator[None]:
    """Hold the lock of a folder, waiting for the process that has it: for work of a few minutes at most."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(workspace_lock(workspace))
                break
            except WorkspaceLocked:
                time.sleep(_WAIT)
        yield


def prepare(experiment: Experiment, corpus: Sequence[Path], work: Path) -> None:
    """Make tokens/, counts/ and the vocabularies; without a corpus, tokens/ and counts/ must exist.

    Raises:
        InputMissing: they do not exist, and no corpus is given.
    """
    if not corpus and not (work / "counts" / MANIFEST).is_file():
        raise InputMissing(f"{work}: there is no counts/ in it", "name the corpus to make it of")
    with storage_failures(work), held(work):
        if corpus:
            with listening(quiet=False, verbose=False) as progress:
                count_ngrams.run(experiment.count, corpus, work, progress)
        for size, config in experiment.sizes.items():
            place = work / "fgrams" / size
            place.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (place / "tokens").symlink_to(Path("..", "..", "tokens"))
            with listening(quiet=False, verbose=False) as progress:
                report = select_vocab.run(config, work, place / "vocab", progress)
            say(f"vocabulary {size}: {report.summary['fgrams']:,} f-grams")


def folder_of(run: Run, work: Path) -> Path:
    """The folder of a run's model and losses."""
    return work / "arms" / run.arm.name / f"seed-{run.seed}"


def inputs_of(run: Run, work: Path) -> Path:
    """The folder with the tokens/ and, if needed, the vocab/ that a run reads."""
    return work / "fgrams" / run.arm.fgrams if run.arm.fgrams else work


def carry_out(run: Run, work: Path) -> bool:
    """Train and measure a run unless that is done already; returns False if another process is working on it.

    Raises:
        SconeError: training failed.
    """
    folder = folder_of(run, work)
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_failures(folder))
        try:
            stack.enter_context(workspace_lock(folder))
        except WorkspaceLocked:
            return False
        with listening(quiet=False, verbose=False) as progress:
            inputs = inputs_of(run, work)
            train_fgram.run(run.config, inputs, folder / "model", progress)
            _measure(folder, inputs, progress)
    return True


def _measure(folder: Path, inputs: Path, progress: Progress) -> None:
    """Measure the loss of every held-out document with the model in `folder`, and write it, unless that is done."""
    weights = digest_weights(open_artifact(folder / "model", "model"))
    path = folder / "documents.parquet"
    if _measured(path) == weights:
        return
    stream = read_tokens(inputs / "tokens", HELD_OUT)
    if not stream.num_bytes.any():
        raise InputMissing(f"{inputs / 'tokens'}: no held-out text whose bytes are known", "give a larger held-out")
    model = SconeModel.load(folder / "model")
    config = model.config
    trie = Vocabulary.read(inputs / "vocab", config.vocab_size, config.max_n).trie if model.fgram else None
    found = run_arm(Arm(folder.parent.name, model, trie), stream, config.end_of_document, progress)
    columns = [stream.names, stream.num_bytes, np.diff(stream.starts), per_document(found.losses, stream.starts)]
    table = pa.table(dict(zip(DOCUMENTS.names, columns, strict=True)), DOCUMENTS)
    write_parquet(path, DOCUMENTS.with_metadata({_WEIGHTS: weights}), table)


def _measured(path: Path) -> str | None:
    """Digest of the weights whose losses are in a file; None if there is no file."""
    if not path.is_file():
        return None
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata
    return metadata[_WEIGHTS].decode()


# ---- results -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """The result of a finished run: sizes and costs of its model, and arrays [documents] with its losses."""

    run: Run
    facts: dict[str, Any]
    domains: npt.NDArray[np.str_]
    num_bytes: F64
    tokens: F64
    nats: F64


def findings(experiment: Experiment, work: Path) -> list[Finding]:
    """Load all finished runs of the experiment; a run with other settings is left out, with a message."""
    found = []
    for run in experiment.runs(ARMS):
        folder = folder_of(run, work)
        if not (folder / "model" / MANIFEST).is_file():
            continue
        model = open_artifact(folder / "model", "model", hashes=False)
        if _measured(folder / "documents.parquet") != digest_weights(model):
            continue  # another process has just trained it and is measuring it
        inputs = inputs_of(run, work)
        others = run.differences(model.settings)
        artifacts = [name for name in ("tokens", "vocab") if name in model.inputs]
        if others or any(model.inputs[name] != read_manifest(inputs / name).fingerprint for name in artifacts):
            say(f"{run.title}: left out, trained with {', '.join(others) or 'other tokens or f-grams'}")
            continue
        table = pq.read_table(folder / "documents.parquet", schema=DOCUMENTS)
        names = np.array([top_folder(name) for name in table["doc"].to_pylist()])
        numbers = (table[name].to_numpy().astype(np.float64) for name in DOCUMENTS.names[1:])
        found.append(Finding(run, _facts(run, folder / "model", model, inputs), names, *numbers))
    return found


def _facts(run: Run, folder: Path, model: Manifest, inputs: Path) -> dict[str, Any]:
    """Sizes and costs of a run's model: resident and offloaded, and FLOPs of inference and training."""
    config = read_config(folder)
    record = training_record(folder, config)
    rows, num_bytes = 0, 0
    if run.config.kind == "scone":
        rows = read_manifest(inputs / "vocab").summary["fgrams"]
        num_bytes = table_bytes(rows, config["dim"], _TABLE_DTYPE, config["vocab_size"])
    elif run.config.kind == "hashed":
        rows = model.summary["offloaded_parameters"] // config["dim"]
        num_bytes = rows * row_bytes(_TABLE_DTYPE, config["dim"])
    return {
        "dim": config["dim"],
        "layers": config["layers"],
        "fgram_layers": config["fgram_layers"],
        "learning_rate": run.config.learning_rate,
        "resident_parameters": model.summary["resident_parameters"],
        "resident_non_embedding_parameters": model.summary["resident_non_embedding_parameters"],
        "training_only_parameters": model.summary["training_only_parameters"],
        "offloaded_rows": rows,
        "offloaded_bytes": num_bytes,
        "inference_flops_a_token": record["cost"]["inference_flops_a_token"],
        "training_flops": record["cost"]["training_flops"],
        "trie_nodes_a_token": record["training"]["trie_nodes_a_token"],
        "training_tokens": record["training"]["tokens"],
        "training_seconds": record["training"]["seconds"],
    }


def held_out_size(found: Sequence[Finding]) -> dict[str, int]:
    """Size of the held-out text that the losses are measured on: documents, tokens, bytes."""
    first = found[0]
    sizes = {"documents": first.nats.size, "tokens": int(first.tokens.sum()), "bytes": int(first.num_bytes.sum())}
    return sizes | {"domains": np.unique(first.domains).size}
