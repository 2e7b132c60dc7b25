"""The verdict for everything that an evaluation can find: whom it names, with which numbers, and what it judges."""

import math
import re

import pytest
from messages import direction, leaning_before, leanings, names
from report_cases import ARMS, MANY_ARMS, minimum, results

from scone_cli.report.eval_verdict import verdict

TWO_ARMS = {arm: ARMS[arm] for arm in ("plain-1x", "live", "table", "none")}
FINDINGS = {"better": "better", "worse": "worse", "no difference shown": "unknown"}


def sentences(told):
    """The sentences of a verdict: one or two."""
    found = re.split(r"(?<=\.) (?=[A-Z])", told)
    assert all(sentence.endswith(".") for sentence in found)
    assert len(found) <= 2
    assert "\n" not in told
    return found


def find(found, against, finding, corpus=None):
    """Change what was found against a rival; numbers stay."""
    for row in found["differences"]:
        if row["against"] == against and corpus in (None, row["corpus"]):
            row["finding"] = finding
    return found


def test_better_than_the_rival_of_its_size_and_a_larger_one():
    """4.2561 - 3.7486 nats: exp(-0.5075) = 0.602, so 39.8% lower; 1,180,432 / 614,976 = 1.92."""
    (told,) = sentences(verdict(results(corpora=("held-out",))))
    assert names(told, "held-out", "plain-1x", "39.8%", "95%", "37.5%", "42.0%", "plain-2.5x", "1.9")
    assert direction(told, "39.8%") == "lower"
    assert leaning_before(told, "plain-1x") == leaning_before(told, "plain-2.5x") == "better"
    assert set(leanings(told)) == {"better"}


def test_the_best_rival_of_its_size_counts():
    """hashed-1x is nearer than plain-1x: exp(3.7486 - 3.7948) - 1 = -4.5%."""
    (told,) = sentences(verdict(results(corpora=("law",), arms=MANY_ARMS)))
    assert names(told, "law", "hashed-1x", "4.5%", "95%", "3.5%", "5.5%", "plain-2.5x", "plain-4x", "2.7")
    assert direction(told, "4.5%") == "lower"
    assert "plain-1x" not in told
    assert set(leanings(told)) == {"better"}


def test_no_difference_is_shown_where_the_interval_covers_zero():
    arms = {arm: MANY_ARMS[arm] for arm in ("plain-1x", "hashed-1x", "table", "plain-4x")}
    found = results(corpora=("law",), arms=arms)
    for row in found["differences"]:
        if row["against"] == "hashed-1x":
            row |= {"nats_per_token": 0.002, "low": -0.006, "high": 0.010, "finding": "no difference shown"}
    (told,) = sentences(verdict(found))
    assert names(told, "law", "0.2%", "95%", "\N{MINUS SIGN}0.6%", "+1.0%", "2.7")
    assert direction(told, "0.2%") == "higher"
    judged = {rival: leaning_before(told, rival) for rival in ("hashed-1x", "plain-1x", "plain-4x")}
    assert judged == {"hashed-1x": "unknown", "plain-1x": "better", "plain-4x": "better"}


def test_worse():
    """0.6 nats more: exp(3.7486 + 0.6 - 4.2561) - 1 = 9.7%."""
    (told,) = sentences(verdict(results(corpora=("law",), shift={"law": 0.6})))
    assert names(told, "law", "plain-1x", "9.7%", "95%", "8.2%", "11.2%", "plain-2.5x", "1.9")
    assert direction(told, "9.7%") == "higher"
    assert set(leanings(told)) == {"worse"}
    assert leaning_before(told, "plain-1x") == leaning_before(told, "plain-2.5x") == "worse"


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("rival", ["plain-1x", "plain-2.5x"])
def test_every_finding_is_told_of_the_rival_of_its_size_and_of_a_larger_one(rival, finding):
    told = verdict(find(results(corpora=("law",)), rival, finding))
    other = "plain-2.5x" if rival == "plain-1x" else "plain-1x"
    assert leaning_before(told, rival) == FINDINGS[finding]
    assert leaning_before(told, other) == "better"


def test_other_corpora_are_told_of_in_a_second_sentence():
    shift = {"law": 0.6, "mail": 0.6}
    four = ("held-out", "wiki", "law", "mail")
    _, told = sentences(verdict(results(four, arms=TWO_ARMS, shift=shift)))
    assert names(told, "plain-1x", "wiki", "law", "mail")
    judged = {corpus: leaning_before(told, corpus) for corpus in ("wiki", "law", "mail")}
    assert judged == {"wiki": "better", "law": "worse", "mail": "worse"}
    _, both = sentences(verdict(results(arms=TWO_ARMS)))
    assert names(both, "plain-1x", "wiki", "law")
    _, all_three = sentences(verdict(results(four, TWO_ARMS)))
    assert names(all_three, "plain-1x", 3)
    _, one = sentences(verdict(results(("held-out", "wiki"), TWO_ARMS)))
    assert names(one, "plain-1x", "wiki")
    assert leanings(both) == leanings(all_three) == leanings(one) == ["better"]
    _, worse = sentences(verdict(find(results(("held-out", "wiki"), TWO_ARMS), "plain-1x", "worse")))
    assert set(leanings(worse)) == {"worse"}
    _, unknown = sentences(verdict(find(results(four, TWO_ARMS), "plain-1x", "no difference shown", "wiki")))
    judged = {corpus: leaning_before(unknown, corpus) for corpus in ("wiki", "law", "mail")}
    assert judged == {"wiki": "unknown", "law": "better", "mail": "better"}


def test_folders_of_a_corpus_are_no_other_corpora():
    assert verdict(results(("held-out",), folders=("code", "law"))) == verdict(results(("held-out",)))


def test_a_corpus_that_was_trained_on_is_no_evidence():
    found = results(("law", "wiki"), TWO_ARMS)
    found["method"]["corpora"][0]["in_training_split"] = 65  # of 646
    (told,) = sentences(verdict(found))
    assert names(told, "wiki", "plain-1x")
    assert set(leanings(told)) == {"better"}
    assert "law" not in told
    found["method"]["corpora"][0]["in_training_split"] = 64
    first, second = sentences(verdict(found))
    assert names(first, "law", "plain-1x")
    assert "wiki" not in first
    assert names(second, "wiki")


def test_one_document_shows_no_difference():
    (told,) = sentences(verdict(results(("memo",), TWO_ARMS, documents=1)))
    assert names(told, "memo", "plain-1x", "39.8%")
    assert direction(told, "39.8%") == "lower"
    assert leanings(told)[0] == "unknown"
    assert not {"better", "worse"} & set(leanings(told))
    assert "95%" not in told


@pytest.mark.parametrize(("rival", "times", "percent"), [("plain-2.5x", "1.9", "30.8%"), ("half", "0.5", "39.8%")])
def test_a_rival_of_another_size(rival, times, percent):
    arms = {"half": (4.2561, 307_488, 1e13)} | ARMS
    told = verdict(results(("wiki",), {arm: arms[arm] for arm in ("table", rival)}))
    assert names(told, "wiki", rival, times, percent)
    assert direction(told, percent) == "lower"
    assert leaning_before(told, rival) == "better"


def test_a_rival_of_unknown_size():
    """Nothing is told of its size: the words are fewer than of one of the same size, and there is no number for it."""
    sized = verdict(results(("wiki",), TWO_ARMS))
    told = verdict(results(("wiki",), TWO_ARMS) | {"cost": []})
    assert names(told, "wiki", "plain-1x", "39.8%")
    assert direction(told, "39.8%") == "lower"
    assert set(leanings(told)) == {"better"}
    assert re.findall(r"[\d.]+", told) == re.findall(r"[\d.]+", sized)
    assert len(told) < len(sized)


def test_without_a_rival_it_does_not_say_that_scone_pays():
    told = verdict(results(arms={arm: ARMS[arm] for arm in ("live", "table", "none")}))
    assert names(told, "held-out", "--against", "95%")
    assert leanings(told) == ["unknown"]
    assert direction(told, f"{100 * (1 - math.exp(3.7486 - 6.4121)):.1f}%") == "lower"
    (nothing,) = sentences(verdict(minimum()))
    assert names(nothing, "live")
    (no_arm,) = sentences(verdict({}))
    assert no_arm != nothing
    assert not leanings(nothing) + leanings(no_arm)
    assert not re.search(r"\d", nothing + no_arm)
