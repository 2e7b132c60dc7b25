"""`scone lookup`: the f-gram that the table has for each token of a text, and the f-grams with the nearest rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from scone_cli.artifacts.opening import to_read
from scone_cli.corpus.spelling import Speller, speller_of
from scone_cli.errors import MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.table import exported as exports
from scone_cli.table.table import Table
from scone_cli.vocab.index import NONE

CHUNK_BYTES = 32 << 20  # of rows in float32 that are compared at a time

Entry = dict[str, Any]  # an f-gram as JSON values: id, n, fgram, count, and what the look-up found beside these
Ids = npt.NDArray[np.uint32]


def look_up(folder: Path, text: str, nearest: int, progress: Progress) -> dict[str, Any]:
    """Look up a text, read as one document, in the table in `folder`; returns JSON values.

    For each token, `tokens` has the longest f-gram that ends there, its count, the norm of its row, and the `nearest`
    f-grams whose rows have the largest cosine similarity with that row. Memory does not grow with the table.

    Raises:
        MismatchedArtifacts: the tokenizer of the table is not in the workspace.
        InputMissing, BadData: see `Table.open`.
    """
    table = Table.open(folder)
    folder = table.folder  # of a REGISTRY/NAME the version that is current now
    spell, note = speller_of(folder, table.manifest)
    if spell.tokenizer is None:
        raise MismatchedArtifacts(
            f"{folder}: a text must be looked up with the table's own tokenizer; {note}",
            "leave table/ beside the tokens/ it was made from",
        )
    tokens = spell.tokenizer.encode_batch([text])[0]
    ids = table.matcher().match(tokens)
    asked = np.unique(ids[ids != NONE])
    rows = table.rows(asked).float()
    near_ids, cosines = nearest_rows(table, asked, nearest, progress)
    entries = read_fgrams(folder, {*asked.tolist(), *near_ids.flatten().tolist()}, spell)
    found: dict[int, Entry] = {}
    for number, i in enumerate(asked.tolist()):
        near = [
            {**entries[other], "cosine": round(cosine, 4)}
            for other, cosine in zip(near_ids[number].tolist(), cosines[number].tolist(), strict=True)
        ]
        found[i] = {**entries[i], "norm": round(rows[number].norm().item(), 4), "nearest": near}
    unmatched: Entry = {"id": None, "n": 0, "fgram": None, "count": None, "norm": None, "nearest": []}
    return {
        "text": text,
        "table": str(folder),
        "rows": table.num_rows,
        "dtype": table.manifest.settings["dtype"],
        "matched": int((ids != NONE).sum()),
        "tokens": [
            {"position": position, "token": token, "text": spell([token]), **found.get(i, unmatched)}
            for position, (token, i) in enumerate(zip(tokens.tolist(), ids.tolist(), strict=True))
        ],
    }


def nearest_rows(table: Table, asked: Ids, count: int, progress: Progress) -> tuple[Tensor, Tensor]:
    """For each asked row, find the `count` rows with the largest cosine: ids and cosines [len(asked), count], best first.

    A row is not its own neighbour. The table is read once, chunk by chunk, and only the nearest rows so far are kept.
    """
    count = min(count, table.num_rows - 1)
    ids = torch.empty(len(asked), 0, dtype=torch.int64)
    cosines = torch.empty(len(asked), 0)
    if not count or not len(asked):
        return ids, cosines
    wanted = torch.nn.functional.normalize(table.rows(asked).float(), dim=1)
    themselves = torch.from_numpy(asked.astype(np.int64))[:, None]
    size = max(1, CHUNK_BYTES // (4 * table.dim))
    for first in range(0, table.num_rows, size):
        here = np.arange(first, min(first + size, table.num_rows), dtype=np.uint32)
        rows = torch.nn.functional.normalize(table.rows(here).float(), dim=1)
        numbers = torch.from_numpy(here.astype(np.int64)).expand(len(asked), -1)
        near = (wanted @ rows.T).masked_fill_(numbers == themselves, -torch.inf)
        cosines, places = torch.cat([cosines, near], 1).topk(min(count, cosines.shape[1] + len(here)))
        ids = torch.cat([ids, numbers], 1).gather(1, places)
        progress("comparing rows", first + len(here), table.num_rows, "rows")
    return ids, cosines


def read_fgrams(folder: Path, ids: Iterable[int], spell: Speller) -> dict[int, Entry]:
    """Read some f-grams of a table, by id; only the row groups that hold them are read, one at a time."""
    if (exported := folder / exports.FGRAMS).exists():
        return {
            i: {"id": i, "n": len(tokens), "fgram": spell(tokens), "count": count}
            for i, (tokens, count) in exports.read_fgrams(exported, ids).items()
        }
    wanted = np.unique(np.fromiter(ids, np.int64))
    found, first = dict[int, Entry](), 0
    with pq.ParquetFile(to_read(folder / "vocab.parquet")) as file:
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            here = wanted[(wanted >= first) & (wanted < last)]
            if here.size:
                part = file.read_row_group(group, ["n", "tokens", "count"]).take(here - first)
                for i, entry in zip(here.tolist(), part.to_pylist(), strict=True):
                    found[i] = {"id": i, "n": entry["n"], "fgram": spell(entry["tokens"]), "count": entry["count"]}
            first = last
    return found
