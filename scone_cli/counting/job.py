"""What all tasks of one count share: the settings, and the names of the files between the tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scone_cli.arrays import I64
from scone_cli.counting.merge import appearing
from scone_cli.counting.plan import CountingPlan


@dataclass(frozen=True)
class CountingJob:
    """The settings that all tasks of one count share.

    Attributes:
        scratch: the folder of intermediate files.
        num_tokens: size of the token vocabulary.
        excluded: token ids that no n-gram may contain.
        max_n: the largest length; n-grams of 2..max_n tokens are counted.
        min_count, min_docs: an n-gram is frequent with at least so many occurrences and documents.
        plan: how the work is divided; no result depends on it.
        lasting: whether files are on the disk before they appear; see `engine.Pool`.
    """

    scratch: Path
    num_tokens: int
    excluded: tuple[int, ...]
    max_n: int
    min_count: int
    min_docs: int
    plan: CountingPlan
    lasting: bool

    @classmethod
    def begin(
        cls,
        scratch: Path,
        num_tokens: int,
        excluded: Sequence[int],
        max_n: int,
        min_count: int,
        min_docs: int,
        plan: CountingPlan,
        lasting: bool,
    ) -> CountingJob:
        """Begin a job, or continue an interrupted one, with its number of buckets: the records on disk are in these buckets."""
        note = scratch / "bits"
        if not note.exists():
            with appearing(note, lasting) as file:
                file.write(str(plan.bits).encode())
        plan = dataclasses.replace(plan, bits=int(note.read_bytes()))
        return cls(scratch, num_tokens, tuple(excluded), max_n, min_count, min_docs, plan, lasting)

    # ---- the files between the tasks -----------------------------------------------------------------------------

    def dealt(self, name: str) -> Path:
        """The file written last for a dealt shard: offsets of its blocks, counts and documents of single tokens, seconds."""
        return self.scratch / f"{name}.dealt"

    def records(self, name: str, block: int) -> Path:
        """The records of a block of a shard."""
        return self.scratch / f"{name}.{block}.records"

    def run(self, group: tuple[int, int], n: int) -> Path:
        """The frequent n-grams of one length in a group of buckets, sorted."""
        first, last = group
        return self.scratch / f"run-{first}-{last}.n={n}"

    def parts(self, group: tuple[int, int]) -> Path:
        """The folder of the runs of a group that was counted in parts."""
        return self.scratch / f"run-{group[0]}-{group[1]}.parts"

    def runs(self, group: tuple[int, int], n: int) -> list[Path]:
        """The runs of a group: one, which is empty and has more beside it if the group was counted in parts."""
        return [self.run(group, n), *sorted(self.parts(group).glob(f"*.n={n}"))]

    def offsets(self, name: str, first: int, last: int) -> I64:
        """Where each bucket from `first` to `last` begins in each block of a shard: [blocks, last - first + 1]."""
        all_offsets = np.load(self.dealt(name), mmap_mode="r")  # mapped: those of all shards would not fit in memory
        return np.array(all_offsets[:, first : last + 1])
