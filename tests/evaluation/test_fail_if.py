"""Conditions to fail by: what they mean, and everything that they refuse."""

import pytest

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
    ("text", "message"),
    [
        ("table.ppl", "expected one comparison"),
        ("1 < table.ppl < 2", "expected one comparison"),
        ("table.ppl == 1", "expected one comparison"),
        ("table.ppl > 1 and live.ppl > 1", "expected one comparison"),
        ("", "cannot be read"),
        ("table.ppl >", "cannot be read"),
        ("plain-2x.ppl > 1", "cannot be read"),  # 2x is no number
        ("tabel.ppl > 1", "no arm 'tabel'"),
        ("table.pl > 1", "no metric 'pl' of arm 'table'"),
        ("table > 1", "'table' is neither a number nor ARM.METRIC"),
        ("table.ppl > True", "'True' is neither"),
        ("table.ppl > '1'", "neither"),
        ("table.ppl > 1j", "neither"),
        ("table.ppl ** 9999 > 1", "neither"),
        ("table.ppl % 2 > 1", "neither"),
        ("not table.ppl > 1", "expected one comparison"),
        ("__import__('os').system('true') > 1", "neither"),
        ("(lambda: 1)() > 1", "neither"),
        ("name_0_ > 1", "neither"),
        ("(" * 240 + "1" + ")" * 240 + " > 1", "cannot be read"),
        ("table.ppl.real > 1", "neither"),
        ("table.ppl[wiki][0] > 1", "neither"),
    ],
)
def test_what_is_refused_before_any_work(text, message):
    with pytest.raises(BadSetting) as refused:
        parse(text, ARMS)
    assert message in refused.value.message
    assert refused.value.hint


def test_the_hint_names_all_arms_and_metrics():
    with pytest.raises(BadSetting) as refused:
        parse("x.y > 1", ARMS)
    assert all(name in refused.value.hint for name in [*ARMS, *METRICS])


@pytest.mark.parametrize(
    ("text", "corpora", "message", "hint"),
    [
        ("table.ppl > 1", ("wiki", "law"), "known of 2 corpora (wiki, law)", "say which: table.ppl[wiki]"),
        ("table.ppl[book] > 1", ("wiki",), "not known of 'book'", "it is known of: wiki, law, law/a b"),
        ("table.bpb > 1", ("wiki",), "table.bpb is not known of 'wiki'", None),
        ("none.ppl > 1", ("wiki",), "none.ppl is not known of 'wiki'", None),
        ("table.ppl / (1 - 1) > 1", ("wiki",), "float division by zero", None),
        ("table.ppl > 1e999", ("wiki",), "compares 20 with inf", None),
        ("1e999 - 1e999 < table.ppl", ("wiki",), "compares nan with 20", None),
    ],
)
def test_what_is_not_known(text, corpora, message, hint):
    with pytest.raises(BadSetting) as refused:
        checked(text, corpora)
    assert message in refused.value.message
    assert refused.value.hint == hint


def test_corpora_are_known_before_any_work_but_for_their_folders():
    parse("table.ppl > 1", ARMS).check_corpora(["wiki"])
    parse("table.ppl[wiki] > live.ppl[law/what]", ARMS).check_corpora(["wiki", "law"])
    for text in ("table.ppl > 1", "table.ppl[book] > 1", "1 < live.ppl[wikipedia]"):
        with pytest.raises(BadSetting):
            parse(text, ARMS).check_corpora(["wiki", "law"])


def test_a_condition_has_an_end():
    parse("1" + "+1" * 240 + " > 1", ARMS).check({}, ["wiki"])
    with pytest.raises(BadSetting, match="expected at most 500"):
        parse("1" + "+1" * 2000 + " > 1", ARMS)
