"""The plan of a selection: in memory if it fits, or else block by block, or refused."""

import pytest
from messages import refusal

from scone_cli.errors import BadSetting
from scone_cli.vocab.index import NONE
from scone_cli.vocab.plan import make_plan

MIB, GIB = 1 << 20, 1 << 30


def plan(num_ngrams, num_fgrams, memory, by="count", num_tokens=50_000):
    return make_plan(num_ngrams, num_tokens, num_fgrams, by, memory, 10**6)


def test_what_fits_is_ranked_in_memory():
    assert plan(1_000_000, 1_000_000, GIB).block is None
    assert plan(10**9, 10**6, GIB).block is not None


@pytest.mark.parametrize("by", ["count", "prediction"])
@pytest.mark.parametrize("num_ngrams", [10**8, 10**10, 10**12])
def test_memory_is_kept_with_however_many_ngrams(num_ngrams, by):
    found = plan(num_ngrams, 10**6, GIB, by)
    assert 0 < found.block < 2**31
    assert found.memory <= GIB
    assert found.disk >= 4 * num_ngrams


def test_more_ngrams_than_ids_are_never_ranked_in_memory():
    most = NONE - 50_000
    assert plan(most, 10**6, 2**50).block is None
    assert plan(most + 1, 10**6, 2**50).block == 2**31  # rows of a block have 32 bits


def test_what_does_not_fit_is_refused_with_what_is_needed():
    with refusal(BadSetting, "--memory", "selecting 100,000,000 f-grams", hint=("--memory 11101MiB", "fewer f-grams")):
        plan(10**9, 10**8, 4 * GIB)
    with pytest.raises(BadSetting) as caught:
        plan(10**9, 10**6, 100 * MIB)
    named = int(caught.value.hint.split("--memory ")[1].split("MiB")[0])
    assert plan(10**9, 10**6, named * MIB).memory <= named * MIB


def test_a_size_that_is_found_later_is_checked_then():
    found = plan(10**9, 0, GIB)
    found.check_fgrams(1_000_000)
    with refusal(BadSetting, "--memory", "50,000,000 f-grams"):
        found.check_fgrams(50_000_000)
    plan(10**6, 0, GIB).check_fgrams(10**6)  # all in memory anyway
