"""The table of f-gram rows: `from scone_cli.table import Table`; reading one needs no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scone_cli.table.table import Table

__all__ = ["Table"]


def __getattr__(name: str) -> Any:
    """Import `Table` on first use: it needs pyarrow and numba, which `scone --help` must not load."""
    if name == "Table":
        from scone_cli.table.table import Table  # noqa: PLC0415

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
