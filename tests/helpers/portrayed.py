"""A tiny workspace of real text, for tests of what is shown of counts and vocabularies."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from builders import Fgram, slow_counts, slow_ranking, trie_of, write_counts, write_part

from scone_cli.artifacts.manifest import Manifest
from scone_cli.artifacts.publish import publish, staging_folder, write_parquet
from scone_cli.artifacts.schemas import HELD_OUT, LADDER, TRAIN, counts_schema
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.vocab.vocabulary import Vocabulary

MAX_N, MIN_COUNT, SIZE = 4, 2, 60
SEEN = [
    "the cat sat on the mat and the dog sat on the log. " * 3,
    "<script>alert('x') & more</script> " * 8 + "\n",
    "\x1b[31mred\x1b[0m \x1b[31mred\x1b[0m a·b a·b ",
    "caf\u00e9 \U0001f642 caf\u00e9 \U0001f642 \U0001f643 the cat and the dog",
    "x",
]
HELD = [
    "the dog sat on the mat. the zebra sat on a log, and the dog sat on the cat",
    "q",
    "caf\u00e9 \U0001f642 <script>alert('x') zzz",
]


class Portrayed:
    """The workspace `folder`, and what it was made of: documents as tokens, and f-grams in the order of their ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = train_tokenizer(iter(SEEN), 330)
        self.tokenizer = Tokenizer(content, "tokenizer.json")
        self.seen, self.held = ([t.tolist() for t in self.tokenizer.encode_batch(texts)] for texts in (SEEN, HELD))
        self.fgrams: list[Fgram] = slow_ranking(self.seen, MAX_N, SIZE, MIN_COUNT)
        self.num_tokens = self.tokenizer.vocab_size
        tokens = staging_folder(folder / "tokens", "1" * 64)
        (tokens / "tokenizer.json").write_bytes(content)
        splits = [TRAIN] * len(self.seen) + [HELD_OUT] * len(self.held)
        write_part(tokens, 0, self.seen + self.held, splits)
        self.publish("tokens", "1", {}, {})
        counts = staging_folder(folder / "counts", "2" * 64)
        write_counts(counts, self.seen, MAX_N, MIN_COUNT)
        write_token_counts(counts / "n=1.parquet", self.seen)
        self.publish("counts", "2", {"max_n": MAX_N, "min_count": MIN_COUNT}, {"tokens": "1" * 64})
        self.write_vocabulary(staging_folder(folder / "vocab", "3" * 64))
        inputs = {"tokens": "1" * 64, "counts": "2" * 64}
        self.publish("vocab", "3", {"max_n": MAX_N, "num_tokens": self.num_tokens}, inputs)

    def publish(self, kind: str, digit: str, settings: dict[str, object], inputs: dict[str, str]) -> None:
        target, summary = self.folder / kind, {"vocab_size": self.num_tokens}
        manifest = Manifest(kind, 1, "stage", 1, digit * 64, settings, inputs, self.tokenizer.sha256, summary)
        publish(staging_folder(target, digit * 64), target, manifest)

    def write_vocabulary(self, folder: Path) -> None:
        found = [slow_counts(self.seen, len(fgram), 1)[fgram] for fgram in self.fgrams]
        counts = np.array([count for count, _ in found], np.uint64)
        docs = np.array([docs for _, docs in found], np.uint32)
        Vocabulary(trie_of(self.fgrams, self.num_tokens, MAX_N), counts, docs).write(folder / "vocab.parquet")
        rungs = [
            {"size": size, "cutoff_count": int(counts[size - 1]), "matched": size / 100, "mean_match_length": 2.0}
            | {"fgrams": [size, 0, 0], "table_bytes": size << 20, "chosen": size == SIZE}
            for size in (30, SIZE)
        ]
        write_parquet(folder / "ladder.parquet", LADDER, pa.Table.from_pylist(rungs, LADDER))


def write_token_counts(path: Path, documents: list[list[int]]) -> None:
    """Write `counts/n=1.parquet`."""
    counts = Counter(token for document in documents for token in document)
    docs = Counter(token for document in documents for token in set(document))
    rows = [
        {"tokens": [token], "count": count, "docs": docs[token]}
        for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    write_parquet(path, counts_schema(1), pa.Table.from_pylist(rows, counts_schema(1)))
