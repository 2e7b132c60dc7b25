"""The rivals of `bench_count.py`: each counts the n-grams of a stream (n = 2..5, count >= 5) and their documents.

    python benchmarks/count_rivals.py RIVAL STREAM OUT

One process runs one rival. STREAM is a folder that `bench_count.py` fills: `stream.parquet` for polars and DuckDB, one row
per token (token uint16, doc uint32, in order), and `stream.colibri`, colibri-core's own encoding. Each rival is the fastest
query found for that library; the `-columns` ones are the plain query. OUT gets `n=<n>.parquet` with t0, t1, …, count and
docs in any order; colibri-core writes its own model, and does not count documents.
"""

# ruff: noqa: PLC0415 - each process loads the library of its own rival only

from __future__ import annotations

import os
import sys
from pathlib import Path

MAX_N, MIN_COUNT = 5, 5


def count_polars(stream: Path, out: Path) -> None:
    """Polars with chained keys: an n-gram is the id of its frequent prefix plus its last token, so one column is grouped.

    Each row is a position: the id of the frequent n-gram that begins there, and the tokens that follow it. Documents are
    counted only for frequent n-grams, over distinct pairs. The streaming engine takes half the time of the in-memory one.
    """
    import polars as pl

    follow = [
        pl.when(pl.col("doc").shift(-k) == pl.col("doc")).then(pl.col("token").shift(-k)).alias(f"t{k}")
        for k in range(1, MAX_N)
    ]
    token = pl.col("token").cast(pl.UInt64)
    rows = pl.read_parquet(stream / "stream.parquet").select("doc", token.alias("id"), *follow)
    names = rows.select("id").unique().with_columns(t0=pl.col("id").cast(pl.UInt16))
    for n in range(2, MAX_N + 1):
        last = f"t{n - 1}"
        rows = rows.filter(pl.col(last).is_not_null())
        rows = rows.with_columns(key=pl.col("id") * 65536 + pl.col(last)).drop("id", last)
        counted = rows.lazy().group_by("key").len("count").filter(pl.col("count") >= MIN_COUNT)
        found = counted.collect(engine="streaming").with_row_index("id").with_columns(pl.col("id").cast(pl.UInt64))
        rows = rows.lazy().join(found.lazy().select("key", "id"), on="key").drop("key").collect(engine="streaming")
        pairs = rows.lazy().select(pair=pl.col("id") * 2**32 + pl.col("doc")).unique()
        docs = pairs.group_by(id=pl.col("pair") // 2**32).len("docs").collect(engine="streaming")
        key = pl.col("key")
        found = found.join(docs, on="id").with_columns(prefix=key // 65536, last=(key % 65536).cast(pl.UInt16))
        found = found.drop("key").rename({"last": last})
        found = found.join(names.rename({"id": "prefix"}), on="prefix").drop("prefix")
        names = found.drop("count", "docs")
        found.drop("id").write_parquet(out / f"n={n}.parquet")


def count_polars_columns(stream: Path, out: Path) -> None:
    """Polars, the plain query: group by n columns."""
    import polars as pl

    tokens = pl.read_parquet(stream / "stream.parquet")
    for n in range(2, MAX_N + 1):
        columns = [f"t{k}" for k in range(n)]
        shifted = [pl.col("token").shift(-k).alias(f"t{k}") for k in range(n)]
        inside = (pl.col("doc").shift(1 - n) == pl.col("doc")).alias("inside")
        grouped = tokens.select("doc", *shifted, inside).filter("inside").group_by(columns)
        found = grouped.agg(count=pl.len(), docs=pl.col("doc").n_unique()).filter(pl.col("count") >= MIN_COUNT)
        found.write_parquet(out / f"n={n}.parquet")


def count_duckdb(stream: Path, out: Path) -> None:
    """DuckDB with chained keys, as with polars; `lead() OVER ()` follows the order of the file."""
    database = _open_duckdb(out)
    follow = ", ".join(
        f"CASE WHEN lead(doc, {k}) OVER () = doc THEN lead(token, {k}) OVER () END AS t{k}" for k in range(1, MAX_N)
    )
    database.execute(
        f"CREATE TEMP TABLE rows1 AS SELECT doc, token::UBIGINT AS id, {follow} FROM '{stream}/stream.parquet';"
        "CREATE TEMP TABLE names1 AS SELECT DISTINCT id, id::USMALLINT AS t0 FROM rows1"
    )
    for n in range(2, MAX_N + 1):
        last, rest = f"t{n - 1}", "".join(f", t{k}" for k in range(n, MAX_N))
        heads = ", ".join(f"t{k}" for k in range(n - 1))
        database.execute(
            f"CREATE TEMP TABLE keys AS SELECT doc, id * 65536 + {last} AS key{rest}"
            f" FROM rows{n - 1} WHERE {last} IS NOT NULL;"
            f"DROP TABLE rows{n - 1};"
            "CREATE TEMP TABLE found AS SELECT (row_number() OVER ())::UBIGINT AS id, * FROM"
            f" (SELECT key, count(*) AS count FROM keys GROUP BY key HAVING count(*) >= {MIN_COUNT});"
            f"CREATE TEMP TABLE rows{n} AS SELECT doc, id{rest} FROM keys JOIN found USING (key);"
            "DROP TABLE keys;"
            f"CREATE TEMP TABLE names{n} AS SELECT found.id, {heads}, (key % 65536)::USMALLINT AS {last}, count"
            f" FROM found JOIN (SELECT id AS prefix, {heads} FROM names{n - 1}) ON key // 65536 = prefix;"
            "DROP TABLE found;"
            f"COPY (SELECT * EXCLUDE (id) FROM names{n} JOIN (SELECT id, count(*) AS docs FROM"
            f" (SELECT DISTINCT id, doc FROM rows{n}) GROUP BY id) USING (id)) TO '{out}/n={n}.parquet'"
        )


def count_duckdb_columns(stream: Path, out: Path) -> None:
    """DuckDB, the plain query: group by n columns and document, then by n columns; `count(DISTINCT doc)` is 1.5x slower."""
    database = _open_duckdb(out)
    follow = ", ".join(f"lead(token, {k}) OVER () AS t{k}, lead(doc, {k}) OVER () AS doc{k}" for k in range(1, MAX_N))
    database.execute(f"CREATE TEMP TABLE rows AS SELECT doc, token AS t0, {follow} FROM '{stream}/stream.parquet'")
    for n in range(2, MAX_N + 1):
        columns = ", ".join(f"t{k}" for k in range(n))
        database.execute(
            f"COPY (SELECT {columns}, sum(part)::UBIGINT AS count, count(*) AS docs FROM"
            f" (SELECT {columns}, doc, count(*) AS part FROM rows WHERE doc{n - 1} = doc GROUP BY ALL)"
            f" GROUP BY {columns} HAVING sum(part) >= {MIN_COUNT}) TO '{out}/n={n}.parquet'"
        )


def _open_duckdb(out: Path):  # noqa: ANN202 - a type of a library that is imported only here
    import duckdb

    database = duckdb.connect()
    database.execute(f"SET threads = {os.environ['RIVAL_THREADS']}; SET temp_directory = '{out}/spilled'")
    if memory := os.environ.get("RIVAL_MEMORY"):
        database.execute(f"SET memory_limit = '{memory}'")
    return database


def count_colibri(stream: Path, out: Path) -> None:
    """colibri-core: it has one thread and does not count documents."""
    import colibricore

    options = colibricore.PatternModelOptions(mintokens=MIN_COUNT, minlength=2, maxlength=MAX_N, quiet=True)
    model = colibricore.UnindexedPatternModel()
    model.train(str(stream / "stream.colibri"), options)
    model.write(str(out / "counts.colibri"))


def count_scone(stream: Path, out: Path) -> None:
    """The library function behind `scone count-ngrams`, called on existing `tokens/`: no checks, no hashes."""
    from scone_cli.artifacts.manifest import read_manifest
    from scone_cli.counting.count import KERNELS, count_ngrams
    from scone_cli.counting.job import CountingJob
    from scone_cli.counting.plan import make_plan
    from scone_cli.runtime.worker_pool import Pool
    from scone_cli.settings import parse_bytes

    tokens = stream / "work" / "tokens"
    size, vocab_size = (read_manifest(tokens).summary[name] for name in ("tokens", "vocab_size"))
    memory = parse_bytes(os.environ.get("RIVAL_MEMORY") or "8GiB")
    plan = make_plan(size, vocab_size, MAX_N, MIN_COUNT, memory, int(os.environ["RIVAL_THREADS"]), tokenising=False)
    scratch = out / "scratch"
    scratch.mkdir()
    job = CountingJob(scratch, vocab_size, (), MAX_N, MIN_COUNT, 1, plan, lasting=False)
    with Pool(plan.num_workers, KERNELS) as pool:
        count_ngrams(job, [(path, None) for path in sorted(tokens.glob("part-*.parquet"))], out, pool, lambda *_: None)


RIVALS = {
    "scone-library": count_scone,
    "polars": count_polars,
    "polars-columns": count_polars_columns,
    "duckdb": count_duckdb,
    "duckdb-columns": count_duckdb_columns,
    "colibri": count_colibri,
}

if __name__ == "__main__":
    RIVALS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
