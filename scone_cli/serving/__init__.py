"""Serving: `from scone_cli.serving import SconeEmbedding` embeds the tokens of many streams, rows of a table included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scone_cli.serving.embedding import SconeEmbedding

__all__ = ["SconeEmbedding"]


def __getattr__(name: str) -> Any:
    """`SconeEmbedding`, loaded when it is asked for, as it needs torch."""
    if name == "SconeEmbedding":
        from scone_cli.serving.embedding import SconeEmbedding  # noqa: PLC0415

        return SconeEmbedding
    raise AttributeError(name)
