"""Conditions to fail by: what they mean, and everything that they refuse."""

import re

import pytest
from messages import is_named, names, refusal

from scone_cli.errors import BadSetting
from scone_cli.evaluation.fail_if import METRICS, parse

ARMS = ["plain-1x", "plain-1x.5", "live", "table", "table:int8", "none"]
VALUES = {
    ("table", "perplexity", "wiki"): 20.0,
    ("live", "perplexity", "wiki"): 10.0,
    ("table:int8", "perplexity", "wiki"): 21.0,
    ("plain-1x", "perplexity", "wiki"): 40.0,
    ("plain-1x.5", "perplexity", "wiki"): 30.0,
    ("table", "perplexity", "law"): 5.0,
    ("table", "perplexity", "law/a b"): 4.0,
    ("table", "bits_per_byte", "wiki"): None,
    ("table", "hit_rate", "wiki"): 0.5,
}


def checked(text, corpora=("wiki",)):
    return parse(text, ARMS).check(VALUES, corpora)


@pytest.mark.parametrize(
    ("text", "left", "right", "holds"),
    [
        ("table.ppl > live.ppl * 1.001", 20, 10.01, True),
        ("table.ppl <= live.ppl", 20, 10, False),
        ("table.ppl >= 20", 20, 20, True),
        ("table.ppl < 20", 20, 20, False),
        ("plain-1x.ppl - table.ppl < 2 * (live.ppl + 1)", 20, 22, True),
        ("plain-1x.5.ppl > 1", 30, 1, True),
        ("table:int8.ppl/table.ppl > 1.04", 1.05, 1.04, True),
        ("table.hit_rate < .4", 0.5, 0.4, False),
        ("-table.ppl > -1e3", -20, -1000, True),
        (" table.ppl[law] > table.ppl[law/a b] ", 5, 4, True),
    ],
)
def test_what_a_condition_means(text, left, right, holds):
    found = checked(text)
    assert found == {
        "condition": text,
        "left": pytest.approx(left),
        "right": pytest.approx(right),
        "holds": holds,
    }


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("table.ppl", "comparison"),
        ("1 < table.ppl < 2", "comparison"),
        ("table.ppl == 1", "comparison"),
        ("table.ppl > 1 and live.ppl > 1", "comparison"),
        ("", None),
        ("table.ppl >", None),
        ("plain-2x.ppl > 1", None),  # 2x is no number
        ("tabel.ppl > 1", "'tabel'"),
        ("table.pl > 1", "'pl'"),
        ("table > 1", "'table'"),
        ("table.ppl > True", "'True'"),
        ("table.ppl > '1'", "'1'"),
        ("table.ppl > 1j", "'1j'"),
        ("table.ppl ** 9999 > 1", "9999"),
        ("table.ppl % 2 > 1", "2"),
        ("not table.ppl > 1", "comparison"),
        ("__import__('os').system('true') > 1", "__import__('os').system('true')"),
        ("(lambda: 1)() > 1", "(lambda: 1)()"),
        ("name_0_ > 1", "'name_0_'"),
        ("(" * 240 + "1" + ")" * 240 + " > 1", None),
        ("table.ppl.real > 1", "real"),
        ("table.ppl[wiki][0] > 1", "[0]"),
    ],
)
def test_what_is_refused_before_any_work(text, fact):
    """The condition is repeated, and after it stands what is wrong with it."""
    with refusal(BadSetting, "--fail-if") as refused:
        parse(text, ARMS)
    before, after = refused.value.message.split(f"'{text}'", 1)
    assert before.startswith("--fail-if")
    assert is_named(after, fact) if fact else re.search(r"\w", after) and not is_named(after, "comparison")
    assert names(refused.value.hint, *METRICS)


def test_the_hint_names_all_arms_and_metrics():
    with refusal(BadSetting, hint=(*ARMS, *METRICS)):
        parse("x.ppl > 1", ARMS)


@pytest.mark.parametrize(
    ("text", "corpora", "facts", "hint"),
    [
        ("table.ppl > 1", ("wiki", "law"), ["table.ppl", 2, "wiki", "law"], ["table.ppl[wiki]"]),
        ("table.ppl[book] > 1", ("wiki",), ["table.ppl[book]", "'book'"], ["wiki", "law", "law/a b"]),
        ("table.bpb > 1", ("wiki",), ["table.bpb", "'wiki'"], None),
        ("none.ppl > 1", ("wiki",), ["none.ppl", "'wiki'"], None),
        ("table.ppl / (table.ppl - table.ppl) > 1", ("wiki",), ["division by zero"], None),
        ("table.ppl > 1e999", ("wiki",), ["20", "inf"], None),
        ("1e999 - 1e999 < table.ppl", ("wiki",), ["nan", "20"], None),
    ],
)
def test_what_is_not_known(text, corpora, facts, hint):
    with refusal(BadSetting, "--fail-if", hint=hint and tuple(hint)) as refused:
        checked(text, corpora)
    assert names(refused.value.message.split(f"'{text}'", 1)[1], *facts)
    assert (refused.value.hint is None) == (hint is None)


def test_corpora_are_known_before_any_work_but_for_their_folders():
    parse("table.ppl > 1", ARMS).check_corpora(["wiki"])
    parse("table.ppl[wiki] > live.ppl[law/what]", ARMS).check_corpora(["wiki", "law"])
    for text in ("table.ppl > 1", "table.ppl[book] > 1", "1 < live.ppl[wikipedia]"):
        with pytest.raises(BadSetting):
            parse(text, ARMS).check_corpora(["wiki", "law"])


def test_a_division_of_numbers_by_zero_shows_before_any_work():
    for text in ("table.ppl > 1 / 0", "table.ppl / (1 - 1) > 1", "1 > 2 * (3 / (2 - 2))"):
        with refusal(BadSetting, "division by zero"):
            parse(text, ARMS)


def test_a_condition_has_an_end():
    parse("1" + "+1" * 240 + " > 1", ARMS).check({}, ["wiki"])
    with refusal(BadSetting, "--fail-if", 4005, 500):
        parse("1" + "+1" * 2000 + " > 1", ARMS)


def test_a_latency_is_of_no_corpus():
    values = VALUES | {("table", "latency_p99_ms", ""): 20.5, ("table", "latency_ms", ""): 3.0}
    for corpora in (["wiki"], ["wiki", "law"]):
        condition = parse("table.latency_p99_ms > 20", ARMS)
        condition.check_corpora(corpora)
        assert condition.check(values, corpora)["holds"]
        assert condition.needs_speed
    assert not parse("table.ppl > 1", ARMS).needs_speed
    with refusal(BadSetting, "table.latency_ms[wiki]", "corpus"):
        parse("table.latency_ms[wiki] > 1", ARMS).check_corpora(["wiki"])
    with refusal(BadSetting, "live.latency_p99_ms", "not measured", hint=("latency_ms", 100)):
        parse("live.latency_p99_ms > 1", ARMS).check(values, ["wiki"])
