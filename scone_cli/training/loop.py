"""The training loop: forward and backward, clipping, optimiser step, log, held-out loss, checkpoints.

The result depends on the data and the plan only: the windows of a step follow from the seed and the number of windows read
before. A run that continues from a checkpoint therefore ends with the weights of a run that was never interrupted.
Elsewhere: where the data come from and where the result goes (`stages/train_fgram`), the backward pass (`gradients`), and
the exchange between processes (`runtime.process_group`).
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from torch import nn

from scone_cli.errors import LostRank, SconeError
from scone_cli.formatting import bytes_text, count_text, seconds_text
from scone_cli.model.devices import autocast, micro_batch, peak_memory, torch_failures
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress
from scone_cli.runtime.signals import StopNote, noting_stops
from scone_cli.runtime.torchrun import Alone, Team
from scone_cli.training.checkpoints import Checkpoints, Position
from scone_cli.training.gradients import BatchResult, accumulate_gradients, mean_loss
from scone_cli.training.log import LAST_STEPS, RECENT, Course, Row, TrainingLog, last_loss
from scone_cli.training.optimizers import SPARSE, Optimizers, Schedule, clip_gradients
from scone_cli.training.packed_text import PackedText
from scone_cli.vocab.trie import FgramTrie

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class TrainingPlan:
    """The settings of a training run; the fields are those of the stage's config."""

    batch: int
    micro_batch: int
    steps: int
    optimizer: str
    schedule: str
    warmup: int
    learning_rate: float
    weight_decay: float
    clip: float
    precision: str
    compile: bool
    eval_every: int
    eval_tokens: int
    checkpoint_every: int
    checkpoint_minutes: float
    keep_checkpoints: int
    seed: int
    row_learning_rate: float | None = None
    base_learning_rate: float | None = None

    def rates(self) -> dict[str, float]:
        """Groups of parameters with a peak learning rate of their own, and it."""
        own = {"direct rows": self.row_learning_rate, "base": self.base_learning_rate}
        return {group: rate for group, rate in own.items() if rate is not None}

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return Schedule(self.schedule, self.learning_rate, self.warmup, self.steps).learning_rate_at(step)


@dataclass(frozen=True)
class TrainingText:
    """The text of a run: training windows, held-out windows (None: there are none), the f-grams (None: not used)."""

    train: PackedText
    held_out: PackedText | None
    trie: FgramTrie | None


def train(
    model: SconeModel,
    text: TrainingText,
    plan: TrainingPlan,
    scratch: Path,
    progress: Progress,
    team: Team | None = None,
    track: Callable[[Row], None] = lambda _: None,
) -> pa.Table:
    """Train `model` in place and return the log; continue from the newest checkpoint in `scratch`, if there is one.

    Each step appends a row to `scratch/log.jsonl` and calls `track` with it.

    Raises:
        BadData: the text, or one of its sub-corpora, is shorter than one window.
        LostRank: another process of the team has ended.
        SconeError: the loss or its gradient is not finite, or the loss has exploded.
        Stopped: a signal came; the step in which it came was finished and saved. If it interrupted the measurement of the
            held-out loss, that is repeated when the run continues.
    """
    run = _Run(model, text, plan, scratch, team or Alone())
    if plan.compile:
        model.main.compile()
    progress("log", 0, 0, detail=f"{scratch / LOG_NAME}, a line a step, to follow with tail -f")
    run.tell(progress, run.sizes())  # before the first step, which takes longer than the others
    try:
        with noting_stops() as stop, torch_failures():
            if row := run.repeat_held_out():
                track(row)
            while run.at.step < plan.steps and (row := run.step(stop)):
                track(row)
                run.tell(progress, run.state())
                run.tell_duration(progress)
                run.check_course()
                if run.is_due() and not stop.signum:
                    run.save()
            if stop.signum:
                run.save()
    except LostRank as error:
        raise LostRank(f"{error.message}; {run.last_good(run.at.step)}", _AGAIN) from error
    finally:
        run.log.close()
    return run.log.table()


_FIRST_STEPS = 10  # their median speed gives the expected duration
_AGAIN = "give the same command again: it continues from the last checkpoint"
_OTHERWISE = "lower --learning-rate, or raise --warmup; with other settings it starts from the beginning"


class _Totals(NamedTuple):
    """Sums over all ranks of what each of them found in a step; `loss` is the mean of the batch, in nats per token."""

    loss: float
    trie_nodes: float
    fgrams: float
    signals: float
    stopped: float


class _Run:
    """The state of a run: its position, the optimisers, the log, the checkpoints."""

    def __init__(self, model: SconeModel, text: TrainingText, plan: TrainingPlan, scratch: Path, team: Team) -> None:
        self.model, self.text, self.plan, self.team = model, text, plan, team
        self.device = model.device
        self.order = text.train.order(plan.seed)
        self.optimizers = Optimizers(model, plan.optimizer, plan.weight_decay, plan.learning_rate, plan.rates())
        self.checkpoints = Checkpoints(scratch, plan.keep_checkpoints)
        self.at = Position()
        if name := team.first("checkpoint", self.checkpoints.newest):
            self.at, tensors = self.checkpoints.load(name)
            model.load_state_dict(tensors["model"], strict=self.model.base is None)
            self.optimizers.load_state(tensors["optimizer"])
        self.log = TrainingLog(scratch / LOG_NAME, self.at.step, writes=team.launch.rank == 0)
        self.course = Course()
        self.speeds = list[float]()  # tokens per second of the first steps of this process
        for row in self.log.rows:
            self.course.add(row["step"], row["loss"])
        known = (row["held_out_loss"] for row in reversed(self.log.rows))
        self.last_held_out = next((loss for loss in known if loss is not None), None)
        self.saved = time.monotonic()
        self.started = self.saved - (self.log.rows[-1]["seconds"] if self.log.rows else 0.0)

    def step(self, stop: StopNote) -> Row | None:
        """Take one step and return its row of the log; None if a rank had been asked to stop before: then no rank takes it.

        A signal that comes to one rank during the step is noted in `stop` on all ranks.

        Raises:
            SconeError: the loss or the norm of its gradient is not finite.
        """
        plan, started = self.plan, time.perf_counter()

        # Forward and backward, over the windows of this rank.
        stopped = bool(stop.signum)
        batch = BatchResult(0.0) if stopped else self._forward_backward()

        # The mean gradient of all ranks, and the sums of these numbers: one transfer.
        numbers = [batch.loss / self.team.launch.size, batch.trie_nodes, batch.fgrams, stop.signum, stopped]
        total = _Totals(*self.team.combine(*self._gradients, numbers))
        if total.signals:
            stop.signum = stop.signum or signal.SIGTERM  # it came to another rank
        if total.stopped:
            return None

        # Clip, and update the weights.
        norm = clip_gradients(self.model.parameters(), plan.clip)
        self._check_finite(total.loss, norm)
        learning_rate = plan.learning_rate_at(self.at.step)
        self.optimizers.step(learning_rate)
        step_seconds = time.perf_counter() - started

        # Log.
        self.at = Position(self.at.step + 1, self.at.windows + plan.batch)
        self.course.add(self.at.step, total.loss)
        row = {
            "step": self.at.step,
            "tokens": self._tokens(self.at.windows),
            "loss": total.loss,
            "learning_rate": learning_rate,
            "gradient_norm": norm,
            "held_out_loss": self._held_out_loss(),
            "trie_nodes": int(total.trie_nodes),
            "fgrams": int(total.fgrams),
            "tokens_per_second": self._tokens(plan.batch) / step_seconds,
            "seconds": time.monotonic() - self.started,
        }
        self.log.add(row)
        return row

    def _forward_backward(self) -> BatchResult:
        """Put the gradient of this rank's part of the batch into the parameters."""
        plan, launch, text = self.plan, self.team.launch, self.text.train
        part = plan.batch // launch.size  # the windows of a step are the same for any number of ranks
        windows = self.order.at(self.at.windows + launch.rank * part, part)
        tokens, ids = text.windows(windows, before=self.model.history)
        micro = plan.micro_batch or micro_batch(self.device, part, text.context)
        with autocast(self.device, plan.precision):
            return accumulate_gradients(self.model, tokens, ids, self.text.trie, micro)

    @cached_property
    def _gradients(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters with dense gradients, and those with sparse ones."""
        named = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        return [p for name, p in named.items() if name not in SPARSE], [named[name] for name in SPARSE if name in named]

    def _check_finite(self, loss: float, norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise SconeError(
                f"the loss became {loss} at step {self.at.step + 1} (norm of the gradient: {norm}); "
                f"{self.last_good(self.at.step)}",
                _OTHERWISE,
            )

    def _held_out_loss(self) -> float | None:
        """The held-out loss, every `eval_every` steps and after the last; None at other steps and on ranks other than 0.

        None also if a signal interrupts it. The other ranks wait for rank 0 when they exchange the next gradient.
        """
        plan, held_out = self.plan, self.text.held_out
        is_time = self.at.step % plan.eval_every == 0 or self.at.step == plan.steps
        if held_out is None or not is_time or self.team.launch.rank:
            return None
        with autocast(self.device, plan.precision):
            loss = mean_loss(self.model, held_out, self.text.trie, plan.eval_tokens)
        self.last_held_out = self.last_held_out if loss is None else loss
        return loss

    def repeat_held_out(self) -> Row | None:
        """Measure the held-out loss of the last row if a signal interrupted it; return the row with it."""
        row = self.log.rows[-1] if self.log.rows else {}
        if row.get("step") != self.at.step or row["held_out_loss"] is not None:
            return None
        loss = self._held_out_loss()
        return None if loss is None else self.log.amend(held_out_loss=loss)

    def check_course(self) -> None:
        """Stop a run that has diverged.

        Raises:
            SconeError: the loss has exploded; the held-out loss, or a weight after the last step, is not finite.
        """
        course, is_over = self.course, self.at.step == self.plan.steps
        if course.has_exploded or (is_over and course.has_ended_badly):
            raise SconeError(
                f"the loss has exploded: {course.mean:.3f} (mean of the last {min(RECENT, self.at.step)} steps) at step "
                f"{self.at.step}, after {course.lowest:.3f} at step {course.lowest_step}; "
                f"{self.last_good(course.lowest_step)}",
                _OTHERWISE,
            )
        held_out = self.log.rows[-1]["held_out_loss"]
        if held_out is not None and not math.isfinite(held_out):
            raise SconeError(
                f"the loss on held-out text became {held_out} at step {self.at.step}; {self.last_good(self.at.step - 1)}",
                _OTHERWISE,
            )
        if is_over and not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise SconeError(
                f"a weight is no number after the last step, {self.at.step}; {self.last_good(self.at.step - 1)}",
                _OTHERWISE,
            )

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether to save a checkpoint now: by steps or by minutes, but not after the last step."""
        plan, step = self.plan, self.at.step
        by_minutes = time.monotonic() - self.saved >= 60 * plan.checkpoint_minutes
        return step < plan.steps and (step % plan.checkpoint_every == 0 or by_minutes)

    def save(self) -> None:
        """Write a checkpoint, on rank 0."""
        self.saved = time.monotonic()
        if self.team.launch.rank == 0:
            self.log.sync()
            self.checkpoints.save(self.at, {"model": self.model.trained_state(), "optimizer": self.optimizers.state()})

    def last_good(self, step: int) -> str:
        """The newest checkpoint of a step up to `step`, as part of a message."""
        return self.checkpoints.last_before(step)

    # ---- progress ----------------------------------------------------------------------------------------------

    def tell(self, progress: Progress, detail: str) -> None:
        """Report the tokens read so far."""
        progress(
            "training", self._tokens(self.at.windows), self._tokens(self.plan.steps * self.plan.batch), "tokens", detail
        )

    def tell_duration(self, progress: Progress) -> None:
        """Report the expected duration, once, from the median speed: the very first steps are slow, as kernels are compiled."""
        if len(self.speeds) == _FIRST_STEPS:
            return
        self.speeds.append(self.log.rows[-1]["tokens_per_second"])
        if len(self.speeds) == _FIRST_STEPS and (left := self.plan.steps - self.at.step):
            speed = statistics.median(self.speeds)
            seconds = left * self._tokens(self.plan.batch) / speed
            steps = f"{left:,} steps left, {count_text(speed)} tokens/s"
            progress(
                "duration", 0, 0, detail=f"about {seconds_text(seconds)}: {steps}, without the time for held-out losses"
            )

    def sizes(self) -> str:
        """The parameters of each part of the model."""
        parts = [self.model.main, *self.model.parts_aside().values()]
        sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
        return f"{' + '.join(map(count_text, sizes))} parameters"

    def state(self) -> str:
        """Recent training loss, last held-out loss, memory."""
        held_out = "" if self.last_held_out is None else f", held-out {self.last_held_out:.3f}"
        loss = last_loss([row["loss"] for row in self.log.rows[-LAST_STEPS:]])
        return f"loss {loss:.3f}{held_out}, {bytes_text(peak_memory(self.device))}"

    def _tokens(self, windows: int) -> int:
        return windows * self.text.train.context
