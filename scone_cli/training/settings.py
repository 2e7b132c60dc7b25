"""The settings of `train-fgram`, and what is checked of them before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scone_cli.errors import BadSetting
from scone_cli.runtime.torchrun import Launch
from scone_cli.settings import DEVICES, result_settings, setting
from scone_cli.training.window_order import parse_mixture

MOST_LEARNED = 1_000_000
ROW_RATE = 0.1  # of rows on a base (docs/retrofit.md)
BASE_RATES = {"no": 1e-3, "lora": 1e-3, "full": 1e-5}
TRAINED = ("lora", "full")
# Settings that models without a base do not have: they are not in the fingerprints of those.
OF_A_BASE = (
    "train_base",
    "lora_rank",
    "base_learning_rate",
    "row_learning_rate",
    "fgram_dim",
    "fgram_heads",
)
_PLAIN = {"fgram_layers": "; --kind plain trains without f-grams"}


@dataclass(frozen=True)
class TrainFgram:
    """Settings of `train-fgram`.

    The fingerprint of a model leaves out settings that only watch or save a run, and those that change just the last bits
    of the weights: device, compilation, number of processes, micro-batch. The weights have a hash of their own
    (`manifest.digest_weights`). The precision is in the fingerprint as it was given: `auto` stands for any machine.
    """

    kind: str = setting(
        "scone",
        "`scone`: the main model with f-grams; `plain`: the main model alone; `hashed`: the main model with rows for "
        "hashed n-grams that are learned directly.",
        choices=("scone", "plain", "hashed"),
    )
    dim: int = setting(128, "Width of both models (d).")
    layers: int = setting(4, "Layers of the main model.")
    heads: int = setting(4, "Attention heads of both models.")
    fgram_layers: int = setting(4, "Layers of the f-gram model. With --base, 0 trains learned rows alone.")
    combine: str = setting(
        "add",
        "Whether the row of a matched f-gram is added to the token embedding (`add`) or replaces it, as in the paper.",
        choices=("add", "replace"),
    )
    learned_rows: int | None = setting(
        None,
        "Number of f-grams, the most frequent, that also have a learned row. It is added to the token embedding, with the "
        "rows of their suffixes, and is part of the table's row. A row takes 12 bytes per dimension in training (0: no "
        f"learned rows, as in the paper).  [default: the f-grams that training will meet, at most {MOST_LEARNED:,}]",
    )
    hashed_rows: int = setting(0, "Rows of a hashed model (0: as many as there are f-grams).")
    tied_head: bool = setting(
        False, "Share the token embeddings with the head, as the paper does; small models learn better untied."
    )
    context: int = setting(256, "Context length in tokens.")
    batch: int = setting(16, "Sequences per optimiser step, of all processes together.")
    micro_batch: int = setting(
        0,
        "Sequences per forward pass (0: about 4,096 tokens on a CPU, the whole batch on a GPU); fewer need less memory.",
        affects_result=False,
    )
    steps: int = setting(1500, "Optimiser steps.")
    optimizer: str = setting(
        "muon",
        "`muon`: Muon for the matrices of all layers, AdamW for the rest; `adamw`: AdamW for all.",
        choices=("muon", "adamw"),
    )
    learning_rate: float = setting(
        1e-2, "Peak learning rate; AdamW beside Muon uses 0.4 of it. For AdamW alone try a lower one, such as 3e-3."
    )
    schedule: str = setting(
        "cosine",
        "How the learning rate falls to a tenth: `cosine`, from the warm-up on, or `wsd` (warm-up, stable, decay), "
        "linearly over the last fifth of the steps.",
        choices=("cosine", "wsd"),
    )
    warmup: int = setting(100, "Steps over which the learning rate rises.")
    weight_decay: float = setting(
        0.1, "Weight decay of matrices and head; embeddings, norms and hashed rows have none."
    )
    clip: float = setting(1.0, "Clip the norm of the gradient to this (0: never).")
    device: str = setting(
        "auto",
        "Where to train: `auto` is a CUDA GPU if there is one, else the CPU.",
        choices=DEVICES,
        affects_result=False,
    )
    precision: str = setting(
        "auto",
        "Precision of matrix products: `auto` is bfloat16 on a CUDA GPU, else float32. Weights are always float32.",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: bool = setting(
        False, "Compile the main model: faster after about a minute; needs a C++ compiler.", affects_result=False
    )
    eval_every: int = setting(250, "Steps between two measurements of the held-out loss.", affects_result=False)
    eval_tokens: int = setting(50_000, "Held-out tokens of each measurement.", affects_result=False)
    checkpoint_every: int = setting(100, "Steps between two checkpoints.", affects_result=False)
    checkpoint_minutes: float = setting(10.0, "Most minutes between two checkpoints.", affects_result=False)
    keep_checkpoints: int = setting(2, "Number of newest checkpoints that are kept.", affects_result=False)
    tracker: str = setting(
        "none",
        "`tensorboard`: also write the log to runs/ beside the model (pip install 'scone-cli[tracking]').",
        choices=("none", "tensorboard"),
        affects_result=False,
    )
    mixture: str | None = setting(
        None,
        "Sub-corpora (top folders of the corpus) and their weights in training, such as code=2,law=1; others are left out. "
        "[default: all text, in proportion to its size]",
    )
    seed: int = setting(0, "Seed of the initial weights and of the order of the data.")
    base: Path | None = setting(
        None,
        "A pretrained model, a folder of Hugging Face or a GGUF file, to which rows are added at its input embedding. It has "
        "its own shape, so --dim, --layers, --heads and --tied-head are not used.",
        affects_result=False,
    )
    train_base: str = setting(
        "no",
        "What is trained of --base: `no` leaves it as it is, `lora` puts LoRA beside its linear layers, `full` trains all of "
        "its weights.",
        choices=("no", *TRAINED),
    )
    lora_rank: int = setting(8, "Rank of LoRA.")
    base_learning_rate: float | None = setting(
        None, "Peak learning rate of what is trained of --base.  [default: 1e-3 for LoRA, 1e-5 for `full`]"
    )
    row_learning_rate: float | None = setting(
        None,
        "Peak learning rate of learned or hashed rows, as a share of the RMS of the base's embedding.  [default: "
        f"{ROW_RATE} with --base, else as for embeddings]",
    )
    fgram_dim: int = setting(256, "Width of the f-gram model beside --base.")
    fgram_heads: int = setting(4, "Attention heads of the f-gram model beside --base.")
    fgram_base: Path | None = setting(
        None,
        "With --base: a pretrained model that stands for the f-gram model, as in the paper's appendix. It reads each f-gram "
        "alone; its last hidden state, through a learned projection, is the row. It is not trained.",
        affects_result=False,
    )
    gradient_checkpointing: bool = setting(
        False,
        "Compute the base's layers again in the backward pass: less memory, about a third more time.",
        affects_result=False,
    )


def settings_of(config: TrainFgram) -> dict[str, Any]:
    """The settings that a model depends on: those of a base only where there is one."""
    every = result_settings(config)
    return {name: value for name, value in every.items() if config.base is not None or name not in OF_A_BASE}


def check(config: TrainFgram, launch: Launch) -> None:
    """Check the settings before any work.

    Raises:
        BadSetting: a setting is invalid; the message names it.
    """
    parse_mixture(config.mixture)
    _check_ranges(config)
    if config.kind == "scone" and config.combine == "replace" and config.learned_rows:
        raise BadSetting(
            f"--combine replace --learned-rows {config.learned_rows:,}: learned rows are part of the token embedding, which "
            "is replaced",
            "give --learned-rows 0, or --combine add",
        )
    _check_base(config)
    if config.base is None and config.dim % (2 * config.heads):
        raise BadSetting(f"--dim {config.dim} --heads {config.heads}: a head's width must be a whole, even number")
    if config.batch % launch.size:
        raise BadSetting(f"--batch {config.batch}: expected a multiple of {launch.size}, the number of processes")


def _check_base(config: TrainFgram) -> None:
    """Check the settings of a model on a base, and that no others are given without one."""
    if config.base is None:
        for name, default in (("train_base", "no"), ("fgram_base", None), ("gradient_checkpointing", False)):
            if getattr(config, name) != default:
                raise BadSetting(
                    f"--{name.replace('_', '-')}: works only with --base", "name a pretrained model: --base DIR"
                )
        return
    if config.combine == "replace":
        raise BadSetting(
            "--combine replace: with --base, rows are added to its embedding: it must begin as it is",
            "leave --combine out",
        )
    if config.kind == "plain" and config.train_base == "no":
        raise BadSetting(
            "--kind plain --base: nothing would be trained", "give --train-base lora or full, or leave --kind out"
        )
    if config.fgram_dim % (2 * config.fgram_heads):
        raise BadSetting(
            f"--fgram-dim {config.fgram_dim} --fgram-heads {config.fgram_heads}: a head's width must be a whole, even number"
        )
    if config.compile:
        raise BadSetting("--compile: does not work with --base", "leave --compile out")


def _check_ranges(config: TrainFgram) -> None:
    counts = (
        "dim",
        "layers",
        "heads",
        "fgram_layers",
        "context",
        "batch",
        "steps",
        "eval_every",
        "eval_tokens",
        "lora_rank",
    )
    for name in (*counts, "checkpoint_every", "keep_checkpoints"):
        if name == "fgram_layers" and config.base is not None and config.fgram_layers == 0 and config.learned_rows != 0:
            continue  # learned rows alone
        if getattr(config, name) < 1:
            option = f"--{name.replace('_', '-')} {getattr(config, name)}"
            raise BadSetting(f"{option}: expected 1 or more{_PLAIN.get(name, '')}")
    for name in ("micro_batch", "warmup", "learned_rows", "hashed_rows", "weight_decay", "clip"):
        if not 0 <= (getattr(config, name) or 0) < math.inf:
            raise BadSetting(f"--{name.replace('_', '-')} {getattr(config, name)}: expected 0 or more")
    for name in ("learning_rate", "checkpoint_minutes", "row_learning_rate", "base_learning_rate"):
        given = getattr(config, name)
        if given is not None and not 0 < given < math.inf:
            raise BadSetting(f"--{name.replace('_', '-')} {getattr(config, name)}: expected a number above 0")
    for name, end in (("seed", 2**63), ("steps", 10**8)):  # names of checkpoints have eight digits
        if not 0 <= getattr(config, name) < end:
            raise BadSetting(f"--{name} {getattr(config, name)}: expected 0 or more, below {end:,}")
