"""A Scone model as a model of Hugging Face transformers: importing this file registers it with the Auto classes.

    import scone_cli.serving.hf
    model = AutoModelForCausalLM.from_pretrained("exported", placement="ram")  # made by `scone export --to hf exported`
    model = AutoModelForCausalLM.from_pretrained("exported", table="refreshed/table")  # another table, the same model
    model = AutoModelForCausalLM.from_pretrained("exported", table="registry/law")  # the version that is current
    model.reload_table_if_changed()  # between requests

The main model is a Llama: the same norms, rotary positions, SwiGLU and names of weights. What differs is the input of the
first block: the row of the longest f-gram that ends at a token, or the token's normed embedding. An f-gram reaches back at
most K - 1 tokens, and those may have been read by an earlier call. So the tokens of each sequence are kept in the cache of
keys and values, as one more layer: what reorders, repeats or crops the cache does the same with them.
Shapes: B sequences, C new tokens, P tokens in the cache, D = width.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
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
from transformers.cache_utils import Cache, DynamicLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import read_manifest
from scone_cli.errors import MismatchedArtifacts
from scone_cli.serving.hf_matching import match_each, match_rows
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE

# The name of the argument depends on the version of transformers.
_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
TABLE = "table"  # the folder of the table in an exported folder
# What transformers imports from a folder that has it, with trust_remote_code=True.
MODULE = "modeling_scone.py"
MODULE_TEXT = '''"""Loads this model in tools that know nothing of scone; it needs `pip install scone-cli`."""

from scone_cli.serving.hf import SconeConfig, SconeForCausalLM

__all__ = ["SconeConfig", "SconeForCausalLM"]
'''


class SconeConfig(LlamaConfig):
    """The shape of a Llama, and the table that belongs to the model.

    Attributes:
        fgram_max_n: K, tokens of the longest f-gram that the model was trained with; 0 for a plain model, without a table.
        fgram_tokenizer: SHA-256 of the `tokenizer.json` that the table's f-grams are made of.
        fgram_weights: SHA-256 over the trained weights that the table's rows were computed with.
    """

    model_type = "scone"
    fgram_max_n = 0
    fgram_tokenizer = ""
    fgram_weights = ""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: `save_pretrained` writes the file that an exported folder has, not a copy of this one."""


class _TokenLayer(DynamicLayer):
    """The token ids of B sequences as a layer of a cache: keys [B, 1, P, 1], no values.

    The first token of a document, before which no f-gram may reach, is stored as its complement, below zero. What was begun
    with a table goes on with it: `opened`.
    """

    opened: _Opened | None = None
    is_compileable = True  # else transformers would take a static cache for one that grows, and mask it wrongly

    def append(self, tokens_BC: Tensor) -> None:
        keys = tokens_BC[:, None, :, None]
        self.update(keys, keys[..., :0])

    def tokens(self) -> npt.NDArray[np.int64]:
        """All tokens [B, P]."""
        tokens: npt.NDArray[np.int64] = self.keys[:, 0, :, 0].numpy()
        return tokens


class _Opened:
    """A table in a model: copies of the model share it, and a model that was pickled opens it again.

    `expected` is what the model has: tokens, numbers a row, tokenizer and weights, by their names in messages.

    Raises:
        MismatchedArtifacts: the table is of another model.
    """

    def __init__(
        self, folder: Path, placement: str, expected: Mapping[str, int | str], table: Table | None = None
    ) -> None:
        self._made_by = folder, placement, expected
        self.table = table = table or Table.open(folder, placement)
        found = (table.vocab_size, table.dim, table.tokenizer_sha256, table.manifest.inputs.get("weights", ""))
        for (what, own), other in zip(expected.items(), found, strict=True):
            if own != other:
                raise MismatchedArtifacts(
                    f"{table.folder}: {what} {str(other)[:12]}, the model has {str(own)[:12]}",
                    "name a table that scone precompute made for this model",
                )

    def reloaded(self) -> _Opened:
        """The table of the version that is current; this one, if `current` has not moved."""
        table = self.table.reload_if_changed()
        return self if table is self.table else _Opened(*self._made_by, table)

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return _Opened, self._made_by


class SconeModel(LlamaModel):
    """A Llama without its head, whose first block reads rows of a table where f-grams end."""

    def __init__(self, config: SconeConfig) -> None:
        super().__init__(config)
        self.embedding_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.opened: _Opened | None = None
        self.post_init()

    @property
    def table(self) -> Table | None:
        """The open table; None for a plain model, and until `open_table`."""
        return self.opened.table if self.opened else None

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
        kwargs[_CACHE] = cache
        opened = self._opened_for(cache) if self.config.fgram_max_n else None
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
    def _opened_for(self, cache: Cache | None) -> _Opened:
        """The table with which the sequences in a cache were begun; for new ones the present table.

        Asked once a call: meanwhile another thread may move to the table of another version.
        """
        layer = cache.layers[-1] if isinstance(cache, Cache) and cache.layers else None
        begun = layer.opened if isinstance(layer, _TokenLayer) and layer.get_seq_length() else None
        opened = begun or self.opened
        if opened is None:
            raise ValueError("no table is open: use from_pretrained, or open_table")
        return opened

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def fgram_ids(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        opened: _Opened | None = None,
    ) -> U32:
        """The id of the longest f-gram that ends at each token [B, C], NONE (2**32 - 1) if none; adds the tokens to the cache.

        The ids are of the table with which the sequences in the cache were begun. `opened` is internal.

        Raises:
            ValueError, UnknownToken: see `forward`.
            DamagedArtifact: a line of the index is damaged.
        """
        opened = opened or self._opened_for(cache)
        if not (attention_mask is None or isinstance(attention_mask, Tensor)):
            raise ValueError(f"attention_mask: {type(attention_mask).__name__}, expected a tensor of two dimensions")
        layer, past = _tokens_of(cache, self.config.num_hidden_layers)
        tokens = input_ids.cpu().numpy().astype(np.int64)
        held = layer.tokens() if layer is not None and past else tokens[:, :0]
        if attention_mask is not None and attention_mask.dim() == 4:
            ids = match_each(opened.table.index, held, tokens, attention_mask)
        else:
            ids, tokens = match_rows(opened.table.index, held, tokens, attention_mask, position_ids)
        if layer is not None:
            layer.append(torch.from_numpy(tokens))
            layer.opened = opened
        return ids

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _with_rows(self, embeds_BCD: Tensor, opened: _Opened, ids_BC: U32) -> Tensor:
        """Put the rows of the f-grams `ids` of a table in the place of the embeddings of their last tokens."""
        places = np.flatnonzero(ids_BC != np.uint32(NONE))
        if not places.size:
            return embeds_BCD
        rows = opened.table.rows(ids_BC.ravel()[places]).to(embeds_BCD.device, embeds_BCD.dtype)
        where = torch.from_numpy(places).to(embeds_BCD.device)
        return embeds_BCD.flatten(0, 1).index_copy(0, where, rows).view_as(embeds_BCD)


class SconeForCausalLM(LlamaForCausalLM):
    """A Scone model with its head, for `generate`, pipelines and whatever takes a causal language model.

    The table stays in main memory or on the disk, on any device of the model; only the rows that match are copied.
    """

    config_class = SconeConfig
    _can_compile_fullgraph = False  # f-grams are found by the CPU

    def __init__(self, config: SconeConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = SconeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Refuse `generate_batch`.

        Raises:
            ValueError: always: its cache does not hold the tokens that f-grams reach back to.
        """
        raise ValueError("generate_batch is not supported: its cache holds no tokens; use generate with a padded batch")

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse another number of tokens: the table knows those of its tokenizer.

        Raises:
            ValueError: the number differs, and the model has a table.
        """
        size = args[0] if args else kwargs.get("new_num_tokens")
        if self.config.fgram_max_n and size not in (None, self.config.vocab_size):
            raise ValueError(f"{size} tokens, but the table is of a tokenizer with {self.config.vocab_size}")
        return super().resize_token_embeddings(*args, **kwargs)

    def _valid_auto_compile_criteria(self, *_: Any, **__: Any) -> bool:
        """Whether `generate` compiles the model when a cache is static: never, as f-grams are found by the CPU."""
        return False

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        table: str | os.PathLike[str] | None = None,
        placement: str = "mmap",
        **kwargs: Any,
    ) -> Any:
        """Load a model that `scone export --to hf` or `save_pretrained` wrote, with its table.

        `table` is the folder of another table over the same tokenizer and weights, exported or in a workspace, or a
        REGISTRY/NAME whose current version is opened (None: the one that came with the model). `placement` is "mmap" (rows
        are read from the disk, and shared by all processes) or "ram". All else is as for any model of transformers.

        Raises:
            MismatchedArtifacts: the table belongs to another tokenizer, or to other weights.
            BadSetting, InputMissing, DamagedArtifact, StorageFailure: see `Table.open`.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.fgram_max_n and (table or pretrained_model_name_or_path):
            model.open_table(table or _own_table(pretrained_model_name_or_path, kwargs), placement)
        elif table is not None:
            raise MismatchedArtifacts(f"{table}: a table for a plain model", "leave out the table")
        return loaded

    def open_table(self, folder: str | os.PathLike[str], placement: str = "mmap") -> Self:
        """Open a table in the place of the present one. Raises: see `from_pretrained`."""
        config = self.config
        expected = {
            "tokens": config.vocab_size,
            "numbers a row": config.hidden_size,
            "tokenizer": config.fgram_tokenizer,
            "rows of weights": config.fgram_weights,
        }
        self.model.opened = _Opened(Path(folder).absolute(), placement, expected)
        return self

    def reload_table_if_changed(self) -> bool:
        """Move to the table of the version that is current, if `current` of the REGISTRY/NAME has moved; whether it has.

        Call it between requests. A sequence whose cache was begun before goes on with its table, in this thread and in others;
        that table closes when no cache and no model refers to it. If nothing has moved it takes microseconds.

        Raises:
            MismatchedArtifacts: the new version is a table of another model; the present table stays, as for all errors.
            SconeError: see `Table.reload_if_changed`.
        """
        opened = self.model.opened
        found = opened and opened.reloaded()
        self.model.opened = found
        return found is not opened

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a folder that `from_pretrained` loads: see transformers; the table is copied too.

        Raises:
            MismatchedArtifacts: another table is in the folder already.
        """
        place, table = Path(save_directory, TABLE), self.model.table
        is_there = place.exists()
        if table is not None and is_there and read_manifest(place).fingerprint != table.manifest.fingerprint:
            raise MismatchedArtifacts(f"{place}: another table than that of the model", "save to another folder")
        super().save_pretrained(save_directory, *args, **kwargs)
        Path(save_directory, MODULE).write_text(MODULE_TEXT)
        if table is not None and not is_there:
            shutil.copytree(table.folder, place)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: see `SconeConfig.register_for_auto_class`."""


def _own_table(name: str | os.PathLike[str], kwargs: dict[str, Any]) -> Path:
    """The table in the folder of a model, or in its repository, from where it is fetched."""
    if Path(name).is_dir():
        return Path(name, kwargs.get("subfolder") or "", TABLE)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for repositories

    known = ("revision", "cache_dir", "token", "local_files_only", "force_download")
    chosen = {key: kwargs[key] for key in known if kwargs.get(key) is not None}
    return Path(snapshot_download(str(name), allow_patterns=f"{TABLE}/*", **chosen)) / TABLE


def _tokens_of(cache: Cache | None, num_layers: int) -> tuple[_TokenLayer | None, int]:
    """The layer of tokens of a cache, which is added if it is empty, and the number P of tokens in it.

    Raises:
        ValueError: keys and values in the cache are of tokens that are not known.
    """
    if cache is None:
        return None, 0
    if not isinstance(cache, Cache):
        kind = type(cache).__name__
        raise ValueError(f"a cache of type {kind} holds no tokens: generate_batch is not supported")  # noqa: TRY004
    past = int(cache.get_seq_length())
    layers = cache.layers
    if not isinstance(layers[-1] if layers else None, _TokenLayer) and not past:
        while len(layers) < num_layers:  # an empty DynamicCache() makes its layers when they are used
            layers.append(cache.layer_class_to_replicate())
        layers.append(_TokenLayer())
    layer = layers[-1]
    known = layer.get_seq_length() if isinstance(layer, _TokenLayer) else 0
    if known != past:
        raise ValueError(
            f"a cache of {past} tokens, the ids of {known} are known: hand on the cache that this model returned, unchanged"
        )
    return layer, past


AutoConfig.register("scone", SconeConfig)
AutoModelForCausalLM.register(SconeConfig, SconeForCausalLM)
