"""`scone select-vocab`: the most frequent n-grams of all lengths become the f-gram vocabulary (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

STAGE = "select-vocab"
STAGE_VERSION = 1


@dataclass(frozen=True)
class SelectVocab:
    """Settings of `select-vocab`."""

    size: int = setting(1_000_000, "Keep at most this many f-grams.")
    min_count: int = setting(5, "Keep only n-grams that occur at least this often.")
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: SelectVocab, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `counts/` of the workspace `inputs` and write the vocabulary folder `out`."""
    raise NotImplementedError
