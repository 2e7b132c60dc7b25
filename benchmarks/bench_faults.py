"""Fault campaign: kill -9 at random moments of the stages of a night, and disks, clocks and second runs that get in the way.

    python benchmarks/bench_faults.py                      # 200 kills, about 20 minutes
    python benchmarks/bench_faults.py --kills 10 --seed 1  # a short one

A small workspace is made, trained and published; then its corpus grows, and every step of a night is repeated again and
again: count, select, train, precompute, evaluate, publish, roll back. Kills are spread over the steps by their run time, and
over the run time of each by chance. After each fault every byte of every artifact and version is compared with its
manifest: it must be the old one or the new one. Then the same command runs again, and must end in the bytes of a run
without a fault, with nothing left over. One line for each fault names the work that it hit. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_runs import (
    Ended,
    copy,
    failing_fsync,
    import_all,
    in_own_mounts,
    left_over,
    resize,
    run,
    small_disk,
    start,
    state_of,
    wait_for,
)
from measuring import finish

from scone_cli.artifacts import publish_version
from scone_cli.artifacts.registry import versions
from scone_cli.errors import SconeError

SHAPE = "--dim 16 --heads 1 --layers 1 --fgram-layers 1 --context 32 --batch 4 --eval-tokens 500 --checkpoint-every 10"
_LEAST = 10  # kills of a step
_MANY = 1 << 40  # bytes: room enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="[200]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--minutes", type=float, default=30, help="no fault begins later than this [30]")
    chosen = parser.parse_args()
    import_all()
    for name in [name for name in os.environ if name.startswith("SCONE_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), random.Random(chosen.seed), time.monotonic() + 60 * chosen.minutes)
        campaign.prepare()
        campaign.kill(chosen.kills)
        campaign.others(campaign.steps)
        campaign.finish()


@dataclass
class Step:
    """One command of a night: its name and arguments, the folder before it and after it, and its seconds."""

    name: str
    args: list[str]
    before: Path
    after: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Campaign:
    """All faults, and what came of them: `lost` lists what is wrong."""

    def __init__(self, folder: Path, chance: random.Random, deadline: float) -> None:
        self.folder, self.chance, self.deadline = folder, chance, deadline
        self.place, self.log = folder / "place", folder / "log"  # every run works in the same place
        self.steps: list[Step] = []
        self.number, self.skipped = 0, 0
        self.hit: Counter[str] = Counter()
        self.phases: dict[str, Counter[str]] = {}
        self.wrong: list[str] = []

    # ---- the night without faults --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the workspace, publish two versions, and run every step once; keep the folder before each."""
        work, name = self.place / "work", str(self.place / "registry" / "name")
        tokenizer, grown = str(self.folder / "tokenizer.json"), str(self.folder / "grown")
        write_corpus(self.folder / "corpus", 120)
        write_corpus(self.folder / "grown", 160)
        count = ["--held-out", "0.1", "--max-n", "4", "--min-count", "3"]
        train = ["train-fgram", *SHAPE.split(), "--steps", "60", "--learned-rows", "500"]
        publish = ["publish", "--to", name, "--keep", "3"]
        self.must("count-ngrams", str(self.folder / "corpus"), *count, "--vocab-size", "600")
        shutil.copyfile(work / "tokens" / "tokenizer.json", tokenizer)
        for args in (
            ["count-ngrams", str(self.folder / "corpus"), *count, "--tokenizer", tokenizer],
            ["select-vocab", "--size", "20k"],
            train,
            ["precompute", "--dtype", "int8"],
            ["eval", "--no-speed"],
            publish,
            ["precompute"],
            ["eval", "--no-speed"],
            publish,
        ):
            self.must(*args)
        # Named, because `rollback` alone goes back once more.
        first = versions(self.place / "registry" / "name")[0].name
        for step, *args in (
            ["count-ngrams", "count-ngrams", grown, *count, "--tokenizer", tokenizer],
            ["select-vocab", "select-vocab", "--size", "25k"],
            ["precompute --vocab", "precompute", "--vocab", str(work / "vocab")],
            ["eval", "eval", "--no-speed", "--table", f"current={name}/current/table"],
            ["publish", *publish],
            ["rollback", "rollback", name, first],
            ["train-fgram", *train, "--seed", "1"],
        ):
            before = copy(self.place, self.folder / f"before-{len(self.steps)}")
            ended = self.must(*args)
            self.steps.append(Step(step, args, before, state_of(self.place), ended.seconds))
            print(f"{step:20} {ended.seconds:6.2f} s without a fault", flush=True)

    def must(self, *args: str) -> Ended:
        """Run a command that must work."""
        ended = self.run(list(args))
        if ended.code:
            sys.exit(f"scone {' '.join(args)} ended with {ended.code}:\n{ended.said}")
        return ended

    def run(self, args: list[str], **options: float | Callable[[], None] | None) -> Ended:
        return run(["--workspace", str(self.place / "work"), *args], self.log, **options)  # type: ignore[arg-type]

    # ---- faults --------------------------------------------------------------------------------------------------

    def kill(self, kills: int) -> None:
        """Kill steps, spread by their run time: the command alone, and with its workers, in turn."""
        total = sum(step.seconds for step in self.steps)
        spare = max(0, kills - _LEAST * len(self.steps))
        for step in self.steps:
            least = min(_LEAST, kills // len(self.steps))
            for number in range(least + round(spare * step.seconds / total)):
                after = self.chance.uniform(0, step.seconds)
                copy(step.before, self.place)
                ended = self.run(step.args, kill_after=after, with_workers=bool(number % 2))
                self.judge(step, f"kill -9 after {after:.2f} s", ended, {-9, 0})

    def others(self, steps: list[Step]) -> None:
        """For each step: full and read-only disks, an fsync that fails, a clock that was set back, two runs at once."""
        for step in steps:
            self.in_small_disk(step)
            for number in (1, 3, 8):
                copy(step.before, self.place)
                ended = self.run(step.args, prepare=failing_fsync(number))
                self.judge(step, f"fsync {number} fails", ended, {0, 74})
            copy(step.before, self.place)
            years_ahead(self.place)
            ended = self.run(step.args, prepare=clock_of_last_year)
            self.judge(step, "clock set back a year", ended, {0})
            self.twice(step)

    def judge(self, step: Step, fault: str, ended: Ended, codes: set[int]) -> None:
        """Check what is there after a fault, run the same command again, check again, and print a line."""
        if time.monotonic() > self.deadline:
            self.skipped += 1
            return
        problems = [] if ended.code in codes else [f"exit code {ended.code}, expected {sorted(codes)}"]
        problems += [] if "Traceback" not in ended.said else ["a traceback"]
        problems += self.compare(step, either=True)
        again = self.run(step.args)
        problems += [f"again: exit code {again.code}"] if again.code else []
        problems += [f"again: {problem}" for problem in self.compare(step, either=False)]
        problems += [f"left over: {name}" for name in left_over(self.place)]
        self.tell(step, fault, ended.phase, problems, again)

    def compare(self, step: Step, either: bool) -> list[str]:
        """What is wrong with the artifacts and versions: each must be the new one, or with `either` perhaps the old one."""
        try:
            found = state_of(self.place)
        except SconeError as error:
            return [error.message]
        before = state_of(step.before) if either else {}
        return [
            f"{name}: {'lost' if name not in found else 'other bytes'}"
            for name in step.after | found
            if found.get(name) != step.after.get(name) and not (either and found.get(name) == before.get(name))
        ]

    def tell(self, step: Step, fault: str, phase: str, problems: list[str], again: Ended) -> None:
        self.number += 1
        self.hit[f"{step.name}: {fault.split(' after', maxsplit=1)[0]}"] += 1
        self.phases.setdefault(step.name, Counter())[phase] += 1
        said = "ok" if not problems else "WRONG: " + "; ".join(problems)
        print(
            f"{self.number:4} {step.name:20} {fault:24} in {phase:34} again {again.seconds:5.2f} s  {said}", flush=True
        )
        self.wrong += [f"{step.name}, {fault}, in {phase}: {problem}" for problem in problems]
        if problems:
            print(again.said, flush=True)

    def in_small_disk(self, step: Step) -> None:
        """The step on a disk that is full after some bytes, and on one that cannot be written to; then on a good one."""

        def work() -> str:
            needed = sum(path.stat().st_size for path in step.before.rglob("*") if path.is_file())
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir()
            small_disk(self.place, _MANY)
            shutil.copytree(step.before, self.place, symlinks=True, dirs_exist_ok=True)
            taken = shutil.disk_usage(self.place).used
            for kilobytes in (0, 64, 512):
                resize(self.place, max(taken, needed) + (kilobytes << 10))
                ended = self.run(step.args)
                resize(self.place, _MANY)
                self.judge(step, f"disk full after {kilobytes} KiB", ended, {0, 74})
                copy_into(step.before, self.place)
            resize(self.place, _MANY, read_only=True)
            ended = self.run(step.args)
            resize(self.place, _MANY)
            self.judge(step, "read-only disk", ended, {74})
            return f"{self.number} {self.skipped} " + "\n".join(self.wrong)

        said = in_own_mounts(work)
        number, _, rest = said.partition(" ")
        if not number.isdigit():
            print(f"{step.name}: full and read-only disks {said}", flush=True)
            self.hit[f"{step.name}: disk not tried"] += 1
            return
        tried, self.number = int(number) - self.number, int(number)
        skipped, _, wrong = rest.partition(" ")
        self.skipped, self.wrong = int(skipped), wrong.splitlines()
        self.hit[f"{step.name}: full or read-only disk"] += tried
        shutil.rmtree(self.place, ignore_errors=True)

    def twice(self, step: Step) -> None:
        """Two runs at once: one does the work, the other is told to come again, or finds it done."""
        copy(step.before, self.place)
        other, started = self.folder / "log of the other", time.perf_counter()
        other.unlink(missing_ok=True)
        args = ["--workspace", str(self.place / "work"), *step.args]
        child = start(args, other)
        ended = self.run(step.args)
        second = wait_for(child, other, started)
        codes = sorted((ended.code, second.code))
        fine = Ended(0 if codes in ([0, 0], [0, 75]) else max(codes), ended.seconds, ended.said + second.said)
        self.judge(step, "two at once", fine, {0})

    def finish(self) -> None:
        """Print what was hit, and all that was wrong."""
        kills = sum(number for what, number in self.hit.items() if "kill" in what)
        for step, phases in self.phases.items():
            print(f"{step}: " + ", ".join(f"{phase} {number}" for phase, number in phases.most_common()))
        finish(
            "does a fault at any moment lose or half publish anything, and does the same command end in the same bytes",
            self.folder,
            faults=self.number,
            kills=kills,
            not_tried_for_lack_of_time=self.skipped,
            wrong=len(self.wrong),
            by_kind=dict(sorted(self.hit.items())),
        )
        if self.wrong:
            sys.exit("\n".join(self.wrong))


def write_corpus(folder: Path, documents: int) -> None:
    """Documents of words drawn by chance; the first ones are the same in a larger corpus."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(2000)]
    folder.mkdir()
    for number in range(documents):
        text = " ".join(words[min(int(chance.paretovariate(0.5)), 1999)] for _ in range(2000))
        (folder / f"{number}.txt").write_text(text)


def years_ahead(folder: Path) -> None:
    """Let all files be from the future, as after a clock was set back."""
    later = time.time() + 3 * 365 * 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (later, later), follow_symlinks=False)


def clock_of_last_year() -> None:
    """In a process: its clock is a year slow."""

    class Slow(publish_version.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return super().now(tz).replace(year=2000)

    publish_version.datetime = Slow  # type: ignore[misc]
    now = time.time
    time.time = lambda: now() - 365 * 86400


def copy_into(source: Path, to: Path) -> None:
    """Replace what is in a folder, which may be a mounted disk."""
    for path in to.iterdir():
        shutil.rmtree(path)
    shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
