"""A trained model in numbers, for `scone inspect`: the sizes of its parts, FLOPs per token, the course of the training.

The sources are in the model's folder: `config.json`, the headers of the weights, `log.parquet`. No weight is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from scone_cli.arrays import F64
from scone_cli.artifacts.manifest import MADE_BY, json_of
from scone_cli.artifacts.opening import DAMAGE, to_read, utf8_name
from scone_cli.artifacts.schemas import BASE_FILE
from scone_cli.errors import DamagedArtifact
from scone_cli.model.flops import base_flops, fgram_pass_flops, forward_flops, swiglu_width
from scone_cli.training.log import LAST_STEPS, last_loss

if TYPE_CHECKING:
    from scone_cli.model.model import SconeModel

# ---- weights: from the headers of their files, so no weight is read and torch is not imported -----------------------

_LIVES = {
    "main.safetensors": "resident",
    "adapter.safetensors": "resident, until it is merged",
    "fgram.safetensors": "training only",
    "learned.safetensors": "training only",
    "hashed.safetensors": "offloaded",
}
_WHOLE = {
    "adapter.safetensors": "LoRA",
    "fgram.safetensors": "A_f-gram",
    "learned.safetensors": "learned rows",
    "hashed.safetensors": "hashed rows",
}
_BY_PREFIX = {"token_embedding": "token embeddings", "blocks": "blocks", "head": "head"}
_ORDER = ("base", "token embeddings", "blocks", "norms", "head", "other", *_WHOLE.values())


@dataclass(frozen=True)
class Tensor:
    """Shape and size of one tensor in a weights file."""

    shape: tuple[int, ...]
    bytes: int

    @property
    def parameters(self) -> int:
        """The numbers in it."""
        return math.prod(self.shape)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, without their weights.

    Raises:
        DamagedArtifact: it is not such a file, or it is cut short.
    """
    try:
        with utf8_name(path) as name, safe_open(name, "np") as file:
            return {key: _tensor(file.get_slice(key)) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise DamagedArtifact(
            f"{path}: not a file of weights ({type(error).__name__}: {error})", f"run: {MADE_BY['model']} --force"
        ) from error


def _tensor(found: Any) -> Tensor:
    shape = tuple(found.get_shape())
    bits = int(re.findall(r"\d+", found.get_dtype())[0])  # of F32, BF16, F8_E4M3, ...
    return Tensor(shape, math.prod(shape) * bits // 8)


def parameters_by_part(folder: Path) -> list[dict[str, Any]]:
    """Parameters and bytes of every part of the model in `folder`, resident ones first."""
    rows: dict[str, dict[str, Any]] = {}
    if (folder / BASE_FILE).exists():
        known = read_config(folder)
        rows["base"] = {
            "part": "base",
            "where": "resident",
            "parameters": known["parameters"],
            "bytes": known["parameter_bytes"],
        }
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


CURVE_POINTS = 100  # at most, of the curve of the training loss
MOST_LOOKS = 40  # at most, measurements of the held-out loss

Row = dict[str, Any]
Log = Mapping[str, F64]

_COLUMNS = (  # of the log, since its first version
    "step",
    "tokens",
    "loss",
    "learning_rate",
    "gradient_norm",
    "held_out_loss",
    "trie_nodes",
    "seconds",
)


def in_short(model: SconeModel, log: pa.Table) -> Row:
    """Sizes and last losses, for the manifest; no times, so that two equal runs have equal manifests."""

    def size(*modules: Any) -> int:
        return sum(parameter.numel() for module in modules if module for parameter in module.parameters())

    held_out = [loss for loss in log.column("held_out_loss").to_pylist() if loss is not None]
    learned = {"learned_rows": model.config.learned_rows} if model.fgram else {}
    hashed = {"offloaded_parameters": size(model.hashed)} if model.hashed else {}
    return {
        "kind": model.config.kind,
        "resident_parameters": size(model.main),
        "resident_non_embedding_parameters": _without_embeddings(model),
        "training_only_parameters": size(model.fgram, model.learned),
        **learned,
        **hashed,
        "steps": log.num_rows,
        "tokens": log.column("tokens").to_pylist()[-1],
        "training_loss": round(last_loss(log.column("loss").to_pylist()), 4),
        "held_out_loss": round(held_out[-1], 4) if held_out else None,
    }


def _without_embeddings(model: SconeModel) -> int:
    """Parameters of the main model without its embedding and its head."""
    main = model.main
    if model.base is None:
        modules = (main.blocks, main.norm, main.embedding_norm)
        return sum(parameter.numel() for module in modules for parameter in module.parameters())
    outside = {id(each.weight) for each in (main.token_embedding, main.inner.get_output_embeddings())}
    return sum(each.numel() for each in main.inner.parameters() if id(each) not in outside)


def read_config(folder: Path) -> Row:
    """The model's `config.json`; settings that the first versions did not write are filled in.

    Raises:
        DamagedArtifact: this is not the configuration of a model.
    """
    try:
        config = json_of((folder / "config.json").read_bytes())
        kind = "scone" if config["fgram_layers"] else "plain"
        config = {"kind": kind, "combine": "replace", "learned_rows": 0, "hashed_rows": 0, **config}
        missing = {"vocab_size", "dim", "layers", "heads", "max_n", "tied_head", "context"} - config.keys()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(folder / "config.json", f"{type(error).__name__}: {error}") from error
    if missing:
        raise _damaged(folder / "config.json", f"there is no {', '.join(sorted(missing))}")
    return config


def training_record(folder: Path, config: Row) -> Row:
    """Parameters, FLOPs and the course of the training of the model in `folder`, as JSON values for `report.model_figures`.

    Raises:
        DamagedArtifact: a file is damaged.
    """
    log = _read_log(folder / "log.parquet")
    return {
        "parameters": parameters_by_part(folder),
        "cost": _cost(config, *_forward_of(folder, config), log),
        "training": _training(log),
        "curve": _curve(log),
        "held_out": _held_out(log),
        "left_out": [],
    }


def _damaged(path: Path, why: str) -> DamagedArtifact:
    return DamagedArtifact(f"{path}: not of a model that scone trained ({why})", f"run: {MADE_BY['model']} --force")


def _forward_of(folder: Path, config: Row) -> tuple[int, int]:
    """FLOPs per token of a forward pass, and passes of such a size in a step of training.

    A backward pass is two of them; where the base is not trained as a whole, it has no gradients of its weights.
    """
    if (folder / BASE_FILE).exists():
        trained = json_of((folder / BASE_FILE).read_bytes())["trained"]
        return base_flops(config), 3 if trained == "full" else 2
    shape = (config["dim"], inner_width(folder), config["layers"], config["vocab_size"], config["context"])
    return forward_flops(*shape), 3


def _cost(config: Row, inference: int, passes: int, log: Log) -> Row:
    """FLOPs per token and in all; recomputation is not counted."""
    dim = config.get("fgram_dim") or config["dim"]
    tokens = log["tokens"][-1]
    nodes, asked = log["trie_nodes"].sum() / tokens, log["fgrams"].sum() / tokens
    # The log has no depth of nodes; max_n is the most, and beside the matrices the difference is negligible.
    fgram = fgram_pass_flops(dim, swiglu_width(dim), config["fgram_layers"], nodes, asked, config["max_n"])
    return {
        "inference_flops_a_token": inference,
        "training_flops_a_token": round(passes * inference + 3 * fgram),
        "fgram_training_flops_a_token": round(3 * fgram),
        "training_times_plain": round(1 + 3 * fgram / (passes * inference), 4),
        "training_flops": round((passes * inference + 3 * fgram) * tokens),
    }


# ---- the log -----------------------------------------------------------------------------------------------------


def _read_log(path: Path) -> Log:
    """The log's columns by name, and the tokens and seconds of each step; float64 [steps].

    The held-out loss is NaN at steps where it was not measured.
    """
    try:
        table = pq.read_table(to_read(path))
        names = table.column_names
    except DAMAGE as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    missing = [name for name in _COLUMNS if name not in names]
    if missing or not table.num_rows:
        raise _damaged(path, f"there is no {', '.join(missing) or 'step in it'}")
    log = {name: table[name].to_numpy().astype(np.float64) for name in _COLUMNS}
    known = "fgrams" in names  # not in older logs: then every node counts
    log["fgrams"] = table["fgrams"].to_numpy().astype(np.float64) if known else log["trie_nodes"]
    log["step_tokens"], log["step_seconds"] = (np.diff(log[name], prepend=0.0) for name in ("tokens", "seconds"))
    if "tokens_per_second" in table.column_names:  # not in older logs: the time of a step without the held-out loss
        log["step_seconds"] = log["step_tokens"] / table["tokens_per_second"].to_numpy()
    return log


def _training(log: Log) -> Row:
    """The last losses, the totals, and the extreme values of the training."""
    tokens = int(log["tokens"][-1])
    looks = log["held_out_loss"][~np.isnan(log["held_out_loss"])]
    return {
        "steps": int(log["step"][-1]),
        "tokens": tokens,
        "seconds": round(float(log["seconds"][-1]), 3),
        "tokens_a_second": _speed(tokens, log["step_seconds"].sum()),
        "loss_averaged_over_steps": min(LAST_STEPS, log["loss"].size),
        "training_loss": _rounded(log["loss"][-LAST_STEPS:].mean()),
        "held_out_loss": _rounded(looks[-1]) if looks.size else None,
        "lowest_held_out_loss": _rounded(looks.min()) if looks.size else None,
        "peak_learning_rate": _rounded(log["learning_rate"].max()),
        "largest_gradient_norm": _rounded(log["gradient_norm"].max()),
        "trie_nodes_a_token": _rounded(log["trie_nodes"].sum() / tokens),
    }


def _curve(log: Log) -> list[Row]:
    """The steps in at most `CURVE_POINTS` groups of equal size: the means of each group, and its largest gradient norm."""
    num_steps = log["step"].size
    ends = np.linspace(0, num_steps, min(num_steps, CURVE_POINTS) + 1).astype(np.int64)
    starts, sizes = ends[:-1], np.diff(ends)
    total = {name: np.add.reduceat(values, starts) for name, values in log.items()}
    norms = np.maximum.reduceat(log["gradient_norm"], starts)
    return [
        {
            "step": int(log["step"][ends[i + 1] - 1]),
            "tokens": round(total["tokens"][i] / sizes[i]),
            "loss": _rounded(total["loss"][i] / sizes[i]),
            "learning_rate": _rounded(total["learning_rate"][i] / sizes[i]),
            "gradient_norm": _rounded(norms[i]),
            "trie_nodes_a_token": _rounded(total["trie_nodes"][i] / total["step_tokens"][i]),
            "tokens_a_second": _speed(total["step_tokens"][i], total["step_seconds"][i]),
        }
        for i in range(sizes.size)
    ]


def _held_out(log: Log) -> list[Row]:
    """The measurements of the held-out loss: at most `MOST_LOOKS`, evenly spaced, the last one among them."""
    looks = np.flatnonzero(~np.isnan(log["held_out_loss"]))
    some = looks[::-1][:: -(-looks.size // MOST_LOOKS) or 1][::-1]
    return [
        {"step": int(log["step"][i]), "tokens": int(log["tokens"][i]), "loss": _rounded(log["held_out_loss"][i])}
        for i in some
    ]


def _speed(tokens: float, seconds: float) -> int | None:
    return round(float(tokens / seconds)) if seconds > 0 else None


def _rounded(value: float) -> float:
    """The value with six digits; more are noise."""
    return float(f"{value:.6g}")
