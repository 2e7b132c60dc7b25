"""The size of a training run, computed before it starts: parameters, memory, disk, FLOPs.

Not counted: pages of the packed text that the system caches in free memory. The time is estimated from the first steps
(`loop`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from scone_cli.formatting import bytes_text, count_text, power_text
from scone_cli.model.devices import CUDA_LIBRARIES, micro_batch
from scone_cli.model.flops import (
    block_parameters,
    fgram_parameters,
    fgram_pass_flops,
    forward_flops,
    main_parameters,
    swiglu_width,
)
from scone_cli.model.model import ModelConfig
from scone_cli.runtime.torchrun import Launch
from scone_cli.training.gradients import GRAPH_BYTES

MIB = 1 << 20
_NUMBER = 4  # bytes: weights, gradients and optimiser state are float32

# Measured, in resident bytes of the process.
_PROCESS = 760 * MIB + CUDA_LIBRARIES  # libraries and compiled loops, before there is a model
_READING = 230  # per f-gram, while the vocabulary is read and sorted
_ORDER = 8  # per window of the training text: the order of an epoch
_KEPT = 60  # per f-gram, of the trie, from then on

_VECTORS_A_BLOCK = 11  # vectors of the model's width that autograd keeps per token and block, with our kernels on a CPU
_VECTORS_OF_TORCH = 14  # the same with torch's kernels, beside five vectors of the MLP's width
_LOGITS = 2 * 512  # rows of logits in memory at once: logits and their gradient
_HEAD_COPIES = 2  # copies of the gradient of the head
_BACKWARD = 2  # FLOPs of the backward pass, in forward passes


_VECTORS_OF_A_BASE = 34  # vectors of its width that autograd keeps per token and layer of a transformer, about
_BYTES_A_LOGIT = 14  # logits in the type of the base and in float32, and the gradients of both


@dataclass(frozen=True)
class BaseSize:
    """What training takes of a base: its parameters and their bytes in memory, and how much of it is trained.

    trained_parameters: those that are trained. output_size: logits per token. saves_memory: whether layers are computed again.
    """

    parameters: int
    bytes: int
    trained_parameters: int
    layers: int
    dim: int
    output_size: int
    saves_memory: bool

    def working_bytes(self, tokens: int) -> int:
        """Bytes that a forward and backward pass of so many tokens takes."""
        layers = 1 if self.saves_memory else self.layers
        kept = layers * _VECTORS_OF_A_BASE * self.dim + (self.layers * self.dim if self.saves_memory else 0)
        return tokens * (_NUMBER * kept + _BYTES_A_LOGIT * self.output_size)


@dataclass(frozen=True)
class TrainingSize:
    """What the size of a training run depends on.

    Attributes:
        model: the shape of the model.
        optimizer: `muon` or `adamw`.
        batch: sequences per step, of this process.
        micro_batch: sequences per forward pass.
        steps: optimiser steps.
        ranks: processes that train together.
        processes: those of them on this machine; memory is counted for these.
        keep_checkpoints: checkpoints on disk.
        text_tokens: tokens of the packed text, held-out text included.
        num_fgrams: f-grams of the vocabulary; 0 if it is not read.
        matched: upper bound of the token-forwards of A_f-gram per position: share of matched positions times mean length.
        on_gpu: whether the model is in the memory of a GPU.
    """

    model: ModelConfig
    optimizer: str
    batch: int
    micro_batch: int
    steps: int
    ranks: int
    processes: int
    keep_checkpoints: int
    text_tokens: int
    num_fgrams: int
    matched: float
    on_gpu: bool
    base: BaseSize | None = None

    @classmethod
    def of(
        cls,
        config: Any,
        model: ModelConfig,
        tokens: Mapping[str, Any],
        num_fgrams: int,
        matched: float,
        device: torch.device,
        launch: Launch,
        base: BaseSize | None = None,
    ) -> TrainingSize:
        """The size of a training run with the settings `config` of the stage; `tokens` is the summary of `tokens/`."""
        part = config.batch // launch.size
        return cls(
            model=model,
            optimizer=config.optimizer,
            batch=part,
            micro_batch=config.micro_batch or micro_batch(device, part, config.context),
            steps=config.steps,
            ranks=launch.size,
            processes=launch.local_size,
            keep_checkpoints=config.keep_checkpoints,
            text_tokens=tokens["tokens"] + tokens.get("segments", tokens["documents"]),
            num_fgrams=num_fgrams,
            matched=matched,
            on_gpu=device.type == "cuda",
            base=base,
        )

    # ---- parameters -------------------------------------------------------------------------------------------

    @property
    def resident(self) -> int:
        """Parameters that are in memory when the model is served (the main model)."""
        of = self.model
        if self.base is not None:
            return self.base.parameters
        return main_parameters(of.dim, of.hidden, of.layers, of.vocab_size, of.tied_head)

    @property
    def fgram_model(self) -> int:
        """Parameters of A_f-gram, which only training and `precompute` need."""
        of, width = self.model, self.model.fgram_width
        if of.kind != "scone" or not of.fgram_layers:
            return 0
        projections = 2 * width * of.dim if of.fgram_dim else 0
        return fgram_parameters(width, swiglu_width(width), of.fgram_layers, of.max_n) + projections

    @property
    def rows(self) -> int:
        """The number of learned rows, or of hashed rows."""
        return self.model.learned_rows or self.model.hashed_rows

    # ---- bytes ------------------------------------------------------------------------------------------------

    @property
    def _lasting(self) -> int:
        """Bytes of weights and optimiser state: two numbers per weight, one for matrices under Muon."""
        of, dense = self.model, self.resident + self.fgram_model
        if self.base is not None:
            trained = self.base.trained_parameters + self.fgram_model
            return self.base.bytes + 3 * _NUMBER * (trained + self.rows * of.dim)
        matrices = (of.layers + of.fgram_layers) * block_parameters(of.dim, of.hidden)
        remembered = 2 * dense - (matrices if self.optimizer == "muon" else 0)
        return _NUMBER * (dense + remembered + 3 * self.rows * of.dim)

    @property
    def _working(self) -> int:
        """Bytes that a step needs in addition: gradients, activations kept by autograd, logits."""
        of = self.model
        if self.base is not None:
            tokens, trained = self.batch * of.context, self.base.trained_parameters + self.fgram_model
            graph = _NUMBER * round(self._nodes) * of.fgram_layers * _VECTORS_OF_TORCH * of.fgram_width
            rows = 0 if of.kind == "plain" else 4 * _NUMBER * tokens * of.dim
            part = self.base.working_bytes(self.micro_batch * of.context)
            return _NUMBER * trained + min(GRAPH_BYTES, graph) + rows + part
        width = _VECTORS_OF_TORCH * of.dim + 5 * of.hidden if self.on_gpu else _VECTORS_A_BLOCK * of.dim
        tokens, part = self.batch * of.context, self.micro_batch * of.context
        graph = min(GRAPH_BYTES, _NUMBER * round(self._nodes) * of.fgram_layers * width)
        picked = 0 if of.kind == "plain" else 4 * _NUMBER * tokens * of.dim  # rows of the batch, and their gradient
        main = _NUMBER * part * (of.layers * width + 4 * of.dim)
        head = _NUMBER * of.vocab_size * (_LOGITS + _HEAD_COPIES * of.dim)
        return _NUMBER * (self.resident + self.fgram_model) + graph + picked + main + head

    @property
    def _nodes(self) -> float:
        """Upper bound of the token-forwards of A_f-gram per step: no more than the trie of the vocabulary has nodes."""
        return min(self.batch * self.model.context * self.matched, self.num_fgrams + self.model.vocab_size)

    @property
    def device_bytes(self) -> int:
        """Bytes of GPU memory that one process needs; 0 on a CPU."""
        return self._lasting + self._working if self.on_gpu else 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the machine's memory that its processes need together at the peak."""
        weights = self._written
        model = weights if self.on_gpu else self._lasting + self._working
        order = _ORDER * (self.text_tokens // self.model.context)
        return self.processes * (_PROCESS + max(_READING * self.num_fgrams, _KEPT * self.num_fgrams + model + order))

    @property
    def _written(self) -> int:
        """Bytes of the weights in the model's files."""
        dense = self.base.trained_parameters if self.base is not None else self.resident
        return _NUMBER * (dense + self.fgram_model + self.rows * self.model.dim)

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk needed at most: the packed text, the checkpoints and one that is being written, and the model."""
        a_token = (2 if self.model.vocab_size < 1 << 16 else 4) + (4 if self.num_fgrams else 0)
        weights, checkpoint = self._written, self._lasting - (self.base.bytes if self.base else 0)
        return self.text_tokens * a_token + (self.keep_checkpoints + 1) * checkpoint + weights

    # ---- FLOPs ------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        """Tokens that all processes read together."""
        return self.steps * self.ranks * self.batch * self.model.context

    @property
    def flops(self) -> float:
        """Upper bound of the FLOPs of all steps, forward and backward."""
        of, width = self.model, self.model.fgram_width
        main = forward_flops(of.dim, of.hidden, of.layers, of.vocab_size, of.context) * self.tokens
        asked = min(self._nodes, self.batch * of.context)
        fgram = fgram_pass_flops(width, swiglu_width(width), of.fgram_layers, self._nodes, asked, of.max_n)
        if self.base is not None:  # about two per parameter and token; frozen weights have no gradients
            main = 2 * self.base.parameters * self.tokens
            passes = 3 if self.base.trained_parameters == self.base.parameters else 2
            return passes * main + (1 + _BACKWARD) * self.steps * self.ranks * fgram * (of.kind == "scone")
        return (1 + _BACKWARD) * (main + self.steps * self.ranks * (fgram if of.kind == "scone" else 0))

    def refusal(self, free: int, device_free: int) -> str:
        """Why the training does not fit into the free memory of the machine or of the GPU, in bytes; empty if it fits."""
        for needed, there, what in (
            (self.memory_bytes, free, "memory"),
            (self.device_bytes, device_free, "memory on the GPU"),
        ):
            if needed > there:
                return (
                    f"this training needs about {bytes_text(needed)} ({needed:,} bytes) of {what}, and {bytes_text(there)} "
                    f"({there:,} bytes) are free: lower --dim, --layers, --learned-rows or --batch"
                )
        return ""

    # ---- messages ---------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """The sizes as JSON values, for `--plan`."""
        rows = {"hashed": "hashed_rows"}.get(self.model.kind, "learned_rows")
        return {
            "kind": self.model.kind,
            "resident_parameters": self.resident,
            "training_only_parameters": self.fgram_model
            + (self.rows * self.model.dim if rows == "learned_rows" else 0),
            "fgram_model_parameters": self.fgram_model,
            rows: self.rows,
            f"{rows}_parameters": self.rows * self.model.dim,
            "steps": self.steps,
            "tokens": self.tokens,
            "processes": self.ranks,
            "memory_bytes": self.memory_bytes,
            "device_memory_bytes": self.device_bytes or None,
            "disk_bytes": self.disk_bytes,
            "training_flops": float(f"{self.flops:.4g}"),
        }

    def described(self) -> str:
        """The sizes in one line, for the progress of a run."""
        parts = [f"{count_text(self.resident)} parameters"]
        if self.fgram_model:
            parts.append(f"{count_text(self.fgram_model)} of the f-gram model")
        if self.rows:
            which = "hashed" if self.model.kind == "hashed" else "learned"
            parts.append(f"{count_text(self.rows)} {which} rows of {self.model.dim}")
        memory = f"{bytes_text(self.memory_bytes)} of memory"
        if self.on_gpu:
            memory += f" and {bytes_text(self.device_bytes)} on each GPU"
        takes = f"{count_text(self.tokens)} tokens, {memory}, {bytes_text(self.disk_bytes)} of disk"
        return f"{' + '.join(parts)}; {takes}, up to {power_text(self.flops)} FLOPs"
