"""Options on the command line: one for each field of a stage's config dataclass, and the types of other parameters.

A setting is declared once, in the dataclass; its flag, its environment variable and its recipe key follow from it. What is
not a setting, such as a corpus, is a parameter of its command. How a recipe gives values is in `recipes`.
"""

from __future__ import annotations

import dataclasses
import glob
import shlex
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scone_cli.errors import BadSetting, InputMissing
from scone_cli.settings import Quantity

if TYPE_CHECKING:
    from scone_cli.console.recipes import Recipe


class Text(click.types.StringParamType):
    """A string; bytes of a shell that are not UTF-8 are refused, as they can be neither searched for nor written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The string."""
        text = str(super().convert(value, param, ctx))
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(f"{text!r} is not UTF-8", param, ctx)
        return text


class QuantityText(click.types.StringParamType):
    """A quantity such as 8GiB or 10k: a string; in a recipe also a whole number."""


class PlainPath(click.Path):
    """A path. In a recipe it is relative to the recipe's folder, so it does not depend on the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; an empty one is refused: it may come from an unset variable, and would be the current folder."""
        if value == "":
            self.fail("the path is empty (the current folder is '.')", param, ctx)
        return super().convert(value, param, ctx)

    def within(self, folder: Path, workspace: Path, written: str) -> str:  # noqa: ARG002
        """The path for a value in a recipe in `folder`."""
        return str(folder / Path(written).expanduser())


class CorpusPath(PlainPath):
    """A file, a folder, a pattern or a URL; or `-` for standard input, or `held-out` for the held-out documents."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path or the `Url`."""
        from scone_cli.corpus.urls import Url, corpus_of

        corpus = corpus_of(value) if isinstance(value, str) else value
        return corpus if isinstance(corpus, Url) else super().convert(value, param, ctx)

    def within(self, folder: Path, workspace: Path, written: str) -> str:  # noqa: ARG002
        """The path for a value in a recipe; URLs, `-` and `held-out` stay, and the folder is escaped in a pattern."""
        from scone_cli.artifacts.schemas import HELD_OUT  # heavy: not for `scone --help`
        from scone_cli.corpus.files import STDIN
        from scone_cli.corpus.urls import Url, corpus_of

        if isinstance(corpus_of(written), Url):
            return written
        path = Path(written).expanduser()
        if written == STDIN or (written == HELD_OUT and not (folder / path).exists()):
            return written
        is_pattern = glob.has_magic(written) and not (folder / path).exists()
        return str((Path(glob.escape(str(folder))) if is_pattern else folder) / path)


class NamedFolder(PlainPath):
    """The folder of an artifact, or NAME=DIR. In a recipe, a word without a slash is a folder of the workspace."""

    def within(self, folder: Path, workspace: Path, written: str) -> str:
        """The value for a recipe: only the part after NAME= is a path."""
        name, separator, path = written.partition("=")
        if not separator or "/" in name:
            name, separator, path = "", "", written
        return f"{name}{separator}{super().within(folder if '/' in path else workspace, workspace, path)}"


class TaskName(click.types.StringParamType):
    """A file or a folder of tasks, or the name of a task."""

    def within(self, folder: Path, workspace: Path, written: str) -> str:  # noqa: ARG002
        """The value for a recipe: a path if it exists or looks like one, else a name."""
        path = folder / Path(written).expanduser()
        return str(path) if path.exists() or "/" in written or written.endswith((".yaml", ".yml")) else written


_CLICK_TYPES: Mapping[type, Any] = {
    bool: click.BOOL,
    int: click.INT,
    float: click.FLOAT,
    str: Text(),
    Path: PlainPath(),
    Quantity: QuantityText(),
}


@dataclass(frozen=True)
class Session:
    """The options of the group `scone`, which hold for every command."""

    workspace: Path
    recipe: Recipe | None
    quiet: bool
    verbose: bool

    def baseline(self, name: str) -> tuple[Path, dict[str, Any]]:
        """The folder of a baseline of the recipe, and its own settings.

        Raises:
            BadSetting: the recipe has none of that name, or there is no recipe.
        """
        if self.recipe is None:
            hint = f"run: scone --config RECIPE train-fgram --baseline {name}"
            raise BadSetting(f"--baseline {name}: needs a recipe with [train-fgram.{name}], and none is given", hint)
        known = self.recipe.baselines
        if name not in known:
            hint = f"it has {', '.join(known)}" if known else f'add one: [train-fgram.{name}] and below kind = "plain"'
            raise BadSetting(f"--baseline {name}: there is no [train-fgram.{name}] in recipe {self.recipe.path}", hint)
        return self.workspace / name, known[name]

    def rival(self, given: Path) -> Path:
        """The model of `--against`: the folder of a baseline if its name is given, else see `beside`.

        Raises:
            InputMissing: the baseline was not trained.
        """
        named, separator, folder = str(given).rpartition("=")
        name = Path(folder).name
        if self.recipe is None or name not in self.recipe.baselines or folder not in (name, str(self.workspace / name)):
            return self.beside(given)
        if not (self.workspace / name).exists():
            hint = f"run: scone --config {shlex.quote(str(self.recipe.path))} train-fgram --baseline {name}"
            raise InputMissing(f"{self.workspace / name}: the baseline '{name}' of the recipe is not trained", hint)
        return Path(f"{named}{separator}{self.workspace / name}")

    def beside(self, given: Path) -> Path:
        """DIR or NAME=DIR; a DIR without a slash that is not in the current folder is in the workspace."""
        name, separator, folder = str(given).rpartition("=")
        if "/" in str(given) or given.exists() or Path(folder).exists() or not (self.workspace / folder).exists():
            return given
        return Path(f"{name}{separator}{self.workspace / folder}")


class SettingOption(click.Option):
    """An option whose errors name the environment variable of a bad value; a variable has one value per line."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The name of the option, and of the variable if the value came from it."""
        hint = super().get_error_hint(ctx)
        if ctx and self.name and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            hint += f" (variable {variable_name(ctx, self.name)})"
        return hint

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The value of the variable; a list for an option that may be given several times."""
        return _lines(self.resolve_envvar_value(ctx)) if self.multiple else super().value_from_envvar(ctx)


class Corpora(click.Argument):
    """The argument CORPUS, any number of them; also from a variable, one per line, or from the recipe."""

    def __init__(self, command: str, required: bool) -> None:
        variable = f"SCONE_{command.replace('-', '_').upper()}_CORPUS"
        super().__init__(["corpus"], nargs=-1, required=required, type=CorpusPath(), envvar=variable)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The values in the variable, one per line."""
        return _lines(self.resolve_envvar_value(ctx))


def _lines(value: str | None) -> list[str] | None:
    """The values of a variable, one per line: a value may contain spaces and colons."""
    return (value and [line.strip() for line in value.split("\n") if line.strip()]) or None


def variable_name(ctx: click.Context, name: str) -> str:
    """The environment variable that click reads for the parameter `name` of the command of `ctx`."""
    return f"{ctx.auto_envvar_prefix}_{name.upper()}"


def setting_options(config_class: type) -> list[click.Parameter]:
    """One option for every field of a stage's config, in the order of its fields."""
    return [_option(item, value_type_of(config_class, item.name)) for item in fields_of(config_class)]


def _option(item: dataclasses.Field[Any], value_type: type) -> click.Option:
    flag = item.name.replace("_", "-")
    choices = item.metadata.get("choices", ())
    return SettingOption(
        [item.name, f"--{flag}/--no-{flag}" if value_type is bool else f"--{flag}"],
        type=click.Choice(choices) if choices else _CLICK_TYPES[value_type],
        default=item.default,
        show_default=True,
        help=item.metadata["help"],
    )


def fields_of(config_class: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The settings that a config declares, in their order."""
    return dataclasses.fields(config_class)


def value_type_of(config_class: type, name: str) -> type:
    """The type of a field, without its `| None`."""
    annotation: type = typing.get_type_hints(config_class)[name]
    if isinstance(annotation, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    return annotation


def describe_sources(ctx: click.Context, config: Any, recipe: Recipe | None) -> list[tuple[str, str, str]]:
    """Every setting of a config with its value and where that came from, for `--verbose`."""
    places: dict[ParameterSource | None, Callable[[str], str]] = {
        ParameterSource.COMMANDLINE: lambda _: "flag",
        ParameterSource.ENVIRONMENT: lambda name: variable_name(ctx, name),
        ParameterSource.DEFAULT_MAP: lambda _: str(recipe and recipe.path),
    }
    described = []
    for item in fields_of(type(config)):
        source = ctx.get_parameter_source(item.name)
        place = places[source](item.name) if source in places else "default"
        described.append((item.name.replace("_", "-"), str(getattr(config, item.name)), place))
    return described
