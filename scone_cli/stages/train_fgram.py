"""`scone train-fgram`: train token embeddings, f-gram model, main model and head together (paper, section 3.2)."""

from __future__ import annotations

import contextlib
import math
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
from scone_cli.settings import DEVICES, result_settings, setting
from scone_cli.stages import Report, check_same_work, check_shared, joined
from scone_cli.training.window_order import parse_mixture

if TYPE_CHECKING:
    import torch

    from scone_cli.model.model import ModelConfig
    from scone_cli.training.loop import TrainingText
    from scone_cli.training.plan import TrainingSize

STAGE = "train-fgram"
STAGE_VERSION = 3

# Expected occurrences in training; rarer f-grams cost memory and gain 0.0025 nats together (benchmarks/LOG.md).
LEAST_MET = 1
MOST_LEARNED = 1_000_000
_LEAST_HASHED = 100  # rows per length of n-gram
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
    fgram_layers: int = setting(4, "Layers of the f-gram model.")
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


@dataclass(frozen=True)
class _Recipe:
    """What a model depends on: settings, input artifacts, the length and number of f-grams."""

    config: TrainFgram
    tokens: Manifest
    made_from: dict[str, str]
    max_n: int = 0
    num_fgrams: int = 0
    matched: float = 0.0  # tokens of matched f-grams per position of held-out text

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the model depends on."""
        return result_settings(self.config)

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
        _check(config, launch)
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
        from scone_cli.model.model import SconeModel
        from scone_cli.training.checkpoints import training_folder
        from scone_cli.training.loop import LOG_NAME, TrainingPlan, train
        from scone_cli.training.summary import in_short
        from scone_cli.vocab.vocabulary import write_learned

        settings, own = recipe.config, recipe.settings
        staging = Path(team.first("staging folder", lambda: str(training_folder(out, recipe.mark, own, progress))))
        with _tracker(settings, out, launch) as track:
            text = _text(recipe, inputs, staging / SCRATCH, team, progress)
            torch.manual_seed(settings.seed)
            model = SconeModel(_shape(recipe, inputs)).to(device)  # made on the CPU: the same weights for every device
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
    _check(config, launch := launched())
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
    size = TrainingSize.of(recipe.config, shape, recipe.tokens.summary, num_fgrams, recipe.matched, device, launch)
    return device, size, size.refusal(available_memory(), free_memory(device))


def recipe_of(config: TrainFgram, inputs: Path, hashes: bool) -> _Recipe:
    """What the model depends on: opens its inputs; settings that its kind does not use get a fixed value."""
    tokens = open_artifact(inputs / "tokens", "tokens", hashes)
    made_from = {"tokens": tokens.fingerprint}
    if config.kind == "plain":
        settled = replace(config, fgram_layers=0, combine="replace", learned_rows=0, hashed_rows=0)
        return _Recipe(settled, tokens, made_from)
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
        return _Recipe(settled, tokens, made_from, max_n, num_fgrams, share * length)
    num_rows, least = config.hashed_rows or num_fgrams, _LEAST_HASHED * (max_n - 1)
    if num_rows < least:
        raise BadSetting(f"--hashed-rows {num_rows:,}: expected {least:,} or more for n-grams of 2 to {max_n} tokens")
    settled = replace(config, fgram_layers=0, combine="add", learned_rows=0, hashed_rows=num_rows)
    return _Recipe(settled, tokens, made_from, max_n, num_fgrams)


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
    return ModelConfig(**{item.name: values[item.name] for item in fields(ModelConfig)})


def _check(config: TrainFgram, launch: Launch) -> None:
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
    if config.dim % (2 * config.heads):
        raise BadSetting(f"--dim {config.dim} --heads {config.heads}: a head's width must be a whole, even number")
    if config.batch % launch.size:
        raise BadSetting(f"--batch {config.batch}: expected a multiple of {launch.size}, the number of processes")


def _check_ranges(config: TrainFgram) -> None:
    counts = ("dim", "layers", "heads", "fgram_layers", "context", "batch", "steps", "eval_every", "eval_tokens")
    for name in (*counts, "checkpoint_every", "keep_checkpoints"):
        if getattr(config, name) < 1:
            option = f"--{name.replace('_', '-')} {getattr(config, name)}"
            raise BadSetting(f"{option}: expected 1 or more{_PLAIN.get(name, '')}")
    for name in ("micro_batch", "warmup", "learned_rows", "hashed_rows", "weight_decay", "clip"):
        if not 0 <= (getattr(config, name) or 0) < math.inf:
            raise BadSetting(f"--{name.replace('_', '-')} {getattr(config, name)}: expected 0 or more")
    for name in ("learning_rate", "checkpoint_minutes"):
        if not 0 < getattr(config, name) < math.inf:
            raise BadSetting(f"--{name.replace('_', '-')} {getattr(config, name)}: expected a number above 0")
    for name, end in (("seed", 2**63), ("steps", 10**8)):  # names of checkpoints have eight digits
        if not 0 <= getattr(config, name) < end:
            raise BadSetting(f"--{name} {getattr(config, name)}: expected 0 or more, below {end:,}")
