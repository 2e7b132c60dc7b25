"""HTML pages of figures, each one file that can be mailed: no scripts, and nothing is loaded from elsewhere.

A page follows the reader's dark or light setting and prints black on white. The templates and the style sheet are in
`templates/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from scone_cli.artifacts.manifest import MANIFEST
from scone_cli.artifacts.publish import write_atomically
from scone_cli.errors import BadSetting
from scone_cli.formatting import bytes_text, count_text, harmless, value_text
from scone_cli.report.charts import svg
from scone_cli.report.figures import Fact, Figure, Section

if TYPE_CHECKING:
    from jinja2 import Environment

_LONG = 20  # characters: shorter text in a table stays on one line
_COMMAND = re.compile(r"(\bscone \S.*?\b(?:DIR|CORPUS)\b)")  # in a sentence; the reader replaces the last word


def check_target(path: Path) -> None:
    """Check that a page can be written to `path`: a new file or an ordinary file, outside of artifacts.

    Raises:
        BadSetting: `path` is a folder or a device, its folder does not exist, or its folder is an artifact.
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
    """Write a page atomically, replacing a file of this name; returns the number of bytes."""
    content = html.encode("utf-8", "backslashreplace")  # a path may have bytes that are not UTF-8
    write_atomically(path.resolve(), content)  # a link stays, the file it points to is replaced
    return len(content)


def page(title: str, about: str, facts: Mapping[str, str], figures: Sequence[Figure], notes: Sequence[str] = ()) -> str:
    """Render a page of figures: title, a line about it, headline numbers, notes, one section per figure."""
    values = {"title": title, "about": about, "notes": notes, "figures": figures}
    return templates().get_template("page.html").render(values, facts=[Fact(*each) for each in facts.items()])


def verdict_page(
    title: str,
    about: str,
    verdict: tuple[str, str],
    facts: Sequence[Fact],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """Render a page with a verdict: its text and its class (better, worse or empty), headline numbers, notes, sections."""
    sentence, kind = verdict
    header = {"title": title, "about": about, "verdict": sentence, "kind": kind, "facts": facts, "notes": notes}
    return templates().get_template("verdict_page.html").render(header, sections=sections)


@cache
def templates(is_html: bool = True) -> Environment:
    """The templates; unprintable characters are escaped by `harmless`, and every value for HTML if it is HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - 0.05 s; the help needs none
    from markupsafe import Markup  # noqa: PLC0415

    loader = PackageLoader("scone_cli.report")
    made = Environment(
        autoescape=is_html,  # noqa: S701 - the model card is Markdown
        finalize=_harmless,
        keep_trailing_newline=True,
        loader=loader,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals["value_text"] = value_text
    made.filters |= {"count_text": count_text, "bytes_text": bytes_text}
    made.filters["cut_at_commands"] = _COMMAND.split  # text, command, text, ..., text
    made.filters["svg"] = lambda chart: Markup(svg(chart))  # noqa: S704 - `charts` escapes what it draws
    made.tests["long"] = lambda text: cell_len(text) > _LONG
    return made


def _harmless(value: Any) -> Any:
    """A value with unprintable characters escaped; markup is left alone, as its values are escaped already."""
    return harmless(value) if type(value) is str else value
