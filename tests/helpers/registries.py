"""Tiny tables that tell their version, with what belongs to them, to publish by the hundred.

In the table of version k the f-grams have the ids of no other version: a row says of which version it is, and of which
f-gram. So a row that is fetched with the index of another version is seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from builders import Fgram, make_table, trie_of
from published import manifest_of

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import publish, staging_folder
from scone_cli.artifacts.publish_version import Published, publish_version
from scone_cli.progress import silent

NUM_TOKENS = 12
# All pairs of tokens, so that every text matches at every position but the first.
PAIRS: list[Fgram] = [(first, second) for first in range(NUM_TOKENS) for second in range(NUM_TOKENS)]


def parts_of(folder: Path, version: int, with_table: bool = True) -> dict[str, Path]:
    """A table, a vocabulary and an evaluation that are of one another, in `folder`; those there before are replaced."""
    if with_table:
        order = np.random.default_rng(version).permutation(len(PAIRS))
        rows = torch.tensor([[version, i] for i in order.tolist()], dtype=torch.float32)
        make_table(folder, trie_of([PAIRS[i] for i in order], NUM_TOKENS, 2), rows)
    plain(folder / "vocab", "v" * 64, "vocab", f"vocabulary {version}")
    plain(folder / "eval", "e" * 64, "eval", f"evaluation {version}", inputs={"table": "f" * 64})
    return {part: folder / part for part in ("table", "vocab", "eval")}


def plain(target: Path, print_: str, kind: str, content: str, **facts: object) -> Manifest:
    """An artifact with one file."""
    staging = staging_folder(target, print_)
    (staging / "data.txt").write_text(content)
    return publish(staging, target, manifest_of(print_, kind, **facts))


def publish_small(name: Path, folder: Path, version: int, **options: object) -> Published:
    """Publish version `version`, made in `folder`."""
    return publish_version(name, parts_of(folder, version), {"rows": version}, silent, **options)
