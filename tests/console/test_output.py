"""Numbers, results and progress as a person or a log sees them."""

import io
import os
import re
import subprocess
import sys

import pytest
from messages import names
from rich.console import Console

from scone_cli.console import progress_bars
from scone_cli.console import results as tables
from scone_cli.console.progress_bars import PlainProgress
from scone_cli.errors import BadData
from scone_cli.formatting import label, named_value_text, narrow_value_text, with_same_decimals


def test_names_as_people_read_them():
    named = (
        "held_out_tokens",
        "resident_non_embedding_parameters",
        "fgrams",
        "ngrams",
        "n=2",
        "training_only_x",
        "training_loss",
    )
    texts = [
        "held-out tokens",
        "resident non-embedding parameters",
        "f-grams",
        "n-grams",
        "n=2",
        "training-only x",
        "training loss",
    ]
    assert list(map(label, named)) == texts


def test_nothing_is_cut_off_in_a_pipe():
    long = "x" * 500
    assert long in tables.result_text("heading", {"scalar": long, "table": [{"cell": long, "markup": "[red]"}]})
    assert "[red]" in tables.result_text("heading", {"table": [{"markup": "[red]"}]})


def test_a_narrow_table_shows_three_digits_and_is_not_folded():
    rows = [
        {"size": size, "share": share, "table bytes": size * 4096, "name": "abc"}
        for size, share in ((900, 0.5), (1234567, 0.125))
    ]
    lines = {}
    for width in (80, 40, 33):
        page = Console(file=io.StringIO(), width=width)
        page.print(tables._table(page, rows))
        lines[width] = [line.split() for line in page.file.getvalue().splitlines()]
    assert lines[80] == lines[40]
    assert lines[40][2:] == [["900", "0.500", "3.5", "MiB", "abc"], ["1,234,567", "0.125", "4.7", "GiB", "abc"]]
    assert lines[33][-2:] == [["900", "0.500", "3.5", "MiB", "abc"], ["1.23M", "0.125", "4.7", "GiB", "abc"]]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("n", 9_999, "9,999"),
        ("n", 10_000, "10k"),
        ("n", -123_456, "-123k"),
        ("n", 999_600, "1M"),
        ("n", 10**12, "1T"),
        ("x", 123456.789, "123457"),
        ("bytes", 131_600_000, "126 MiB"),
        ("bytes", 1_072_668_082, "1023 MiB"),
        ("bytes", 900, "900 B"),
        ("seconds", 12_345, "3:25:45"),
        ("is", True, "yes"),
    ],
)
def test_numbers_cut_short(key, value, text):
    assert narrow_value_text(key, value) == text


def test_a_column_has_the_same_decimals_unless_that_would_claim_digits():
    shown = ["0.317", "-0.26", "1", "-", "1e-05", "1,234.5", "123456"]
    assert with_same_decimals(shown) == ["0.317", "-0.260", "1.000", "-", "1e-05", "1,234.50", "123456"]
    assert with_same_decimals(["3", "-", "12,345"]) == ["3", "-", "12,345"]


def test_values_can_be_read():
    values = [("rows", 1_000_000), ("nats", 4.5723456), ("table_bytes", 2048), ("seconds", 1.5), ("stderr", None)]
    assert [named_value_text(*value) for value in values] == ["1,000,000", "4.57235", "2.0 KiB", "1.5 s", "-"]
    amounts = [("offloaded_bytes_ram", 2048), ("bytes of rows", 2048), ("bytes_per_token", 3.3), ("flops", 2.5e13)]
    assert [named_value_text(*amount) for amount in amounts] == ["2.0 KiB", "2.0 KiB", "3.3", "2.50e13"]
    assert [named_value_text("x", value) for value in (True, [1, 2], [], "a")] == ["yes", "1, 2", "none", "a"]


# ---- progress ----------------------------------------------------------------------------------------------------


def lines_of(capsys, what):
    """The lines on stderr, which are all about one piece of work."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"{what}: ") for line in lines)
    return lines


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_log_gets_a_line_at_start_and_end_and_every_30_seconds(capsys):
    clock = Clock()
    progress = PlainProgress(clock)
    for second in range(101):
        clock.now = float(second)
        progress("count", second * 2**20, 100 * 2**20, "bytes", "2-grams")
    first, *between, last = lines_of(capsys, "count")
    assert names(first, "100.0 MiB", "2-grams")
    assert not re.search(r"/s|\d s|:\d", first)
    for line, done, left in zip(between, (30, 60, 90), (70, 40, 10), strict=True):
        assert names(line, f"{done}.0 MiB", "100.0 MiB", "1.0 MiB/s", f"{left} s", "2-grams")
    assert names(last, "100.0 MiB", "1:40", "2-grams")
    assert "/s" not in last


def test_resumed_work_is_timed_from_where_it_went_on(capsys):
    clock = Clock()
    progress = PlainProgress(clock)
    for second, done in ((0, 900), (40, 940), (100, 1000)):
        clock.now = second
        progress("train", done, 1000, "steps")
    first, between, last = lines_of(capsys, "train")
    assert names(first, "1,000 steps", "900 steps")
    assert names(between, "940", "1,000 steps", "1 step/s", "60 s")
    assert names(last, "1,000 steps", "1:40")
    assert "900" not in last


def test_kernels_are_compiled_in_a_line_of_their_own_and_no_time_left_counts_that(capsys):
    clock = Clock()
    progress = PlainProgress(clock)
    progress("train", 0, 100, "tokens")
    for begins, seconds in ((True, 40), (False, 2), (True, 18), (False, 0)):  # kernel after kernel
        progress.compiles(begins)
        clock.now += seconds
    clock.now += 10
    progress("train", 20, 100, "tokens")
    clock.now += 50
    progress("train", 100, 100, "tokens")
    started, compiling, compiled, between, ended = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in (started, between, ended)] == ["train"] * 3
    assert compiling == f"{progress_bars.COMPILING}: started"
    assert compiled == f"{progress_bars.COMPILING}: done in 60 s"
    assert names(between, "20 of 100 tokens", "1.67 tokens/s", "48 s left"), "12 s were for the 20 tokens"
    assert names(ended, "2:00"), "what it took, all in all"
    for begins in (True, False):
        progress.compiles(begins)
    progress("write", 1, 1, "files")
    assert progress_bars.COMPILING not in capsys.readouterr().err, "it is told once"


def test_something_to_say_is_no_work(capsys):
    progress = PlainProgress()
    progress("plan", 0, 0, detail="2 processes")
    progress("hashing", 0, 0)
    plan, hashing = capsys.readouterr().err.splitlines()
    assert plan == "plan: 2 processes"
    assert hashing.startswith("hashing: ")
    assert names(hashing, "0", "0.0 s")
    assert list(progress.seconds) == ["hashing"]


def test_work_may_come_again_and_may_have_no_known_end(capsys):
    clock = Clock()
    progress = PlainProgress(clock)
    for _ in range(2):
        progress("look", 0, 2)
        clock.now += 3
        progress("look", 2, 2)
        progress("look", 2, 2)
    progress("read", 5, None, "documents")
    clock.now += 2
    progress("read", 8, None, "documents")
    clock.now += 100
    progress.close(failed=False)
    progress.close(failed=False)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["look"] * 4 + ["read"] * 2
    begun, ended = lines[:2]
    assert lines[2:4] == [begun, ended]
    assert names(begun, "2")
    assert names(ended, "2", "3.0 s")
    assert names(lines[4], "5 documents")
    assert names(lines[5], "8 documents", "2.0 s")
    assert progress.seconds == {"look": 6.0, "read": 2.0}


def test_what_failed_is_not_called_done(capsys):
    def fail() -> None:
        with progress_bars.listening(quiet=False, verbose=True) as progress:
            progress("read", 5)
            raise BadData("no")

    with pytest.raises(BadData):
        fail()
    (line,) = lines_of(capsys, "read")
    assert names(line, "5")
    assert not re.search(r"\d s\b", line), "no time, as it has not come to its end"


def test_a_lost_log_does_not_stop_the_work(monkeypatch):
    class FullDisk(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    progress = PlainProgress()
    progress("work", 0, 1)
    progress("work", 1, 1)
    assert progress.pieces["work"].ended is not None


def drawn_on_a_terminal(columns: int, reports: str) -> str:
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    code = (
        "from scone_cli.console import progress_bars\n"
        "progress_bars.BarProgress.interval = 0\n"
        "with progress_bars.listening(False, False) as progress:\n"
        f"    {reports}\n"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, env=environment)
    drawn = os.read(mine, 100_000).decode()
    os.close(mine)
    os.close(theirs)
    return drawn


def test_bars_are_drawn_on_a_terminal_only():
    drawn = drawn_on_a_terminal(100, "for i in range(11): progress('count', i, 10, 'rows')")
    assert "━" in drawn
    last = re.search(r"count: [^\n]*10 rows[^\n]*\d\.\d s", drawn)
    assert last
    assert "━" not in drawn[last.start() :], "a bar is left below the line that says it has ended"
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", drawn), "a colour in spite of NO_COLOR"


@pytest.mark.parametrize(("columns", "amount"), [(110, True), (80, False)])
def test_a_narrow_bar_does_not_say_what_it_shows_anyway(columns, amount):
    """So there is room for what only its note says."""
    report = "for i in (1, 2): progress('training', i, 9, 'tokens', 'loss 2.629, held-out 2.677, 0.5 GiB')"
    drawn = drawn_on_a_terminal(columns, report)
    assert bool(re.search(r"(?<![\d.])2 [^\n\d]*9 tokens", drawn)) == amount
    assert "held-out 2.677, 0.5 GiB" in drawn
