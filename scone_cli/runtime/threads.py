"""How many threads the libraries start, and how long these wait for work: told to them before they are loaded.

They read the environment when they are loaded, so the command line does this first. What the user has set stays, and a
program that imports the package is left alone.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from scone_cli.runtime.resources import num_cores, usable_cores

# Of torch, of numba, of polars, of the tokenizers.
_COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")

# Turns of a waiting thread of GNU OpenMP, which torch is built with, before it sleeps: some 20 microseconds, about what lies
# between two loops of a step. Its own choice, 300,000, is milliseconds: beside one other process it takes the core from the
# thread that is waited for. Tokens per second of a small training (width 64) with two threads on two cores: alone 7,800 to
# 9,300, by its own choice 9,000 to 9,500; beside one busy process 6,500, by its own choice 3,000.
_SPINS = "1000"


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Start as many threads as there are cores to use, and let them sleep soon; what is in the environment comes first."""
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = _SPINS
    if (cores := num_cores()) < usable_cores():  # a share of processor time, which the libraries do not see
        for name in _COUNTS:
            environment.setdefault(name, str(cores))
