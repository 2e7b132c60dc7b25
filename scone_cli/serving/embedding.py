"""Token ids to embeddings, as a served model needs them: pieces of many streams, on the device of the model.

    model = load_model("scone-work", placement="ram")
    embedding = SconeEmbedding(model.network.main, model.table, streams=8)
    x = embedding(prompts_BC)  # prefill, in as many pieces as you like: the next C tokens of streams 0..B-1
    x = embedding(tokens, lengths=[1, 4, 1], streams=[5, 0, 2])  # ragged: one token of stream 5, four of 0, one of 2
    embedding.matcher.roll_back(3, stream=0)  # drafted tokens that were not accepted
    embedding.matcher.reset(5)  # a new document begins

Every piece is embedded as it is in the whole document. What this leaves out: which streams run together, and the cache of keys
and values (`model.KeyValueCache`), are the serving system's. Shapes: B streams, C tokens of each, N tokens of a call, D = dim.
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
from scone_cli.model.live_rows import live_rows
from scone_cli.model.model import MainModel, SconeModel
from scone_cli.table.table import Table
from scone_cli.vocab.given_ids import Ids, as_whole_numbers
from scone_cli.vocab.index import NONE, FgramIndex
from scone_cli.vocab.matcher import Matcher
from scone_cli.vocab.trie import FgramTrie


class SconeEmbedding(nn.Module):
    """Looks the f-grams of streams up in a table; takes the place of a served model's token embedding.

    One serves one thread at a time, as its matcher has the state of the streams; any number may read one table. It works in a
    forked child as `Table` does; a model on a GPU is to be loaded there. Without gradients: nothing that it gives is trained.

    Attributes:
        matcher: the state of each stream; `roll_back` and `reset` are there.
    """

    def __init__(self, main: MainModel, table: Table, streams: int = 1) -> None:
        """Serve `main`, the `network.main` of a `load_model`, from the table of its f-grams, in so many streams.

        Raises:
            MismatchedArtifacts: model and table have not the same width and vocabulary.
            NotEnoughMemory: for the states of so many streams.
            ValueError: `streams` is no whole number from 1 on; the table was closed; `main` or `table` is something else.
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
        """What enters the first block [*tokens.shape, D] of the next tokens of streams, in the model's type, on its device.

        tokens [B, C]: the next C of each stream; [N]: the next N of one stream; or, with `lengths` [B], [N]: the pieces of the
        streams one after the other. `streams` [B] says which these are (None: the first B). Tokens are whole numbers of any type:
        a tensor, an array or a list. They are matched on the CPU, so best given there; those on a device are copied.

        Raises:
            ValueError: tokens are no whole numbers in one or two dimensions; lengths are not those of all tokens; streams are not
                distinct, or not of this embedding; the table was closed.
            UnknownToken: an id is that of no token (a ValueError too).
            DamagedArtifact, StorageFailure: see `Table.rows`.
        """
        given = as_whole_numbers(tokens.cpu() if _is_on_a_device(tokens) else tokens, "tokens", most_dims=2)
        flat = given.ravel()
        if (
            lengths is None and streams is None and (given.ndim == 1 or len(given) == 1)
        ):  # what one text's every token pays for
            ids = self.matcher.match(flat)
        else:
            ids = self.matcher.match(flat, _starts(given.shape, lengths), streams)
        weight = self.main.token_embedding.weight
        embedded = self._here if weight.device.type == "cpu" else self._there
        return embedded(flat, ids, weight).view(*given.shape, weight.shape[1])

    def _here(self, tokens: npt.NDArray[Any], ids: U32, weight_VD: Tensor) -> Tensor:
        """A row of the table enters as it is, and the few other tokens are embedded: see `MainModel.embed` [N, D]."""
        x = self._table.rows(ids).to(weight_VD.dtype)
        if ids.size == 1 and ids[0] != NONE:
            return x
        places = np.flatnonzero(ids == np.uint32(NONE))
        if places.size:
            with torch.no_grad():
                x[torch.from_numpy(places)] = self.main.embed_tokens(torch.from_numpy(tokens[places].astype(np.int64)))
        return x

    def _there(self, tokens: npt.NDArray[Any], ids: U32, weight_VD: Tensor) -> Tensor:
        """The same on a device: embedding all tokens there costs less than to say which are meant."""
        device = weight_VD.device
        if device.type == "cuda":
            self._staging = self._staging or Staging(self._table, device)
            rows, is_row = self._staging.fetch(ids)  # before anything else is asked of the device
        else:
            rows, is_row = self._table.rows(ids).to(device), torch.from_numpy(ids != NONE)[:, None].to(device)
        with torch.no_grad():
            x = self.main.embed_tokens(torch.from_numpy(tokens.astype(np.int64)).to(device, non_blocking=True))
        return torch.where(is_row, rows.to(x.dtype), x)


def _is_on_a_device(tokens: Ids) -> TypeGuard[Tensor]:
    return isinstance(tokens, Tensor) and tokens.device.type not in ("cpu", "meta")


def _starts(shape: tuple[int, ...], lengths: Ids | None) -> npt.NDArray[np.int64]:
    """Where the pieces of the streams begin, and the last ends."""
    if lengths is None:
        return np.array([0, *shape]) if len(shape) == 1 else np.arange(shape[0] + 1) * shape[1]
    if len(shape) == 2:
        raise ValueError(f"tokens {list(shape)} have pieces of one length; lengths are for tokens in one dimension")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(as_whole_numbers(lengths, "lengths"), dtype=np.int64)])


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
