"""Embedding tokens for a served model: pieces of many streams of token ids in, embeddings on the model's device out.

    model = load_model("scone-work", placement="ram")
    embedding = SconeEmbedding(model.network.main, model.table, streams=8)
    x = embedding(prompts_BC)  # prefill, in as many pieces as you like: the next C tokens of streams 0..B-1
    x = embedding(tokens, lengths=[1, 4, 1], streams=[5, 0, 2])  # ragged: one token of stream 5, four of 0, one of 2
    embedding.matcher.roll_back(3, stream=0)  # drafted tokens that were not accepted
    embedding.matcher.reset(5)  # a new document begins

A piece gets the same embeddings as in the whole document. Left to the serving system: which streams run together, and the
cache of keys and values (`SconeModel.cache`). Shapes: B streams, C tokens per stream, N tokens per call, D = dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scone_cli.arrays import U32
from scone_cli.errors import MismatchedArtifacts
from scone_cli.model.base_main import BaseMain, Embedded
from scone_cli.model.hf_model import HfModel
from scone_cli.model.live_rows import live_rows
from scone_cli.model.model import MainModel, SconeModel
from scone_cli.table.table import Table
from scone_cli.vocab.given_ids import Ids, as_whole_numbers
from scone_cli.vocab.index import NONE, FgramIndex
from scone_cli.vocab.matcher import Matcher
from scone_cli.vocab.trie import FgramTrie


class SconeEmbedding(nn.Module):
    """Replaces the token embedding of a served model: looks up the f-grams of token streams in a table.

    One thread at a time may use it, because its matcher holds the state of the streams; any number of embeddings may read
    one table. It works in a forked child as `Table` does; a model on a GPU must be loaded in the child. Its output has no
    gradients.

    Attributes:
        matcher: the state of each stream, with `roll_back` and `reset`.
    """

    def __init__(self, main: MainModel, table: Table, streams: int = 1) -> None:
        """Embed `streams` streams for `main` (`load_model(...).network.main`) with the rows of its table.

        Raises:
            MismatchedArtifacts: model and table differ in width or vocabulary.
            NotEnoughMemory: the states of so many streams do not fit into memory.
            ValueError: `streams` is not a whole number from 1 on; the table was closed; `main` or `table` has another type.
        """
        super().__init__()
        for name, given, kind in (("main", main, MainModel), ("table", table, Table)):
            if not isinstance(given, kind):
                raise ValueError(f"{name}: {type(given).__name__}, expected a {kind.__name__}")  # noqa: TRY004 - as promised
        vocab_size, dim = main.token_embedding.weight.shape
        if (table.vocab_size, table.dim) != (vocab_size, dim):
            found = f"{table.vocab_size:,} tokens and rows of {table.dim}"
            raise MismatchedArtifacts(
                f"{table.folder}: {found}, the model has {vocab_size:,} tokens and width {dim}", "run: scone precompute"
            )
        self.main = main
        self.matcher = table.matcher(streams)
        self._table = table
        self._staging: Staging | None = None

    def forward(self, tokens: Ids, lengths: Ids | None = None, streams: Ids | None = None) -> Tensor:
        """Embed the next tokens of some streams: the input of the first block [*tokens.shape, D], in the model's type and device.

        tokens [B, C]: the next C tokens of each stream. tokens [N]: the next N tokens of one stream or, with `lengths` [B],
        the pieces of B streams one after the other. `streams` [B]: the numbers of these streams (None: the first B). Tokens
        are whole numbers of any type, in a tensor, an array or a list. They are matched on the CPU, so tokens on another
        device are copied to the CPU first.

        Raises:
            ValueError: tokens are not whole numbers in one or two dimensions; lengths do not add up to the number of tokens;
                streams are not distinct, or not streams of this embedding; the table was closed.
            UnknownToken: a token id is outside the vocabulary (a ValueError too).
            DamagedArtifact, StorageFailure: see `Table.rows`.
        """
        given = as_whole_numbers(tokens.cpu() if _is_on_a_device(tokens) else tokens, "tokens", most_dims=2)
        flat = given.ravel()
        # The first branch is for decoding one text, where every token pays for each step here.
        if lengths is None and streams is None and (given.ndim == 1 or len(given) == 1):
            ids = self.matcher.match(flat)
        else:
            ids = self.matcher.match(flat, _starts(given.shape, lengths), streams)
        weight = self.main.token_embedding.weight
        embedded = self._here if weight.device.type == "cpu" else self._there
        return embedded(flat, ids, weight).view(*given.shape, weight.shape[1])

    def _here(self, tokens: npt.NDArray[Any], ids: U32, weight_VD: Tensor) -> Tensor:
        """Embed on the CPU [N, D]: rows of the table enter unchanged, and only the other tokens are embedded."""
        x = self._table.rows(ids).to(weight_VD.dtype)
        if ids.size == 1 and ids[0] != NONE:
            return x
        places = np.flatnonzero(ids == np.uint32(NONE))
        if places.size:
            with torch.no_grad():
                x[torch.from_numpy(places)] = self.main.embed_tokens(torch.from_numpy(tokens[places].astype(np.int64)))
        return x

    def _there(self, tokens: npt.NDArray[Any], ids: U32, weight_VD: Tensor) -> Tensor:
        """Embed on a device [N, D]: all tokens are embedded, which costs less there than selecting some of them."""
        device = weight_VD.device
        if device.type == "cuda":
            self._staging = self._staging or Staging(self._table, device)
            rows, is_row = self._staging.fetch(ids)  # first, so that the copy overlaps with what follows
        else:
            rows, is_row = self._table.rows(ids).to(device), torch.from_numpy(ids != NONE)[:, None].to(device)
        with torch.no_grad():
            x = self.main.embed_tokens(torch.from_numpy(tokens.astype(np.int64)).to(device, non_blocking=True))
        return torch.where(is_row, rows.to(x.dtype), x)


def _is_on_a_device(tokens: Ids) -> TypeGuard[Tensor]:
    return isinstance(tokens, Tensor) and tokens.device.type not in ("cpu", "meta")


def _starts(shape: tuple[int, ...], lengths: Ids | None) -> npt.NDArray[np.int64]:
    """Start of each stream's piece in the flat tokens, and the end of the last piece [B + 1]."""
    if lengths is None:
        return np.array([0, *shape]) if len(shape) == 1 else np.arange(shape[0] + 1) * shape[1]
    if len(shape) == 2:
        raise ValueError(f"tokens {list(shape)} have pieces of one length; lengths are for tokens in one dimension")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(as_whole_numbers(lengths, "lengths"), dtype=np.int64)])


class Staging:
    """Copies rows to a CUDA device through pinned memory, on a CUDA stream of its own, in parallel with earlier work."""

    def __init__(self, table: Table, device: torch.device) -> None:
        self._table, self._device = table, device
        self._stream = torch.cuda.Stream(device)
        self._copied = torch.cuda.Event()
        self._rows = self._is_row = torch.empty(0)

    def fetch(self, ids: U32) -> tuple[Tensor, Tensor]:
        """Copy the rows of `ids` to the device: rows [N, D], and where they are valid [N, 1].

        Work that is submitted to the current CUDA stream from now on waits for the copy.
        """
        self._copied.synchronize()  # wait until the last copy has left the pinned memory: no wait if a model ran since
        if len(self._rows) < len(ids):
            self._rows = self._table.rows(ids[:0]).new_zeros(len(ids), self._table.dim).pin_memory()
            self._is_row = torch.empty(len(ids), 1, dtype=torch.bool).pin_memory()
        rows, is_row = self._rows[: len(ids)], self._is_row[: len(ids)]
        self._table.rows(ids, out=rows)
        is_row.copy_(torch.from_numpy(ids != NONE)[:, None])
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            there = rows.to(self._device, non_blocking=True), is_row.to(self._device, non_blocking=True)
            self._copied.record(self._stream)
        current.wait_stream(self._stream)
        for part in there:
            # The memory belongs to the copying stream: the allocator must not reuse it while the model still reads it.
            part.record_stream(current)
        return there


class BaseEmbedding:
    """Embeds token streams for a model on a base: the rows of a table, to be added to the output of its embedding.

    A call takes the next C tokens of the first B streams.
    """

    def __init__(self, main: BaseMain, table: Table, streams: int = 1) -> None:
        self._main, self._table = main, table
        self.matcher = table.matcher(streams)

    def __call__(self, tokens_BC: Tensor) -> Embedded:
        """The next tokens [B, C] of each stream, with their rows."""
        tokens = tokens_BC.cpu().numpy()
        starts = np.arange(len(tokens) + 1) * tokens.shape[1]
        ids = self.matcher.match(tokens.ravel(), starts)
        rows = self._table.rows(ids).view(*tokens.shape, -1)  # zero where no f-gram ends
        return Embedded(tokens_BC, rows.to(self._main.device))


class LiveEmbedding:
    """Embeds token streams without a table: A_f-gram computes the row of every match, or hashed rows are read.

    It is used to check a table, and for models without one. A call takes the next C tokens of the first B streams.
    """

    def __init__(
        self, model: SconeModel, trie: FgramTrie | None, streams: int = 1, index: FgramIndex | None = None
    ) -> None:
        """Embed `streams` streams for a model; give `index` if the index of `trie` has been built already."""
        self._model, self._trie = model, trie
        self._matcher = Matcher(index or trie.index(), streams) if trie else None
        self._history = np.full((streams, model.history), model.config.end_of_document, np.uint32)

    @torch.no_grad()
    def __call__(self, tokens_BC: Tensor) -> Tensor | Embedded:
        """Embed the next tokens [B, C] of each stream: the input of the first block [B, C, D]."""
        tokens = tokens_BC.cpu().numpy().astype(np.uint32)
        ids = np.full(tokens.shape, NONE, np.uint32)
        if self._matcher:
            starts = np.arange(len(tokens) + 1) * tokens.shape[1]
            ids = self._matcher.match(tokens.ravel(), starts).reshape(tokens.shape)
        read = np.concatenate([self._history, tokens], axis=1)
        self._history = read[:, tokens.shape[1] :]
        embedded: Tensor | Embedded = self._model.main.embed(tokens_BC, *live_rows(self._model, read, ids, self._trie))
        return embedded


def embedding_of(
    model: SconeModel | HfModel,
    table: Table | None,
    trie: FgramTrie | None,
    index: FgramIndex | None = None,
    streams: int = 1,
) -> Callable[[Tensor], Any]:
    """Choose what embeds the next tokens [B, C] of streams: with rows of a table, of A_f-gram, hashed rows, or none."""
    if isinstance(model, HfModel):
        return model.main.embed_tokens
    if table is not None:
        return (SconeEmbedding if model.base is None else BaseEmbedding)(model.main, table, streams)
    if trie is None and model.hashed is None:
        plain: Callable[[Tensor], Any] = model.main.embed_tokens
        return plain
    return LiveEmbedding(model, trie, streams, index)
