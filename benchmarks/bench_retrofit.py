"""Benchmark of a retrofit: what rows bring to a pretrained model, beside LoRA, beside hashed rows, and beside both together.

    python benchmarks/bench_retrofit.py BASE --workspace W --held-out-of OTHER.jsonl ...   hours; may be stopped and started
    python benchmarks/bench_retrofit.py --workspace W --report-only

BASE is a folder of Hugging Face or a GGUF file. The workspace has `tokens/` and `vocab/` of one domain, counted with the base's
tokenizer. Every arm trains on the same tokens in the same order. Its rates are chosen by the held-out loss after a quarter of
the steps. Then all arms are evaluated in one pass, on held-out text of the domain and on the other corpora that are named:
what is forgotten? A finished run is not repeated, and a stopped one continues.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import finish

QUESTION = "what do rows bring to a model that exists"
QUARTER = 4


@dataclass(frozen=True)
class Arm:
    """One way to adapt a base: its options, and the options whose values are tried at a quarter of the length."""

    name: str
    options: tuple[str, ...]
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)


ROWS = (0.02, 0.05, 0.1, 0.2)
LORA = (5e-4, 1e-3, 2e-3)
MATRICES = (3e-3, 1e-2)
ARMS = (
    Arm("lora", ("--kind", "plain", "--train-base", "lora"), {"--base-learning-rate": LORA}),
    Arm("rows", ("--fgram-layers", "1", "--learning-rate", "1e-9"), {"--row-learning-rate": ROWS}),
    Arm("a-f-gram", ("--learned-rows", "0"), {"--learning-rate": MATRICES}),
    Arm("rows+a-f-gram", (), {"--row-learning-rate": ROWS}),
    Arm("donor+rows", ("--fgram-base", "BASE"), {"--row-learning-rate": ROWS}),
    Arm("hashed", ("--kind", "hashed"), {"--row-learning-rate": ROWS}),
    Arm("lora+rows", ("--train-base", "lora"), {"--row-learning-rate": ROWS}),
    Arm("lora+hashed", ("--kind", "hashed", "--train-base", "lora"), {"--row-learning-rate": ROWS}),
)
