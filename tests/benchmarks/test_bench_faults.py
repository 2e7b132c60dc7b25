"""A short fault campaign; `benchmarks/bench_faults.py` runs the long one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT = """
import random, sys, time
from pathlib import Path
from bench_faults import Campaign
from fault_runs import import_all

import_all()
campaign = Campaign(Path(sys.argv[1]), random.Random(3), time.monotonic() + 300)
campaign.prepare()
campaign.kill(7)
campaign.others([step for step in campaign.steps if step.name == "rollback"])
campaign.finish()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and mounts disks of its own")
def test_a_short_campaign_loses_nothing(tmp_path):
    command = [sys.executable, "-c", SHORT, tmp_path]
    env = {**os.environ, "PYTHONPATH": f"{BENCHMARKS}:{BENCHMARKS.parent}"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "WRONG" not in ended.stdout
    killed = set(re.findall(r"^ +\d+ (\S.*?) +kill -9 after", ended.stdout, re.MULTILINE))
    assert len(killed) == 7  # every step of a night
    assert len(re.findall(r"fsync|clock|two at once|disk", ended.stdout)) > 7
