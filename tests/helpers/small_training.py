"""Trainings of a few steps on a few hundred tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from builders import random_documents, slow_ranking, stream_of, tiny_model, trie_of

from scone_cli.model.model import SconeModel
from scone_cli.training.loop import TrainingPlan, TrainingText
from scone_cli.training.packed_text import PackedText

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 4, 7, 8
DOCUMENTS = random_documents(0, 6, [150, 80, 0, 90])  # tokens 0..5: token 6 is never seen
FGRAMS = slow_ranking(DOCUMENTS, MAX_N, 100, 2)
TRIE = trie_of(FGRAMS, NUM_TOKENS, MAX_N)
STREAM = stream_of(DOCUMENTS)
TEXT = PackedText.pack(STREAM.tokens, STREAM.starts, END, TRIE.index(), CONTEXT)
UNSEEN = TrainingText(TEXT, None, TRIE)  # nothing held out
SEEN = TrainingText(TEXT, TEXT, TRIE)
PLAN = TrainingPlan(
    batch=4,
    micro_batch=0,
    steps=12,
    optimizer="adamw",
    schedule="cosine",
    warmup=4,
    learning_rate=1e-2,
    weight_decay=0.1,
    clip=1.0,
    precision="auto",
    compile=False,
    eval_every=6,
    eval_tokens=100,
    checkpoint_every=5,
    checkpoint_minutes=10.0,
    keep_checkpoints=2,
    seed=3,
)
KINDS = {
    "scone": {"fgram_layers": 1},
    "plain": {"kind": "plain"},
    "hashed": {"kind": "hashed", "hashed_rows": 60, "end_of_document": END},
}
TIMED = {"seconds", "tokens_per_second"}


def plan_of(**changes: object) -> TrainingPlan:
    return TrainingPlan(**PLAN.__dict__ | changes)


def model_of(kind: str, seed: int = 0) -> SconeModel:
    return tiny_model(NUM_TOKENS, MAX_N, seed, tied_head=False, **KINDS[kind])


def text_of(kind: str) -> TrainingText:
    return SEEN if kind == "scone" else TrainingText(TEXT, TEXT, None)


def same_weights(one: SconeModel, other: SconeModel) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


def timeless(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def rows_of(scratch: Path) -> list[dict]:
    return [json.loads(line) for line in (scratch / "log.jsonl").read_text().splitlines()]
