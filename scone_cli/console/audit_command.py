"""`scone audit`: what artifacts and published versions still hold."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from scone_cli.console import help_texts, output, registry_texts
from scone_cli.console.options import PlainPath, Session
from scone_cli.console.progress_bars import listening
from scone_cli.console.results import result_text
from scone_cli.errors import SconeError
from scone_cli.formatting import harmless
from scone_cli.runtime.resources import storage_failures

PATH = PlainPath()
_FIRST = 5  # ids of each finding for people; JSON has more
_LIMIT = click.IntRange(min=0)


@click.command(help=registry_texts.AUDIT_ABOUT, short_help=help_texts.LOOKING["audit"])
@click.argument("path", metavar="[WORKSPACE | REGISTRY/NAME]", type=PATH, required=False)
@click.option("--text", type=PATH, metavar="FILE", help="Look for these texts, one a line.")
@click.option(
    "--documents",
    type=PATH,
    metavar="FILE",
    help="Look for what comes only from these documents: an id or the SHA-256 of a text a line.",
)
@click.option(
    "--max-found",
    type=_LIMIT,
    metavar="N",
    default=0,
    show_default=True,
    help="Fail if more than N things hold a given text or come only from given documents.",
)
@click.option(
    "--max-personal", type=_LIMIT, metavar="N", help="Fail if more than N things look personal.  [default: no limit]"
)
@click.option(
    "--max-few",
    type=_LIMIT,
    metavar="N",
    help="Fail if a table or vocabulary has more than N f-grams of fewer than 10 documents.  [default: no limit]",
)
@click.option("--show", is_flag=True, help="Show the text of what was found, not only its ids.")
@click.option("as_json", "--json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_obj
def audit(
    session: Session,
    /,
    path: Path | None,
    text: Path | None,
    documents: Path | None,
    max_found: int,
    max_personal: int | None,
    max_few: int | None,
    show: bool,
    as_json: bool,
) -> None:
    """Say what artifacts still hold."""
    from scone_cli.audit.audit import audit as look  # heavy: not for `scone audit --help`
    from scone_cli.audit.texts import read_texts
    from scone_cli.corpus.document_list import read_document_list

    started, path = time.monotonic(), path or session.workspace
    in_a_log = session.quiet or not output.is_terminal(sys.stderr)
    with storage_failures(path), listening(in_a_log, session.verbose) as progress:
        texts = read_texts(text) if text else []
        wanted = read_document_list(documents, "--documents") if documents else None
        findings = look(path, texts, wanted, progress)
    limits = {"found": max_found, "personal": max_personal, "few": max_few}
    totals = {"found": findings.found, "personal": findings.personal, "few": findings.few}
    over = [
        f"{totals[name]:,} {what}, --max-{name} is {limit:,}"
        for (name, limit), what in zip(limits.items(), ("found", "look personal", "of few documents"), strict=True)
        if limit is not None and totals[name] > limit
    ]
    if (texts or documents) and findings.problems:
        over.append(f"{len(findings.problems):,} could not be looked at")
    facts: dict[str, Any] = {"path": str(path), "clean": not over, **totals, "texts": len(texts)}
    facts |= {"problems": findings.problems, "notes": findings.notes, "seconds": round(time.monotonic() - started, 3)}
    if as_json:
        output.print_json(facts | {"places": [place.facts(show) for place in findings.places]})
    else:
        output.print_result(_text(facts, [place.facts(show) for place in findings.places], show, bool(documents)))
    if over:
        raise SconeError(f"{path}: {'; '.join(over)}")


def _text(facts: dict[str, Any], places: list[dict[str, Any]], show: bool, with_documents: bool) -> str:
    """The result for people: a table of places, then one of what was found in each."""
    shown: dict[str, Any] = {"places": [_row(place, bool(facts["texts"]), with_documents) for place in places]}
    found = [row for place in places for row in _found(place, show)]
    shown |= {"found": found} if found else {}
    lines = [f"not looked at: {harmless(each)}" for each in facts["problems"]]
    lines += [f"note: {harmless(each)}" for each in facts["notes"]]
    verdict = "clean" if facts["clean"] else "not clean"
    return "\n".join([result_text(harmless(f"audit {facts['path']}: {verdict}"), shown), *lines])


def _row(place: dict[str, Any], with_texts: bool, with_documents: bool) -> dict[str, Any]:
    row = {"place": harmless(place["name"]), "what": place["unit"], "looked at": place["looked_at"]}
    row |= {"hold a text": place["holding"]} if with_texts else {}
    row |= {"are parts": place["parts"], "rare parts": place["rare_parts"]} if with_texts else {}
    row |= {"only from documents": place["only"]} if with_documents else {}
    row |= {"look personal": place["personal"]}
    docs = place["docs"] or {}
    return row | {f"in {name} docs": docs.get(name) for name in ("1", "2-4", "5-9")}


def _found(place: dict[str, Any], show: bool) -> list[dict[str, Any]]:
    """A row for each given text, kind of personal text, and for what comes only from given documents."""
    kinds = [(f"text of line {line}", found) for line, found in sorted(place["texts"].items())]
    kinds += [("only from documents", place["own"])] if place["own"]["num"] else []
    kinds += [(f"looks like {name}", found) for name, found in sorted(place["kinds"].items())]
    return [
        {
            "place": harmless(place["name"]),
            "what": what,
            "how many": found["num"],
            "the first": harmless(", ".join(map(str, found["ids"][:_FIRST]))),
        }
        | ({"as text": "\n".join(found["shown"][:_FIRST])} if show else {})
        for what, found in kinds
    ]
