"""What the headers of a model's weight files say: which parts it has, how large, and where they live when it is served.

No weight is read: inspecting a model takes no time and no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import MADE_BY
from scone_cli.errors import DamagedArtifact

_LIVES = {
    "main.safetensors": "resident",
    "fgram.safetensors": "training only",
    "learned.safetensors": "training only",
    "hashed.safetensors": "offloaded",
}
_WHOLE = {"fgram.safetensors": "A_f-gram", "learned.safetensors": "learned rows", "hashed.safetensors": "hashed rows"}
_BY_PREFIX = {"token_embedding": "token embeddings", "blocks": "blocks", "head": "head"}
_ORDER = ("token embeddings", "blocks", "norms", "head", "other", *_WHOLE.values())


@dataclass(frozen=True)
class Tensor:
    """What the header of a weights file says of one tensor."""

    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        """The numbers in it."""
        return math.prod(self.shape)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, from its header: eight bytes of length, then JSON.

    Raises:
        DamagedArtifact: this is no such header.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        return {
            name: Tensor(tuple(map(int, tensor["shape"])), tensor["data_offsets"][1] - tensor["data_offsets"][0])
            for name, tensor in tensors.items()
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DamagedArtifact(
            f"{path}: not a file of weights ({type(error).__name__}: {error})", f"run: {MADE_BY['model']} --force"
        ) from error


def parameters_by_part(folder: Path) -> list[dict[str, Any]]:
    """Parameters and bytes of every part of the model in `folder`, resident ones first."""
    rows: dict[str, dict[str, Any]] = {}
    for file, where in _LIVES.items():
        tensors = read_tensors(folder / file) if (folder / file).exists() else {}
        for name, tensor in tensors.items():
            part = _WHOLE.get(file) or _part_of_main(name)
            row = rows.setdefault(part, {"part": part, "where": where, "parameters": 0, "bytes": 0})
            row["parameters"] += tensor.parameters
            row["bytes"] += tensor.bytes
    return [rows[part] for part in _ORDER if part in rows]


def _part_of_main(tensor: str) -> str:
    return "norms" if "norm" in tensor else _BY_PREFIX.get(tensor.partition(".")[0], "other")


def inner_width(folder: Path) -> int:
    """The inner width of SwiGLU in the blocks of the main model.

    Raises:
        DamagedArtifact: there is no such matrix.
    """
    path = folder / "main.safetensors"
    down = read_tensors(path).get("blocks.0.down.weight")
    if down is None or len(down.shape) != 2:
        raise DamagedArtifact(f"{path}: there is no matrix blocks.0.down.weight", f"run: {MADE_BY['model']} --force")
    return down.shape[1]
