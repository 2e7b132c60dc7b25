"""Axes: all values are on them, and their numbers are round, even and told apart."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scone_cli.report.chart_axes import scale_of
from scone_cli.report.figures import Axis


def up_to(largest):
    return st.lists(st.floats(0.001, largest), min_size=1, max_size=5)


# Between round numbers only losses and the like are shown, which are small.
@given(st.tuples(up_to(1e7), st.sampled_from(["zero", "last"])) | st.tuples(up_to(900), st.just("round")))
@example(([7.63], "round"))
@example(([4.0, 4.0], "round"))
@example(([75.0, 221.0], "round"))
@example(([0.0], "zero"))
@example(([0.0], "last"))
@example(([0.0, 0.0], "round"))
def test_every_value_is_between_the_ends(case):
    values, ends = case
    scale = scale_of(Axis("x", "measure", ends=ends), values, 0, 100)
    assert all(-0.1 <= scale(value) <= 100.1 for value in values)
    ticks = scale.ticks()
    assert 4 <= len(ticks) <= 11
    places, texts = zip(*scale.labels("measure"), strict=True)
    assert len(set(texts)) == len(texts)
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert max(steps) - min(steps) < 0.3
    if ends == "round":
        assert (places[0], places[-1]) == (0, 100)


@pytest.mark.parametrize(
    ("axis", "values", "texts"),
    [
        (Axis("loss", "measure", ends="round"), [8.9, 4.2], "4 5 6 7 8 9"),
        (Axis("loss", "measure", ends="round"), [3.8, 7.6], "3.5 4.0 4.5 5.0 5.5 6.0 6.5 7.0 7.5 8.0"),
        (Axis("loss", "measure", ends="round"), [7.63], "7.59 7.60 7.61 7.62 7.63 7.64 7.65 7.66 7.67"),
        (Axis("rate", "measure"), [0.003], "0.0000 0.0005 0.0010 0.0015 0.0020 0.0025 0.0030"),
        (Axis("tokens", ends="last"), [6.1e6], "0 1M 2M 3M 4M 5M 6M"),
        (Axis("share", "share"), [0.6], "0% 20% 40% 60% 80% 100%"),
        (Axis("rank", log=True), [3, 2000], "1 10 100 1k"),
    ],
)
def test_numbers_beside_an_axis(axis, values, texts):
    assert [text for _, text in scale_of(axis, values, 0, 300).labels(axis.kind)] == texts.split()
