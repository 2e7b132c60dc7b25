"""The arms of `bench_quality.py`: the models that are trained, their order and their settings.

An arm is the recipe's `[train-fgram]` with a few settings changed. Everything else is the same for all arms, so all see the
same windows in the same order, which depends only on the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from scone_cli.console.recipes import read_recipe
from scone_cli.errors import BadSetting
from scone_cli.model.model import MainModel, ModelConfig
from scone_cli.settings import Quantity
from scone_cli.stages.count_ngrams import CountNgrams
from scone_cli.stages.select_vocab import SelectVocab
from scone_cli.training.settings import TrainFgram, settings_of

ALL = "all"  # f-grams: as many as the recipe keeps

# Settings that do not apply to a kind of model; the trainer writes a fixed value for them.
_ALL_SETTLED = ("fgram_layers", "combine", "learned_rows", "hashed_rows")
_SETTLED = {"plain": _ALL_SETTLED, "hashed": _ALL_SETTLED, "scone": ("hashed_rows",)}


@dataclass(frozen=True)
class Arm:
    """A model in the comparison: how it differs from the recipe, and how often it is trained.

    Attributes:
        name: name of its folder, and on the command line.
        label: name in the report.
        fgrams: number of f-grams: "10k" and so on, `ALL`, or None if it reads no vocabulary.
        settings: settings of `train-fgram` that differ from the recipe.
        seeds: number of training runs, each with its own seed.
        by_default: whether it is trained if `--arms` is not given.
    """

    name: str
    label: str
    fgrams: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    by_default: bool = True


def _plain(times: str, learning_rate: float, seeds: int = 1, by_default: bool = True, **shape: int) -> Arm:
    settings = {"kind": "plain", "learning_rate": learning_rate, **shape}
    return Arm(f"plain-{times}", f"plain {times.replace('-', ', ')}", None, settings, seeds, by_default)


# In the order of training, the most important first. The multiples assume a recipe whose 1x has width 96 and 2 layers. Larger
# plain models are wider, because that helps at this length of training. A wider model also has larger embeddings and a
# larger head: they are resident too, but the multiple does not count them. More layers do not help: one arm shows it.
ARMS = (
    Arm("plain-1x", "plain 1x", None, {"kind": "plain"}, seeds=3),
    Arm("scone-1x", "Scone 1x", ALL, seeds=3),
    Arm("scone-1x-alone", "Scone 1x, no learned rows", ALL, {"learned_rows": 0}),
    _plain("4x", 2.5e-2, seeds=3, dim=192, heads=6),
    _plain("2.5x", 2.5e-2, seeds=3, dim=152, heads=4),
    _plain("1.9x", 3e-2, seeds=3, dim=132, heads=3),
    Arm("hashed-1x", "hashed 1x", ALL, {"kind": "hashed"}, seeds=3),
    Arm("scone-1x-100k", "Scone 1x, 100k f-grams", "100k"),
    Arm("scone-1x-10k", "Scone 1x, 10k f-grams", "10k"),
    Arm("scone-1x-fgram-2x", "Scone 1x, A_f-gram 2x", ALL, {"fgram_layers": 4}),
    Arm("scone-1x-fgram-0.5x", "Scone 1x, A_f-gram 0.5x", ALL, {"fgram_layers": 1}),
    _plain("2.5x-deeper", 2.5e-2, layers=5),
    _plain("8x", 2e-2, by_default=False, dim=272, heads=8),
)
BASE = "plain-1x"  # the arm that multiples refer to


@dataclass(frozen=True)
class Run:
    """One training run: an arm with one seed. `config` has all its settings."""

    arm: Arm
    seed: int
    config: TrainFgram

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.arm.name}, seed {self.seed}"

    def differences(self, settings: Mapping[str, Any]) -> list[str]:
        """Settings in which a trained model differs from this run, in words; empty if it is this run's model."""
        ignored = _SETTLED[self.config.kind]
        expected = {name: value for name, value in settings_of(self.config).items() if name not in ignored}
        return [
            f"{name} {settings.get(name)}, not {value}"
            for name, value in expected.items()
            if not _agree(name, settings.get(name), value)
        ]


def _agree(name: str, found: Any, asked: Any) -> bool:
    """Whether a setting is as asked for; there may be fewer learned rows, as many as there are f-grams or training meets."""
    if name == "learned_rows" and found:
        return asked is None or found <= asked
    return bool(found == asked)


@dataclass(frozen=True)
class Experiment:
    """A quality experiment: the recipe's settings of three stages, and the arms to train."""

    count: CountNgrams
    select: SelectVocab
    train: TrainFgram
    arms: tuple[Arm, ...]

    @classmethod
    def read(
        cls, recipe: Path, names: Sequence[str] = (), num_tokens: int = 0, rates: Mapping[str, float] | None = None
    ) -> Experiment:
        """Read a recipe; `names` chooses arms, `num_tokens` of training overrides its steps, `rates` the arms' learning rates.

        Raises:
            BadSetting: the recipe has a setting that no stage knows, or an arm does not exist.
        """
        found = read_recipe(recipe)
        train = found.settings("train-fgram", TrainFgram)
        if num_tokens:
            train = replace(train, steps=max(1, round(num_tokens / (train.batch * train.context))))
        known = {arm.name: arm for arm in ARMS}
        rates = rates or {}
        asked = [("--arms", name) for name in names] + [("--rate", name) for name in rates]
        if unknown := [f"{option} {name}" for option, name in asked if name not in known]:
            raise BadSetting(f"{unknown[0]}: no such arm", f"there are {', '.join(known)}")
        chosen = tuple(
            replace(arm, settings={**arm.settings, "learning_rate": rates[arm.name]}) if arm.name in rates else arm
            for arm in ARMS
            if (arm.name in names if names else arm.by_default)
        )
        count, select = found.settings("count-ngrams", CountNgrams), found.settings("select-vocab", SelectVocab)
        return cls(count, select, train, chosen)

    @cached_property
    def sizes(self) -> dict[str, SelectVocab]:
        """The settings of each vocabulary that the arms need."""
        needed = dict.fromkeys(arm.fgrams for arm in self.arms if arm.fgrams)
        whole = self.select
        fewer = replace(whole, budget=None, coverage=None)
        return {size: whole if size == ALL else replace(fewer, size=Quantity(size)) for size in needed}

    def run(self, arm: Arm, seed: int) -> Run:
        """Build the run of an arm with a seed, with all its settings."""
        return Run(arm, seed, replace(self.train, **{**arm.settings, "seed": seed}))

    def runs(self, arms: Sequence[Arm]) -> Iterator[Run]:
        """All runs of some arms in order: the first seed of every arm, then the further seeds."""
        for seed in range(max(arm.seeds for arm in arms)):
            yield from (self.run(arm, seed) for arm in arms if seed < arm.seeds)


def non_embedding_parameters(config: TrainFgram) -> int:
    """Parameters of the main model without embeddings and head: the size of an arm, such as 4x, refers to these."""
    values = asdict(config) | {"vocab_size": 1, "max_n": 2}
    with torch.device("meta"):  # takes no memory and no time
        main = MainModel(
            ModelConfig(**{item.name: values[item.name] for item in fields(ModelConfig) if item.name in values})
        )
    parts = (main.blocks, main.norm, main.embedding_norm)
    return sum(weight.numel() for part in parts for weight in part.parameters())
