"""The models of which a recipe speaks: those in [[cost.model]], or else the one that its own stages would make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scone_cli.errors import BadSetting
from scone_cli.evaluation.model_cost import Shape
from scone_cli.settings import Quantity, parse_bytes
from scone_cli.stages.count_ngrams import CountNgrams
from scone_cli.stages.precompute import Precompute
from scone_cli.stages.select_vocab import AUTO, DEFAULT_SIZE, SelectVocab
from scone_cli.stages.train_fgram import TrainFgram
from scone_cli.table.sizes import fgrams_within

Tables = Mapping[str, Mapping[str, Any]]


def shapes_of(recipe: Path, tables: Tables) -> list[Shape]:
    """The shapes, checked; `tables` is what `read_recipe` made of the recipe.

    Raises:
        BadSetting: there is none, or one is no shape.
    """
    shapes = list(tables.get("cost", {}).get("model", ()))
    if not shapes and "train-fgram" in tables:
        shapes = _of_the_stages(recipe, tables)
    if not shapes:
        hint = "see pipelines/paper.toml for an example"
        raise BadSetting(f"recipe {recipe}: describes no model, expected [[cost.model]] or [train-fgram]", hint)
    for shape in shapes:
        shape.check()
    names = [shape.name for shape in shapes]
    if len(set(names)) < len(names):
        raise BadSetting(f"recipe {recipe}: two models have the same name", "every [[cost.model]] needs its own")
    return shapes


def _of_the_stages(recipe: Path, tables: Tables) -> list[Shape]:
    """The plain model, and the one with f-grams, that `count-ngrams` to `precompute` would make of some large corpus."""
    count, train = CountNgrams(**tables.get("count-ngrams", {})), TrainFgram(**tables["train-fgram"])
    common: dict[str, Any] = {key: getattr(train, key) for key in ("dim", "layers", "context", "tied_head")}
    common |= {"vocab_size": count.vocab_size, "weights": "float32"}
    common["training_tokens"] = Quantity(train.steps * train.batch * train.context)
    plain = Shape(name="plain", **common)
    if train.kind != "scone":
        return [plain]
    select, dtype = SelectVocab(**tables.get("select-vocab", {})), Precompute(**tables.get("precompute", {})).dtype
    fgrams = _num_fgrams(recipe, select, count.vocab_size)
    longest = min(count.max_n, select.max_n or count.max_n)
    return [
        plain,
        Shape(name="Scone", fgrams=fgrams, fgram_layers=train.fgram_layers, max_n=longest, dtype=dtype, **common),
    ]


def _num_fgrams(recipe: Path, select: SelectVocab, vocab_size: int) -> Quantity:
    """How many f-grams there would be at most."""
    if select.budget is not None:
        budget = parse_bytes(str(select.budget), "--budget")
        return Quantity(fgrams_within(budget, select.dim, select.dtype, vocab_size))
    if select.coverage is not None or str(select.size) == AUTO:
        raise BadSetting(
            f"recipe {recipe}: how many f-grams [select-vocab] will keep depends on the text",
            "give a size there, or describe the model in [[cost.model]]",
        )
    return Quantity(select.size if select.size is not None else DEFAULT_SIZE)
