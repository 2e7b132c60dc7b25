"""A Scone model as a model of Hugging Face transformers: importing this file registers it with the Auto classes.

    import scone_cli.serving.hf
    model = AutoModelForCausalLM.from_pretrained("exported", placement="ram")  # made by `scone export --to hf exported`
    model = AutoModelForCausalLM.from_pretrained("exported", table="refreshed/table")  # another table, the same model

The main model is a Llama: the same norms, rotary positions, SwiGLU and names of weights. What differs is the input of the
first block: the row of the longest f-gram that ends at a token, or the token's normed embedding. An f-gram reaches back at
most K - 1 tokens, and those may have been read by an earlier call. So the tokens of each sequence are kept in the cache of
keys and values, as one more layer: what reorders, repeats or crops the cache does the same with them.
Shapes: B sequences, C new tokens, P tokens in the cache, D = width.
"""

from __future__ import annotations

import os
import shutil
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
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE

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

    A token before which no f-gram may reach (the first of a document, or padding) is stored as its complement, below zero.
    """

    def append(self, tokens_BC: Tensor) -> None:
        keys = tokens_BC[:, None, :, None]
        self.update(keys, keys[..., :0])

    def last(self, count: int) -> npt.NDArray[np.int64]:
        """The last `count` tokens [B, at most count]."""
        last: npt.NDArray[np.int64] = self.keys[:, 0, -count:, 0].numpy()
        return last


class _Opened:
    """A table in a model: copies of the model share it, and a model that was pickled opens it again."""

    def __init__(self, folder: str | os.PathLike[str], placement: str) -> None:
        self.table = Table.open(folder, placement)

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return _Opened, (self.table.folder, self.table.placement)


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

        A document begins where the mask or the positions say so: after masked tokens, at a token that does not see the one
        before it, and at position 0. No f-gram reaches over the beginning of a document.

        Raises:
            ValueError: no token ids; a cache that was filled by another model; a mask of another shape; no table is open.
            UnknownToken: a token id is outside the vocabulary of the table (a ValueError too).
            DamagedArtifact, StorageFailure: see `Table.rows`.
        """
        if inputs_embeds is not None or input_ids is None:
            raise ValueError("a Scone model reads input_ids, not inputs_embeds: f-grams are found among token ids")
        name = "cache" if "cache" in kwargs else "past_key_values"  # renamed in transformers 5.2x
        cache: Cache | None = kwargs.get(name)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and cache is None:
            kwargs[name] = cache = DynamicCache(config=self.config)
        ids = self.fgram_ids(input_ids, attention_mask, position_ids, cache) if self.config.fgram_max_n else None
        embeds = self.embedding_norm(self.embed_tokens(input_ids))
        if ids is not None:
            embeds = self._with_rows(embeds, ids)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=embeds,
            use_cache=use_cache,
            **kwargs,
        )

    def fgram_ids(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> U32:
        """The id of the longest f-gram that ends at each token [B, C], NONE (2**32 - 1) if none; adds the tokens to the cache.

        Raises:
            ValueError, UnknownToken: see `forward`.
            DamagedArtifact: a line of the index is damaged.
        """
        if self.table is None:
            raise ValueError("no table is open: use from_pretrained, or open_table")
        layer, past = _tokens_of(cache, self.config.num_hidden_layers)
        tokens = input_ids.cpu().numpy()
        begins, is_padding = _beginnings(tokens.shape, past, attention_mask, position_ids)
        tokens = np.where(is_padding, 0, tokens)  # padding may have any id
        marked = np.where(begins | is_padding, ~tokens, tokens)
        read = marked
        if layer is not None and past:
            read = np.concatenate([layer.last(self.table.index.max_n - 1), marked], axis=1)
        begins = read < 0
        begins[:, 0] = True
        flat = np.where(read < 0, ~read, read).ravel()
        ids, _ = self.table.index.match(flat, np.append(np.flatnonzero(begins), flat.size))
        ids = ids.reshape(read.shape)[:, read.shape[1] - tokens.shape[1] :]
        if layer is not None:
            layer.append(torch.from_numpy(marked))
        return np.where(is_padding, np.uint32(NONE), ids)

    def _with_rows(self, embeds_BCD: Tensor, ids_BC: U32) -> Tensor:
        """Put the rows of the f-grams `ids` in the place of the embeddings of their last tokens."""
        assert self.table is not None
        places = np.flatnonzero(ids_BC != np.uint32(NONE))
        if not places.size:
            return embeds_BCD
        rows = self.table.rows(ids_BC.ravel()[places]).to(embeds_BCD.device, embeds_BCD.dtype)
        where = torch.from_numpy(places).to(embeds_BCD.device)
        return embeds_BCD.flatten(0, 1).index_copy(0, where, rows).view_as(embeds_BCD)


class SconeForCausalLM(LlamaForCausalLM):
    """A Scone model with its head, for `generate`, pipelines and whatever takes a causal language model.

    The table stays in main memory or on the disk, on any device of the model; only the rows that match are copied.
    """

    config_class = SconeConfig
    _can_compile_fullgraph = False  # f-grams are found on the CPU

    def __init__(self, config: SconeConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = SconeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

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

        `table` is the folder of another table over the same tokenizer and weights, exported or in a workspace (None: the
        one that came with the model). `placement` is "mmap" (rows are read from the disk, and shared by all processes) or
        "ram". All else is as for any model of transformers.

        Raises:
            MismatchedArtifacts: the table belongs to another tokenizer, or to other weights.
            BadSetting, InputMissing, DamagedArtifact, StorageFailure: see `Table.open`.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.fgram_max_n:
            model.open_table(table or _own_table(pretrained_model_name_or_path, kwargs), placement)
        elif table is not None:
            raise MismatchedArtifacts(f"{table}: a table for a plain model", "leave out the table")
        return loaded

    def open_table(self, folder: str | os.PathLike[str], placement: str = "mmap") -> Self:
        """Open a table in the place of the present one. Raises: see `from_pretrained`."""
        opened, config = _Opened(folder, placement), self.config
        table = opened.table
        for what, found, expected in (
            ("tokens", table.vocab_size, config.vocab_size),
            ("numbers a row", table.dim, config.hidden_size),
            ("tokenizer", table.tokenizer_sha256, config.fgram_tokenizer),
            ("rows of weights", table.manifest.inputs.get("weights", ""), config.fgram_weights),
        ):
            if found != expected:
                raise MismatchedArtifacts(
                    f"{folder}: {what} {str(found)[:12]}, the model has {str(expected)[:12]}",
                    "name a table that scone precompute made for this model",
                )
        self.model.opened = opened
        return self

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
        return Path(name, kwargs.get("subfolder", ""), TABLE)
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


def _beginnings(
    shape: tuple[int, ...], past: int, attention_mask: Any, position_ids: Tensor | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Where documents begin among new tokens [B, C], and which of them are padding [B, C].

    Raises:
        ValueError: the mask is not [B, P + C], nor [B, 1, C, at least P + C].
    """
    begins, is_padding = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    count = shape[1]
    if position_ids is not None:
        begins |= (position_ids == 0).cpu().numpy()
    if attention_mask is None:
        return begins, is_padding
    dims = attention_mask.dim() if isinstance(attention_mask, Tensor) else 0
    if dims not in (2, 4) or attention_mask.shape[-1] < past + count:
        found = list(attention_mask.shape) if dims else type(attention_mask).__name__
        raise ValueError(f"attention_mask {found}, expected [{shape[0]}, {past + count}]")
    if dims == 2:
        is_seen = attention_mask[:, : past + count].cpu().numpy() != 0
        is_padding |= ~is_seen[:, past:]
        before = is_seen[:, past - 1 : past + count - 1] if past else np.pad(is_seen, ((0, 0), (1, 0)))[:, :count]
        begins |= ~before
        return begins, is_padding
    is_seen = attention_mask[:, 0].cpu()
    is_seen = (is_seen if is_seen.dtype is torch.bool else is_seen == 0).numpy()  # other masks are added to the scores
    rows = np.arange(count)
    is_padding |= ~is_seen[:, rows, past + rows]
    if past:
        begins |= ~is_seen[:, rows, past + rows - 1]
    else:
        begins[:, 1:] |= ~is_seen[:, rows[1:], rows[1:] - 1]
    return begins, is_padding


AutoConfig.register("scone", SconeConfig)
AutoModelForCausalLM.register(SconeConfig, SconeForCausalLM)
