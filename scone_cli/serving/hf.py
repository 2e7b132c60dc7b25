"""A Scone model as a model of Hugging Face transformers: importing this file registers it with the Auto classes.

    import scone_cli.serving.hf
    model = AutoModelForCausalLM.from_pretrained("exported", placement="ram")  # made by `scone export --to hf exported`
    model = AutoModelForCausalLM.from_pretrained("exported", table="refreshed/table")  # another table, the same model
    model = AutoModelForCausalLM.from_pretrained("exported", table="registry/law")  # the version that is current
    model.reload_table_if_changed()  # between requests

The main model is a Llama: the same norms, rotary positions, SwiGLU and names of weights. What differs is the input of the
first block: the row of the longest f-gram that ends at a token, or the token's normed embedding. How f-grams are found is in
`hf_table`; models whose rows are added to a base of any type are in `hf_base`.
Shapes: B sequences, C new tokens, P tokens in the cache, D = width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
)
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scone_cli.arrays import U32
from scone_cli.serving import hf_base  # noqa: F401 - it registers its classes
from scone_cli.serving.hf_table import CACHE, OpenedTable, TableReader, WithTable, rows_at

# What transformers imports from a folder that has it, with trust_remote_code=True.
MODULE_TEXT = '''"""Loads this model in tools that know nothing of scone; it needs `pip install scone-cli`."""

from scone_cli.serving.hf import SconeConfig, SconeForCausalLM

__all__ = ["SconeConfig", "SconeForCausalLM"]
'''


class SconeConfig(LlamaConfig):
    """The shape of a Llama, and the table that belongs to the model.

    Attributes:
        fgram_max_n: K, tokens of the longest f-gram that the model was trained with; 0 for a plain model, without a table.
        fgram_tokens: token ids that the table knows; 0: those of the model.
        fgram_tokenizer: SHA-256 of the `tokenizer.json` that the table's f-grams are made of.
        fgram_weights: SHA-256 over the trained weights that the table's rows were computed with.
    """

    model_type = "scone"
    fgram_max_n = 0
    fgram_tokens = 0
    fgram_tokenizer = ""
    fgram_weights = ""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: `save_pretrained` writes the file that an exported folder has, not a copy of this one."""


class SconeModel(TableReader, LlamaModel):
    """A Llama without its head, whose first block reads rows of a table where f-grams end."""

    def __init__(self, config: SconeConfig) -> None:
        super().__init__(config)
        self.embedding_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.opened = None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Final hidden states of token ids [B, C], which continue the sequences in the cache.

        F-grams are found among the tokens that a token sees. Without a mask of four dimensions a document begins at
        position 0 and where positions do not ascend, and no f-gram reaches over its beginning.

        Raises:
            ValueError: no token ids; a cache that was filled by another model; a mask of another shape; no table is open.
            UnknownToken: a token id is outside the vocabulary of the table (a ValueError too).
            DamagedArtifact, StorageFailure: see `Table.rows`.
        """
        if inputs_embeds is not None or input_ids is None:
            raise ValueError("a Scone model reads input_ids, not inputs_embeds: f-grams are found among token ids")
        given = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        cache: Cache | None = given[0] if given[1] is None else given[1]
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        kwargs[CACHE] = cache
        opened = self.opened_for(cache) if self.config.fgram_max_n else None
        ids = self.fgram_ids(input_ids, attention_mask, position_ids, cache, opened) if opened else None
        embeds = self.embedding_norm(self.embed_tokens(input_ids))
        if opened is not None and ids is not None:
            embeds = self._with_rows(embeds, opened, ids)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=embeds,
            use_cache=use_cache,
            **kwargs,
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _with_rows(self, embeds_BCD: Tensor, opened: OpenedTable, ids_BC: U32) -> Tensor:
        """Put the rows of the f-grams `ids` of a table in the place of the embeddings of their last tokens."""
        found = rows_at(opened, ids_BC, embeds_BCD.device, embeds_BCD.dtype)
        if found is None:
            return embeds_BCD
        return embeds_BCD.flatten(0, 1).index_copy(0, *found).view_as(embeds_BCD)


class SconeForCausalLM(WithTable, LlamaForCausalLM):
    """A Scone model with its head, for `generate`, pipelines and whatever takes a causal language model.

    The table stays in main memory or on the disk, on any device of the model; only the rows that match are copied.
    """

    config_class = SconeConfig
    module_text = MODULE_TEXT
    _can_compile_fullgraph = False  # f-grams are found by the CPU

    def __init__(self, config: SconeConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = SconeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def _reader(self) -> TableReader:
        """The part of the model that reads the table."""
        return self.model


AutoConfig.register("scone", SconeConfig)
AutoModelForCausalLM.register(SconeConfig, SconeForCausalLM)
