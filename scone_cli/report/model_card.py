"""The model card of an exported model: a README in Markdown with the front matter of the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scone_cli import __version__
from scone_cli.evaluation.results import LIVE, TABLE
from scone_cli.formatting import with_error
from scone_cli.report.page import templates

if TYPE_CHECKING:
    from scone_cli.evaluation.result_types import Results

_METRICS = ("nats_per_token", "perplexity", "bits_per_byte")


def model_card(name: str, facts: dict[str, Any], results: Results, license: str = "") -> str:
    """The text of the card: what the model is, its size, what `scone eval` measured (empty: not evaluated), how to load it."""
    corpora = results["method"]["corpora"][:1] if results else []
    rows = _losses(results, corpora[0]["corpus"]) if corpora else []
    differences = _differences(results, corpora[0]["corpus"]) if corpora else []
    return (
        templates(is_html=False)
        .get_template("model_card.md")
        .render(
            name=name,
            version=__version__,
            facts=facts,
            corpora=corpora,
            rows=rows,
            differences=differences,
            license=license,
        )
    )


def _losses(results: Results, corpus: str) -> list[list[str]]:
    """One line per arm: its name, then each metric with its standard error; `-` where it was not measured."""
    found = {(row["arm"], row["metric"]): row for row in results["results"] if row["corpus"] == corpus}
    arms = sorted(dict.fromkeys(arm for arm, _ in found if arm != LIVE), key=lambda arm: arm != TABLE)
    return [
        [
            arm,
            *(
                with_error(row["value"], row["stderr"]) if (row := found.get((arm, metric))) else "-"
                for metric in _METRICS
            ),
        ]
        for arm in arms
    ]


def _differences(results: Results, corpus: str) -> list[list[str]]:
    """One line per other arm: nats per token of the table minus that arm, its 95% interval, the finding."""
    lines = []
    for row in results["differences"]:
        if row["corpus"] == corpus and row["arm"] == "table" and row["against"] != LIVE:
            interval = "-" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
            lines.append([row["against"], f"{row['nats_per_token']:+.4f}", interval, row["finding"]])
    return lines
