"""A pretrained model of Hugging Face, in a folder or a GGUF file, to which a Scone model adds rows: its base.

A trained model names its base by the hashes of its files, in `base.json`, and does not copy weights that were not trained:
those stay where they were. What was trained of it lies beside: `adapter.safetensors` (LoRA, by the library peft) or
`base.safetensors` (all of its weights).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from scone_cli.artifacts.manifest import FileStamp, Manifest, digest_file, digest_json, json_of
from scone_cli.artifacts.opening import load_weights
from scone_cli.artifacts.publish import write_atomically
from scone_cli.artifacts.schemas import BASE_FILE
from scone_cli.errors import BadSetting, InputMissing, MismatchedArtifacts
from scone_cli.model.base_main import BaseMain
from scone_cli.model.donor import Donor
from scone_cli.model.hf_folder import is_gguf, open_gguf, open_hf_folder
from scone_cli.model.hf_model import HfConfig, HfModel, load_config

TRAINED = {"lora": "adapter.safetensors", "full": "base.safetensors"}  # what `--train-base` writes
TRIED = ("llama", "qwen3", "gemma3_text", "mistral")  # types of models that the tests try

_LORA_SCALE = 2  # alpha as a multiple of the rank, as is usual


@dataclass(frozen=True)
class Base:
    """A base by its files, and what is trained of it.

    path: folder, or GGUF file. scale: RMS of its embedding; 0 until it was measured. trained: `no`, `lora` or `full`.
    """

    path: Path
    model_type: str
    files: Mapping[str, FileStamp]
    trained: str = "no"
    lora_rank: int = 0
    scale: float = field(default=0.0, compare=False)

    @classmethod
    def open(cls, path: Path, tokens: Path, of_tokens: Manifest, trained: str, lora_rank: int) -> Base:
        """Hash the files of a base, and compare its tokenizer with the one in `tokens/`.

        Raises:
            SconeError: see `open_hf_folder` and `open_gguf`.
        """
        if not path.exists():
            raise InputMissing(f"{path}: no such model", "name a folder of Hugging Face, or a GGUF file")
        manifest = (open_gguf if is_gguf(path) else open_hf_folder)(path, tokens, of_tokens)
        rank = lora_rank if trained == "lora" else 0
        return cls(path.absolute(), manifest.summary["model_type"], manifest.files, trained, rank)

    @property
    def fingerprint(self) -> str:
        """A hash of its files."""
        return digest_json({name: stamp.sha256 for name, stamp in self.files.items()})

    @property
    def was_tried(self) -> bool:
        """Whether the tests of scone try this type of model."""
        return self.model_type in TRIED

    def untried(self) -> str:
        """A text for people about a type that was not tried."""
        return f"models of type {self.model_type} were not tried (tried: {', '.join(TRIED)}); it begins as the base is"

    def shape(self) -> dict[str, Any]:
        """Its width, layers, heads and whether its head is tied, as settings of `train-fgram`, without loading it."""
        own = load_config(self.path).get_text_config()
        return {
            "dim": own.hidden_size,
            "layers": own.num_hidden_layers,
            "heads": own.num_attention_heads,
            "tied_head": bool(getattr(own, "tie_word_embeddings", False)),
        }

    def load(self, vocab_size: int, context: int) -> tuple[HfConfig, BaseMain]:
        """Load it, ready to be trained as `trained` says; its own shape, and the module that stands for `MainModel`.

        Raises:
            InputMissing, MismatchedArtifacts: a file is gone, or has changed.
            BadSetting: peft is not installed.
            SconeError: see `HfModel.load`.
        """
        self._check()
        loaded = HfModel.load(self.path, vocab_size, context)
        inner = loaded.main.inner
        inner.requires_grad_(self.trained == "full")
        if self.trained == "full":
            inner.float()  # a step is smaller than what bfloat16 can tell from 1
        main = BaseMain(inner, self.scale or None)
        if self.trained == "lora":
            _add_lora(inner, self.lora_rank)
        return loaded.config, main

    def load_donor(self) -> tuple[Donor, int, int]:
        """Load it as the reader of f-grams; its width, and its FLOPs per token without a head.

        Raises:
            SconeError: see `load`.
        """
        self._check()
        model = HfModel.load(self.path, 1)
        donor = Donor(model.main.inner.requires_grad_(False))
        return donor, model.config.dim, 2 * model.config.block_weights

    def _check(self) -> None:
        for name, stamp in self.files.items():
            path = self.path if self.path.name == name else self.path / name
            if not path.is_file():
                raise InputMissing(f"{path}: a file of the base is not there", "put the base back where it was")
            if path.stat().st_size != stamp.bytes or (found := digest_file(path)) != stamp.sha256:
                found = "" if path.stat().st_size != stamp.bytes else f", SHA-256 {found[:12]}"
                raise MismatchedArtifacts(
                    f"{path}: {path.stat().st_size:,} bytes{found}, the base of this model has {stamp.bytes:,}, "
                    f"{stamp.sha256[:12]}",
                    "put the base back as it was, or train again: scone train-fgram --base DIR",
                )

    def save(self, main: BaseMain, folder: Path) -> None:
        """Write `base.json`, and what was trained of the base."""
        replace(self, scale=main.scale).write(folder / BASE_FILE)
        if self.trained in TRAINED:
            save_file(trained_weights(main), folder / TRAINED[self.trained])

    def write(self, path: Path) -> None:
        """Write the names and hashes of its files."""
        write_atomically(path, (json.dumps({**asdict(self), "path": str(self.path)}, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path, name: str = BASE_FILE) -> Base:
        """What `write` wrote into the folder of a model."""
        raw = dict(json_of((folder / name).read_bytes()))
        files = {name: FileStamp(**stamp) for name, stamp in raw["files"].items()}
        return cls(**(raw | {"path": Path(raw["path"]), "files": files}))

    def load_trained(self, main: BaseMain, folder: Path) -> None:
        """Load what was trained of the base."""
        if self.trained in TRAINED:
            main.inner.load_state_dict(load_weights(folder / TRAINED[self.trained]), strict=False)


def trained_weights(main: BaseMain) -> dict[str, torch.Tensor]:
    """The weights of the base that are trained, by their names in it."""
    return {name: each.detach() for name, each in main.inner.named_parameters() if each.requires_grad}


def config_of(own: HfConfig, values: Mapping[str, Any]) -> HfConfig:
    """The shape of a Scone model on a base: the base's, with its rows, number of tokens and context as in `values`."""
    names = ("kind", "vocab_size", "context", "fgram_layers", "max_n", "learned_rows", "hashed_rows", "end_of_document")
    chosen = {name: values[name] for name in (*names, "fgram_dim", "fgram_heads", "donor_dim", "donor_flops")}
    return replace(own, combine="add", **chosen)


def _add_lora(inner: nn.Module, rank: int) -> None:
    """Put LoRA beside every linear layer but the head."""
    if importlib.util.find_spec("peft") is None:
        raise BadSetting(
            "--train-base lora: needs peft, which is not installed", "run: pip install 'scone-cli[retrofit]'"
        )
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - heavy, and an extra

    config = LoraConfig(r=rank, lora_alpha=_LORA_SCALE * rank, target_modules="all-linear", lora_dropout=0.0)
    inject_adapter_in_model(config, inner)
    for parameter in inner.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
