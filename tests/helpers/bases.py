"""Base models for tests of a retrofit: tiny ones of transformers, with the tokenizer of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_models import hf_model, save_hf

_SHAPE = "--fgram-dim 16 --fgram-heads 1 --fgram-layers 1 --context 32 --batch 4 --eval-tokens 500 --eval-every 3"
RETROFIT = (*_SHAPE.split(), "--steps", "6", "--checkpoint-every", "2", "--row-learning-rate", "0.3")


def save_base(work: Path, folder: Path, kind: str = "llama", **changed: Any) -> Path:
    """A base in a folder, whose token ids are those of a workspace."""
    return save_hf(hf_model(kind, **changed), folder, work / "tokens" / "tokenizer.json")
