"""`scone precompute`: run the f-gram model once over the whole vocabulary; its outputs are the table (paper, section 3.3)."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.artifacts import (
    SCRATCH,
    Manifest,
    digest_weights,
    fingerprint,
    open_artifact,
    publish,
    staging_folder,
    up_to_date,
    write_atomically,
)
from scone_cli.errors import BadSetting, MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.stages import Report, result_settings, setting

if TYPE_CHECKING:
    from scone_cli.model import SconeModel
    from scone_cli.table import Raw
    from scone_cli.trie import FgramTrie

STAGE = "precompute"
STAGE_VERSION = 2  # rows enter the model as they are

CHUNK = 16_384  # f-grams at a time: some tens of MB of hidden states
CHUNKS_A_MARK = 16  # what a crash may cost: a few seconds of work


@dataclass(frozen=True)
class Precompute:
    """Settings of `precompute`."""

    dtype: str = setting("float16", "Number format of the rows.", choices=("float32", "float16", "bfloat16"))
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: Precompute, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `vocab/` and `model/` of the workspace `inputs` and write the table folder `out`.

    Raises:
        MismatchedArtifacts: model, vocabulary and tokenizer do not belong together.
        BadSetting: the model has no f-gram model, and so no rows.
    """
    tokens = open_artifact(inputs / "tokens", "tokens", hashes=False)
    vocab = open_artifact(inputs / "vocab", "vocab")
    model = open_artifact(inputs / "model", "model")
    if model.summary["kind"] != "scone":
        raise BadSetting(
            f"{inputs / 'model'}: a {model.summary['kind']} model, it has no table", "run: scone train-fgram"
        )
    for name, manifest in (("vocab", vocab), ("model", model)):
        if manifest.tokenizer != tokens.tokenizer:
            raise MismatchedArtifacts(
                f"{inputs / name}: made with tokenizer {manifest.tokenizer[:12]}, "
                f"but {inputs / 'tokens'} has {tokens.tokenizer[:12]}",
                "run: scone select-vocab && scone train-fgram",
            )
    if model.inputs["vocab"] != vocab.fingerprint:
        raise MismatchedArtifacts(
            f"{inputs / 'model'}: trained with vocabulary {model.inputs['vocab'][:12]}, "
            f"but {inputs / 'vocab'} is {vocab.fingerprint[:12]}",
            "run: scone train-fgram",
        )
    made_from = {"vocab": vocab.fingerprint, "model": model.fingerprint, "weights": digest_weights(model)}
    settings = result_settings(config)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from)
    if not force and (manifest_found := up_to_date(out, "table", mark)):
        return Report.of(out, manifest_found, up_to_date=True)

    from scone_cli.model import SconeModel  # noqa: PLC0415 - heavy: only when the stage runs
    from scone_cli.table import write_index, write_rows  # noqa: PLC0415
    from scone_cli.vocabulary import Vocabulary  # noqa: PLC0415

    network = SconeModel.load(inputs / "model")
    shape = network.config
    trie = Vocabulary.read(inputs / "vocab", vocab.settings["num_tokens"], vocab.settings["max_n"]).trie
    staging = staging_folder(out, mark)
    raw = _compute_rows(network, trie, config.dtype, staging / SCRATCH, progress)
    write_rows(staging, raw)
    index = trie.index()
    write_index(staging, index, shape.dim, config.dtype)
    shutil.copyfile(inputs / "vocab" / "vocab.parquet", staging / "vocab.parquet")
    settings |= {"dim": shape.dim, "num_fgrams": len(raw), "num_tokens": trie.num_tokens, "max_n": trie.max_n}
    summary = {
        "rows": len(raw),
        "dim": shape.dim,
        "dtype": config.dtype,
        "bytes of rows": raw.nbytes,
        "bytes of index": index.nbytes,
    }
    manifest = Manifest.new(
        "table", STAGE, STAGE_VERSION, mark, settings, made_from, tokens.tokenizer, config.seed, summary
    )
    return Report.of(out, publish(staging, out, manifest), up_to_date=False)


def _compute_rows(network: SconeModel, trie: FgramTrie, dtype: str, scratch: Path, progress: Progress) -> Raw:
    """The rows of all f-grams, raw in id order, in a mapped scratch file.

    The vocabulary is closed under prefixes, so an f-gram costs one token-forward. Memory does not grow with the width of
    the rows, and a run that was killed goes on after its last mark.
    """
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from scone_cli.table import DTYPES, token_order_chunks  # noqa: PLC0415

    path, mark = scratch / "rows.raw", scratch / "chunks-done"
    done = int(mark.read_text()) if mark.exists() else 0
    row_bytes = network.config.dim * DTYPES[dtype].itemsize
    if not done:
        with path.open("wb") as file:  # whole at once: a mapped file for which there is no room kills the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(1, trie.num_fgrams * row_bytes))
            else:
                file.truncate(max(1, trie.num_fgrams * row_bytes))
    rows = np.memmap(path, np.uint8, "r+", shape=(trie.num_fgrams, row_bytes))
    chunks = token_order_chunks(trie.token_order(), CHUNK)
    progress("precomputing", done * CHUNK, trie.num_fgrams, "rows", f"{rows.nbytes / 2**20:,.1f} MiB of rows")
    with torch.inference_mode():
        for number in range(done, len(chunks)):
            ids = chunks[number]
            computed = network.rows(trie, ids).to(DTYPES[dtype])
            rows[ids] = computed.contiguous().view(torch.uint8).numpy()
            if (number + 1) % CHUNKS_A_MARK == 0:
                rows.flush()
                write_atomically(mark, str(number + 1).encode())
            progress("precomputing", min((number + 1) * CHUNK, trie.num_fgrams), trie.num_fgrams, "rows")
    return rows
