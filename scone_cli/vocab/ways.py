"""The two ways to rank and to make the ladder: in memory, or block by block with files on disk. They give the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scone_cli.artifacts.schemas import HELD_OUT
from scone_cli.corpus.token_stream import iter_shards
from scone_cli.progress import Progress
from scone_cli.vocab.count_files import count_files
from scone_cli.vocab.coverage import Ladder, count_ends
from scone_cli.vocab.disk_ladder import DiskLadder
from scone_cli.vocab.disk_ranking import DiskRanking
from scone_cli.vocab.vocabulary import Vocabulary


def ranked(
    counts: Path,
    limits: Mapping[str, int],
    num_tokens: int,
    by: str,
    block: int | None,
    scratch: Path,
    progress: Progress,
) -> tuple[Vocabulary | DiskRanking, int]:
    """Rank all n-grams within the limits, `block` at a time (None: in memory); also returns their number.

    Raises:
        BadSetting, DamagedArtifact: see `Vocabulary.rank` and `DiskRanking.of`.
    """
    progress("ranking", 0, None, "n-grams")
    ranking: Vocabulary | DiskRanking
    if block is None:
        ranking = Vocabulary.rank(counts, num_tokens=num_tokens, by=by, **limits)
        num_ngrams = ranking.trie.num_fgrams
    else:
        ranking = DiskRanking.of(count_files(counts, **limits), num_tokens, by, scratch, block, progress)
        num_ngrams = ranking.num_ngrams
    progress("ranking", num_ngrams, num_ngrams, "n-grams")
    return ranking, num_ngrams


def ladder_of(
    ranking: Vocabulary | DiskRanking, tokens: Path, block: int | None, scratch: Path, progress: Progress
) -> Ladder | DiskLadder:
    """Match the held-out text of `tokens` against the whole ranking, once for all sizes."""
    if isinstance(ranking, DiskRanking):
        return DiskLadder(ranking, tokens, scratch, block or ranking.num_ngrams, progress)
    what, done = "matching held-out text", 0
    progress(what, 0, None, "tokens")
    index, ends = ranking.trie.index(), np.zeros(ranking.trie.num_fgrams, np.int64)
    for _, shard in iter_shards(tokens, HELD_OUT):
        count_ends(index, shard.tokens, shard.starts, ends)
        done += shard.tokens.size
        progress(what, done, None, "tokens")
    progress(what, done, done, "tokens")
    return Ladder(ranking, ends, done)
