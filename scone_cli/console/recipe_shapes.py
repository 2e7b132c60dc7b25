"""The model shapes of a recipe: those of [[cost.model]], or else of the models that its stages would train."""

from __future__ import annotations

from typing import Any

from scone_cli.console.recipes import Recipe
from scone_cli.errors import BadSetting
from scone_cli.evaluation.model_cost import Shape
from scone_cli.settings import Quantity, parse_bytes
from scone_cli.stages.count_ngrams import CountNgrams
from scone_cli.stages.precompute import Precompute
from scone_cli.stages.select_vocab import AUTO, DEFAULT_SIZE, SelectVocab
from scone_cli.table.sizes import fgrams_within
from scone_cli.training.settings import TrainFgram


def shapes_of(recipe: Recipe) -> list[Shape]:
    """The shapes of the models, checked.

    Raises:
        BadSetting: there is no model, or a shape is invalid.
    """
    shapes = list(recipe.tables.get("cost", {}).get("model", ()))
    if not shapes and "train-fgram" in recipe.tables:
        shapes = _of_the_stages(recipe)
    if not shapes:
        hint = "for an example, run: scone recipe paper"
        raise BadSetting(f"recipe {recipe.path}: describes no model, expected [[cost.model]] or [train-fgram]", hint)
    for shape in shapes:
        shape.check()
    names = [shape.name for shape in shapes]
    if len(set(names)) < len(names):
        raise BadSetting(f"recipe {recipe.path}: two models have the same name", "every [[cost.model]] needs its own")
    return shapes


def _of_the_stages(recipe: Recipe) -> list[Shape]:
    """The plain model, and the one with f-grams, that the stages would make from a large corpus."""
    count, train = recipe.settings("count-ngrams", CountNgrams), recipe.settings("train-fgram", TrainFgram)
    common: dict[str, Any] = {key: getattr(train, key) for key in ("dim", "layers", "context", "tied_head")}
    common |= {"vocab_size": count.vocab_size, "weights": "float32"}
    common["training_tokens"] = Quantity(train.steps * train.batch * train.context)
    plain = Shape(name="plain", **common)
    if train.kind != "scone":
        return [plain]
    select, dtype = recipe.settings("select-vocab", SelectVocab), recipe.settings("precompute", Precompute).dtype
    fgrams = _num_fgrams(recipe, select, count.vocab_size)
    longest = min(count.max_n, select.max_n or count.max_n)
    return [
        plain,
        Shape(name="Scone", fgrams=fgrams, fgram_layers=train.fgram_layers, max_n=longest, dtype=dtype, **common),
    ]


def _num_fgrams(recipe: Recipe, select: SelectVocab, vocab_size: int) -> Quantity:
    """Upper bound of the number of f-grams."""
    if select.budget is not None:
        budget = parse_bytes(str(select.budget), "--budget")
        return Quantity(fgrams_within(budget, select.dim, select.dtype, vocab_size))
    if select.coverage is not None or str(select.size) == AUTO:
        raise BadSetting(
            f"recipe {recipe.path}: how many f-grams [select-vocab] will keep depends on the text",
            "give a size there, or describe the model in [[cost.model]]",
        )
    return Quantity(select.size if select.size is not None else DEFAULT_SIZE)
