"""One HTML page of figures that can be mailed: everything is in the file, and nothing is fetched.

It follows the reader's dark or light screen, and prints in black on white. What is in the figures is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import MANIFEST
from scone_cli.artifacts.publish import write_atomically
from scone_cli.charts import svg
from scone_cli.errors import BadSetting
from scone_cli.figures import Column, Fact, Figure, Section, Table
from scone_cli.formatting import harmless, value_text
from scone_cli.page_style import STYLE

_STRONG = ' class="strong"'
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
    """An HTML document: title, what it is about, some figures that say the most, the figures, and what is left out."""
    header = [f"<p>{_clean(about)}</p>", *_facts([Fact(*each) for each in facts.items()]), *_notes(notes)]
    sections = (f"<section>\n{_figure(figure, 'h2')}\n</section>" for figure in figures)
    return _document(title, header, sections)


def verdict_page(
    title: str,
    about: str,
    verdict: tuple[str, str],
    facts: Sequence[Fact],
    notes: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """An HTML document to decide from: a verdict with its class (better, worse or none), some facts, and sections."""
    sentence, kind = verdict
    marks = {section.title: "".join(c for c in section.title.lower() if c.isalnum()) for section in sections}
    links = "\n".join(f'<a href="#{mark}">{_clean(name)}</a>' for name, mark in marks.items())
    header = [
        f"<p>{_clean(about)}</p>",
        f'<p class="verdict {_clean(kind)}">{_clean(sentence)}</p>',
        *_facts(facts),
        *_notes(notes),
        f"<nav>\n{links}\n</nav>",
    ]
    return _document(title, header, (_section(section, marks[section.title]) for section in sections))


def _document(title: str, header: Iterable[str], sections: Iterable[str]) -> str:
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_clean(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<header>\n<h1>{_clean(title)}</h1>",
            *header,
            "</header>\n<main>",
            *sections,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _clean(text: str) -> str:
    return escape(harmless(text), quote=True)


def _facts(facts: Sequence[Fact]) -> Iterator[str]:
    if facts:
        yield f"<dl>{''.join(map(_fact, facts))}</dl>"


def _fact(fact: Fact) -> str:
    note = f'<dd class="note">{_clean(fact.note)}</dd>' if fact.note else ""
    return f'<div><dt>{_clean(fact.name)}</dt><dd class="value">{_clean(fact.value)}</dd>{note}</div>'


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"<ul>{''.join(f'<li>{_clean(note)}</li>' for note in notes)}</ul>"


def _section(section: Section, mark: str) -> str:
    """A question with the figures that answer it, one below the other."""
    figures = "\n".join(f"<article>\n{_figure(figure, 'h3')}\n</article>" for figure in section.figures)
    commands = "\n".join(f"<code>{_clean(command)}</code>" for command in section.commands)
    return "\n".join(
        [
            f'<section id="{mark}">\n<h2>{_clean(section.title)}</h2>\n<p>{_clean(section.says)}</p>',
            *([f"<pre>{commands}</pre>"] if commands else []),
            figures,
            "</section>",
        ]
    )


def _figure(figure: Figure, level: str) -> str:
    """What is said and drawn, which stays together on paper, then the tables."""
    charts = "\n".join(svg(chart) for chart in figure.charts)
    return "\n".join(
        [
            f'<div class="whole">\n<{level}>{_clean(figure.title)}</{level}>',
            *([f"<p>{_clean(figure.caption)}</p>"] if figure.caption else []),
            *([f'<div class="charts">\n{charts}\n</div>'] if charts else []),
            "</div>",
            *(_table(table) for table in figure.tables),
        ]
    )


def _table(table: Table) -> str:
    """A table; text of a corpus stands apart from what is around it, whichever way it is written."""
    head = "".join(
        f'<th class="number">{_clean(column.title)}</th>' if column.is_number else f"<th>{_clean(column.title)}</th>"
        for column in table.columns
    )
    rows = ["".join(_cell(*cell) for cell in zip(table.columns, row, strict=True)) for row in table.rows]
    title = f"<caption>{_clean(table.title)}</caption>" if table.title and not table.folded else ""
    body = "\n".join(f"<tr{_STRONG if i in table.strong else ''}>{row}</tr>" for i, row in enumerate(rows))
    if any(column.title for column in table.columns):
        title += f"<thead><tr>{head}</tr></thead>"
    drawn = f'<div class="scroll"><table>{title}\n<tbody>\n{body}\n</tbody></table></div>'
    return f"<details><summary>{_clean(table.title)}</summary>\n{drawn}\n</details>" if table.folded else drawn


def _cell(column: Column, value: Any) -> str:
    text = _clean(value_text(column.kind, value))
    if column.kind == "literal":
        return f'<td class="literal"><bdi>{text}</bdi></td>'
    if column.bars and value is not None:
        return f'<td class="number bar" style="--share:{value:.3f}">{text}</td>'
    if column.is_number:
        return f'<td class="number">{text}</td>'
    return f'<td class="long">{text}</td>' if len(text) > _LONG else f'<td class="short">{text}</td>'
