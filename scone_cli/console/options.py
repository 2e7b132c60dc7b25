"""Settings on the command line: options made from a stage's config dataclass, and recipes that give them values.

A setting is declared once, in the dataclass; its flag, its variable and its recipe key all come from there.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from scone_cli.errors import BadSetting
from scone_cli.settings import Quantity

_CLICK_TYPES: Mapping[type, Any] = {
    bool: click.BOOL,
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.Path(path_type=Path),
    Quantity: click.STRING,
}
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path (a string)",
    Quantity: 'a whole number, or a string such as "8GiB" or "10k"',
}


@dataclass(frozen=True)
class Session:
    """The options of the group, which hold for every command."""

    workspace: Path
    recipe: Path | None
    quiet: bool
    verbose: bool


class SettingOption(click.Option):
    """An option whose errors name the variable when the bad value came from there."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The option's name, and the variable's if that is where the value was found."""
        hint = super().get_error_hint(ctx)
        if ctx and self.name and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            hint += f" (variable {variable_name(ctx, self.name)})"
        return hint


def variable_name(ctx: click.Context, name: str) -> str:
    """The environment variable that click reads for the parameter `name` of the command of `ctx`."""
    return f"{ctx.auto_envvar_prefix}_{name.upper()}"


def setting_options(config_class: type) -> list[click.Parameter]:
    """One option for every field of a stage's config, in the order of its fields."""
    return [_option(item, _value_type(config_class, item.name)) for item in _fields(config_class)]


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


def _fields(config_class: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(config_class)


def _value_type(config_class: type, name: str) -> type:
    """The type of a field, without its `| None`."""
    annotation: type = typing.get_type_hints(config_class)[name]
    if isinstance(annotation, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    return annotation


def describe_sources(ctx: click.Context, config: Any, recipe: Path | None) -> list[tuple[str, str, str]]:
    """Every setting of a config with its value and where that came from, for `--verbose`."""
    places: dict[ParameterSource | None, Callable[[str], str]] = {
        ParameterSource.COMMANDLINE: lambda _: "flag",
        ParameterSource.ENVIRONMENT: lambda name: variable_name(ctx, name),
        ParameterSource.DEFAULT_MAP: lambda _: str(recipe),
    }
    described = []
    for item in _fields(type(config)):
        source = ctx.get_parameter_source(item.name)
        place = places[source](item.name) if source in places else "default"
        described.append((item.name.replace("_", "-"), str(getattr(config, item.name)), place))
    return described


# ---- recipes -----------------------------------------------------------------------------------------------------


def read_recipe(path: Path, config_classes: Mapping[str, Callable[[], type]]) -> dict[str, dict[str, Any]]:
    """Read a recipe, TOML with one table a command, into what click calls a default map.

    `config_classes` gives, for every table that there may be, a function that imports its dataclass. A field that is a tuple of
    dataclasses is an array of tables.

    Raises:
        BadSetting: the file cannot be read, is not TOML, or holds a table, a key or a value that no stage understands.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSetting(f"recipe {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise BadSetting(f"recipe {path}: not valid TOML: {error}") from error
    defaults = {}
    for title, table in tables.items():
        command = title.replace("_", "-")
        if command not in config_classes:
            raise BadSetting(f"recipe {path}: no command '{title}'; {_suggest(command, config_classes, 'tables')}")
        if not isinstance(table, dict):
            raise BadSetting(f"recipe {path}: '{title}' must be a table, [{title}], not a value")
        defaults[command] = _read_table(f"recipe {path}: [{title}]", table, config_classes[command]())
    return defaults


def _read_table(where: str, table: Mapping[str, Any], config_class: type) -> dict[str, Any]:
    known = {item.name.replace("_", "-"): item for item in _fields(config_class)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise BadSetting(f"{where} has no setting '{key}'; {_suggest(flag, known, 'settings')}")
        name = known[flag].name
        if name in values:
            raise BadSetting(f"{where} gives '{flag}' twice, with dashes and with underscores")
        value_type = _value_type(config_class, name)
        if typing.get_origin(value_type) is tuple:
            values[name] = _read_tables(where, key, value, typing.get_args(value_type)[0])
            continue
        _check_value(f"{where} {key} = {value!r}", value, known[flag], value_type)
        values[name] = value
    return values


def _read_tables(where: str, key: str, value: Any, config_class: type) -> tuple[Any, ...]:
    """The tables of an array, such as [[cost.model]]."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise BadSetting(f"{where} {key} = {value!r}: expected tables, each with its title in double brackets")
    return tuple(
        config_class(**_read_table(f"{where} {key} {number}", table, config_class))
        for number, table in enumerate(value, 1)
    )


def _check_value(where: str, value: Any, item: dataclasses.Field[Any], value_type: type) -> None:
    """Refuse what TOML wrote as another type: click would take "12" for a number and 1 for true."""
    accepted = {float: (float, int), Path: (str,), Quantity: (str, int)}.get(value_type, (value_type,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and value_type is not bool):
        raise BadSetting(f"{where}: expected {_NAMES[value_type]}")
    choices = item.metadata.get("choices", ())
    if choices and value not in choices:
        raise BadSetting(f"{where}: expected one of {', '.join(choices)}")


def _suggest(word: str, known: Mapping[str, Any], what: str) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known {what}: {', '.join(known)}"
