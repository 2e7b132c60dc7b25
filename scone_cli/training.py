"""The training loop: batches of windows, one A_f-gram pass over the whole batch's trie, AdamW, checkpoints, the log.

What it leaves out: which files the data came from and where the result goes; `stages/train_fgram.py` knows that.
A run is a function of (data, plan): the order of the data comes from the seed and the step, so a run resumed from a
checkpoint ends with the weights of one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scone_cli.artifacts import fsync, write_parquet
from scone_cli.errors import SconeError
from scone_cli.gradients import accumulate_gradients, mean_loss
from scone_cli.model import SconeModel
from scone_cli.packing import PackedText
from scone_cli.progress import Progress
from scone_cli.schemas import LOG
from scone_cli.trie import FgramTrie

KEPT_CHECKPOINTS = 2

Log = list[dict[str, Any]]  # rows of `schemas.LOG`


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to learn; the fields are those of the stage's config."""

    batch: int
    micro_batch: int
    steps: int
    warmup: int
    learning_rate: float
    weight_decay: float
    eval_every: int
    eval_tokens: int
    checkpoint_every: int
    seed: int

    def learning_rate_at(self, step: int) -> float:
        """Linear rise over the warm-up, then a cosine down to a tenth of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        through = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * through))


def train(
    model: SconeModel,
    text: PackedText,
    held_out: PackedText | None,
    trie: FgramTrie | None,
    plan: TrainingPlan,
    scratch: Path,
    progress: Progress,
) -> pa.Table:
    """Train `model` in place and return the log; continues from the newest checkpoint in `scratch`.

    Raises:
        BadData: the text, or a sub-corpus in it, is shorter than one window.
        SconeError: the loss or its gradient is no longer a number.
    """
    order = text.order(plan.seed)
    optimizer = adamw(model, plan)
    log, step = resume(model, optimizer, scratch)
    started, tokens_a_step = time.monotonic() - (log[-1]["seconds"] if log else 0.0), plan.batch * text.context
    sizes = [sum(weight.numel() for weight in part.parameters()) for part in (model.main, model.fgram) if part]
    parameters = " + ".join(f"{size / 1e6:.1f}M" for size in sizes)  # the first step takes a while: say what is coming
    progress("training", step * tokens_a_step, plan.steps * tokens_a_step, "tokens", f"{parameters} parameters")
    while step < plan.steps:
        windows = order.at(step * plan.batch, plan.batch)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate_at(step)
        loss, num_nodes = accumulate_gradients(model, *text.windows(windows), trie, plan.micro_batch or plan.batch)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise SconeError(
                f"the loss became {loss} at step {step + 1} (norm of the gradient: {norm})", "lower --learning-rate"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        look = held_out is not None and (step % plan.eval_every == 0 or step == plan.steps)
        log.append(
            {
                "step": step,
                "tokens": step * tokens_a_step,
                "loss": loss,
                "learning_rate": plan.learning_rate_at(step - 1),
                "gradient_norm": norm,
                "held_out_loss": mean_loss(model, held_out, trie, plan.eval_tokens) if look and held_out else None,
                "trie_nodes": num_nodes,
                "seconds": time.monotonic() - started,
            }
        )
        progress("training", step * tokens_a_step, plan.steps * tokens_a_step, "tokens", describe(log))
        if step % plan.checkpoint_every == 0 and step < plan.steps:
            save_checkpoint(model, optimizer, log, scratch)
    return pa.Table.from_pylist(log, LOG)


def adamw(model: SconeModel, plan: TrainingPlan) -> torch.optim.AdamW:
    """AdamW without decay on embeddings and norms: a row that is never hit must not shrink."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        matrix = parameter.dim() == 2 and "embedding" not in name and "positions" not in name
        (decayed if matrix else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def describe(log: Log) -> str:
    """One line on how the training goes: recent loss, the last held-out loss."""
    recent = [row["loss"] for row in log[-20:]]
    held_out = [row["held_out_loss"] for row in log[-1000:] if row["held_out_loss"] is not None]
    return f"loss {sum(recent) / len(recent):.3f}" + (f", held-out {held_out[-1]:.3f}" if held_out else "")


# ---- checkpoints -------------------------------------------------------------------------------------------------


def save_checkpoint(model: SconeModel, optimizer: torch.optim.Optimizer, log: Log, scratch: Path) -> None:
    """Write weights, optimiser state and log, each whole or not at all; the weights last, as they make it count."""
    step = int(log[-1]["step"])
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    write_parquet(scratch / f"step-{step:08d}.parquet", LOG, pa.Table.from_pylist(log, LOG))
    path = scratch / f"step-{step:08d}.safetensors"
    beside = path.with_suffix(".tmp")
    save_file(tensors, beside)
    fsync(beside)
    beside.replace(path)
    for old in sorted(scratch.glob("step-*.safetensors"))[:-KEPT_CHECKPOINTS]:
        old.unlink()
        old.with_suffix(".parquet").unlink(missing_ok=True)


def resume(model: SconeModel, optimizer: torch.optim.Optimizer, scratch: Path) -> tuple[Log, int]:
    """Load the newest whole checkpoint in `scratch`; returns its log and its step (an empty log and 0 without one)."""
    for path in sorted(scratch.glob("step-*.safetensors"), reverse=True):
        try:
            tensors = load_file(path)
            log: Log = pq.read_table(path.with_suffix(".parquet"), schema=LOG).to_pylist()
        except (SafetensorError, pa.ArrowException, OSError):
            continue  # damaged on the disk since: this is what the one before is kept for
        model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, what = name.split(".")
                state.setdefault(int(number), {})[what] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return log, int(log[-1]["step"])
    return [], 0
