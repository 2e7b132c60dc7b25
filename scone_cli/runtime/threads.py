"""Set the number of threads of torch, numba, polars and tokenizers, and how long idle threads spin.

These libraries read the environment when they are imported, so the command line calls this first. Variables that the user
has set stay. A program that imports the package is not affected.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from scone_cli.runtime.resources import num_cores, usable_cores

# The variables of torch, numba, polars and tokenizers.
_COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")

# How often a waiting thread of GNU OpenMP, which torch is built with, checks for work before it sleeps. 1,000 checks take
# some 20 microseconds, about the time between two loops of a step. The default, 300,000, takes milliseconds: beside another
# busy process the waiting thread then takes the core from the thread that it waits for. Tokens per second of a small training
# (width 64), two threads on two cores: alone 7,800 to 9,300, with the default 9,000 to 9,500; beside one busy process 6,500,
# with the default 3,000.
_SPINS = "1000"


def settle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set as many threads as there are cores to use, and let idle ones sleep soon; variables already set are kept."""
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        environment["GOMP_SPINCOUNT"] = _SPINS
    if (cores := num_cores()) < usable_cores():  # a CPU limit, which the libraries do not see
        for name in _COUNTS:
            environment.setdefault(name, str(cores))
