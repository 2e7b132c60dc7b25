"""Using a trained model from Python: its network, its table or A_f-gram, and its tokenizer, opened with `load_model`.

    with load_model("scone-work") as model:
        text = model.generate("The cat sat", max_tokens=40, temperature=0)
        logits = model.logits([model.end_of_document, *model.encode("The cat sat")])  # [C, V]

Left out: many texts at once, with a key-value cache that a serving system manages. Such a system uses `network.main` and
`embedding(streams=...)`, as `SconeEmbedding` shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from scone_cli.artifacts.manifest import MANIFEST, Manifest, check_files, open_artifact, read_manifest
from scone_cli.corpus.token_stream import end_of_document
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadSetting, InputMissing, MismatchedArtifacts
from scone_cli.model.devices import find_device
from scone_cli.model.hf_folder import open_hf_folder
from scone_cli.model.hf_model import HfModel
from scone_cli.model.model import SconeModel
from scone_cli.runtime.forks import work_alone_in_forks
from scone_cli.serving.embedding import embedding_of
from scone_cli.serving.generate import Sampling, Spelling, generate
from scone_cli.table.table import Table
from scone_cli.vocab.given_ids import Ids, as_tokens, whole_number
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.trie import FgramTrie
from scone_cli.vocab.vocabulary import trie_of_model


class LoadedModel:
    """A model that `load_model` has opened: V tokens, width D, a context of C tokens.

    Threads may share it, because no call changes it; but what `embedding` returns has state, and is for one thread. Fork: as
    for `Table`; a model on a GPU must be loaded in each child.

    Attributes:
        kind: "scone", "plain" or "hashed".
        vocab_size, dim, context: V, D and C.
        end_of_document: the token id before and after each document; every training text began with it.
        network: the `torch.nn.Module`, in evaluation mode; with a table, only its `main` has to be resident.
        tokenizer: internal; use `encode` and `decode`.
    """

    def __init__(
        self, network: SconeModel, table: Table | None, trie: FgramTrie | None, tokenizer: Tokenizer | None, end: int
    ) -> None:
        """Build a model from parts that `open_model` has checked."""
        self.network, self.tokenizer, self.end_of_document = network.eval(), tokenizer, end
        config = network.config
        self.kind, self.vocab_size, self.dim, self.context = config.kind, config.vocab_size, config.dim, config.context
        self._table, self._trie = table, trie
        self._index: FgramIndex | None = trie.index() if trie is not None else None
        work_alone_in_forks()

    @property
    def table(self) -> Table:
        """The table that the model reads.

        Raises:
            BadSetting: there is no table: rows are computed live, or the model has no f-grams.
        """
        if self._table is None:
            raise BadSetting(
                f"a {self.kind} model that was opened without a table", "open a Scone model without live=True"
            )
        return self._table

    def encode(self, text: str) -> list[int]:
        """Encode a text as token ids; no special token is added.

        Raises:
            BadSetting: the model was trained on token ids without a tokenizer; `text` is not a str.
        """
        if not isinstance(text, str):
            raise BadSetting(f"a text is a str, not {type(text).__name__}; for token ids use generate_tokens or logits")
        return [int(token) for token in self._speller().encode_batch([text])[0]]

    def decode(self, tokens: Ids) -> str:
        """Decode token ids to text.

        Raises:
            BadSetting: the model was trained on token ids without a tokenizer.
            ValueError, UnknownToken: see `logits`.
        """
        return self._speller().decode(as_tokens(tokens, self.vocab_size))

    def logits(self, tokens: Ids) -> Tensor:
        """Next-token logits after each of N tokens (1 to C): float32 [N, V], on the model's device.

        The text begins at its first token. Put `end_of_document` there to read it as a document, as in training.

        Raises:
            ValueError: the tokens are not whole numbers in one dimension, or there are none, or more than the context.
            UnknownToken: a token id is outside the vocabulary.
            DamagedArtifact, StorageFailure: the table cannot be read.
        """
        read = as_tokens(tokens, self.vocab_size)
        if not 1 <= read.size <= self.context:
            raise ValueError(f"{read.size:,} tokens, expected 1 to {self.context:,}, the model's context")
        main = self.network.main
        with torch.no_grad():
            hidden: Tensor = main(self.embedding()(torch.from_numpy(read.astype(np.int64))[None].to(main.device)))
            logits: Tensor = main.logits(hidden[0])
            return logits

    def generate(self, prompt: str, max_tokens: int = 200, **sampling: Any) -> str:
        """Generate the text that follows a prompt; the prompt is read as the beginning of a document.

        The text ends with the document, after `max_tokens`, or when the context is full. `sampling`: `temperature` (0.8; 0:
        always the most likely token), `top_k`, `top_p` (None: all tokens) and `seed` (0; the same seed gives the same text).

        Raises:
            BadSetting: the prompt has more than C - 1 tokens; a setting is out of range or unknown; the model was trained on
                token ids without a tokenizer.
            ValueError, DamagedArtifact, StorageFailure: see `generate_tokens`.
        """
        read = self.encode(prompt)
        spelling = Spelling(self._speller(), read)
        written = self.generate_tokens(read, max_tokens, **sampling)
        return "".join(spelling(token) for token in written if token != self.end_of_document) + spelling.rest()

    def generate_tokens(self, prompt: Ids, max_tokens: int = 200, **sampling: Any) -> Iterator[int]:
        """Generate token ids after a prompt of token ids [N] without `end_of_document`; yields each as it is chosen.

        The last one may be `end_of_document`. `sampling`: see `generate`.

        Raises:
            BadSetting: see `generate`.
            ValueError: `max_tokens` is not a whole number from 1 on; the prompt is not whole numbers in one dimension.
            UnknownToken: a token id is outside the vocabulary.
            DamagedArtifact, StorageFailure: the table cannot be read.
        """
        whole_number(max_tokens, "max_tokens:", least=1)
        try:
            choice = Sampling(**sampling)
            choice.check()
        except TypeError as error:
            raise BadSetting(f"generate: {error}", "expected temperature, top_k, top_p and seed") from error
        read = as_tokens(prompt, self.vocab_size).tolist()
        return generate(self.network, self.embedding(), read, choice, max_tokens, self.end_of_document)

    def embedding(self, streams: int = 1) -> Callable[[Tensor], Tensor]:
        """Make an embedding for `streams` streams: next tokens [B, N] to the input of the first block [B, N, D].

        The result is on the model's device. With a table it is a `SconeEmbedding`. It holds the state of the streams: make
        one for each group of texts that run together.
        """
        streams = whole_number(streams, "streams:", least=1)
        return embedding_of(self.network, self._table, self._trie, self._index, streams)

    def reload_if_changed(self) -> LoadedModel:
        """The model with the table of the version that is current now; this one, if `current` has not moved.

        Call it between requests: `model = model.reload_if_changed()`. The network is shared, only the table is opened, as for
        `Table.reload_if_changed`, which says what threads may do. A request, a stream and an `embedding` that have begun go on
        with the table with which they began. Always returns this model if its table is not of a REGISTRY/NAME.

        Raises:
            MismatchedArtifacts: the new version is a table of another model; this model goes on, as for all errors.
            SconeError: see `Table.reload_if_changed`.
        """
        table = self._table.reload_if_changed() if self._table is not None else None
        if table is self._table:
            return self
        return LoadedModel(self.network, table, None, self.tokenizer, self.end_of_document)

    def close(self) -> None:
        """Close the table, if there is one; reading it afterwards raises ValueError."""
        if self._table is not None:
            self._table.close()

    def __enter__(self) -> Self:
        """Return the model; leaving the context closes its table."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the table."""
        self.close()

    def __repr__(self) -> str:
        """Describe the model in one line: kind, tokens, width, context, device, rows."""
        rows = repr(self._table) if self._table is not None else "live" if self._trie is not None else "no table"
        tokens = f"{self.vocab_size:,} tokens"
        return f"<LoadedModel: {self.kind}, {tokens}, dim {self.dim}, context {self.context}, {self.network.device}, {rows}>"

    def _speller(self) -> Tokenizer:
        if self.tokenizer is None:
            raise BadSetting(
                "a model that was trained on token ids without a tokenizer: text has no ids, and ids have no text",
                "use logits and generate_tokens, which take ids",
            )
        return self.tokenizer


def load_model(
    path: str | os.PathLike[str],
    *,
    table: str | os.PathLike[str] | None = None,
    live: bool = False,
    placement: str = "mmap",
    device: str = "auto",
) -> LoadedModel:
    """Open a trained model of any kind, to generate text, to score text, or to serve it.

    `path` is a workspace, whose `model/` is opened, or the folder of a model in a workspace (`scone-work/plain`). Beside the
    model, these are needed: `tokens/manifest.json` and `tokens/tokenizer.json`; `table/`, or the folder or REGISTRY/NAME
    given as `table`; with `live`, `vocab/` instead of a table: A_f-gram then computes the rows. `placement`: see
    `Table.open`. `device` is "cpu", "cuda", "mps" or "auto" (a CUDA GPU if there is one, else the CPU). Every byte of the
    model is checked; of a table, only sizes and origin.

    Raises:
        InputMissing: one of these folders does not exist.
        BadSetting: `table` or `live` for a model without f-grams, or both; unknown placement or device; `path` is not a path.
        MismatchedArtifacts: table, model, vocabulary and tokenizer do not belong together.
        DamagedArtifact, StorageFailure: a file is damaged, or cannot be read.
        HalfWrittenArtifact, ForeignArtifact, NewerArtifact: a folder does not hold the artifact that was expected.
    """
    for given in (path, *([] if table is None else [table])):
        if not isinstance(given, (str, os.PathLike)):
            raise BadSetting(f"{given!r} ({type(given).__name__}): expected the path of a folder")
    if not isinstance(live, bool):
        raise BadSetting(f"live={live!r}: expected True or False")
    if live and table is not None:
        raise BadSetting("both live and a table", "leave one out")
    folder = Path(path)
    if not folder.is_dir():
        raise InputMissing(f"{folder}: no such folder", "name a workspace, or the folder of a model in it")
    is_workspace = not (folder / MANIFEST).exists()
    workspace = folder if is_workspace else folder.resolve().parent
    folder = folder / "model" if is_workspace else folder
    return open_model(folder, workspace, None if table is None else Path(table), live, placement, device)


def open_model(
    folder: Path,
    workspace: Path,
    table: Path | None,
    live: bool,
    placement: str,
    device: str,
    *,
    needs_text: bool = False,
) -> LoadedModel:
    """Open the model in `folder` with a table (None: the workspace's) or, if `live`, with A_f-gram.

    Raises:
        InputMissing: an artifact is missing; with `needs_text`, there is no tokenizer.
        BadSetting, MismatchedArtifacts: see `load_model`.
    """
    manifest = open_artifact(folder, "model")
    tokens = read_manifest(workspace / "tokens", "tokens")
    tokenizer = _tokenizer(folder, manifest, workspace / "tokens", tokens)
    if needs_text and tokenizer is None:
        raise _no_text(workspace)
    kind = manifest.summary["kind"]
    if kind != "scone" and (table or live):
        raise BadSetting(
            f"{folder}: a {kind} model, it has neither a table nor an f-gram model", "leave out --table and --live"
        )
    network = SconeModel.load(folder).to(find_device(device))
    trie = trie_of_model(folder, manifest, workspace) if live else None
    has_table = kind == "scone" and not live
    opened = Table.open(table or workspace / "table", placement, model=manifest) if has_table else None
    return LoadedModel(network, opened, trie, tokenizer, end_of_document(workspace / "tokens", tokens))


def open_hf_model(folder: Path, workspace: Path, device: str) -> tuple[HfModel, Tokenizer, int]:
    """Open a model of Hugging Face, with the tokenizer and the end of a document of a workspace.

    Raises:
        InputMissing: the workspace has no tokens, or no tokenizer.
        BadSetting: there is no such device.
        SconeError: see `open_hf_folder` and `HfModel.load`.
    """
    tokens = read_manifest(workspace / "tokens", "tokens")
    manifest = open_hf_folder(folder, workspace / "tokens", tokens) if tokens.tokenizer else None
    tokenizer = _tokenizer(folder, manifest, workspace / "tokens", tokens) if manifest else None
    if tokenizer is None:
        raise _no_text(workspace)
    model = HfModel.load(folder, tokenizer.vocab_size).to(find_device(device))
    return model, tokenizer, end_of_document(workspace / "tokens", tokens)


def _no_text(workspace: Path) -> InputMissing:
    return InputMissing(
        f"{workspace / 'tokens'}: made from token ids without a tokenizer, so a prompt has no ids, and ids have no text",
        "run scone count-ngrams again with --tokenizer",
    )


def _tokenizer(folder: Path, model: Manifest, beside: Path, tokens: Manifest) -> Tokenizer | None:
    """The tokenizer of a model, read from `tokens/` in its workspace; None if the model was trained without one."""
    if model.tokenizer != tokens.tokenizer:
        raise MismatchedArtifacts(
            f"{folder}: made with tokenizer {model.tokenizer[:12]}, but {beside} has {tokens.tokenizer[:12]}",
            "name the workspace that the model was made in: scone --workspace DIR generate",
        )
    own = {name: stamp for name, stamp in tokens.files.items() if name == "tokenizer.json"}
    if not own:
        return None
    check_files(beside, replace(tokens, files=own), hashes=True)
    return Tokenizer.load(beside / "tokenizer.json")
