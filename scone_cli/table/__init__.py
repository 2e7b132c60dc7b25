"""The table: `from scone_cli.table import Table` opens one, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scone_cli.table.table import Table

__all__ = ["Table"]


def __getattr__(name: str) -> Any:
    """`Table`, loaded when it is asked for: reading rows needs pyarrow and numba, `scone --help` does not."""
    if name == "Table":
        from scone_cli.table.table import Table  # noqa: PLC0415

        return Table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
