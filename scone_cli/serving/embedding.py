"""Token ids to embeddings, as a served model needs them: pieces of many streams, on the device of the model.

    embedding = SconeEmbedding(model.main, Table.open("scone-work/table", "ram"), streams=8)
    x = embedding(prompts_BC)  # prefill, in as many pieces as you like: the next C tokens of streams 0..B-1
    x = embedding(tokens, lengths=[1, 4, 1], streams=[5, 0, 2])  # ragged: one token of stream 5, four of 0, one of 2
    embedding.matcher.roll_back(3, stream=0)  # drafted tokens that were not accepted
    embedding.matcher.reset(5)  # a new document begins

Every piece is embedded as it is in the whole document. What this leaves out: which streams run together, and the cache of keys
and values (`model.KeyValueCache`), are the serving system's. Shapes: B streams, C tokens of each, N tokens of a call, D = dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scone_cli.arrays import U32
from scone_cli.model.live_rows import live_rows
from scone_cli.model.model import MainModel, SconeModel
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE, FgramIndex
from scone_cli.vocab.matcher import Matcher
from scone_cli.vocab.trie import FgramTrie


class SconeEmbedding(nn.Module):
    """Looks the f-grams of streams up in a table; takes the place of a served model's token embedding.

    Attributes:
        matcher: the state of each stream; `roll_back` and `reset` are there.
    """

    def __init__(self, main: MainModel, table: Table, streams: int = 1) -> None:
        """Serve `main` from the table of its f-grams, in so many streams."""
        super().__init__()
        self.main = main
        self.matcher = table.matcher(streams)
        self._table = table
        self._staging: Staging | None = None

    def forward(
        self, tokens: Tensor, lengths: Sequence[int] | None = None, streams: Sequence[int] | None = None
    ) -> Tensor:
        """What enters the first block, [*tokens.shape, D], of the next tokens of streams.

        tokens [B, C]: the next C of each stream; or, with `lengths` [B], [N]: the pieces of the streams one after the other.
        `streams` [B] says which these are (None: the first B). Tokens are matched on the CPU, so best given there.

        Raises:
            ValueError, DamagedArtifact, StorageFailure: see `Matcher.match` and `Table.rows`.
        """
        here = tokens if tokens.device.type == "cpu" else tokens.cpu()
        flat = here.numpy().ravel()
        if lengths is None and streams is None and len(tokens) == 1:  # what one text's every token pays for
            ids = self.matcher.match(flat)
        else:
            if lengths is None:
                starts = np.arange(len(tokens) + 1) * tokens.shape[1]
            else:
                starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
            ids = self.matcher.match(flat, starts, None if streams is None else np.asarray(streams, np.int64))
        weight = self.main.token_embedding.weight
        embedded = self._here if weight.device.type == "cpu" else self._there
        return embedded(here, ids, weight).view(*tokens.shape, weight.shape[1])

    def _here(self, tokens: Tensor, ids: U32, weight_VD: Tensor) -> Tensor:
        """A row of the table enters as it is, and the few other tokens are embedded: see `MainModel.embed` [N, D]."""
        x = self._table.rows(ids).to(weight_VD.dtype)
        if ids.size == 1 and ids[0] != NONE:
            return x
        places = torch.from_numpy(np.flatnonzero(ids == np.uint32(NONE)))
        if len(places):
            with torch.no_grad():
                x[places] = self.main.embed_tokens(tokens.reshape(-1)[places])
        return x

    def _there(self, tokens: Tensor, ids: U32, weight_VD: Tensor) -> Tensor:
        """The same on a device: embedding all tokens there costs less than to say which are meant."""
        device = weight_VD.device
        if device.type == "cuda":
            self._staging = self._staging or Staging(self._table, device)
            rows, is_row = self._staging.fetch(ids)  # before anything else is asked of the device
        else:
            rows, is_row = self._table.rows(ids).to(device), torch.from_numpy(ids != NONE)[:, None].to(device)
        with torch.no_grad():
            x = self.main.embed_tokens(tokens.reshape(-1).to(device, non_blocking=True))
        return torch.where(is_row, rows.to(x.dtype), x)


class Staging:
    """Rows on their way to a CUDA device: through pinned memory, on a stream of their own, beside the work before them."""

    def __init__(self, table: Table, device: torch.device) -> None:
        self._table, self._device = table, device
        self._stream = torch.cuda.Stream(device)
        self._copied = torch.cuda.Event()
        self._rows = self._is_row = torch.empty(0)

    def fetch(self, ids: U32) -> tuple[Tensor, Tensor]:
        """Rows [N, D] on the device, and where they are [N, 1]; what is on the current stream from now on waits for them."""
        self._copied.synchronize()  # the copy before this one has left the pinned memory: long ago, if a model ran between
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
            part.record_stream(
                current
            )  # its memory is the copying stream's: not to be given out while the model reads it
        return there


class LiveEmbedding:
    """The same without a table: A_f-gram runs for every match, or hashed rows are read, or there are none.

    To check a table with, and for the models that have none. It has the first B streams alone, in pieces of one length.
    """

    def __init__(
        self, model: SconeModel, trie: FgramTrie | None, streams: int = 1, index: FgramIndex | None = None
    ) -> None:
        """`index` is that of the trie, where it has been built already."""
        self._model, self._trie = model, trie
        self._matcher = Matcher(index or trie.index(), streams) if trie else None
        self._history = np.full((streams, model.history), model.config.end_of_document, np.uint32)

    @torch.no_grad()
    def __call__(self, tokens_BC: Tensor) -> Tensor:
        """What enters the first block [B, C, D], of the next tokens of each stream."""
        tokens = tokens_BC.cpu().numpy().astype(np.uint32)
        ids = np.full(tokens.shape, NONE, np.uint32)
        if self._matcher:
            starts = np.arange(len(tokens) + 1) * tokens.shape[1]
            ids = self._matcher.match(tokens.ravel(), starts).reshape(tokens.shape)
        read = np.concatenate([self._history, tokens], axis=1)
        self._history = read[:, tokens.shape[1] :]
        return self._model.main.embed(tokens_BC, *live_rows(self._model, read, ids, self._trie))


def embedding_of(
    model: SconeModel, table: Table | None, trie: FgramTrie | None, index: FgramIndex | None = None, streams: int = 1
) -> Callable[[Tensor], Tensor]:
    """What embeds the next tokens [B, C] of streams for a model: with a table's rows, A_f-gram's, hashed ones, or none."""
    if table is not None:
        return SconeEmbedding(model.main, table, streams)
    if trie is None and model.hashed is None:
        return model.main.embed_tokens
    return LiveEmbedding(model, trie, streams, index)
