"""The page of an evaluation, which people decide from: `render` makes it of results.json, `verdict` its first sentence."""

from __future__ import annotations

from scone_cli.report_verdict import verdict

__all__ = ["verdict"]
