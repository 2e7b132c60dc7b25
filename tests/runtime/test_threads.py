"""What libraries are told of threads: nothing where the user has said it."""

from __future__ import annotations

import pytest

from scone_cli.runtime import threads
from scone_cli.runtime.threads import settle_threads

NAMES = {"OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"}


@pytest.fixture
def cores(monkeypatch):
    def are(given: int, usable: int) -> None:
        monkeypatch.setattr(threads, "num_cores", lambda: given)
        monkeypatch.setattr(threads, "usable_cores", lambda: usable)

    return are


def test_a_share_of_processor_time_limits_the_threads_of_all_libraries(cores):
    environment = {"POLARS_MAX_THREADS": "7"}
    cores(2, 64)
    settle_threads(environment)
    assert {name: environment[name] for name in NAMES} == dict.fromkeys(NAMES, "2") | {"POLARS_MAX_THREADS": "7"}


def test_without_a_share_the_libraries_count_cores_themselves(cores):
    environment: dict[str, str] = {}
    cores(8, 8)
    settle_threads(environment)
    assert environment.keys() == {"GOMP_SPINCOUNT"}
    assert 0 < int(environment["GOMP_SPINCOUNT"]) < 300_000


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "5"}])
def test_how_long_threads_wait_is_what_the_user_says(cores, said):
    environment = dict(said)
    cores(8, 8)
    settle_threads(environment)
    assert environment == said
