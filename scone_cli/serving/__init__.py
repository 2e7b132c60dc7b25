"""Serving a trained model from Python: `from scone_cli.serving import SconeEmbedding, load_model`.

`load_model` opens a model with its table and tokenizer; `SconeEmbedding` embeds the tokens of many streams, with the rows
of a table, for a serving system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scone_cli.serving.embedding import SconeEmbedding
    from scone_cli.serving.loaded_model import LoadedModel, load_model

__all__ = ["LoadedModel", "SconeEmbedding", "load_model"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: all of them need torch."""
    if name == "SconeEmbedding":
        from scone_cli.serving.embedding import SconeEmbedding  # noqa: PLC0415

        return SconeEmbedding
    if name in __all__:
        from scone_cli.serving import loaded_model  # noqa: PLC0415

        return getattr(loaded_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
