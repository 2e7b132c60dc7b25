"""`scone recipe`: what comes with scone, listed, printed and found."""

import json
import tomllib
from pathlib import Path

import pytest
from messages import error_of, names

pytestmark = pytest.mark.usefixtures("empty_folder")

PIPELINES = Path(__file__).parents[2] / "pipelines"


def test_it_is_printed_as_it_is(scone):
    for name, file in (
        ("tiny", "tiny.toml"),
        ("tiny.toml", "tiny.toml"),
        ("rebuild.mk", "rebuild.mk"),
        ("scone-rebuild", "cron/scone-rebuild"),
        ("cron/scone-rebuild", "cron/scone-rebuild"),
        ("demo-corpus.py", "demo-corpus.py"),
    ):
        assert scone("recipe", name) == (0, (PIPELINES / file).read_text(encoding="utf-8"), "")
        assert scone("recipe", name, "--path") == (0, f"{PIPELINES / file}\n", "")


def test_what_was_printed_is_a_recipe(scone):
    Path("recipe.toml").write_text(scone("recipe", "paper")[1])
    assert scone("--config", "recipe.toml", "cost")[0] == 0


def test_the_list_tells_what_each_is_for(scone):
    code, out, _ = scone("recipe", "--list")
    assert code == 0
    assert names(out, *(path.stem for path in PIPELINES.glob("*.toml")), "rebuild.mk", "cron/scone-rebuild")
    assert scone("recipe")[1] == out
    found = json.loads(scone("recipe", "--list", "--json")[1])
    assert found["folder"] == str(PIPELINES)
    about = {row["name"]: row["about"] for row in found["files"]}
    assert all(about.values())
    assert about["tiny"] in (PIPELINES / "tiny.toml").read_text()
    assert scone("recipe", "--path") == (0, f"{PIPELINES}\n", "")
    assert scone("recipe", "--path", "tasks") == (0, f"{PIPELINES / 'tasks'}\n", "")


@pytest.mark.parametrize(
    ("name", "facts", "hint"),
    [("tinny", ["'tinny'"], "tiny"), ("", ["''"], "--list"), ("tasks", ["tasks"], "--path tasks")],
)
def test_what_is_no_file_of_it_is_exit_2(scone, name, facts, hint):
    code, out, err = scone("recipe", name)
    assert (code, out) == (2, "")
    error_of(err, *facts, hint=(hint,))


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_bytes_that_a_recipe_shows_are_of_its_own_models_table(path):
    tables = tomllib.loads(path.read_text())
    assert "dim" not in tables.get("select-vocab", {})  # that of [train-fgram] holds
