"""Read the CPU and memory limits of this process's control groups: of a container, of systemd, of a batch system (Slurm).

A limit may stand at any level from the process's own group upwards; the smallest counts. Version 2 has one tree of groups,
version 1 a tree for each controller, and a machine may have both. Without control groups (macOS) there is no limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path("/")


def cpu_limit(root: Path = ROOT) -> float | None:
    """The CPU limit of this process in cores, such as 1.5; None without a limit."""
    quotas = [_numbers(folder / "cpu.max") for folder in _groups("", root)]  # quota and period, or `max` and period
    quotas += [
        _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        for folder in _groups("cpu", root)
    ]
    return min((pair[0] / pair[1] for pair in quotas if len(pair) == 2 and min(pair) > 0), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """The bytes that this process may still allocate under its memory limit; None without a limit.

    The pages of files that were not used for a while count as free: the system takes them back first.
    """
    files = [(folder, "memory.max", "memory.current", "inactive_file") for folder in _groups("", root)]
    files += [
        (folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in _groups("memory", root)
    ]
    left = list[int]()
    for folder, most, used, old in files:
        limit, usage = _numbers(folder / most), _numbers(folder / used)
        if limit and usage and limit[0] < 1 << 60:  # version 1 writes almost 2**63 for no limit
            left.append(max(0, limit[0] - usage[0] + _stat(folder / "memory.stat", old)))
    return min(left, default=None)


@cache  # the table of mounts is long on a machine with many containers
def _groups(controller: str, root: Path) -> tuple[Path, ...]:
    """The folders of this process's group and of its parents, in the tree of a controller ('' for the tree of version 2)."""
    paths = dict[str, str]()
    for line in _lines(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    for line in _lines(root / "proc/self/mountinfo"):
        if " - cgroup" not in line or controller not in paths:
            continue
        place, _, rest = line.partition(" - ")
        inside, mounted = (_unescaped(field) for field in place.split(" ")[3:5])
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup" and controller in options.split(",") if controller else kind == "cgroup2":
            top, path = root / mounted.lstrip("/"), paths[controller]
            # In a container the mount may begin at its own group, or the path may be as seen from outside.
            stem = inside.rstrip("/")
            below = path[len(stem) :] if f"{path}/".startswith(f"{stem}/") else ""
            own = top / below.strip("/") if ".." not in below else top
            return tuple(folder for folder in (own, *own.parents) if folder.is_relative_to(top))
    return ()


def _unescaped(field: str) -> str:
    r"""A field of the table of mounts, in which a blank is written \040."""
    return field.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\134", "\\")


def _lines(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from path.read_text(errors="replace").splitlines()


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a file of one line; other words (`max`) are left out."""
    words = [word for line in _lines(path) for word in line.split()]
    return [int(word) for word in words if word.removeprefix("-").isdecimal()]


def _stat(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[0] == name), 0)
