"""`scone train-fgram`: train token embeddings, f-gram model, main model and head together (paper, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

STAGE = "train-fgram"
STAGE_VERSION = 1


@dataclass(frozen=True)
class TrainFgram:
    """Settings of `train-fgram`."""

    dim: int = setting(128, "Width of both models (d).")
    layers: int = setting(4, "Layers of the main model.")
    heads: int = setting(4, "Attention heads of both models.")
    fgram_layers: int = setting(4, "Layers of the f-gram model; 0 trains the plain baseline.")
    tied_head: bool = setting(True, "Share the token embeddings with the output head, as the paper does.")
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
    seed: int = setting(0, "Seed of the initial weights and of the order of the data.")


def run(config: TrainFgram, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `vocab/` of the workspace `inputs` and write the model folder `out`."""
    raise NotImplementedError
