"""How fast are n-grams counted? Beside a polars group-by over n token columns, on the same tokens, with the same result.

    python benchmarks/bench_counting.py --workspace demo/work

Both count n = 2..5 with at least 5 occurrences, in memory, on one core each.
"""

from __future__ import annotations

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # before polars is imported

import numpy as np
import polars as pl
from measuring import arguments, finish, side_by_side

from scone_cli.corpus import TRAIN, read_tokens
from scone_cli.ngrams import count_shard, hash_table, merge_counts, relabel_shard

MAX_N, MIN_COUNT = 5, 5


def main() -> None:
    chosen = arguments(__doc__, tokens=5_000_000, repeats=5)
    stream = read_tokens(chosen.workspace / "tokens", TRAIN)
    num_docs = int(np.searchsorted(stream.starts, min(chosen.tokens, stream.tokens.size), "right")) - 1
    starts = stream.starts[: num_docs + 1]
    tokens = stream.tokens[: starts[-1]]
    docs = np.repeat(np.arange(num_docs, dtype=np.uint32), np.diff(starts))
    found: dict[str, list[int]] = {}

    def scone() -> None:
        prefixes, sizes = tokens, []
        for n in range(2, MAX_N + 1):
            counted = count_shard(tokens, starts, prefixes, n, 64)
            keys, _, _ = merge_counts(counted.keys, counted.counts, counted.docs, MIN_COUNT)
            sizes.append(keys.size)
            if n < MAX_N:
                prefixes = relabel_shard(tokens, starts, prefixes, n, hash_table(keys))
        found["scone"] = sizes

    def polars() -> None:
        frame, sizes = pl.DataFrame({"t0": tokens, "doc": docs}), []
        for n in range(2, MAX_N + 1):
            frame = frame.with_columns(pl.col("t0").shift(n - 1).over("doc").alias(f"t{n - 1}"))
            columns = [f"t{k}" for k in range(n)]
            counted = frame.drop_nulls(columns).group_by(columns).agg(pl.len(), pl.col("doc").n_unique().alias("docs"))
            sizes.append(counted.filter(pl.col("len") >= MIN_COUNT).height)
        found["polars"] = sizes

    seconds = side_by_side({"scone": scone, "polars": polars}, chosen.repeats)
    if found["scone"] != found["polars"]:
        raise SystemExit(f"the two disagree: {found}")
    finish(
        "how fast are n-grams counted",
        chosen.workspace,
        tokens=int(tokens.size),
        frequent_ngrams=sum(found["scone"]),
        scone_tokens_a_second_and_core=tokens.size / seconds["scone"],
        polars_tokens_a_second_and_core=tokens.size / seconds["polars"],
        polars_over_scone_seconds=seconds["polars"] / seconds["scone"],
    )


if __name__ == "__main__":
    main()
