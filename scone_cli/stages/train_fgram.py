"""`scone train-fgram`: train token embeddings, f-gram model, main model and head together (paper, section 3.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts.manifest import Manifest, fingerprint, open_artifact, read_manifest
from scone_cli.artifacts.publish import (
    SCRATCH,
    publish,
    published,
    unfinished_bytes,
    up_to_date,
    write_atomically,
    write_parquet,
)
from scone_cli.artifacts.replacing import replaces, tell_replacing, what_is_replaced
from scone_cli.artifacts.schemas import HELD_OUT, LEARNED_FILE, LOG
from scone_cli.errors import BadSetting, MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.runtime.resources import available_memory, check_disk, storage_failures
from scone_cli.runtime.torchrun import Launch, Team, launched
from scone_cli.stages import Report, check_same_work, check_shared, joined
from scone_cli.training.settings import BASE_RATES, MOST_LEARNED, ROW_RATE, TrainFgram, check, settings_of
from scone_cli.training.window_order import parse_mixture

if TYPE_CHECKING:
    import torch

    from scone_cli.model.base_model import Base
    from scone_cli.model.model import ModelConfig, SconeModel
    from scone_cli.training.loop import TrainingText
    from scone_cli.training.plan import TrainingSize

STAGE = "train-fgram"
STAGE_VERSION = 3

# Expected occurrences in training; rarer f-grams cost memory and gain 0.0025 nats together (benchmarks/LOG.md).
LEAST_MET = 1
_LEAST_HASHED = 100  # rows per length of n-gram


@dataclass(frozen=True)
class _Recipe:
    """What a model depends on: settings, input artifacts, the length and number of f-grams."""

    config: TrainFgram
    tokens: Manifest
    made_from: dict[str, str]
    max_n: int = 0
    num_fgrams: int = 0
    matched: float = 0.0  # tokens of matched f-grams per position of held-out text
    base: Base | None = None
    donor: Base | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the model depends on."""
        return settings_of(self.config)

    @property
    def mark(self) -> str:
        """The fingerprint of the model."""
        inputs = self.made_from | {"tokenizer": self.tokens.tokenizer}
        return fingerprint(STAGE, STAGE_VERSION, self.settings, inputs)


def run(config: TrainFgram, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `vocab/` of the workspace `inputs` and write the model folder `out`.

    The plain baseline does not read the vocabulary, so it stays up to date when the vocabulary changes. Under torchrun
    every process calls this; rank 0 writes, and all return the same report.

    Raises:
        BadSetting: a setting is out of its range, or names a sub-corpus or a device that does not exist.
        MismatchedArtifacts: the vocabulary was not made from these tokens.
        SconeError: training went wrong; see `training.loop.train`.
    """
    launch = launched()
    with joined(launch, config.device) as team, storage_failures(out.parent):  # within: the other ranks hear of it
        # 1. The inputs. Nothing to do if the model is there.
        check(config, launch)
        check_shared(team, out)
        recipe = recipe_of(config, inputs, hashes=launch.rank == 0)
        check_same_work(team, recipe.mark)
        done = None if force or launch.rank else up_to_date(out, "model", recipe.mark)
        if team.first("is up to date", lambda: "yes" if done else "no") == "yes":
            return Report.of(out, done or read_manifest(out, "model"), up_to_date=True)

        # 2. The plan: the device, and the memory and disk it takes.
        replaced = team.first("what is replaced", lambda: _replaced(recipe, inputs, out, force))
        device, size, refusal = _planned(recipe, inputs, launch)
        progress("plan", 0, 0, detail=size.described())
        if refusal:
            raise BadSetting(refusal)
        check_disk(out, size.disk_bytes - unfinished_bytes(out), "training")
        tell_replacing(progress, out, replaced)

        # 3. Train, from the newest checkpoint if an earlier run was interrupted.
        import torch  # heavy: only when there is something to train

        from scone_cli.corpus.held_out import rule_of
        from scone_cli.training.checkpoints import training_folder
        from scone_cli.training.loop import LOG_NAME, TrainingPlan, train
        from scone_cli.training.summary import in_short
        from scone_cli.vocab.vocabulary import write_learned

        settings, own = recipe.config, recipe.settings
        staging = Path(team.first("staging folder", lambda: str(training_folder(out, recipe.mark, own, progress))))
        with _tracker(settings, out, launch) as track:
            text = _text(recipe, inputs, staging / SCRATCH, team, progress)
            torch.manual_seed(settings.seed)
            model = _new_model(recipe, inputs).to(device)  # made on the CPU: the same weights for every device
            if model.base is not None and not model.base.was_tried:
                progress("base", 0, 0, detail=model.base.untried())
            if model.donor is not None and text.trie is not None:
                model.donor.keep(text.trie, staging / SCRATCH / "donor-states", progress)
            training = TrainingPlan(**{item.name: getattr(settings, item.name) for item in fields(TrainingPlan)})
            log = train(model, text, training, staging / SCRATCH, progress, team, track)

        # 4. Rank 0 writes the weights and the log, and publishes.
        def finish() -> str:
            model.save(staging)
            if model.learned is not None:
                write_learned(inputs / "vocab", model.config.learned_rows, staging / LEARNED_FILE)
            write_parquet(staging / "log.parquet", LOG, log)
            write_atomically(staging / LOG_NAME, (staging / SCRATCH / LOG_NAME).read_bytes())
            manifest = Manifest.new(
                "model",
                stage=STAGE,
                stage_version=STAGE_VERSION,
                fingerprint=recipe.mark,
                settings=recipe.settings,
                inputs=recipe.made_from | ({"held-out": rule} if (rule := rule_of(recipe.tokens)) else {}),
                tokenizer=recipe.tokens.tokenizer,
                summary={**in_short(model, log), **text.train.epochs(settings.steps * settings.batch)},
            )
            publish(staging, out, manifest)
            return "yes"

        team.first("is published", finish)
        return Report.of(out, read_manifest(out, "model"), up_to_date=False)


def plan(config: TrainFgram, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """What `run` would do, the memory and disk it would take, and whether memory suffices; nothing is written.

    Raises:
        BadSetting, MismatchedArtifacts: as `run` before it begins.
    """
    check(config, launch := launched())
    recipe = recipe_of(config, inputs, hashes=False)
    done = not force and published(out, "model", recipe.mark) is not None
    replaced = "" if done else _replaced(recipe, inputs, out, force)
    if not done and (mixture := parse_mixture(config.mixture)):
        from scone_cli.training.packed_text import check_names  # heavy: only when there is a mixture

        check_names(inputs / "tokens", list(mixture), progress)
    from scone_cli.training.checkpoints import given_up  # heavy: it loads torch

    lost = "" if done else given_up(out, recipe.mark, recipe.settings)
    _, size, refusal = _planned(recipe, inputs, launch)
    return Report(STAGE, out, done, size.facts() | replaces(out, replaced, lost), problem="" if done else refusal)


def _replaced(recipe: _Recipe, inputs: Path, out: Path, force: bool) -> str:
    return what_is_replaced(inputs, out, "model", recipe.config, recipe.settings, recipe.made_from, force)


def _planned(recipe: _Recipe, inputs: Path, launch: Launch) -> tuple[torch.device, TrainingSize, str]:
    """The device, the size of the training, and why it does not fit into memory (empty: it fits).

    Raises:
        BadSetting: there is no such device.
    """
    from scone_cli.model.devices import find_device, free_memory  # heavy: only when the stage runs
    from scone_cli.training.plan import TrainingSize

    device, shape = find_device(recipe.config.device, launch.local_rank), _shape(recipe, inputs)
    num_fgrams = recipe.num_fgrams if shape.kind == "scone" else 0
    base = None
    if recipe.base is not None:
        from scone_cli.training.base_size import size_of

        base = size_of(recipe.base, recipe.config.gradient_checkpointing)
    sizes = (shape, recipe.tokens.summary, num_fgrams, recipe.matched)
    size = TrainingSize.of(recipe.config, *sizes, device, launch, base)
    return device, size, size.refusal(available_memory(), free_memory(device))


def recipe_of(config: TrainFgram, inputs: Path, hashes: bool) -> _Recipe:
    """What the model depends on: opens its inputs; settings that its kind does not use get a fixed value."""
    tokens = open_artifact(inputs / "tokens", "tokens", hashes)
    made_from = {"tokens": tokens.fingerprint}
    base = None
    if config.base is not None:
        base, config = _with_base(config, inputs / "tokens", tokens)
        made_from["base"] = base.fingerprint
    if config.kind == "plain":
        settled = replace(config, fgram_layers=0, combine="replace", learned_rows=0, hashed_rows=0)
        return _Recipe(settled, tokens, made_from, base=base)
    vocab = open_artifact(inputs / "vocab", "vocab", hashes)
    if vocab.inputs["tokens"] != tokens.fingerprint or vocab.tokenizer != tokens.tokenizer:
        raise MismatchedArtifacts(
            f"{inputs / 'vocab'}: selected from other tokens than {inputs / 'tokens'}", "run: scone select-vocab"
        )
    made_from["vocab"] = vocab.fingerprint
    max_n, num_fgrams = vocab.settings["max_n"], vocab.summary["fgrams"]
    if config.kind == "scone":
        learned = _frequent(config, tokens, inputs / "vocab") if config.learned_rows is None else config.learned_rows
        settled = replace(config, learned_rows=min(learned, num_fgrams), hashed_rows=0)
        share, length = (vocab.summary[name] or 0.0 for name in ("matched", "mean_match_length"))
        donor = _donor(config, inputs / "tokens", tokens)
        if donor is not None:
            made_from["donor"] = donor.fingerprint
            settled = replace(settled, fgram_layers=0)
        return _Recipe(settled, tokens, made_from, max_n, num_fgrams, share * length, base, donor)
    num_rows, least = config.hashed_rows or num_fgrams, _LEAST_HASHED * (max_n - 1)
    if num_rows < least:
        raise BadSetting(f"--hashed-rows {num_rows:,}: expected {least:,} or more for n-grams of 2 to {max_n} tokens")
    settled = replace(config, fgram_layers=0, combine="add", learned_rows=0, hashed_rows=num_rows)
    return _Recipe(settled, tokens, made_from, max_n, num_fgrams, base=base)


def _with_base(config: TrainFgram, folder: Path, tokens: Manifest) -> tuple[Base, TrainFgram]:
    """The base that is named, and the settings with its shape and its learning rates."""
    from scone_cli.model.base_model import Base  # heavy: only where there is one

    assert config.base is not None
    base = Base.open(config.base, folder, tokens, config.train_base, config.lora_rank)
    rates: dict[str, Any] = {
        "row_learning_rate": config.row_learning_rate or ROW_RATE,
        "base_learning_rate": config.base_learning_rate or BASE_RATES[config.train_base],
    }
    return base, replace(config, combine="add", **base.shape(), **rates)


def _donor(config: TrainFgram, folder: Path, tokens: Manifest) -> Base | None:
    """The model that reads the f-grams, if one is named."""
    if config.fgram_base is None:
        return None
    from scone_cli.model.base_model import Base

    return Base.open(config.fgram_base, folder, tokens, "no", 0)


def _new_model(recipe: _Recipe, inputs: Path) -> SconeModel:
    """The model as it is before its first step."""
    from scone_cli.model.base_model import config_of
    from scone_cli.model.model import SconeModel

    shape = _shape(recipe, inputs)
    if recipe.base is None:
        return SconeModel(shape)
    own, main = recipe.base.load(shape.vocab_size, shape.context)
    main.checkpoint_gradients(recipe.config.gradient_checkpointing)
    values, donor = asdict(shape), None
    if recipe.donor is not None:
        donor, width, flops = recipe.donor.load_donor()
        values |= {"fgram_dim": 0, "fgram_heads": 0, "donor_dim": width, "donor_flops": flops}
    model = SconeModel(config_of(own, values), main, recipe.base)
    model.donor, model.donor_source = donor, recipe.donor
    return model


def _frequent(config: TrainFgram, tokens: Manifest, vocab: Path) -> int:
    """The number of f-grams that training is expected to meet at least `LEAST_MET` times, given the tokens it reads."""
    if config.combine == "replace":
        return 0  # the token embedding, of which learned rows are a part, is replaced
    from scone_cli.vocab.vocabulary import num_frequent

    counted = tokens.summary["tokens"] - tokens.summary["held_out_tokens"]
    read = config.steps * config.batch * config.context
    return min(MOST_LEARNED, num_frequent(vocab / "vocab.parquet", LEAST_MET * counted / read))


def _tracker(
    config: TrainFgram, out: Path, launch: Launch
) -> contextlib.AbstractContextManager[Callable[[dict[str, Any]], None]]:
    """A function that gets each row of the log: TensorBoard on rank 0 if it is asked for, else one that does nothing."""
    if config.tracker == "tensorboard" and launch.rank == 0:
        from scone_cli.training.log import TensorBoard  # heavy: only when there is something to train

        return TensorBoard(out.parent / "runs" / out.name)
    return contextlib.nullcontext(lambda _: None)


def _text(recipe: _Recipe, inputs: Path, scratch: Path, team: Team, progress: Progress) -> TrainingText:
    """The training text, packed by rank 0 and mapped by all ranks; the held-out text, for rank 0 only; the f-grams."""
    from scone_cli.corpus.token_stream import end_of_document
    from scone_cli.training.loop import TrainingText
    from scone_cli.training.packed_text import open_packed, write_packed
    from scone_cli.vocab.vocabulary import Vocabulary

    config, folder, num_tokens = recipe.config, inputs / "tokens", recipe.tokens.summary["vocab_size"]
    mixture = parse_mixture(config.mixture)
    is_first = team.launch.rank == 0
    trie = Vocabulary.read(inputs / "vocab", num_tokens, recipe.max_n).trie if config.kind == "scone" else None
    index = trie.index() if trie and is_first else None  # 10 bytes per f-gram, needed only here
    end = end_of_document(folder, recipe.tokens)

    def pack() -> str:
        write_packed(scratch / "text", folder, end, num_tokens, index, list(mixture), progress)
        write_packed(scratch / "held-out", folder, end, num_tokens, index, [], progress, HELD_OUT)
        return "yes"

    team.first("text is packed", pack)
    text = open_packed(scratch / "text", config.context, mixture)
    held_out = open_packed(scratch / "held-out", config.context, {}) if is_first else None
    return TrainingText(text, held_out if held_out and held_out.num_windows else None, trie)


def _shape(recipe: _Recipe, inputs: Path) -> ModelConfig:
    """The shape of the model's weights."""
    from scone_cli.corpus.token_stream import end_of_document
    from scone_cli.model.model import ModelConfig

    values = asdict(recipe.config) | {
        "vocab_size": recipe.tokens.summary["vocab_size"],
        "max_n": recipe.max_n,
        "end_of_document": end_of_document(inputs / "tokens", recipe.tokens),
    }
    values |= {"donor_dim": 0, "donor_flops": 0}  # known when it is loaded
    if recipe.base is None or not recipe.config.fgram_layers:
        values |= {"fgram_dim": 0, "fgram_heads": 0}
    return ModelConfig(**{item.name: values[item.name] for item in fields(ModelConfig)})
