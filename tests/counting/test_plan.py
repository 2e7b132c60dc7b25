"""The plan: it keeps to the memory given, refuses too little, and its groups are all buckets once."""

from __future__ import annotations

import itertools
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from messages import refusal

from scone_cli.counting.plan import make_plan
from scone_cli.errors import BadSetting, StorageFailure
from scone_cli.runtime.resources import available_memory, check_disk

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize("memory", [512 * MIB, GIB, 4 * GIB])
@pytest.mark.parametrize("num_tokens", [0, 1000, 50_000_000, 10**12])
@pytest.mark.parametrize(("vocab_size", "max_n", "min_count"), [(32_768, 5, 5), (256_000, 8, 1)])
def test_a_plan_keeps_to_the_memory_given(memory, num_tokens, vocab_size, max_n, min_count):
    plan = make_plan(num_tokens, vocab_size, max_n, min_count, memory, 64, tokenising=True)
    assert plan.memory <= memory
    assert 1 <= plan.num_workers <= 64
    assert min(plan.block_tokens, plan.group_records, plan.piece_records, plan.merge_rows) >= 1


def test_a_small_corpus_needs_little_memory_however_much_there_is():
    plans = [make_plan(num_tokens, 32_768, 5, 5, 64 * GIB, 1, tokenising=True) for num_tokens in (0, 10**6, 10**8)]
    assert plans[0].memory <= plans[1].memory < GIB < plans[2].memory


def test_more_memory_is_used_for_more_workers():
    sizes = [512 * MIB, GIB, 4 * GIB, 64 * GIB]
    workers = [make_plan(10**9, 32_768, 5, 5, size, 64, tokenising=False).num_workers for size in sizes]
    assert workers == sorted(workers)
    assert workers[0] < workers[-1] == 64


def test_too_little_memory_is_refused_with_what_is_needed():
    with refusal(BadSetting, "--memory", "104,857,600", "counting", hint=("--memory",)) as caught:
        make_plan(1000, 32_768, 5, 5, 100 * MIB, 2, tokenising=True)
    least = re.search(r"--memory (\d+)MiB", caught.value.hint)[1]
    assert make_plan(1000, 32_768, 5, 5, int(least) * MIB, 2, tokenising=True).num_workers == 1


def test_groups_are_all_buckets_once_and_none_is_larger_than_it_must_be():
    plan = make_plan(10**9, 32_768, 5, 5, GIB, 2, tokenising=False)
    records = np.random.default_rng(0).integers(0, plan.group_records // 2, 1 << plan.bits)
    records[7] = 3 * plan.group_records
    groups = plan.groups(records)
    assert groups[0][0] == 0
    assert groups[-1][1] == len(records)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(groups))
    sizes = {group: int(records[slice(*group)].sum()) for group in groups}
    assert sizes.pop((7, 8)) == 3 * plan.group_records
    assert max(sizes.values()) <= plan.group_records


def test_what_is_found_has_room_too():
    plans = [make_plan(10**9, 32_768, 5, min_count, GIB, 1, tokenising=False) for min_count in (1, 2, 5, 100)]
    groups, disks = [plan.group_records for plan in plans], [plan.disk(10**9, with_tokens=False) for plan in plans]
    assert groups == sorted(groups)
    assert disks == sorted(disks, reverse=True)
    rows = sum(4 * n + 12 for n in range(2, 6))  # of a record of which all n-grams are found
    assert plans[0].group_records * (10 + 2 * rows) < plans[0].memory
    assert plans[0].disk(10**9, with_tokens=False) > 10**9 * (10 + rows)


def test_ids_that_no_memory_has_room_for_are_refused():
    with refusal(BadSetting, "--memory"):
        make_plan(1000, 1 << 32, 5, 5, 16 * GIB, 2, tokenising=False)


def test_too_little_disk_is_refused_with_what_is_needed(tmp_path, monkeypatch):
    plan = make_plan(1_000_000, 32_768, 5, 5, GIB, 2, tokenising=False)
    needed = plan.disk(1_000_000, with_tokens=True)
    assert needed > 1_000_000 * 12
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    check_disk(tmp_path, needed)
    with refusal(StorageFailure, f"{needed:,}", f"{needed + 1:,}", "disk", "counting"):
        check_disk(tmp_path, needed + 1)


def test_memory_that_is_free_is_a_part_of_the_machine():
    assert 64 * MIB < available_memory() < 1 << 50
