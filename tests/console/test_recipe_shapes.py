"""Which models a recipe describes: its own list, or what its stages would make."""

import tomllib
from pathlib import Path

import pytest
from messages import refusal

from scone_cli.console.recipe_shapes import shapes_of
from scone_cli.console.recipes import read_recipe
from scone_cli.errors import BadSetting
from scone_cli.evaluation.model_cost import Shape
from scone_cli.table.sizes import fgrams_within

PIPELINES = Path(__file__).parents[2] / "pipelines"
MODEL = "[[cost.model]]\nname = 'a'\ndim = 8\nlayers = 1\nvocab-size = 50\ncontext = 4\n"
STAGES = "[count-ngrams]\nvocab-size = 512\nmax-n = 4\n[train-fgram]\ndim = 32\nsteps = 10\nbatch = 4\ncontext = 64\n"


def shapes(tmp_path, text):
    recipe = tmp_path / "r.toml"
    recipe.write_text(text)
    return shapes_of(read_recipe(recipe))


def test_its_own_list(tmp_path):
    listed = shapes(tmp_path, MODEL + MODEL.replace("'a'", "'b'") + "fgrams = '10k'\nfgram_layers = 2\n" + STAGES)
    common = {"dim": 8, "layers": 1, "vocab_size": 50, "context": 4}
    assert listed == [Shape(name="a", **common), Shape(name="b", **common, fgrams="10k", fgram_layers=2)]
    assert [shape.num_fgrams for shape in listed] == [0, 10_000]


def test_what_its_stages_would_make(tmp_path):
    plain, scone = shapes(
        tmp_path, STAGES + "fgram-layers = 3\n[select-vocab]\nsize = '2k'\n[precompute]\ndtype = 'int8'\n"
    )
    common = {"dim": 32, "layers": 4, "vocab_size": 512, "context": 64, "weights": "float32", "training_tokens": "2560"}
    assert plain == Shape(name="plain", **common)
    assert scone == Shape(name="Scone", **common, fgrams="2k", fgram_layers=3, max_n=4, dtype="int8")


def test_a_budget_says_how_many_fgrams(tmp_path):
    _, scone = shapes(tmp_path, STAGES + "[select-vocab]\nbudget = '1MiB'\ndim = 32\n")
    assert scone.num_fgrams == fgrams_within(1 << 20, 32, "float16", 512)


def test_a_plain_model_alone(tmp_path):
    assert [shape.name for shape in shapes(tmp_path, STAGES + "kind = 'plain'\n")] == ["plain"]


@pytest.mark.parametrize("recipe", sorted(PIPELINES.glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_of_ours_describes_models(recipe):
    found = shapes_of(read_recipe(recipe))
    assert len(found) >= 2
    listed = tomllib.loads(recipe.read_text()).get("cost", {}).get("model", [])
    assert not listed or [shape.name for shape in found] == [model["name"] for model in listed]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[prices]\nram-gb = 3\n", ["[[cost.model]]", "[train-fgram]"]),
        (MODEL + MODEL, ["r.toml", "same", "name"]),
        (MODEL.replace("dim = 8", "dim = 0"), ["dim", "0"]),
        (STAGES + "[select-vocab]\nsize = 'auto'\n", ["[select-vocab]", "text"]),
        (STAGES + "[select-vocab]\ncoverage = 0.5\n", ["[select-vocab]", "text"]),
        ("[cost]\nmodel = 3\n", ["[cost]", "model", "3", "tables"]),
        ("[cost]\nmodel = [3]\n", ["[cost]", "model", "[3]", "tables"]),
        (MODEL + "width = 3\n", ["[cost]", "1", "'width'"]),
        (MODEL + MODEL + "dims = 3\n", ["[cost]", "2", "'dims'", "'dim'"]),
        (MODEL + "max-n = '5'\n", ["max-n", "'5'", "whole number"]),
        (MODEL + "dtype = 'int3'\n", ["dtype", "'int3'", "float32"]),
        ("[cost]\nmodels = 3\n", ["[cost]", "'models'", "'model'"]),
        ("[prices]\nram = 3\n", ["[prices]", "'ram'"]),
        ("[prices]\ntable-on = 'tape'\n", ["table-on", "'tape'", "ram", "ssd"]),
    ],
)
def test_what_describes_none_says_so(tmp_path, text, facts):
    with refusal(BadSetting, *facts) as refused:
        shapes(tmp_path, text)
    assert "r.toml" in refused.value.message or "[[cost.model]]" in refused.value.message
