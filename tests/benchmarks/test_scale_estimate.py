"""The estimate of a trillion tokens: its arithmetic by hand, and that the page shows what the script prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))  # after tests/: it has a `processes` too

import scale_estimate  # noqa: E402

from scone_cli.counting.plan import record_layout  # noqa: E402

PAGE = ROOT / "docs" / "scale.md"


def test_the_page_shows_what_the_script_prints():
    assert scale_estimate.table() in PAGE.read_text(encoding="utf-8")


def test_steps_by_hand():
    steps = {step.name: step for step in scale_estimate.steps()}
    dtype, width = record_layout(1 << 16, scale_estimate.MAX_N)  # beyond 65k token ids
    assert width * dtype.itemsize == 20
    dtype, width = record_layout(50_257, scale_estimate.MAX_N)
    assert width * dtype.itemsize == scale_estimate.RECORD_BYTES
    deal = steps["deal"]
    assert (deal.written, deal.shuffled(1), deal.shuffled(10)) == pytest.approx((12e12, 0, 10.8e12))
    assert deal.seconds(1) == (6000.0, "writing")  # 12 TB at 2 GB/s
    assert deal.seconds(10) == (600.0, "writing")
    assert steps["tokenise"].seconds(10) == (pytest.approx(1e12 * 131e-9 / 32 / 10), "cores")
    assert steps["select"].seconds(100) == steps["select"].seconds(1) == (pytest.approx(1400), "1 core")
    precompute = steps["precompute"]
    assert precompute.written == 1e9 * 2048 * 2
    block = 4 * 2048**2 + 3 * 2048 * 5464  # attention, SwiGLU
    assert precompute.flops == 1e9 * 24 * (2 * block + 4 * 5 * 2048)
    assert precompute.dollars(1) == pytest.approx(precompute.seconds(1)[0] / 3600 * 24)
