"""The keys of results.json by `evaluation/result_types.py`: as tables for people, and as a check of what was written."""

import ast
import inspect
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from scone_cli.evaluation import result_types

LINES = inspect.getsource(result_types).splitlines()
CLASSES = {node.name: node for node in ast.parse("\n".join(LINES)).body if isinstance(node, ast.ClassDef)}
JSON = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def tables_of_keys(name: str = "Results", path: str = "") -> str:
    """Markdown: the keys of one type with their types and comments, then those of every type in it."""
    rows = ["| key | type | what it is |", "| --- | --- | --- |"]
    inner = ""
    for key, annotation, comment in _keys(CLASSES[name]):
        held = next((each.id for each in ast.walk(annotation) if getattr(each, "id", "") in CLASSES), None)
        below = f"{path}.{key}".lstrip(".")
        link = f"[`{key}`](#{below.replace('.', '')})" if held else f"`{key}`"
        about = comment or (_about(held).partition(". ")[0].rstrip(".") if held else "")
        rows.append(f"| {link} | {_json_type(annotation)} | {about} |")
        inner += tables_of_keys(held, below) if held else ""
    return f"### {f'`{path}`' if path else 'All keys'}\n\n{_about(name)}\n\n" + "\n".join(rows) + f"\n\n{inner}"


def _about(name: str) -> str:
    return " ".join((ast.get_docstring(CLASSES[name]) or "").split())


def _keys(of: ast.ClassDef) -> Iterator[tuple[str, ast.expr, str]]:
    """Every key, inherited ones first: its name, its type, the comment on its line."""
    for base in of.bases:
        if getattr(base, "id", "") in CLASSES:
            yield from _keys(CLASSES[base.id])
    for node in of.body:
        if isinstance(node, ast.AnnAssign):
            yield node.target.id, node.annotation, LINES[node.end_lineno - 1].partition("  # ")[2]


def _json_type(annotation: ast.expr) -> str:
    match annotation:
        case ast.Name(id=name):
            return JSON.get(name, "object")
        case ast.Constant(value=None):
            return "null"
        case ast.BinOp(left=left, right=right):
            return f"{_json_type(left)} or {_json_type(right)}"
        case ast.Subscript(value=ast.Name(id="list"), slice=each):
            return f"list of {_json_type(each)}s"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, each])):
            return f"object of {_json_type(each)}s".replace(" or ", "s or ")
        case ast.Subscript(value=ast.Name(id="NotRequired"), slice=each):
            return f"{_json_type(each)}, may be missing"
    raise AssertionError(ast.dump(annotation))


def wrong_keys(value: Any, kind: Any = result_types.Results, where: str = "results") -> list[str]:
    """Where a value is not of a type: a key that is missing or unknown, a value of another type."""
    if get_origin(kind) is UnionType:
        return min((wrong_keys(value, each, where) for each in get_args(kind)), key=len)
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True)
        needed = {key for key, hint in hints.items() if kind.__total__ and get_origin(hint) is not NotRequired}
        found = [f"{where}: {key} is missing or unknown" for key in (value.keys() - hints) | (needed - value.keys())]
        plain = get_type_hints(kind)
        return found + [
            bad for key in value.keys() & plain for bad in wrong_keys(value[key], plain[key], f"{where}.{key}")
        ]
    if get_origin(kind) is list:
        return [bad for each in value for bad in wrong_keys(each, *get_args(kind), where)]
    if get_origin(kind) is dict:
        return [bad for each in value.values() for bad in wrong_keys(each, get_args(kind)[1], where)]
    allowed = (int, float) if kind is float else (kind,)
    return (
        []
        if type(value) in allowed or (kind is NoneType and value is None)
        else [f"{where}: {value!r} is no {kind.__name__}"]
    )
