"""What models of transformers with a table share: the table, the tokens that a cache has read, loading and saving.

`TableReader` finds f-grams and holds the table; `WithTable` is for the model with a head, and loads and saves. An f-gram reaches
back at most K - 1 tokens, and those may have been read by an earlier call. So the tokens of each sequence are kept in the cache
of keys and values, as one more layer: what reorders, repeats or crops the cache does the same with them.
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
from torch import Tensor
from transformers import LlamaModel
from transformers.cache_utils import Cache, DynamicLayer

from scone_cli.arrays import U32
from scone_cli.artifacts.manifest import read_manifest
from scone_cli.errors import MismatchedArtifacts
from scone_cli.serving.hf_matching import match_each, match_rows
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE

# The name of the argument depends on the version of transformers.
CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
TABLE = "table"  # the folder of the table in an exported folder
# What transformers imports from a folder that has it, with trust_remote_code=True.
MODULE = "modeling_scone.py"


class TokenLayer(DynamicLayer):
    """The token ids of B sequences as a layer of a cache: keys [B, 1, P, 1], no values.

    The first token of a document, before which no f-gram may reach, is stored as its complement, below zero. What was begun
    with a table goes on with it: `opened`.
    """

    opened: OpenedTable | None = None
    is_compileable = True  # else transformers would take a static cache for one that grows, and mask it wrongly

    def append(self, tokens_BC: Tensor) -> None:
        """Add tokens [B, C]."""
        keys = tokens_BC[:, None, :, None]
        self.update(keys, keys[..., :0])

    def tokens(self) -> npt.NDArray[np.int64]:
        """All tokens [B, P]."""
        tokens: npt.NDArray[np.int64] = self.keys[:, 0, :, 0].numpy()
        return tokens


class OpenedTable:
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

    def reloaded(self) -> OpenedTable:
        """The table of the version that is current; this one, if `current` has not moved."""
        table = self.table.reload_if_changed()
        return self if table is self.table else OpenedTable(*self._made_by, table)

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return OpenedTable, self._made_by


class TableReader:
    """Finds the f-grams of token ids in a table. A model mixes it in and sets `opened`; its config has `fgram_max_n`."""

    config: Any
    opened: OpenedTable | None

    @property
    def table(self) -> Table | None:
        """The open table; None for a plain model, and until `open_table`."""
        return self.opened.table if self.opened else None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def opened_for(self, cache: Cache | None) -> OpenedTable:
        """The table with which the sequences in a cache were begun; for new ones the present table.

        Asked once a call: meanwhile another thread may move to the table of another version.
        """
        layer = cache.layers[-1] if isinstance(cache, Cache) and cache.layers else None
        begun = layer.opened if isinstance(layer, TokenLayer) and layer.get_seq_length() else None
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
        opened: OpenedTable | None = None,
    ) -> U32:
        """The id of the longest f-gram that ends at each token [B, C], NONE (2**32 - 1) if none; adds the tokens to the cache.

        The ids are of the table with which the sequences in the cache were begun. `opened` is internal.

        Raises:
            ValueError, UnknownToken: see `forward`.
            DamagedArtifact: a line of the index is damaged.
        """
        opened = opened or self.opened_for(cache)
        if not (attention_mask is None or isinstance(attention_mask, Tensor)):
            raise ValueError(f"attention_mask: {type(attention_mask).__name__}, expected a tensor of two dimensions")
        layer, past = _tokens_of(cache, self.config.get_text_config().num_hidden_layers)
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


def rows_at(opened: OpenedTable, ids_BC: U32, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Places in the flat batch [M] and their rows [M, D]; None if no f-gram ends in it."""
    places = np.flatnonzero(ids_BC != np.uint32(NONE))
    if not places.size:
        return None
    return torch.from_numpy(places).to(device), opened.table.rows(ids_BC.ravel()[places]).to(device, dtype)


class WithTable:
    """Loading, saving and tables of a model with a head; it mixes this in, before its class of transformers.

    `_reader` is the `TableReader` in it; `module_text` what a saved folder's module says.
    """

    config: Any
    module_text: str

    @property
    def _reader(self) -> TableReader:
        """The part of the model that reads the table."""
        raise NotImplementedError

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
        known = self.config.get_text_config().vocab_size
        if self.config.fgram_max_n and size not in (None, known):
            raise ValueError(f"{size} tokens, but the table is of a tokenizer with {known}")
        return super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]

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
        loaded = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path, *args, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.fgram_max_n and (table or pretrained_model_name_or_path):
            model.open_table(table or _own_table(pretrained_model_name_or_path, kwargs), placement)
        elif table is not None:
            raise MismatchedArtifacts(f"{table}: a table for a plain model", "leave out the table")
        return loaded

    def open_table(self, folder: str | os.PathLike[str], placement: str = "mmap") -> Self:
        """Open a table in the place of the present one. Raises: see `from_pretrained`."""
        config, shape = self.config, self.config.get_text_config()
        expected = {
            "tokens": config.fgram_tokens or shape.vocab_size,
            "numbers a row": shape.hidden_size,
            "tokenizer": config.fgram_tokenizer,
            "rows of weights": config.fgram_weights,
        }
        self._reader.opened = OpenedTable(Path(folder).absolute(), placement, expected)
        return self

    def reload_table_if_changed(self) -> bool:
        """Move to the table of the version that is current, if `current` of the REGISTRY/NAME has moved; whether it has.

        Call it between requests. A sequence whose cache was begun before goes on with its table, in this thread and in others;
        that table closes when no cache and no model refers to it. If nothing has moved it takes microseconds.

        Raises:
            MismatchedArtifacts: the new version is a table of another model; the present table stays, as for all errors.
            SconeError: see `Table.reload_if_changed`.
        """
        opened = self._reader.opened
        found = opened and opened.reloaded()
        self._reader.opened = found
        return found is not opened

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write a folder that `from_pretrained` loads: see transformers; the table is copied too.

        Raises:
            MismatchedArtifacts: another table is in the folder already.
        """
        place, table = Path(save_directory, TABLE), self._reader.table
        is_there = place.exists()
        if table is not None and is_there and read_manifest(place).fingerprint != table.manifest.fingerprint:
            raise MismatchedArtifacts(f"{place}: another table than that of the model", "save to another folder")
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        Path(save_directory, MODULE).write_text(self.module_text)
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


def _tokens_of(cache: Cache | None, num_layers: int) -> tuple[TokenLayer | None, int]:
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
    if not isinstance(layers[-1] if layers else None, TokenLayer) and not past:
        while len(layers) < num_layers:  # an empty DynamicCache() makes its layers when they are used
            layers.append(cache.layer_class_to_replicate())
        layers.append(TokenLayer())
    layer = layers[-1]
    known = layer.get_seq_length() if isinstance(layer, TokenLayer) else 0
    if known != past:
        raise ValueError(
            f"a cache of {past} tokens, the ids of {known} are known: hand on the cache that this model returned, unchanged"
        )
    return layer, past
