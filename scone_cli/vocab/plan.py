"""Plans a selection before it begins: in memory if all counted n-grams fit, or else block by block with files on disk.

No result depends on a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from scone_cli.errors import BadSetting
from scone_cli.formatting import bytes_text, count_text
from scone_cli.runtime.resources import MIB
from scone_cli.vocab import disk_ladder, disk_scores
from scone_cli.vocab.disk_ranking import SCORES
from scone_cli.vocab.index import NONE

# In bytes, measured on 8.0M n-grams of law and literature, with some room.
_PROCESS = 330 * MIB  # with almost no n-grams
_RANKED = 80  # an n-gram that is ranked in memory, and matched with the held-out text
_WRITTEN = 40  # on top, an n-gram that becomes an f-gram
_READING = 280 * MIB  # a row group of counts, a part of `tokens/`, and the digits of keys
_KEPT = 110  # an f-gram that is ranked, linked with its prefix and written
_IN_BLOCK = 80  # an n-gram of a block: its tokens, count, documents, and its places in a hash table
_SMALLEST_BLOCK = 1 << 18
_LARGEST_BLOCK = 1 << 31  # rows of a block have 32 bits
_ON_DISK = 16  # an f-gram in the vocabulary


@dataclass(frozen=True)
class SelectionPlan:
    """How n-grams are ranked, and the memory and disk it takes.

    Attributes:
        block: n-grams in memory at a time, or None if all are.
        memory: estimated peak, in bytes.
        disk: bytes of the vocabulary and of temporary files.
        limit: the memory limit, in bytes.
    """

    block: int | None
    memory: int
    disk: int
    limit: int

    def described(self, num_ngrams: int) -> str:
        """The plan as one line of text."""
        way = (
            "all in memory" if self.block is None else f"{count_text(min(self.block, num_ngrams))} in memory at a time"
        )
        takes = f"{bytes_text(self.memory)} of memory and {bytes_text(self.disk)} of disk"
        return f"up to {count_text(num_ngrams)} n-grams, {takes}; {way}"

    def check_fgrams(self, num_fgrams: int) -> None:
        """Refuse a vocabulary that cannot be ranked in memory, when its size is known.

        Raises:
            BadSetting: the memory is too small.
        """
        if self.block is not None:
            _check(self.limit, num_fgrams)


def make_plan(
    num_ngrams: int, num_tokens: int, num_fgrams: int, by: str, memory: int, held_out_tokens: int
) -> SelectionPlan:
    """Plan to rank `num_ngrams` n-grams and to keep `num_fgrams` of them (0: not known yet) within `memory` bytes.

    Raises:
        BadSetting: `memory` is too small for every way.
    """
    needed = _PROCESS + _RANKED * num_ngrams + _WRITTEN * (num_fgrams or num_ngrams)
    disk = _ON_DISK * (num_fgrams or num_ngrams)
    if needed <= memory and num_tokens + num_ngrams <= NONE:
        return SelectionPlan(None, needed, disk, memory)
    _check(memory, num_fgrams)
    block = min(num_ngrams, _LARGEST_BLOCK, (memory - _PROCESS - _READING) // _IN_BLOCK)
    used = _PROCESS + _READING + max(_IN_BLOCK * block, _KEPT * num_fgrams)
    scratch = num_ngrams * (disk_ladder.SCRATCH_BYTES + (disk_scores.SCRATCH_BYTES if SCORES[by] else 0))
    of_text = disk_ladder.TEXT_BYTES * held_out_tokens
    return SelectionPlan(block, used, disk + scratch + of_text, memory)


def _check(memory: int, num_fgrams: int) -> None:
    least = _PROCESS + _READING + max(_IN_BLOCK * _SMALLEST_BLOCK, _KEPT * num_fgrams)
    if memory < least:
        what = f"selecting {num_fgrams:,} f-grams" if num_fgrams else "selecting f-grams"
        raise BadSetting(
            f"--memory: {memory:,} bytes, {what} needs at least {least:,}",
            f"give --memory {least // MIB + 1}MiB or more" + (", or fewer f-grams" if num_fgrams else ""),
        )
