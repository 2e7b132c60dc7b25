"""The columns of every Parquet file that a stage writes, and the version of each kind of artifact."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

# The version in which this program writes each kind of artifact. A larger version in a manifest is refused.
SCHEMA_VERSIONS: Mapping[str, int] = {
    "tokens": 2,
    "counts": 1,
    "vocab": 1,
    "model": 1,
    "table": 4,
    "exported-table": 1,
    "eval": 2,
    "exported-model": 1,
}

TRAIN, HELD_OUT = "train", "held-out"  # the splits of `tokens/`

_TOKEN_IDS = pa.list_(pa.field("item", pa.uint32(), nullable=False))
_EACH_N = pa.list_(pa.field("item", pa.uint32(), nullable=False))  # a number for n = 2, 3, ...

TOKENS = pa.schema(
    [
        pa.field("doc", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("bytes", pa.uint64(), nullable=False),  # UTF-8 length of the text, for bits per byte
        # The row goes on with the document of the row before: text between them was redacted. Not in version 1.
        pa.field("continues", pa.bool_(), nullable=False),
        pa.field("tokens", _TOKEN_IDS, nullable=False),
    ]
)
_COUNT = pa.uint64()
TOKEN_FILES = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        # The rows of its documents, in the order of the parts.
        pa.field(
            "rows",
            pa.list_(pa.struct([("part", pa.string()), ("first", pa.uint32()), ("number", pa.uint32())])),
            nullable=False,
        ),
        *(
            pa.field(f"num_{name}", _COUNT, nullable=False)
            for name in (
                *("documents", "bytes", "tokens", "held_out_documents", "held_out_tokens"),
                *("skipped", "separators", "left_out", "unknown", "excluded"),
            )
        ),
        pa.field("redacted", pa.list_(_COUNT), nullable=False),  # see `redact.Counts`
        pa.field("excluded_by", pa.list_(pa.uint32()), nullable=False),  # entries of the list of excluded documents
    ]
)
FILES_FILE = "files.parquet"  # in `tokens/` made of text
VOCAB = pa.schema(
    [
        pa.field("id", pa.uint32(), nullable=False),
        pa.field("n", pa.uint8(), nullable=False),
        pa.field("tokens", _TOKEN_IDS, nullable=False),
        pa.field("count", pa.uint64(), nullable=False),
        pa.field("docs", pa.uint32(), nullable=False),
        pa.field("parent", pa.uint32()),  # id of the f-gram without its last token; null for bigrams
    ]
)
BASE_FILE = "base.json"  # in a model: the pretrained model that it adds rows to
DONOR_FILE = "donor.json"  # in a model: the pretrained model that reads its f-grams
VOCAB_FILE = "vocab.parquet"  # of a vocabulary, and of the f-grams of a table
LEARNED_FILE = (
    "learned-fgrams.parquet"  # in a model: the f-grams of its learned rows, in the order of the rows; as VOCAB
)
LADDER = pa.schema(
    [
        pa.field("size", pa.uint32(), nullable=False),  # f-grams
        pa.field("cutoff_count", pa.uint64(), nullable=False),  # occurrences of the rarest of them
        pa.field("matched", pa.float64()),  # share of held-out positions; null without held-out text
        pa.field("mean_match_length", pa.float64()),
        pa.field("fgrams", _EACH_N, nullable=False),
        pa.field("table_bytes", pa.uint64(), nullable=False),
        pa.field("chosen", pa.bool_(), nullable=False),
    ]
)
LOG = pa.schema(
    [
        pa.field("step", pa.uint32(), nullable=False),
        pa.field("tokens", pa.uint64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("gradient_norm", pa.float64(), nullable=False),
        pa.field("held_out_loss", pa.float64()),
        pa.field("trie_nodes", pa.uint64(), nullable=False),  # token-forwards of A_f-gram
        pa.field("fgrams", pa.uint64(), nullable=False),  # distinct f-grams among them, whose output was asked for
        pa.field("tokens_per_second", pa.float64(), nullable=False),  # of the step, without looks at held-out text
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)
RESULTS = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("stderr", pa.float64()),
        pa.field("n", pa.uint64(), nullable=False),
        pa.field("seconds", pa.float64()),
    ]
)


def counts_schema(n: int) -> pa.Schema:
    """Columns of `counts/n=<n>.parquet`: a row for each n-gram, by count descending, then tokens ascending."""
    tokens = pa.list_(pa.field("item", pa.uint32(), nullable=False), n)
    return pa.schema(
        [
            pa.field("tokens", tokens, nullable=False),
            pa.field("count", pa.uint64(), nullable=False),
            pa.field("docs", pa.uint32(), nullable=False),
        ]
    )


def table_schema(row_bytes: int) -> pa.Schema:
    """Columns of `table/rows-*.parquet`: the raw bytes of a row; row number = f-gram id."""
    return pa.schema([pa.field("embedding", pa.binary(row_bytes), nullable=False)])
