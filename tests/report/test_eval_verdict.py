"""The verdict for everything that an evaluation can find: whom it names, with which numbers, and what it judges."""

import math
import re

import pytest
from messages import direction, is_named, leaning_before, leanings, names
from report_cases import ARMS, MANY_ARMS, minimum, results

from scone_cli.evaluation.break_even import Prices, contender
from scone_cli.evaluation.payback import payback
from scone_cli.report.eval_verdict import cost_told, terms_told, verdict, verdict_of

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
    assert names(told, "law", "0.2%", "95% interval 0.6% lower to 1.0% higher", "2.7")
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


def test_where_all_was_trained_on_the_verdict_says_so_before_it_judges():
    found = results(("law",), TWO_ARMS)
    found["method"]["corpora"][0] |= {"documents": 60, "in_training_split": 57}
    (told,) = sentences(verdict(found))
    assert told.startswith("On law (57 of its 60 documents were trained on) the table is better")
    found["method"]["corpora"][0] |= {"documents": 1, "in_training_split": 1}
    assert verdict(found).startswith("On law (which was trained on) the table is better")


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


# ---- all of it ---------------------------------------------------------------------------------------------------


def undecided(nats=0.002, low=-0.006, high=0.010):
    """Results in which no difference from the one rival is shown, which costs as much to run."""
    found = results(("law",), TWO_ARMS)
    for row in found["differences"]:
        if row["against"] == "plain-1x":
            row |= {"nats_per_token": nats, "low": low, "high": high, "finding": "no difference shown"}
    losses = dict.fromkeys(TWO_ARMS, 4.0) | {"table": 4.0 + nats}
    contenders = {row["arm"]: contender(row, losses[row["arm"]]) for row in found["cost"]}
    found["payback"] = payback(contenders["table"], [contenders["plain-1x"]], Prices(), ["plain-1x"])
    return found


def test_gain_cost_and_whether_it_pays():
    found = results(("law",), TWO_ARMS) | {"terms": []}
    told = verdict_of(found)
    assert told.startswith(verdict(found))
    assert told.endswith(found["payback"]["verdict"])
    assert names(cost_told(found), "614,976", "plain-1x", "280.0 MiB", "1.41M", "2.4")
    assert names(cost_told(found), "1,717 tokens per second", "plain-1x 1,789")
    assert cost_told(found) in told


def test_what_is_undecided_says_how_much_text_would_decide_it():
    """A half interval of 0.008 around 0.002 is four times the difference: 16 times as much text halves it twice."""
    told = verdict(undecided())
    assert names(told, "16 times", "scone eval CORPUS")
    level = verdict(undecided(nats=0.0002))
    assert not is_named(level, "scone eval CORPUS")
    assert names(level, "1.0%")


@pytest.mark.parametrize("nats", [0.002, -0.002])
def test_an_undecided_gain_leaves_open_whether_it_pays(nats):
    found = undecided(nats=nats)
    assert found["payback"]["answer"] == "open"
    told = verdict_of(found)
    assert not re.search(r"\bnot (shown|pay)|does not\b", told), "no double negation"
    assert "better" not in told.split("Whether")[0]


def test_what_would_tell_whether_it_pays_is_a_command():
    no_plain = verdict_of(results(("law",), TWO_ARMS) | {"payback": None, "terms": []})
    assert names(no_plain, "scone train-fgram --kind plain", "scone eval --against DIR")
    no_rival = verdict_of(results(("law",), {arm: ARMS[arm] for arm in ("live", "table", "none")}) | {"terms": []})
    assert names(no_rival, "scone train-fgram --kind plain", "scone eval --against DIR")
    assert not is_named(no_rival, "Whether it pays")  # one missing rival is told once


def test_the_commands_to_go_on_are_those_of_this_evaluation():
    found = undecided()
    found["method"]["calls"] = {"train": "scone -w T", "evaluate": "scone E", "evaluate_text": "scone X"}
    assert is_named(verdict(found), "scone X CORPUS")
    alone = results(arms={arm: ARMS[arm] for arm in ("live", "table", "none")})
    alone["method"]["calls"] = found["method"]["calls"]
    assert is_named(verdict(alone), "scone -w T --kind plain --out DIR, then scone E --against DIR")


def test_the_same_is_called_the_same():
    found = results(("law",), TWO_ARMS)
    for row in found["differences"]:
        row |= {"nats_per_token": 0.0, "low": 0.0, "high": 0.0, "finding": "the same"}
    told = verdict(found)
    assert names(told, "the same as plain-1x")
    assert not leanings(told)


def test_terms_are_judged_against_the_rival_that_counts():
    found = results(("held-out",), TWO_ARMS)
    told = terms_told(found)
    assert names(told, 310, "50.7%")  # 4.2561 - 3.7486 + 0.2 nats
    assert direction(told, "50.7%") == "lower"
    found["terms"] = [row | {"occurrences": 0, "n": 0, "differences": []} for row in found["terms"]]
    assert names(terms_told(found), "None of the 3 terms")
    assert terms_told(found | {"terms": []}) == ""


def test_terms_in_few_places_are_no_finding():
    found = results(("law",), TWO_ARMS)
    found["terms"][0]["occurrences"] = 3
    for each in found["terms"][0]["differences"]:
        each |= {"low": None, "high": None, "finding": "too few"}
    assert names(terms_told(found), "3 times", "too few places")
    assert "%" not in terms_told(found)
