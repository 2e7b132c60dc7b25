"""One HTML page of figures that can be mailed: everything is in the file, and nothing is fetched.

It follows the reader's dark or light screen, and prints in black on white. What is in the figures is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from scone_cli.artifacts.manifest import MANIFEST
from scone_cli.artifacts.publish import write_atomically
from scone_cli.errors import BadSetting
from scone_cli.formatting import harmless, value_text
from scone_cli.report.charts import svg
from scone_cli.report.figures import Column, Fact, Figure, Section, Table

# ---- how pages look: on a dark or light screen, as wide as a phone or a desk, and on paper ------------------------


_LIGHT = """--paper: #fff; --ink: #1d2127; --soft: #59636d; --hair: #e3e7eb; --wash: #f4f6f8; --strong: #eaf1f9;
 --better: #1f6fb5; --worse: #c2571a;
 --series-0: #2b6cb0; --series-1: #d5761c; --series-2: #2f8f5b; --series-3: #b23a76; --series-4: #7559c2;
 --series-5: #8a6a2f; --series-6: #108a92; --series-7: #777f87;"""
_DARK = """--paper: #14171a; --ink: #e4e7ea; --soft: #9da7b0; --hair: #2c3238; --wash: #1c2125; --strong: #1d2a38;
 --better: #6fb1ee; --worse: #f0975a;
 --series-0: #6aa9e9; --series-1: #f0a25a; --series-2: #63c08d; --series-3: #e27fb0; --series-4: #a993ee;
 --series-5: #cfad6b; --series-6: #56c3ca; --series-7: #a5adb5;"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }}
body {{ margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
 font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.35rem; line-height: 1.25; margin: 0 0 .2rem; }}
h3 {{ font-size: 1.05rem; margin: 0 0 .2rem; }}
p {{ color: var(--soft); margin: 0 0 1rem; max-width: 46rem; overflow-wrap: anywhere; }}
.verdict {{ color: var(--ink); font-size: 1.15rem; line-height: 1.45; margin: 1.1rem 0 0; padding: .1rem 0 .1rem 1rem;
 border-left: 4px solid var(--soft); }}
.verdict.better {{ border-color: var(--better); }} .verdict.worse {{ border-color: var(--worse); }}
nav {{ margin: 1.4rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .95rem; }}
a {{ color: var(--better); text-underline-offset: .2em; text-decoration-thickness: 1px; }}
section {{ margin: 2.8rem 0 0; padding-top: 1.4rem; border-top: 1px solid var(--hair); }}
article {{ margin: 1.8rem 0 0; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 12rem), 1fr)); gap: .7rem; margin: 1.4rem 0 0; }}
dl div {{ background: var(--wash); border-radius: 8px; padding: .65rem .95rem .75rem; }}
dt {{ color: var(--soft); font-size: .85rem; }}
dd {{ margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }}
dd.value {{ font-size: 1.3rem; line-height: 1.3; font-weight: 600; }}
dd.note {{ color: var(--soft); font-size: .85rem; line-height: 1.4; margin-top: .15rem; }}
ul {{ color: var(--soft); padding-left: 1.2rem; overflow-wrap: anywhere; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.4rem 2rem;
 align-items: start; margin-top: .9rem; }}
svg {{ display: block; width: 100%; max-width: 27rem; height: auto; overflow: visible; }}
svg text {{ fill: var(--ink); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
 font-variant-numeric: tabular-nums; }}
svg .name {{ font-weight: 600; font-size: 14px; }}
svg .tick, svg .axis {{ fill: var(--soft); }}
svg .value {{ font-size: 12.5px; }}
svg .grid {{ stroke: var(--hair); fill: none; }}
svg .base {{ stroke: var(--soft); fill: none; }}
svg .mark {{ stroke: var(--soft); stroke-dasharray: 3 3; fill: none; }}
svg .line {{ stroke-width: 2.2; fill: none; stroke-linejoin: round; }}
svg .interval {{ stroke-width: 3; fill: none; stroke-linecap: round; opacity: .55; }}
svg path.better {{ stroke: var(--better); }} svg path.worse {{ stroke: var(--worse); }}
svg path.unshown {{ stroke: var(--soft); }}
svg circle.better, svg circle.strong {{ fill: var(--better); }} svg circle.worse {{ fill: var(--worse); }}
svg circle.unshown {{ fill: var(--paper); stroke: var(--soft); stroke-width: 2; }}
svg circle.plain {{ fill: var(--series-7); }}
.scroll {{ overflow-x: auto; margin-top: 1rem; }}
table {{ border-collapse: separate; border-spacing: 0; font-size: .9rem; line-height: 1.4; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-weight: 600; padding: .4rem 0; }}
th {{ text-align: left; font-weight: 500; color: var(--soft); vertical-align: bottom; border-bottom: 1px solid var(--soft); }}
th, td {{ padding: .25rem 1.2rem .25rem 0; vertical-align: top; }}
th:last-child, td:last-child {{ padding-right: .3rem; }}
td {{ border-bottom: 1px solid var(--hair); }}
tr.strong td {{ background: var(--strong); font-weight: 600; }}
.number {{ text-align: right; white-space: nowrap; }}
th.number {{ white-space: normal; max-width: 9rem; }}
.short {{ white-space: nowrap; }} .long {{ min-width: 13rem; overflow-wrap: anywhere; }}
td.bar {{ padding-left: 5rem; background: linear-gradient(var(--series-0), var(--series-0)) left .55em /
 calc(4.2rem * var(--share)) .55em no-repeat; }}
.literal {{ font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .82rem;
 overflow-wrap: anywhere; white-space: pre-wrap; min-width: 9rem; }}
.literal:first-child {{ min-width: 6rem; }} .literal:last-child {{ min-width: 16rem; }}
details {{ margin-top: 1rem; }}
summary {{ color: var(--better); cursor: pointer; }}
pre code {{ display: block; font: inherit; padding-left: 1.4rem; text-indent: -1.4rem; }}
pre {{ background: var(--wash); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto; margin: 1rem 0 0; line-height: 1.5;
 font: .85rem ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
 overflow-wrap: anywhere; }}
@media (max-width: 40rem) {{ th:first-child, td:first-child {{ position: sticky; left: 0; background: var(--paper); }}
 tr.strong td:first-child {{ background: var(--strong); }} td.long:first-child {{ min-width: 9rem; }}
 body {{ padding: 1.3rem .9rem 3rem; }} .verdict {{ font-size: 1.05rem; padding-left: .8rem; }}
 dl {{ grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem; }} dl div {{ padding: .55rem .7rem; }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} --ink: #000; --soft: #444; --hair: #ccc; font-size: 11px; }}
 body {{ padding: 0; max-width: none; }} nav, details:not([open]) {{ display: none; }}
 dl {{ grid-template-columns: repeat(4, 1fr); }} dl div {{ border: 1px solid var(--hair); }}
 section {{ margin-top: 1.8rem; padding-top: 1rem; }} .charts {{ grid-template-columns: 1fr 1fr; }}
 p, .whole, .scroll, tr, dl div, svg, pre {{ break-inside: avoid; }} h2, h3, section > p {{ break-after: avoid; }}
 .scroll {{ overflow: visible; }} table {{ font-size: .85rem; }}
 * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }} }}
"""


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
    return f'<td class="long">{text}</td>' if cell_len(text) > _LONG else f'<td class="short">{text}</td>'
