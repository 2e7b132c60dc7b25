"""A model of any type of transformers with rows added to its input embedding, and a table: `scone export --to hf` writes it.

`on_base("llama")` makes its two classes: those of the type, with `model_type` "scone-llama", and the same names of weights.
What the model does with its embeddings, its cache and its head is its own; rows are added to what its input embedding gives.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from scone_cli.model.base_model import TRIED
from scone_cli.serving.hf_table import CACHE, TableReader, WithTable, rows_at

_MODULE = '''"""Loads this model in tools that know nothing of scone; it needs `pip install scone-cli`."""

from scone_cli.serving.hf_base import on_base

{config}, {model} = on_base("{model_type}")

__all__ = ["{config}", "{model}"]
'''

_Rows = tuple[Tensor, Tensor]  # places in the flat batch [M], rows [M, D]
_ADDED: ContextVar[_Rows | None] = ContextVar("rows of this call", default=None)  # threads may share a model


def _add_rows(_: nn.Module, __: Any, embedded_BCD: Tensor) -> Tensor:
    """Add the rows of this call to what an embedding gives."""
    added = _ADDED.get()
    if added is None:
        return embedded_BCD
    return embedded_BCD.flatten(0, 1).index_add(0, *added).view_as(embedded_BCD)


class _OnBase(WithTable, TableReader):
    """The part that all such models have; a class of transformers follows it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.opened = None
        self.get_input_embeddings().register_forward_hook(_add_rows)  # type: ignore[attr-defined]

    @property
    def _reader(self) -> TableReader:
        """The part of the model that reads the table."""
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the base's `forward` gives, with rows at its input: see `serving.hf.SconeModel.forward`.

        Raises:
            ValueError: no token ids; a cache that was filled by another model; a mask of another shape; no table is open.
            UnknownToken: a token id is outside the vocabulary of the table (a ValueError too).
            DamagedArtifact, StorageFailure: see `Table.rows`.
        """
        if kwargs.get("inputs_embeds") is not None or input_ids is None:
            raise ValueError("a Scone model reads input_ids, not inputs_embeds: f-grams are found among token ids")
        given = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        cache: Cache | None = given[0] if given[1] is None else given[1]
        use_cache = self.config.get_text_config().use_cache if use_cache is None else use_cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        token = _ADDED.set(self._rows_of(input_ids, attention_mask, position_ids, cache))
        try:
            return super().forward(  # type: ignore[misc]
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=use_cache,
                **kwargs,
                **{CACHE: cache},
            )
        finally:
            _ADDED.reset(token)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _rows_of(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Cache | None
    ) -> _Rows | None:
        opened = self.opened_for(cache)
        ids = self.fgram_ids(input_ids, attention_mask, position_ids, cache, opened)
        weight: Tensor = self.get_input_embeddings().weight  # type: ignore[attr-defined]
        return rows_at(opened, ids, weight.device, weight.dtype)


@functools.cache
def on_base(model_type: str) -> tuple[type[Any], type[Any]]:
    """The classes of the configuration and of the model for bases of a type, registered with the Auto classes."""
    config_base = type(AutoConfig.for_model(model_type))
    model_base = MODEL_FOR_CAUSAL_LM_MAPPING[config_base]
    config_name, model_name = names_on_base(model_type)
    config = type(
        config_name,
        (config_base,),
        {
            "__module__": __name__,
            "__doc__": f"The shape of a {model_type} model, and the table that belongs to it: see `SconeConfig`.",
            "model_type": f"scone-{model_type}",
            "fgram_max_n": 0,
            "fgram_tokens": 0,
            "fgram_tokenizer": "",
            "fgram_weights": "",
            "register_for_auto_class": classmethod(lambda *_: None),
        },
    )
    model = type(
        model_name,
        (_OnBase, model_base),
        {
            "__module__": __name__,
            "__doc__": f"A {model_type} model with rows at its input.",
            "config_class": config,
            "module_text": _MODULE.format(config=config_name, model=model_name, model_type=model_type),
            "_can_compile_fullgraph": False,  # f-grams are found by the CPU
        },
    )
    # What `generate` hands over depends on the names of the parameters.
    model.forward.__signature__ = inspect.signature(model_base.forward)  # type: ignore[attr-defined]
    AutoConfig.register(f"scone-{model_type}", config)
    AutoModelForCausalLM.register(config, model)
    globals().update({config_name: config, model_name: model})  # so that they can be pickled
    return config, model


def names_on_base(model_type: str) -> tuple[str, str]:
    """The names of both classes, such as SconeLlamaConfig and SconeLlamaForCausalLM."""
    stem = "Scone" + "".join(part.capitalize() for part in model_type.replace("-", "_").split("_"))
    return f"{stem}Config", f"{stem}ForCausalLM"


for _type in TRIED:
    on_base(_type)
