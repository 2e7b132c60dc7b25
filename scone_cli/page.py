"""One HTML page of figures that can be mailed: everything is in the file, and nothing is fetched.

It follows the reader's dark or light screen, and prints in black on white. What is in the figures is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from scone_cli.artifacts import MANIFEST, write_atomically
from scone_cli.charts import svg
from scone_cli.errors import BadSetting
from scone_cli.figures import Column, Figure, Table, value_text

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2127; --soft: #5c6670; --hair: #e3e7eb; --wash: #f5f7f9;
 --series-0: #2b6cb0; --series-1: #d5761c; --series-2: #2f8f5b; --series-3: #b23a76; --series-4: #7559c2;
 --series-5: #8a6a2f; --series-6: #108a92; --series-7: #777f87; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9aa4ad; --hair: #2c3238;
 --wash: #1c2125; --series-0: #6aa9e9; --series-1: #f0a25a; --series-2: #63c08d; --series-3: #e27fb0;
 --series-4: #a993ee; --series-5: #cfad6b; --series-6: #56c3ca; --series-7: #a5adb5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
 font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 0 0 .2rem; }
p { color: var(--soft); margin: 0 0 1rem; max-width: 46rem; }
section { margin: 2.6rem 0 0; padding-top: 1.4rem; border-top: 1px solid var(--hair); }
dl { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.4rem 0 0; }
dl div { background: var(--wash); border-radius: 6px; padding: .55rem .9rem; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
ul { color: var(--soft); padding-left: 1.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.5rem; }
svg { display: block; width: 100%; max-width: 34rem; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
svg .name { font-weight: 600; font-size: 13px; }
svg .tick, svg .axis { fill: var(--soft); }
svg .value { font-size: 11px; }
svg .grid { stroke: var(--hair); fill: none; }
svg .base { stroke: var(--soft); fill: none; }
svg .mark { stroke: var(--soft); stroke-dasharray: 3 3; fill: none; }
svg .line { stroke-width: 2.2; fill: none; stroke-linejoin: round; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th { text-align: left; font-weight: 500; color: var(--soft); vertical-align: bottom; border-bottom: 1px solid var(--soft); }
th, td { padding: .2rem 1.1rem .2rem 0; vertical-align: top; }
td { border-bottom: 1px solid var(--hair); }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; max-width: 9rem; }
.literal { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .82rem;
 overflow-wrap: anywhere; white-space: pre-wrap; min-width: 11rem; }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --hair: #ccc; --wash: #fff;
 --series-0: #2b6cb0; --series-1: #d5761c; --series-2: #2f8f5b; --series-3: #b23a76; --series-4: #7559c2;
 --series-5: #8a6a2f; --series-6: #108a92; --series-7: #777f87; }
 body { font-size: 11px; padding: 0; max-width: none; } dl div { border: 1px solid var(--hair); }
 .whole, tr { break-inside: avoid; break-after: avoid; } tr { break-after: auto; } .scroll { overflow: visible; }
 .charts { grid-template-columns: 1fr 1fr; }
 svg rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


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
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<header>\n<h1>{escape(title)}</h1>\n<p>{escape(about)}</p>",
            *_facts(facts),
            *_notes(notes),
            "</header>\n<main>",
            *(_figure(figure) for figure in figures),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _facts(facts: Mapping[str, str]) -> Iterator[str]:
    if facts:
        items = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
        yield f"<dl>{''.join(items)}</dl>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _figure(figure: Figure) -> str:
    """A section: what is said and drawn, which stays together on paper, then the tables."""
    charts = "\n".join(svg(chart) for chart in figure.charts)
    return "\n".join(
        [
            f'<section>\n<div class="whole">\n<h2>{escape(figure.title)}</h2>\n<p>{escape(figure.caption)}</p>',
            *([f'<div class="charts">\n{charts}\n</div>'] if charts else []),
            "</div>",
            *(_table(table) for table in figure.tables),
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    """A table; text of a corpus stands apart from what is around it, whichever way it is written."""
    head = "".join(
        f'<th class="number">{escape(column.title)}</th>' if column.is_number else f"<th>{escape(column.title)}</th>"
        for column in table.columns
    )
    rows = ("".join(_cell(*cell) for cell in zip(table.columns, row, strict=True)) for row in table.rows)
    title = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    if any(column.title for column in table.columns):
        title += f"<thead><tr>{head}</tr></thead>"
    return f'<div class="scroll"><table>{title}\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(column: Column, value: Any) -> str:
    text = escape(value_text(column.kind, value))
    if column.kind == "literal":
        return f'<td class="literal"><bdi>{text}</bdi></td>'
    return f'<td class="number">{text}</td>' if column.is_number else f"<td>{text}</td>"
