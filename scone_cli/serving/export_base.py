"""A model on a base, for `scone export --to hf`: the base with what was trained of it merged, and classes that add rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from scone_cli.artifacts.manifest import Manifest, digest_weights
from scone_cli.model.base_main import BaseMain
from scone_cli.model.base_model import Base
from scone_cli.model.hf_folder import is_gguf
from scone_cli.serving.hf_base import names_on_base, on_base
from scone_cli.serving.loaded_model import LoadedModel

_NOT_COPIED = ("model_type", "quantization_config")  # of a GGUF file, which is opened as float32


def network_of(loaded: LoadedModel, manifest: Manifest) -> PreTrainedModel:
    """The model as one of transformers, with no open table; of a plain one, the base itself. `loaded` is used up.

    LoRA is merged in float32, so that what is exported says what was evaluated.
    """
    base, inner = _base_of(loaded), loaded.network.main.take_out()
    if base.trained == "lora":
        _merge_lora(inner.float())
    shape = {key: value for key, value in inner.config.to_dict().items() if key not in _NOT_COPIED}
    if loaded.kind == "plain":
        return _with_weights_of(inner, type(inner)(type(inner.config)(**shape)))
    config_class, model_class = on_base(base.model_type)
    config_name, model_name = names_on_base(base.model_type)
    config = config_class(**shape)
    config.architectures = [model_name]
    config.auto_map = {
        "AutoConfig": f"modeling_scone.{config_name}",
        "AutoModelForCausalLM": f"modeling_scone.{model_name}",
    }
    config.fgram_max_n, config.fgram_tokens = loaded.network.config.max_n, loaded.vocab_size
    config.fgram_tokenizer, config.fgram_weights = manifest.tokenizer, digest_weights(manifest)
    return _with_weights_of(inner, model_class(config))


def _with_weights_of(inner: Any, network: Any) -> PreTrainedModel:
    """A new model with the weights of another, in their type, and its settings of generation."""
    network.to(next(inner.parameters()).dtype).load_state_dict(inner.state_dict())
    network.tie_weights()
    network.generation_config = inner.generation_config
    return cast("PreTrainedModel", network)


def write_tokenizer(loaded: LoadedModel, folder: Path) -> None:
    """Write the base's own tokenizer, with its special tokens and its template of a chat."""
    path = _base_of(loaded).path
    where = {"gguf_file": path.name} if is_gguf(path) else {}
    tokenizer = AutoTokenizer.from_pretrained(path.parent if where else path, local_files_only=True, **where)
    tokenizer.save_pretrained(folder)


def _base_of(loaded: LoadedModel) -> Base:
    base = loaded.network.base
    assert base is not None
    assert isinstance(loaded.network.main, BaseMain)
    return base


def _merge_lora(inner: nn.Module) -> None:
    """Add LoRA's product to the weights beside which it is, and take it away."""
    layers = {name: layer for name, layer in inner.named_modules() if hasattr(layer, "get_base_layer")}
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        merged: Any = layer
        merged.merge()
        setattr(inner.get_submodule(parent), own, merged.get_base_layer())
