"""`scone eval`: what the f-grams are worth and what they cost, measured on text that no stage has learned from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

STAGE = "eval"
STAGE_VERSION = 1


@dataclass(frozen=True)
class Evaluate:
    """Settings of `eval`."""

    text_field: str = setting("text", "JSON Lines field or Parquet column that holds the text.")
    max_tokens: int = setting(0, "Stop after this many tokens a corpus (0: read all of it).")
    seed: int = setting(0, "Seed of the sample on which the lookup is timed.")


@dataclass(frozen=True)
class Inputs:
    """What `eval` reads: a workspace with model, vocabulary and table; corpora (none: the held-out split); rivals."""

    workspace: Path
    corpora: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()


def run(config: Evaluate, inputs: Inputs, out: Path, progress: Progress, force: bool = False) -> Report:
    """Evaluate the arms live, table and none, and every model in `inputs.against`; write the folder `out`."""
    raise NotImplementedError
