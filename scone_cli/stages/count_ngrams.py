"""`scone count-ngrams`: text to token shards, and the counts of every n-gram that occurs often enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

STAGE = "count-ngrams"
STAGE_VERSION = 1


@dataclass(frozen=True)
class CountNgrams:
    """Settings of `count-ngrams`."""

    vocab_size: int = setting(32768, "Size of the byte-level BPE trained on the corpus (ignored with --tokenizer).")
    tokenizer: Path | None = setting(None, "Take this tokenizer.json instead of training one.")
    text_field: str = setting("text", "JSON Lines field or Parquet column that holds the text.")
    held_out: float = setting(0.01, "Share of documents, chosen by hash, that are neither counted nor trained on.")
    max_n: int = setting(5, "Longest n-gram counted (the paper's K).")
    min_count: int = setting(5, "Leave out n-grams that occur less often than this.")
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: CountNgrams, inputs: Sequence[Path], out: Path, progress: Progress, force: bool = False) -> Report:
    """Read the corpora `inputs` and write `tokens/` and `counts/` into the workspace `out`."""
    raise NotImplementedError
