"""`scone train-fgram`: train token embeddings, f-gram model, main model and head together (paper, section 3.2)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts import (
    SCRATCH,
    Manifest,
    fingerprint,
    open_artifact,
    publish,
    staging_folder,
    up_to_date,
    write_parquet,
)
from scone_cli.errors import BadSetting, MismatchedArtifacts
from scone_cli.mixing import parse_mixture
from scone_cli.progress import Progress
from scone_cli.schemas import LOG
from scone_cli.stages import Report, result_settings, setting

if TYPE_CHECKING:
    import pyarrow as pa

    from scone_cli.model import SconeModel

STAGE = "train-fgram"
STAGE_VERSION = 1


@dataclass(frozen=True)
class TrainFgram:
    """Settings of `train-fgram`."""

    dim: int = setting(128, "Width of both models (d).")
    layers: int = setting(4, "Layers of the main model.")
    heads: int = setting(4, "Attention heads of both models.")
    fgram_layers: int = setting(4, "Layers of the f-gram model; 0 trains the plain baseline.")
    tied_head: bool = setting(
        False, "Share the token embeddings with the head, as the paper does; at small sizes untied learns better."
    )
    context: int = setting(256, "Context length in tokens.")
    batch: int = setting(16, "Sequences an optimiser step.")
    micro_batch: int = setting(0, "Sequences a forward pass (0: the whole batch); smaller needs less memory.")
    steps: int = setting(1500, "Optimiser steps.")
    warmup: int = setting(100, "Steps over which the learning rate rises; after them it falls as a cosine to a tenth.")
    learning_rate: float = setting(3e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.1, "Weight decay of matrices; embeddings and norms have none.")
    eval_every: int = setting(250, "Steps between two looks at the held-out loss.")
    eval_tokens: int = setting(50_000, "Held-out tokens looked at each time.")
    checkpoint_every: int = setting(100, "Steps between two checkpoints.", affects_result=False)
    mixture: str | None = setting(
        None,
        "Sub-corpora (top folders of the corpus) and their shares of training, such as code=2,law=1; others are left out. "
        "[default: all text, as much of each as there is]",
    )
    seed: int = setting(0, "Seed of the initial weights and of the order of the data.")


def run(config: TrainFgram, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `vocab/` of the workspace `inputs` and write the model folder `out`.

    The plain baseline (`fgram_layers` 0) does not read the vocabulary, so it stays up to date when that changes.

    Raises:
        BadSetting: a setting out of its range, or a mixture of what is not there.
        MismatchedArtifacts: the vocabulary was not made from these tokens.
    """
    _check(config)
    mixture = parse_mixture(config.mixture)
    tokens = open_artifact(inputs / "tokens", "tokens")
    made_from = {"tokens": tokens.fingerprint}
    num_tokens, max_n = tokens.summary["vocabulary size"], 0
    if config.fgram_layers:
        vocab = open_artifact(inputs / "vocab", "vocab")
        if vocab.inputs["tokens"] != tokens.fingerprint or vocab.tokenizer != tokens.tokenizer:
            raise MismatchedArtifacts(
                f"{inputs / 'vocab'}: selected from other tokens than {inputs / 'tokens'}", "run: scone select-vocab"
            )
        made_from["vocab"] = vocab.fingerprint
        max_n = vocab.settings["max_n"]
    settings = result_settings(config)
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from | {"tokenizer": tokens.tokenizer})
    if not force and (manifest := up_to_date(out, "model", mark)):
        return Report.of(out, manifest, up_to_date=True)

    import torch  # noqa: PLC0415 - heavy: only when the stage runs

    from scone_cli.corpus import end_of_document, read_tokens  # noqa: PLC0415
    from scone_cli.model import ModelConfig, SconeModel  # noqa: PLC0415
    from scone_cli.packed_files import open_packed, write_packed  # noqa: PLC0415
    from scone_cli.packing import PackedText  # noqa: PLC0415
    from scone_cli.schemas import HELD_OUT  # noqa: PLC0415
    from scone_cli.training import TrainingPlan, train  # noqa: PLC0415
    from scone_cli.vocabulary import Vocabulary  # noqa: PLC0415

    trie = Vocabulary.read(inputs / "vocab", num_tokens, max_n).trie if config.fgram_layers else None
    index = trie.index() if trie else None
    end = end_of_document(inputs / "tokens", tokens)
    staging = staging_folder(out, mark)
    packed = staging / SCRATCH / "text"
    write_packed(packed, inputs / "tokens", end, num_tokens, index, list(mixture), progress)
    text = open_packed(packed, config.context, mixture)
    stream = read_tokens(inputs / "tokens", HELD_OUT)
    held_out = PackedText.pack(stream.tokens, stream.starts, end, index, config.context)
    del index, stream  # 16 bytes an f-gram, of no more use
    torch.manual_seed(config.seed)
    names = [item.name for item in dataclasses.fields(ModelConfig)]
    shape = {"vocab_size": num_tokens, "max_n": max_n, **dataclasses.asdict(config)}
    model = SconeModel(ModelConfig(**{name: shape[name] for name in names}))
    plan = TrainingPlan(**{item.name: getattr(config, item.name) for item in dataclasses.fields(TrainingPlan)})
    log = train(model, text, held_out if held_out.num_windows else None, trie, plan, staging / SCRATCH, progress)
    model.save(staging)
    write_parquet(staging / "log.parquet", LOG, log)
    summary = {**_summary(model, log), **text.epochs(config.steps * config.batch)}
    manifest = Manifest.new(
        "model", STAGE, STAGE_VERSION, mark, settings, made_from, tokens.tokenizer, config.seed, summary
    )
    return Report.of(out, publish(staging, out, manifest), up_to_date=False)


def _check(config: TrainFgram) -> None:
    counts = ("dim", "layers", "heads", "context", "batch", "steps", "eval_every", "eval_tokens", "checkpoint_every")
    for name in counts:
        if getattr(config, name) < 1:
            raise BadSetting(f"--{name.replace('_', '-')} {getattr(config, name)}: expected 1 or more")
    if config.fgram_layers < 0 or config.micro_batch < 0 or config.warmup < 0:
        raise BadSetting("--fgram-layers, --micro-batch and --warmup: expected 0 or more")
    if not (0 < config.learning_rate < math.inf and 0 <= config.weight_decay < math.inf):
        raise BadSetting(
            f"--learning-rate {config.learning_rate} --weight-decay {config.weight_decay}: expected a number above 0, "
            "and one of 0 or more"
        )
    if not 0 <= config.seed < 2**63:
        raise BadSetting(f"--seed {config.seed}: expected 0 or more, in 63 bits")
    if config.dim % (2 * config.heads):
        raise BadSetting(f"--dim {config.dim} --heads {config.heads}: a head's width must be a whole, even number")


def _summary(model: SconeModel, log: pa.Table) -> dict[str, Any]:
    """Sizes, and where the loss ended; no times, so that two equal runs have equal manifests."""

    def size(*modules: Any) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    held_out = [loss for loss in log.column("held_out_loss").to_pylist() if loss is not None]
    last = log.column("loss").to_pylist()[-50:]
    return {
        "kind": "scone" if model.fgram else "plain",
        "resident parameters": size(model.main),
        "resident non-embedding parameters": size(model.main.blocks, model.main.norm, model.main.embedding_norm),
        "training-only parameters": size(model.fgram) if model.fgram else 0,
        "steps": log.num_rows,
        "tokens": log.column("tokens").to_pylist()[-1],
        "training loss (last 50 steps)": round(sum(last) / len(last), 4),
        "held-out loss": round(held_out[-1], 4) if held_out else None,
    }
