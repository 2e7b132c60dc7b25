"""The training loop: batches of windows, their gradient, clipping, a step of the optimisers, the log, checkpoints.

A run is a function of (data, plan): the windows of a step follow from the seed and the windows read before, so a run that
continues from a checkpoint ends with the weights of one that was never interrupted. What it leaves out: where the data comes
from and where the result goes (`stages/train_fgram`); how gradients are made (`gradients`) and what several processes
tell one another (`runtime.process_group`).
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
    """How long and how fast to learn, and what to keep; the fields are those of the stage's config."""

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

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return Schedule(self.schedule, self.learning_rate, self.warmup, self.steps).learning_rate_at(step)


@dataclass(frozen=True)
class TrainingText:
    """What is read: windows to learn from, held-out windows to look at or None, the f-grams or None."""

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
    """Train `model` in place and return the log; continues from the newest checkpoint in `scratch`.

    The log is also written to `scratch/log.jsonl` as it grows, and each of its rows is given to `track`.

    Raises:
        BadData: the text, or a sub-corpus in it, is shorter than one window.
        LostRank: another process of the team has gone.
        SconeError: the loss or its gradient is no longer a number, or the loss has exploded.
        Stopped: a signal came; there is a checkpoint of the step that it found. A look at held-out text that it cut short
            is taken when the run continues.
    """
    run = _Run(model, text, plan, scratch, team or Alone())
    if plan.compile:
        model.main.compile()
    progress("log", 0, 0, detail=f"{scratch / LOG_NAME}, a line a step, to follow with tail -f")
    run.tell(progress, run.sizes())  # the first step takes a while: say what is coming
    try:
        with noting_stops() as stop, torch_failures():
            if row := run.look_again():
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


_FIRST_STEPS = 10  # whose median pace tells how long it will take
_AGAIN = "give the same command again: it continues from there"
_OTHERWISE = "lower --learning-rate, or raise --warmup; with other settings it starts from the beginning"


class _Run:
    """What a run holds: how far it is, the optimisers, the log, the checkpoints."""

    def __init__(self, model: SconeModel, text: TrainingText, plan: TrainingPlan, scratch: Path, team: Team) -> None:
        self.model, self.text, self.plan, self.team = model, text, plan, team
        self.device = model.device
        self.order = text.train.order(plan.seed)
        self.optimizers = Optimizers(model, plan.optimizer, plan.weight_decay)
        self.checkpoints = Checkpoints(scratch, plan.keep_checkpoints)
        self.at = Position()
        if name := team.first("checkpoint", self.checkpoints.newest):
            self.at, tensors = self.checkpoints.load(name)
            model.load_state_dict(tensors["model"])
            self.optimizers.load_state(tensors["optimizer"])
        self.log = TrainingLog(scratch / LOG_NAME, self.at.step, writes=team.launch.rank == 0)
        self.course = Course()
        self.paces = list[float]()  # of the steps of this process
        for row in self.log.rows:
            self.course.add(row["step"], row["loss"])
        looks = (row["held_out_loss"] for row in reversed(self.log.rows))
        self.last_look = next((loss for loss in looks if loss is not None), None)
        self.saved = time.monotonic()
        self.started = self.saved - (self.log.rows[-1]["seconds"] if self.log.rows else 0.0)

    def step(self, stop: StopNote) -> Row | None:
        """Take one step; returns its row of the log, or None if a rank had been told to stop before: then none takes it.

        Of a signal that comes to any rank meanwhile, all take note.

        Raises:
            SconeError: the loss or its gradient is no number.
        """
        plan, launch, started = self.plan, self.team.launch, time.perf_counter()
        part = plan.batch // launch.size  # the windows of a step are the same, however many ranks share them
        numbers = self.order.at(self.at.windows + launch.rank * part, part)
        micro = plan.micro_batch or micro_batch(self.device, part, self.text.train.context)
        found, is_over = BatchResult(0.0), bool(stop.signum)
        if not is_over:
            with autocast(self.device, plan.precision):
                found = accumulate_gradients(
                    self.model, *self.text.train.windows(numbers, self.model.history), self.text.trie, micro
                )
        sums = self.team.combine(
            *self._gradients, [found.loss / launch.size, found.trie_nodes, found.fgrams, stop.signum, is_over]
        )
        if sums[3]:
            stop.signum = stop.signum or signal.SIGTERM  # where it came to another rank
        if sums[4]:
            return None
        loss, norm = sums[0], clip_gradients(self.model.parameters(), plan.clip)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise SconeError(
                f"the loss became {loss} at step {self.at.step + 1} (norm of the gradient: {norm}); "
                f"{self.last_good(self.at.step)}",
                _OTHERWISE,
            )
        rate = plan.learning_rate_at(self.at.step)
        self.optimizers.step(rate)
        seconds = time.perf_counter() - started
        self.at = Position(self.at.step + 1, self.at.windows + plan.batch)
        self.course.add(self.at.step, loss)
        row = {
            "step": self.at.step,
            "tokens": self._tokens(self.at.windows),
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "held_out_loss": self._held_out_loss(),
            "trie_nodes": int(sums[1]),
            "fgrams": int(sums[2]),
            "tokens_per_second": self._tokens(plan.batch) / seconds,
            "seconds": time.monotonic() - self.started,
        }
        self.log.add(row)
        return row

    @cached_property
    def _gradients(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters whose gradients are dense, and those whose gradients are sparse."""
        named = dict(self.model.named_parameters())
        return [p for name, p in named.items() if name not in SPARSE], [named[name] for name in SPARSE if name in named]

    def _held_out_loss(self) -> float | None:
        """On rank 0, where it is time to look and no signal cuts it short; the others wait for it with the next gradient."""
        plan, held_out = self.plan, self.text.held_out
        is_time = self.at.step % plan.eval_every == 0 or self.at.step == plan.steps
        if held_out is None or not is_time or self.team.launch.rank:
            return None
        with autocast(self.device, plan.precision):
            loss = mean_loss(self.model, held_out, self.text.trie, plan.eval_tokens)
        self.last_look = self.last_look if loss is None else loss
        return loss

    def look_again(self) -> Row | None:
        """Take the look that belongs to the last row, where a signal had cut it short; returns the row with its loss."""
        row = self.log.rows[-1] if self.log.rows else {}
        if row.get("step") != self.at.step or row["held_out_loss"] is not None:
            return None
        loss = self._held_out_loss()
        return None if loss is None else self.log.amend(held_out_loss=loss)

    def check_course(self) -> None:
        """Stop a run that goes nowhere, or has gone there with its last step.

        Raises:
            SconeError: the loss has exploded; a weight, or the loss on held-out text, is no number.
        """
        course, is_over = self.course, self.at.step == self.plan.steps
        if course.has_exploded or (is_over and course.has_ended_badly):
            raise SconeError(
                f"the loss has exploded: {course.mean:.3f} (mean of the last {min(RECENT, self.at.step)} steps) at step "
                f"{self.at.step}, after {course.lowest:.3f} at step {course.lowest_step}; "
                f"{self.last_good(course.lowest_step)}",
                _OTHERWISE,
            )
        looked = self.log.rows[-1]["held_out_loss"]
        if looked is not None and not math.isfinite(looked):
            raise SconeError(
                f"the loss on held-out text became {looked} at step {self.at.step}; {self.last_good(self.at.step - 1)}",
                _OTHERWISE,
            )
        if is_over and not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise SconeError(
                f"a weight is no number after the last step, {self.at.step}; {self.last_good(self.at.step - 1)}",
                _OTHERWISE,
            )

    # ---- what is kept -----------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint: by steps or by minutes, and not when the run is over."""
        plan, step = self.plan, self.at.step
        by_minutes = time.monotonic() - self.saved >= 60 * plan.checkpoint_minutes
        return step < plan.steps and (step % plan.checkpoint_every == 0 or by_minutes)

    def save(self) -> None:
        """Write a checkpoint, on rank 0."""
        self.saved = time.monotonic()
        if self.team.launch.rank == 0:
            self.log.sync()
            self.checkpoints.save(self.at, {"model": self.model.state_dict(), "optimizer": self.optimizers.state()})

    def last_good(self, step: int) -> str:
        """The newest checkpoint of a step up to `step`, in words."""
        return self.checkpoints.last_before(step)

    # ---- what is told -----------------------------------------------------------------------------------------

    def tell(self, progress: Progress, detail: str) -> None:
        """How far it is."""
        progress(
            "training", self._tokens(self.at.windows), self._tokens(self.plan.steps * self.plan.batch), "tokens", detail
        )

    def tell_duration(self, progress: Progress) -> None:
        """How long all of it will take, once the first steps have shown it; the very first are slow, as kernels are compiled."""
        if len(self.paces) == _FIRST_STEPS:
            return
        self.paces.append(self.log.rows[-1]["tokens_per_second"])
        if len(self.paces) == _FIRST_STEPS and (left := self.plan.steps - self.at.step):
            pace = statistics.median(self.paces)
            seconds = left * self._tokens(self.plan.batch) / pace
            steps = f"{left:,} steps left, {count_text(pace)} tokens/s"
            progress(
                "duration", 0, 0, detail=f"about {seconds_text(seconds)}: {steps}, looks at held-out text not counted"
            )

    def sizes(self) -> str:
        """The parameters of each part of the model."""
        parts = [self.model.main, *self.model.parts_aside().values()]
        sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
        return f"{' + '.join(map(count_text, sizes))} parameters"

    def state(self) -> str:
        """How the training goes: recent loss, the last held-out loss, memory."""
        held_out = "" if self.last_look is None else f", held-out {self.last_look:.3f}"
        loss = last_loss([row["loss"] for row in self.log.rows[-LAST_STEPS:]])
        return f"loss {loss:.3f}{held_out}, {bytes_text(peak_memory(self.device))}"

    def _tokens(self, windows: int) -> int:
        return windows * self.text.train.context
