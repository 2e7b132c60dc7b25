"""Limits of control groups, read from a folder that stands for the root of the file system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scone_cli.runtime import cgroups, resources
from scone_cli.runtime.cgroups import cpu_limit, memory_left
from scone_cli.runtime.resources import usable_cores

V2_MOUNT = "29 23 0:26 {inside} {at} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
32 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"""


@pytest.fixture
def root(tmp_path):
    cgroups._groups.cache_clear()
    return tmp_path


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def v2(root: Path, path: str, inside: str = "/", at: str = "/sys/fs/cgroup") -> None:
    mounts = V2_MOUNT.format(inside=inside, at=at)
    write(
        root,
        {"proc/self/cgroup": f"0::{path}", "proc/self/mountinfo": f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mounts}"},
    )


def v1(root: Path, path: str, inside: str = "/") -> None:
    groups = f"4:memory:{path}\n3:cpu,cpuacct:{path}\n0::/"
    write(root, {"proc/self/cgroup": groups, "proc/self/mountinfo": V1_MOUNTS.format(inside=inside)})


def test_without_control_groups_nothing_is_limited(root):
    assert (cpu_limit(root), memory_left(root)) == (None, None)


@pytest.mark.parametrize(("level", "expected"), [("", 1.5), ("/job", 1.5), ("/job/step", 1.5)])
def test_a_limit_holds_at_every_level(root, level, expected):
    v2(root, "/job/step")
    group = "sys/fs/cgroup"
    write(root, {f"{group}/job/step/cpu.max": "max 100000", f"{group}/job/cpu.max": "max 100000"})
    write(root, {f"{group}{level}/cpu.max": "150000 100000"})
    assert cpu_limit(root) == expected


def test_the_tightest_level_counts(root):
    v2(root, "/job/step")
    write(root, {"sys/fs/cgroup/job/cpu.max": "200000 100000", "sys/fs/cgroup/job/step/cpu.max": "80000 20000"})
    write(root, {"sys/fs/cgroup/job/memory.max": 1000, "sys/fs/cgroup/job/memory.current": 900})
    write(root, {"sys/fs/cgroup/job/step/memory.max": 800, "sys/fs/cgroup/job/step/memory.current": 100})
    assert (cpu_limit(root), memory_left(root)) == (2, 100)


def test_pages_of_files_that_lie_idle_count_as_free(root):
    v2(root, "/")
    write(root, {"sys/fs/cgroup/memory.max": 1000, "sys/fs/cgroup/memory.current": 900})
    write(root, {"sys/fs/cgroup/memory.stat": "anon 300\ninactive_file 250\nactive_file 350"})
    assert memory_left(root) == 350


def test_version_1_writes_quota_and_period_apart(root):
    v1(root, "/user/job")
    cpu, memory = root / "sys/fs/cgroup/cpu,cpuacct", root / "sys/fs/cgroup/memory"
    write(cpu, {"user/job/cpu.cfs_quota_us": -1, "user/job/cpu.cfs_period_us": 100_000})
    write(cpu, {"user/cpu.cfs_quota_us": 300_000, "user/cpu.cfs_period_us": 100_000})
    write(memory, {"user/job/memory.limit_in_bytes": 9223372036854771712, "user/job/memory.usage_in_bytes": 5})
    assert (cpu_limit(root), memory_left(root)) == (3, None)
    write(memory, {"memory.limit_in_bytes": 700, "memory.usage_in_bytes": 300, "memory.stat": "total_inactive_file 50"})
    assert memory_left(root) == 450


@pytest.mark.parametrize("told", ["/docker/abc", "/", "/../../elsewhere"])
def test_in_a_container_the_mount_is_the_group(root, told):
    """Its path is told as the host sees it, or from the container's own root, or as from another one."""
    v1(root, told, inside="/docker/abc")
    cpu = root / "sys/fs/cgroup/cpu,cpuacct"
    write(cpu, {"cpu.cfs_quota_us": 50_000, "cpu.cfs_period_us": 100_000})
    assert cpu_limit(root) == 0.5


def test_both_versions_at_once_and_a_mount_with_a_blank(root):
    v1(root, "/")
    mounts = (root / "proc/self/mountinfo").read_text()
    v2_mount = V2_MOUNT.format(inside="/", at=r"/sys/fs/my\040groups")
    write(root, {"proc/self/mountinfo": mounts + v2_mount, "sys/fs/my groups/cpu.max": "100000 100000"})
    write(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 400_000})
    write(root, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100_000})
    assert cpu_limit(root) == 1


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0: {3, 5}}[pid], raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert usable_cores() == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert usable_cores() == 7
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64


@pytest.mark.parametrize(("share", "cores"), [(None, 8), (0.5, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_a_share_of_processor_time_counts_as_cores(monkeypatch, share, cores):
    monkeypatch.setattr(resources, "usable_cores", lambda: 8)
    monkeypatch.setattr(cgroups, "cpu_limit", lambda: share)
    assert resources.num_cores() == cores


@pytest.mark.parametrize(("left", "expected"), [(None, 1 << 30), (5000, 5000), (1 << 40, 1 << 30)])
def test_memory_that_is_free_is_what_the_groups_leave(monkeypatch, left, expected):
    monkeypatch.setattr(resources, "_meminfo_available", lambda: 1 << 30)
    monkeypatch.setattr(cgroups, "memory_left", lambda: left)
    assert resources.available_memory() == expected
