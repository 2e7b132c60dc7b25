"""The optimisers: parameter groups, the schedule of the learning rate, gradient clipping, and the state in checkpoints.

There is one learning rate, with one schedule; `GROUPS` is the only place that says how a group of parameters differs from
it. How gradients are computed is in `gradients`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scone_cli.errors import BadSetting
from scone_cli.model.model import SconeModel

_STABLE = 0.8  # share of the steps of `wsd` before the decay, warm-up included
_LAST = 0.1  # the last learning rate, as a share of the peak
_BESIDE_MUON = 0.4  # factor of the learning rate for AdamW beside Muon: their best learning rates differ


@dataclass(frozen=True)
class Group:
    """A kind of parameters: the factor of its learning rate, and whether it has weight decay."""

    factor: float
    decays: bool
    maps: bool = False  # matrices inside a block, from vectors to vectors: Muon is made for these


GROUPS: Mapping[str, Group] = {
    "main blocks": Group(1.0, decays=True, maps=True),
    "f-gram blocks": Group(1.0, decays=True, maps=True),
    "head": Group(1.0, decays=True),
    "embeddings": Group(1.0, decays=False),  # of tokens and positions: one that no batch contains must not shrink
    "norms": Group(1.0, decays=False),
    "direct rows": Group(1.0, decays=False),  # learned or hashed rows: a batch contains few of them
    "base": Group(1.0, decays=False),  # a pretrained model, or LoRA beside it: small changes from what it was
}


SPARSE = ("hashed.weight", "learned.weight")  # parameters whose gradients are sparse


def group_of(name: str, parameter: Tensor) -> str:
    """The group in `GROUPS` of the parameter `name` of a `SconeModel`."""
    if name in SPARSE:
        return "direct rows"
    if name.startswith("main.inner."):
        return "base"
    if parameter.dim() < 2:
        return "norms"
    if "embedding" in name or "positions" in name:
        return "embeddings"
    if name.endswith("head.weight"):
        return "head"
    return "f-gram blocks" if name.startswith("fgram.") else "main blocks"


@dataclass(frozen=True)
class Schedule:
    """The learning rate of every step, in closed form, so that a run that continues needs only the number of its step.

    It rises linearly over `warmup` steps to `peak`. Then it falls to a tenth along half a cosine (`cosine`), or stays at the
    peak and falls linearly to a tenth over the last fifth of the steps (`wsd`: warm-up, stable, decay).
    """

    kind: str
    peak: float
    warmup: int
    steps: int

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        first = self.warmup if self.kind == "cosine" else max(self.warmup, round(_STABLE * self.steps))
        through = max(0.0, (step - first) / max(1, self.steps - first))
        fall = (1 - math.cos(math.pi * through)) / 2 if self.kind == "cosine" else through
        return self.peak * (1 - (1 - _LAST) * fall)


class Optimizers:
    """All optimisers of a model as one: AdamW; Muon for matrices inside blocks (`muon`); SparseAdam for direct rows.

    The state is stored by parameter name, so that a checkpoint does not depend on the order of parameters.

    Raises:
        BadSetting: this torch has no Muon.
    """

    def __init__(
        self,
        model: SconeModel,
        kind: str,
        weight_decay: float,
        peak: float = 1.0,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """For the parameters that are trained; `rates`: peak learning rates of groups that do not follow from `peak`."""
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        rates = rates or {}
        members: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self._parameters.items():
            members.setdefault(group_of(name, parameter), []).append(parameter)
        wanted: dict[str, list[dict[str, Any]]] = {}
        for name, parameters in members.items():
            group = GROUPS[name]
            which = "sparse" if name == "direct rows" else kind if group.maps else "adamw"
            factor = group.factor * (_BESIDE_MUON if kind == "muon" and which != "muon" else 1.0)
            factor = rates[name] / peak if name in rates else factor
            values = {"params": parameters, "factor": factor}
            if which != "sparse":  # SparseAdam has no weight decay
                values["weight_decay"] = weight_decay if group.decays else 0.0
            wanted.setdefault(which, []).append(values)
        self.all = {name: _MAKERS[name](groups) for name, groups in wanted.items()}

    def step(self, learning_rate: float) -> None:
        """Move the weights along their gradients, and forget these."""
        for optimizer in self.all.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group["factor"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state of all optimisers, by `<parameter>/<what>`."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self._parameters.items()}
        return {
            f"{names[parameter]}/{what}": torch.as_tensor(value)
            for optimizer in self.all.values()
            for parameter, state in optimizer.state.items()
            for what, value in state.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        owners = {
            parameter: optimizer
            for optimizer in self.all.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for path, tensor in tensors.items():
            name, what = path.rsplit("/", 1)
            parameter = self._parameters[name]
            optimizer = owners[parameter]
            counts_in_python = what == "step" and isinstance(optimizer, torch.optim.SparseAdam)
            optimizer.state[parameter][what] = int(tensor) if counts_in_python else tensor.to(parameter.device)


def _adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)


def _sparse_adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Reads and writes only the rows with a gradient, so the cost of a step does not grow with the number of rows."""
    return torch.optim.SparseAdam(groups, betas=(0.9, 0.95), eps=1e-8)


def _muon(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Torch's own Muon, scaled so that its updates are as large as those of AdamW at the same learning rate."""
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise BadSetting(
            f"--optimizer muon: this torch ({torch.__version__}) has no Muon",
            "install torch 2.9 or later, or use adamw",
        )
    made: torch.optim.Optimizer = muon(groups, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw")
    return made


_MAKERS: Mapping[str, Callable[[list[dict[str, Any]]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "muon": _muon,
    "sparse": _sparse_adam,
}


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale all gradients so that their total norm is at most `limit` (0: do not); return the norm before.

    A sparse gradient is coalesced first: several entries of a row count as their sum.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    norm = nn.utils.get_total_norm(values)
    if limit:
        torch._foreach_mul_(values, torch.clamp(limit / (norm + 1e-6), max=1.0).to(values[0].device))
    return float(norm)
