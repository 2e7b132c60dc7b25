"""Recipes: TOML files with values for the parameters of commands, one table per command, and with baselines.

A key is the name of an option or an argument. `[train-fgram.NAME]` is a baseline: its settings override those of
`[train-fgram]`. `[[cost.model]]` and `[prices]` are read into dataclasses. A relative path is relative to the recipe's folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from scone_cli.console.help_texts import LOOKING, STAGES
from scone_cli.console.options import PlainPath, QuantityText, TaskName, fields_of, value_type_of
from scone_cli.errors import BadSetting
from scone_cli.formatting import did_you_mean
from scone_cli.settings import Quantity, shipped

Tables = dict[str, dict[str, Any]]
Places = tuple[Path, Path]  # the recipe's folder, the workspace

TRAIN = "train-fgram"
_OF_A_CALL = {"force", "json", "plan", "html", "config", "baseline"}  # options of one call, not allowed in a recipe
_TAKEN = {
    "live",
    "table",
    "none",
    "tokens",
    "counts",
    "vocab",
    "model",
    "eval",
    "runs",
    "logs",
}  # names no baseline may have
_TYPES: Mapping[Any, type] = {
    click.types.BoolParamType: bool,
    click.types.IntParamType: int,
    click.types.FloatParamType: float,
    click.Path: Path,
    QuantityText: Quantity,
}
_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path (a string)",
    Quantity: 'a whole number, or a string such as "8GiB" or "10k"',
}


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read.

    Attributes:
        path: the path of its file.
        sha256: of its bytes.
        tables: for every command the values by name of the parameter: what click calls a default map.
        baselines: for every `[train-fgram.NAME]` its own values, which override `tables`.
        notes: conditions of [eval] that hold only with more on the command line than the recipe has.
    """

    path: Path
    sha256: str
    tables: Tables
    baselines: Tables
    notes: tuple[str, ...] = ()

    def settings(self, command: str, config_class: Callable[..., Any]) -> Any:
        """The config dataclass of a stage, with the values of the recipe."""
        values = self.tables.get(command, {})
        return config_class(**{item.name: values[item.name] for item in fields_of(config_class) if item.name in values})

    @property
    def origin(self) -> dict[str, str]:
        """Path and SHA-256 of the recipe, as manifests record them."""
        return {"path": os.path.abspath(self.path), "sha256": self.sha256}  # noqa: PTH100 - of a link its own name


def read_recipe(path: Path, workspace: Path = Path()) -> Recipe:
    """Read a recipe; models and tables that it names by a word are folders of `workspace`.

    Raises:
        BadSetting: the file cannot be read, is not TOML, or has an unknown table or key, or an invalid value.
    """
    where, places = f"recipe {path}:", (path.parent, workspace)
    try:
        content = path.read_bytes()
        tables = tomllib.loads(content.decode("utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise BadSetting(f"{where} cannot be read ({error.strerror})", _shipped_hint(path)) from error
    except (ValueError, RecursionError) as error:  # not TOML, or not UTF-8; brackets a thousand deep
        raise BadSetting(f"{where} not valid TOML: {error}") from error
    found, baselines, notes = Tables(), Tables(), tuple[str, ...]()
    for title, table in tables.items():
        command = title.replace("_", "-")
        if command not in _TABLES:
            raise BadSetting(f"{where} no command '{title}'; {_suggest(command, _TABLES, 'tables')}")
        if not isinstance(table, dict):
            raise BadSetting(f"{where} '{title}' must be a table, [{title}], not a value")
        if command in found:
            raise BadSetting(f"{where} has [{command}] twice, with dashes and with underscores")
        keys = _keys_of(command)
        within = (
            {} if command != TRAIN else {key: value for key, value in table.items() if _is_baseline(key, value, keys)}
        )
        own = {key: value for key, value in table.items() if key not in within}
        found[command] = _read_table(f"{where} [{title}]", own, keys, places)
        if command == "eval":
            notes = _check_conditions(f"{where} [{title}]", found[command])
        for name, values in within.items():
            _check_name(f"{where} [{title}.{name}]", name)
            rest = {key: each for key, each in keys.items() if key != "out"}  # its folder has its name
            baselines[name] = _read_table(f"{where} [{title}.{name}]", values, rest, places)
    if "dim" in found.get(TRAIN, {}):
        found.setdefault("select-vocab", {}).setdefault(
            "dim", found[TRAIN]["dim"]
        )  # so that the shown bytes are those of its table
    return Recipe(path, hashlib.sha256(content).hexdigest(), found, baselines, notes)


def _shipped_hint(path: Path) -> str | None:
    """A hint for the path of a recipe in a checkout, when it comes with the installed scone."""
    name = path.name.removesuffix(".toml")
    if not name or not (shipped() / f"{name}.toml").is_file():
        return None
    return (
        f'it comes with scone: --config "$(scone recipe --path {name})"; or copy it: scone recipe {name} > {name}.toml'
    )


# ---- known keys --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """A key of a table: the parameter or field that it sets, and the values it may have."""

    name: str
    value_type: type
    choices: tuple[str, ...] = ()
    several: bool = False
    within: Callable[[Path, Path, str], str] | None = None


def _field_keys(config_class: type) -> dict[str, _Key]:
    """A key for every field of a dataclass; a field with a tuple of dataclasses is an array of tables."""
    keys = {}
    for item in fields_of(config_class):
        value_type = value_type_of(config_class, item.name)
        several = typing.get_origin(value_type) is tuple
        given = typing.get_args(value_type)[0] if several else value_type
        keys[item.name.replace("_", "-")] = _Key(item.name, given, item.metadata.get("choices", ()), several)
    return keys


def _cost() -> dict[str, _Key]:
    from scone_cli.evaluation.model_cost import Cost

    return _field_keys(Cost)


def _prices() -> dict[str, _Key]:
    from scone_cli.evaluation.break_even import Prices

    return _field_keys(Prices)


# The tables that a recipe may have: one per command, and [prices], which `scone cost` and `scone eval` read.
_TABLES: dict[str, Callable[[], dict[str, _Key]] | None] = {
    **dict.fromkeys([*STAGES, *(name for name in LOOKING if name not in {"cost", "recipe"}), "publish"]),
    "cost": _cost,
    "prices": _prices,
}


def _keys_of(title: str) -> dict[str, _Key]:
    if own := _TABLES[title]:
        return own()
    from scone_cli.console.commands import build_command  # it imports this module

    return dict(_parameter_key(param) for param in build_command(title).params)


def _parameter_key(param: click.Parameter) -> tuple[str, _Key]:
    """The key of a parameter: its flag without the dashes, or the name of the argument."""
    flag = param.opts[0].lstrip("-") if isinstance(param, click.Option) else str(param.name)
    kind = param.type
    value_type = next((ours for theirs, ours in _TYPES.items() if isinstance(kind, theirs)), str)
    several = param.nargs == -1 or getattr(param, "multiple", False)
    choices = tuple(kind.choices) if isinstance(kind, click.Choice) else ()
    within = kind.within if isinstance(kind, PlainPath | TaskName) else None
    return flag, _Key(str(param.name), value_type, choices, several, within)


def _is_baseline(key: str, value: Any, keys: Mapping[str, _Key]) -> bool:
    return isinstance(value, dict) and key.replace("_", "-") not in keys


def _check_name(where: str, name: str) -> None:
    """Refuse a name that cannot be a folder of the workspace, or is ambiguous there or in conditions."""
    if not name or name in _TAKEN or name.startswith((".", "-")) or set(name) & set("/[]:=") or not name.isprintable():
        raise BadSetting(
            f"{where} '{name}' cannot be the name of a baseline",
            "it names a folder of the workspace and an arm, such as plain; it must not be model, table, live or none",
        )


def _check_conditions(where: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse invalid conditions of [eval] now: `eval` would refuse them only after hours of training.

    An arm that the recipe does not name may still be given on the command line, and so may --speed: `eval` refuses them if
    they are not. The result is a note for each such condition of a recipe that names arms, as the name may be misspelt.
    """
    from scone_cli.evaluation.arm_names import named_folder
    from scone_cli.evaluation.fail_if import arms_named, parse

    def names(key: str) -> list[str]:
        try:
            return [named_folder(Path(each))[0] for each in values.get(key, [])]
        except BadSetting as error:
            raise BadSetting(f"{where} {key}: {error.message}", error.hint) from error

    given = (*names("against"), *(f"table:{name}" for name in names("table")))
    arms = list(dict.fromkeys(("live", "table", "none", *given)))
    notes = []
    for text in values.get("fail_if", []):
        may_be = [arm for arm in arms_named(text) if arm not in arms]
        try:
            condition = parse(text, [*arms, *may_be])
        except BadSetting as error:
            raise BadSetting(f"{where} fail-if: {error.message.removeprefix('--fail-if ')}", error.hint) from error
        for arm in dict.fromkeys(name.arm for name in condition.names.values() if name.arm in may_be):
            option = "table" if arm.startswith("table:") else "against"
            if option in values:
                meant = did_you_mean(arm, arms)
                notes.append(
                    f"{where} fail-if: '{text}': the recipe names no arm '{arm}'; {meant}{' ' * bool(meant)}"
                    f"eval will need --{option}"
                )
        if condition.needs_speed and values.get("speed") is False:
            notes.append(f"{where} fail-if: '{text}': the recipe has speed = false; eval will need --speed")
    return tuple(notes)


# ---- reading a table ---------------------------------------------------------------------------------------------


def _read_table(where: str, table: Mapping[str, Any], keys: Mapping[str, _Key], places: Places) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for written, value in table.items():
        flag = written.replace("_", "-")
        if flag in _OF_A_CALL:
            raise BadSetting(
                f"{where} {written}: an option of one call, not of a recipe", f"give it to the command: --{flag}"
            )
        if flag not in keys:
            raise _unknown(where, written, keys)
        key = keys[flag]
        if key.name in values:
            raise BadSetting(f"{where} gives '{flag}' twice, with dashes and with underscores")
        if dataclasses.is_dataclass(key.value_type):
            values[key.name] = _read_tables(where, written, value, key.value_type)
        elif key.several:
            given = value if isinstance(value, list) else [value]
            values[key.name] = [_read_value(f"{where} {written} = {each!r}", each, key, places) for each in given]
        else:
            values[key.name] = _read_value(f"{where} {written} = {value!r}", value, key, places)
    return values


def _unknown(where: str, written: str, keys: Mapping[str, _Key]) -> BadSetting:
    flag = written.replace("_", "-")
    if flag == "seed":
        return BadSetting(f"{where} no longer has a setting 'seed': nothing there depends on chance", "remove the line")
    return BadSetting(f"{where} has no setting '{written}'; {_suggest(flag, keys, 'settings')}")


def _read_tables(where: str, written: str, value: Any, config_class: Any) -> tuple[Any, ...]:
    """The tables of an array, such as [[cost.model]]."""
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise BadSetting(f"{where} {written} = {value!r}: expected tables, each with its title in double brackets")
    keys = _field_keys(config_class)
    return tuple(
        config_class(**_read_table(f"{where} {written} {number}", table, keys, (Path(), Path())))
        for number, table in enumerate(value, 1)
    )


def _read_value(where: str, value: Any, key: _Key, places: Places) -> Any:
    """A value of the right TOML type; others are refused: click would accept "12" as a number and 1 as true."""
    accepted = {float: (float, int), Path: (str,), Quantity: (str, int)}.get(key.value_type, (key.value_type,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and key.value_type is not bool):
        raise BadSetting(
            f"{where}: expected {_NAMES[key.value_type]}{', or several in an array' if key.several else ''}"
        )
    if key.choices and value not in key.choices:
        raise BadSetting(f"{where}: expected one of {', '.join(key.choices)}")
    if key.within and "\0" in str(value):
        raise BadSetting(f"{where}: has a NUL character, which no path can have")
    if key.within and not value:
        raise BadSetting(f"{where}: empty, expected {_NAMES[key.value_type]}")
    return key.within(*places, str(value)) if key.within else value


def _suggest(word: str, known: Mapping[str, Any], what: str) -> str:
    known_words = [each for each in known if each not in _OF_A_CALL]
    return did_you_mean(word, known_words) or f"known {what}: {', '.join(known_words)}"
