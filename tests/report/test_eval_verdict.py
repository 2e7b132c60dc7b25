"""The verdict, word by word, for everything that an evaluation can find."""

import math

import pytest
from report_cases import ARMS, MANY_ARMS, minimum, results

from scone_cli.report.eval_verdict import verdict

TWO_ARMS = {arm: ARMS[arm] for arm in ("plain-1x", "live", "table", "none")}


def test_better_than_the_rival_of_its_size_and_a_larger_one():
    """4.2561 - 3.7486 nats: exp(-0.5075) = 0.602, so 39.8% lower; 1,180,432 / 614,976 = 1.92."""
    assert verdict(results(corpora=("held-out",))) == (
        "On held-out text the table is better than plain-1x, its rival of the same resident size: its perplexity is 39.8% "
        "lower (95% interval 37.5% to 42.0%); it beats the larger plain-2.5x (1.9 times its resident parameters)."
    )


def test_the_best_rival_of_its_size_counts():
    """hashed-1x is nearer than plain-1x: exp(3.7486 - 3.7948) - 1 = -4.5%."""
    assert verdict(results(corpora=("law",), arms=MANY_ARMS)) == (
        "On law the table is better than hashed-1x, the best of its rivals of the same resident size: its perplexity is 4.5% "
        "lower (95% interval 3.5% to 5.5%); it beats the larger plain-2.5x and plain-4x (up to 2.7 times its resident "
        "parameters)."
    )


def test_no_difference_is_shown_where_the_interval_covers_zero():
    arms = {arm: MANY_ARMS[arm] for arm in ("plain-1x", "hashed-1x", "table", "plain-4x")}
    found = results(corpora=("law",), arms=arms)
    for row in found["differences"]:
        if row["against"] == "hashed-1x":
            row |= {"nats_per_token": 0.002, "low": -0.006, "high": 0.010, "finding": "no difference shown"}
    assert verdict(found) == (
        "On law the table is not shown to differ from hashed-1x, the best of its rivals of the same resident size: its "
        "perplexity is 0.2% higher (95% interval \N{MINUS SIGN}0.6% to +1.0%); it is better than plain-1x; it beats the larger "
        "plain-4x (2.7 times its resident parameters)."
    )


def test_worse():
    """0.6 nats more: exp(3.7486 + 0.6 - 4.2561) - 1 = 9.7%."""
    assert verdict(results(corpora=("law",), shift={"law": 0.6})) == (
        "On law the table is worse than plain-1x, its rival of the same resident size: its perplexity is 9.7% higher (95% "
        "interval 8.2% to 11.2%); it loses to the larger plain-2.5x (1.9 times its resident parameters)."
    )


def test_other_corpora_are_told_of_in_a_second_sentence():
    shift = {"law": 0.6, "mail": 0.6}
    told = verdict(results(corpora=("held-out", "wiki", "law", "mail"), arms=TWO_ARMS, shift=shift))
    assert told.endswith(". Elsewhere it is, against plain-1x, better on wiki and worse on law and mail.")
    assert verdict(results(arms=TWO_ARMS)).endswith(". Against plain-1x it is better on wiki and law too.")
    four = ("held-out", "wiki", "law", "mail")
    assert verdict(results(four, TWO_ARMS)).endswith(". Against plain-1x it is better on all 3 other corpora.")
    assert verdict(results(("held-out", "wiki"), TWO_ARMS)).endswith(". Against plain-1x it is better on wiki too.")


def test_folders_of_a_corpus_are_no_other_corpora():
    assert verdict(results(("held-out",), folders=("code", "law"))) == verdict(results(("held-out",)))


def test_a_corpus_that_was_trained_on_is_no_evidence():
    found = results(("law", "wiki"), TWO_ARMS)
    found["method"]["corpora"][0]["in_training_split"] = 65  # of 646
    assert verdict(found).startswith("On wiki the table is better than plain-1x")
    assert "law" not in verdict(found)
    found["method"]["corpora"][0]["in_training_split"] = 64
    assert verdict(found).startswith("On law the table is better than plain-1x")


def test_one_document_shows_no_difference():
    assert verdict(results(("memo",), TWO_ARMS, documents=1)) == (
        "On memo the table is not shown to differ from plain-1x, its rival of the same resident size: its perplexity is 39.8% "
        "lower (one document: no interval)."
    )


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        (
            "plain-2.5x",
            "better than plain-2.5x, which keeps 1.9 times as many parameters resident: its perplexity is 30.8%",
        ),
        ("half", "better than half, which keeps 0.5 times as many parameters resident: its perplexity is 39.8%"),
    ],
)
def test_a_rival_of_another_size(rival, words):
    arms = {"half": (4.2561, 307_488, 1e13)} | ARMS
    assert words in verdict(results(("wiki",), {arm: arms[arm] for arm in ("table", rival)}))


def test_a_rival_of_unknown_size():
    assert verdict(results(("wiki",), TWO_ARMS) | {"cost": []}).startswith(
        "On wiki the table is better than plain-1x, its rival: its perplexity is 39.8% lower"
    )


def test_without_a_rival_it_does_not_say_that_scone_pays():
    told = verdict(results(arms={arm: ARMS[arm] for arm in ("live", "table", "none")}))
    assert told.startswith("Whether Scone pays is not shown, as no rival was given (--against): on held-out text")
    assert f"{100 * (1 - math.exp(3.7486 - 6.4121)):.1f}% lower" in told
    assert verdict(minimum()) == "Nothing is compared: there is no rival beside live."
    assert verdict({}) == "Nothing is compared: there is no arm."
