"""One HTML page of figures that can be mailed: everything is in the file, and nothing is fetched.

It follows the reader's dark or light screen, and prints in black on white. What is in the figures is escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from scone_cli.artifacts.manifest import MANIFEST
from scone_cli.artifacts.publish import write_atomically
from scone_cli.errors import BadSetting
from scone_cli.formatting import harmless, value_text
from scone_cli.report.charts import svg
from scone_cli.report.figures import Fact, Figure, Section

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG = 28  # characters: what is shorter stays in one line


def check_target(path: Path) -> None:
    """Refuse to write a page where it would replace anything but a file of the user's, or could not be written.

    Raises:
        BadSetting: a folder or a device is there, there is no folder for it, or it is the folder of an artifact.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise BadSetting(
            f"--html {path}: this is a folder, expected the name of a file", f"give --html {path}/page.html"
        )
    if path.exists() and not path.is_file():
        raise BadSetting(f"--html {path}: not a file that can be replaced", "give the name of a file")
    if not folder.is_dir():
        raise BadSetting(f"--html {path}: there is no folder {folder}", "make it, or name a file elsewhere")
    if (folder / MANIFEST).is_file():
        raise BadSetting(
            f"--html {path}: {folder} is an artifact, which holds its own files only", "name a file elsewhere"
        )


def write_page(path: Path, html: str) -> int:
    """Write a page, whole or not at all, in the place of a file of this name; returns its bytes."""
    content = html.encode("utf-8", "backslashreplace")  # a path may be no Unicode
    write_atomically(path.resolve(), content)  # through a link to what it names
    return len(content)


def page(title: str, about: str, facts: Mapping[str, str], figures: Sequence[Figure], notes: Sequence[str] = ()) -> str:
    """An HTML document of figures: title, a line about it, the few numbers that say the most, what is left out."""
    values = {"title": title, "about": about, "notes": notes, "figures": figures}
    return _templates().get_template("page.html").render(values, facts=[Fact(*each) for each in facts.items()])


def verdict_page(
    title: str,
    about: str,
    verdict: tuple[str, str],
    facts: Sequence[Fact],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """An HTML document to decide from: a verdict with its class (better, worse or empty), some facts, and sections."""
    sentence, kind = verdict
    header = {"title": title, "about": about, "verdict": sentence, "kind": kind, "facts": facts, "notes": notes}
    return _templates().get_template("verdict_page.html").render(header, sections=sections)


@cache
def _templates() -> Environment:
    """The templates beside this file.

    Every value they write is escaped: HTML by autoescape, characters that do not print by `harmless`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - 0.05 s; the help needs none
    from markupsafe import Markup  # noqa: PLC0415

    loader = PackageLoader("scone_cli.report")
    templates = Environment(
        autoescape=True,
        finalize=_harmless,
        keep_trailing_newline=True,
        loader=loader,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    templates.globals["value_text"] = value_text
    templates.filters["svg"] = lambda chart: Markup(svg(chart))  # noqa: S704 - `charts` escapes what it draws
    templates.tests["long"] = lambda text: cell_len(text) > _LONG
    return templates


def _harmless(value: Any) -> Any:
    """A value as it is written; markup stays, as what is in it was escaped already."""
    return harmless(value) if type(value) is str else value
