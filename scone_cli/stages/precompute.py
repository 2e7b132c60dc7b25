"""`scone precompute`: run the f-gram model once over the whole vocabulary; its outputs are the table (paper, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

STAGE = "precompute"
STAGE_VERSION = 1


@dataclass(frozen=True)
class Precompute:
    """Settings of `precompute`."""

    dtype: str = setting("float16", "Number format of the rows.", choices=("float32", "float16", "bfloat16"))
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: Precompute, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `vocab/` and `model/` of the workspace `inputs` and write the table folder `out`."""
    raise NotImplementedError
