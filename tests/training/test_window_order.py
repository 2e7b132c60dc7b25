"""The order of the windows: epochs, shares, and that a position is all there is to know."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import names, refusal

from scone_cli.errors import BadSetting
from scone_cli.training.window_order import Turns, WindowOrder, parse_mixture

WEIGHTS = st.lists(st.integers(1, 12) | st.integers(1, 100_000), min_size=1, max_size=9)
SIZES = st.integers(1, 12)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Windows and weight of each sub-corpus, and a seed."""
    weights = draw(WEIGHTS)
    return draw(st.lists(SIZES, min_size=len(weights), max_size=len(weights))), weights, draw(SEEDS)


# ---- epochs ------------------------------------------------------------------------------------------------------


def slow_order(num_windows: int, seed: int) -> Iterator[int]:
    """The windows of a text that is not a mixture, epoch after epoch."""
    for epoch in itertools.count():
        yield from np.random.default_rng([seed, epoch]).permutation(num_windows).tolist()


@given(SIZES, SEEDS, st.integers(0, 50))
def test_one_text_is_shuffled_anew_in_every_epoch(num_windows, seed, count):
    expected = list(itertools.islice(slow_order(num_windows, seed), count))
    assert WindowOrder([num_windows], [1], seed).at(0, count).tolist() == expected


def test_the_order_stays_what_it_was():
    """The README's figures, and models that are trained again, are those of this order."""
    assert WindowOrder([7], [1], seed=0).at(5, 9).tolist() == [0, 1, 1, 3, 6, 0, 4, 2, 5]


@given(orders(), st.integers(1, 150))
def test_an_epoch_of_a_sub_corpus_is_each_of_its_windows_once(order, count):
    sizes, _, _ = order
    read = WindowOrder(*order).at(0, count)
    firsts = [0, *itertools.accumulate(sizes)]
    assert read.min() >= 0
    assert read.max() < firsts[-1]
    for first, size in zip(firsts, sizes, strict=False):
        own = (read[(read >= first) & (read < first + size)] - first).tolist()
        whole = len(own) // size * size
        assert all(sorted(own[at : at + size]) == list(range(size)) for at in range(0, whole, size))
        assert len(set(own[whole:])) == len(own) - whole


def test_epochs_and_sub_corpora_have_orders_of_their_own():
    read = WindowOrder([50, 50], [1, 1], seed=1).at(0, 200)
    epochs = [tuple(own[at : at + 50] % 50) for own in (read[read < 50], read[read >= 50]) for at in (0, 50)]
    assert len(set(epochs)) == 4


# ---- positions ---------------------------------------------------------------------------------------------------


@given(orders(), st.integers(0, 100), st.lists(st.integers(0, 30), max_size=6))
def test_a_position_reached_at_once_is_one_reached_by_walking(order, start, steps):
    """Batches of any size, also of one that goes on where another process was."""
    whole = WindowOrder(*order).at(0, start + sum(steps)).tolist()
    walking, at = WindowOrder(*order), start
    for count in steps:
        assert walking.at(at, count).tolist() == whole[at : at + count]
        assert WindowOrder(*order).at(at, count).tolist() == whole[at : at + count]
        at += count


def test_the_order_depends_on_the_seed():
    assert WindowOrder([99], [1], 1).at(0, 99).tolist() != WindowOrder([99], [1], 2).at(0, 99).tolist()


# ---- shares ------------------------------------------------------------------------------------------------------


def turns_of(weights: list[int], position: int, count: int) -> list[int]:
    """The sub-corpus of each position."""
    found = [-1] * count
    for number, _, places in Turns(weights).deal(position, count):
        for place in places.tolist():
            found[place] = number
    return found


def test_turns_worked_by_hand():
    """Of every three positions two are the first's: of 0, 1, 2, ... positions the second has p / 3, rounded."""
    assert turns_of([2, 1], 0, 9) == [0, 1, 0, 0, 1, 0, 0, 1, 0]
    assert turns_of([1], 7, 3) == [0, 0, 0]
    assert Counter(turns_of([1, 3, 4], 0, 16)) == {0: 2, 1: 6, 2: 8}


@given(WEIGHTS, st.integers(0, 2**50), st.integers(0, 200))
def test_every_share_holds_at_every_position(weights, position, count):
    turns = turns_of(weights, position, count)
    assert -1 not in turns
    before = Turns(weights).before(position)
    for at in range(count + 1):
        assert sum(before) == position + at
        for number, weight in enumerate(weights):
            assert abs(before[number] * sum(weights) - (position + at) * weight) < 2 * sum(weights)
        if at < count:
            before[turns[at]] += 1
    assert before == Turns(weights).before(position + count)


@given(WEIGHTS, st.integers(0, 2**40))
def test_shares_are_exact_again_and_again(weights, cycles):
    assert Turns(weights).before(cycles * sum(weights)) == [cycles * weight for weight in weights]


# ---- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("law=1", {"law": 1}),
        ("law=1,code=2", {"code": 2, "law": 1}),
        (" law = 0.5 , code=2", {"code": 4, "law": 1}),
        ("a=0.1,b=0.2,c=.7", {"a": 1, "b": 2, "c": 7}),
        ("a=100,b=50", {"a": 2, "b": 1}),
        ("a=1e3,.=1,x=y=2", {".": 1, "a": 1000, "x=y": 2}),
    ],
)
def test_mixtures(text, expected):
    mixture = parse_mixture(text)
    assert mixture == expected
    assert list(mixture) == sorted(mixture)  # the order in which they are named has no effect


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "''"),
        ("law", "'law'"),
        ("law=", "'law='"),
        ("=2", "'=2'"),
        ("law=1,", "''"),
        ("law=0", "'law=0'"),
        ("law=-1", "'law=-1'"),
        ("law=nan", "'law=nan'"),
        ("law=1e999999999", "'law=1e999999999'"),
        ("law=1e-999999999", "'law=1e-999999999'"),
        ("law=1/2", "'law=1/2'"),
        ("law=1,code=1,law=2", "'law'"),
        ("law=1,code=1e9,books=1e10", None),
        ("law=0.1234567890123,code=1", "digits"),
    ],
)
def test_mixtures_that_are_none(text, says):
    with refusal(BadSetting, "--mixture") as caught:
        parse_mixture(text)
    after = caught.value.message.removeprefix(f"--mixture {text}:")
    assert after != caught.value.message
    assert names(after, says) if says else re.search(r"\w", after)
    assert caught.value.hint
