"""What does a look-up cost? Beside a Python dict of tuples with a numpy memmap, on the same tokens, with the same rows.

    python benchmarks/bench_lookup.py --workspace demo/work

A look-up is: match the next tokens of a stream, fetch the rows of those that match from the mapped table (page cache
warm). Also matching alone, in tokens a second and core.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from measuring import arguments, finish, side_by_side

from scone_cli.corpus import read_tokens
from scone_cli.ngrams import NONE
from scone_cli.schemas import HELD_OUT
from scone_cli.table import Table
from scone_cli.vocabulary import Vocabulary

BATCHES = (1, 16, 4096)


def main() -> None:
    chosen = arguments(__doc__, repeats=7)
    table = Table.open(chosen.workspace / "table")
    settings = table.manifest.settings
    trie = Vocabulary.read(chosen.workspace / "table", settings["num_tokens"], settings["max_n"]).trie
    stream = read_tokens(chosen.workspace / "tokens", HELD_OUT)
    tokens = stream.tokens[: min(stream.tokens.size, 200_000)]
    ids_of = {tuple(gram): number for number, gram in enumerate(trie.tokens_of(np.arange(trie.num_fgrams)))}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        np.concatenate(table.parts).tofile(path)
        rows = np.memmap(path, np.uint8, "r").reshape(table.num_rows, table.row_bytes)

        def with_dict(batch: int) -> int:
            fetched, history = 0, list[int]()
            for first in range(0, batch * (min(tokens.size, 20_000) // batch), batch):
                ids = []
                for token in tokens[first : first + batch].tolist():
                    history = [*history[-trie.max_n + 1 :], token]
                    for n in range(len(history), 1, -1):
                        found = ids_of.get(tuple(history[-n:]))
                        if found is not None:
                            ids.append(found)
                            break
                fetched += len(rows[ids])
            return fetched

        def with_table(batch: int) -> int:
            matcher, fetched = table.index.matcher(), 0
            for first in range(0, batch * (min(tokens.size, 20_000) // batch), batch):
                ids, _ = matcher.match(tokens[first : first + batch])
                fetched += len(table.rows(ids[ids != NONE]))
            return fetched

        for batch in BATCHES:
            if with_dict(batch) != with_table(batch):
                raise SystemExit(f"the two disagree at batches of {batch}")
            seconds = side_by_side(
                {"table": lambda b=batch: with_table(b), "dict": lambda b=batch: with_dict(b)}, chosen.repeats
            )
            used = batch * (min(tokens.size, 20_000) // batch)
            for name, value in seconds.items():
                figures[f"{name}_microseconds_a_token_batch_{batch}"] = value / used * 1e6
            figures[f"dict_over_table_batch_{batch}"] = seconds["dict"] / seconds["table"]
    matching = side_by_side({"match": lambda: table.index.match(stream.tokens, stream.starts)}, chosen.repeats)
    index_bytes = table.index.slots.nbytes + table.index.values.nbytes
    finish(
        "what does a look-up cost",
        chosen.workspace,
        rows=table.num_rows,
        row_bytes=table.row_bytes,
        index_bytes_an_fgram=index_bytes / table.num_rows,
        matching_tokens_a_second_and_core=stream.tokens.size / matching["match"],
        **figures,
    )


if __name__ == "__main__":
    main()
