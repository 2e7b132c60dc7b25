"""Tiny models of Hugging Face with weights drawn by chance, saved as a user would have them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

VOCAB_SIZE = 400
_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # so that logits differ
    "bos_token_id": None,
    "eos_token_id": None,
}
KINDS = ("llama", "qwen3", "gemma3_text", "gpt2")


def hf_model(kind: str, **changed: Any) -> Any:
    """A model of this kind: of grouped queries, with norms of queries and keys, of sliding windows, of learned positions."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    own: dict[str, dict[str, Any]] = {
        "qwen3": {"head_dim": 16},
        "gemma3_text": {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 5.0},
        "gpt2": {"num_key_value_heads": None},
    }
    return transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **_SHAPE | own.get(kind, {}) | changed)
    ).eval()


def save_hf(model: Any, folder: Path, tokenizer: Path | None = None) -> Path:
    """Save a model, with a tokenizer.json beside it."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder
