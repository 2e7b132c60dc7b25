"""The page of an evaluation: whole, harmless, and with the numbers of the results and no others."""

import math
import re
from html import escape, unescape
from xml.etree import ElementTree as ET

import pytest
from html_tags import Tags
from report_cases import HOSTILE, MANY_ARMS, minimum, pays, results

from scone_cli.evaluation.break_even import Prices, contender
from scone_cli.evaluation.payback import payback
from scone_cli.formatting import big, bytes_text
from scone_cli.report.eval_page import render, verdict

MANY_CORPORA = [f"corpus-{i}-{'long' * (i % 4)}" for i in range(12)]
CASES = {
    "everything": lambda: results(folders=("code", "law")),
    "minimum": minimum,
    "loses": lambda: results(shift={"law": 0.6}),
    "one document": lambda: results(("memo",), documents=1),
    "no bytes": lambda: results(has_bytes=False),
    "many": lambda: results(MANY_CORPORA, MANY_ARMS),
    "hostile": lambda: results(("held-out", *HOSTILE), texts=HOSTILE),
    "nothing": dict,
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_well_formed_holds_everything_and_runs_nothing(case):
    html = render(CASES[case]())
    tags = Tags(html)
    assert not re.search(r"https?:|@import|url\(", html)
    assert {tag for tag, _ in tags.tags} & {"script", "link", "img", "iframe", "object", "base", "form"} == set()
    for tag, attrs in tags.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "src"]
        assert "href" not in attrs or (tag == "a" and attrs["href"].startswith("#"))
    marks = {attrs["id"] for tag, attrs in tags.tags if tag == "section"}
    assert {attrs["href"][1:] for tag, attrs in tags.tags if tag == "a"} == marks
    for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(chart)
    printable = [each for each in html if not each.isprintable() and each != "\n"]
    assert printable == []


def sections_of(html):
    """The text of every section by its title, tags left out and blanks put together."""
    found = {}
    for section in re.findall(r"<section id=.*?</section>", html, re.DOTALL):
        title = unescape(re.search(r"<h2>(.*?)</h2>", section)[1])
        found[title] = " ".join(unescape(re.sub(r"<[^>]*>", " ", section)).split())
    return found


TITLES = ["Quality", "Where the gain is", "Cost", "Does it pay", "Which size", "Tasks", "Method"]


def test_a_section_is_there_when_its_numbers_are():
    everything = results()
    assert list(sections_of(render(everything))) == TITLES
    parts = {
        "Quality": ("results", "differences"),
        "Where the gain is": ("match_lengths", "hit_rates", "tail", "tokens", "fgrams"),
        "Cost": ("cost", "speed", "lookup"),
        "Does it pay": ("payback",),
        "Which size": ("ladder",),
        "Tasks": ("tasks",),
    }
    for title, keys in parts.items():
        without = everything | {key: [] for key in keys}
        assert list(sections_of(render(without))) == [each for each in TITLES if each != title]


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("match_lengths", "By length of the match"),
        ("tail", "The tail: rare and frequent tokens"),
        ("hit_rates", "In the domain and outside"),
        ("tokens", "Tokens that gain and lose most"),
        ("fgrams", "F-grams that gain and lose most"),
        ("speed", "Measured speed"),
        ("lookup", "Look-ups"),
        ("cost", "Memory"),
        ("differences", "The table against its rivals"),
        ("checks", "Checks"),
    ],
)
def test_a_figure_is_there_when_its_numbers_are(key, title):
    everything = results()
    assert f"<h3>{title}</h3>" in render(everything)
    assert f"<h3>{title}</h3>" not in render(everything | {key: []})


def test_what_is_not_there_says_how_to_have_it():
    method = sections_of(render(minimum()))["Method"]
    for words in ("--against MODEL_DIR", "--ladder", "--tasks FILE_OR_DIR"):
        assert words in method
    assert "Not in this evaluation" not in sections_of(render(results()))["Method"]


def test_the_top_of_the_page():
    """4.2561 - 3.7486 nats at 2.92 bytes a token: 0.2507 bits a byte."""
    html = render(results() | {"verdict": "So it is."})
    assert '<p class="verdict better">So it is.</p>' in html
    text = " ".join(Tags(html.partition("<nav>")[0] + "</header></body></html>").text)
    low, high = (math.expm1(-0.5075 + sign * 1.96 * (0.004 + 0.03 * 0.5075)) for sign in (-1, 1))
    minus = "\N{MINUS SIGN}"
    for words in (
        f"{minus}39.8%",
        f"95% interval {minus}{-100 * low:.1f}% to {minus}{-100 * high:.1f}%; {minus}0.2507 bits a byte",
        "614,976 parameters; plain-1x as many",
        "2.3 MiB",
        "280.0 MiB",
        "1,411,720 rows in RAM, or 259.4 MiB on disk",
        "2 of the 646 documents of wiki are in the training text too",
    ):
        assert words in text


def test_without_a_verdict_of_the_results_the_page_makes_it():
    assert escape(verdict(results()), quote=True) in render(results())


@pytest.mark.parametrize(("shift", "kind"), [(0.0, "better"), (0.6, "worse"), (0.5075, "")])
def test_the_verdict_is_marked_by_what_was_found(shift, kind):
    assert f'<p class="verdict {kind}">' in render(results(("law",), shift={"law": shift}))


@pytest.fixture(scope="module")
def law():
    """Results of eight models on one corpus, and the sections of their page."""
    found = results(("law",), MANY_ARMS)
    return found, sections_of(render(found))


def test_the_losses_on_the_page_are_those_of_the_results(law):
    found, told = law
    for row in found["results"]:
        if row["metric"] in ("perplexity", "bits_per_byte"):
            digits = 2 if row["metric"] == "perplexity" and row["value"] < 100 else 1 if row["value"] > 100 else 3
            assert f"{row['value']:.{digits}f} ± {row['stderr']:.{digits}f}" in told["Quality"]
    for row in found["differences"]:
        if row["against"] in ("plain-1x", "plain-4x", "none"):
            assert f"{-100 * math.expm1(row['nats_per_token']):.1f}% lower" in told["Quality"]
    for row in found["tasks"]:
        assert f"{row['value']:.3f} ± {row['stderr']:.3f}" in told["Tasks"]


def test_where_the_gain_is_on_the_page_is_as_in_the_results(law):
    found, told = law
    for row in found["tail"]:
        assert (
            f"{row['n']:,} {row['losses']['table']:.3f} {row['losses']['hashed-1x']:.3f}" in told["Where the gain is"]
        )
    for row in found["hit_rates"]:
        assert f"{100 * row['hit_rate']:.1f}% {row['mean_match_length']:.2f}" in told["Where the gain is"]
    for row in found["match_lengths"]:
        losses = " ".join(f"{row['losses'][arm]:.3f}" for arm in MANY_ARMS)
        assert f"{100 * row['share']:.1f}% {row['n']:,} {losses}" in told["Where the gain is"]


def test_examples_on_the_page_are_those_of_the_results():
    """Totals below zero are gains; only what was compared with the rival that decides is shown."""
    found = results(("law",), texts=("\u00b7the", "\u00b7of"))
    other = [row | {"against": "plain-2.5x", "text": "not-here"} for row in found["tokens"]]
    found["tokens"] += other
    told = sections_of(render(found))["Where the gain is"]
    gains = told[told.index("Largest gains") : told.index("Largest losses")]
    assert "\u00b7the 4,200 3.200 2.700 \N{MINUS SIGN}2,100 in the matter\u00b7the" in gains
    losses = told[told.index("Largest losses") : told.index("F-grams that")]
    assert "\u00b7of 3,890 3.200 3.358 +613" in losses
    assert "\u00b7of 17 3,890 \N{MINUS SIGN}0.473 \N{MINUS SIGN}1,840" in told
    assert "not-here" not in told


def test_costs_on_the_page_are_those_of_the_results(law):
    found, told = law
    for row in found["cost"]:
        assert f"{row['arm']} {row['resident_parameters']:,}" in told["Cost"]
        flops = [f"{row[key] / 1e6:.3g}M" for key in ("prefill_flops", "decode_flops")]
        times = f"{row['decode_flops'] / found['cost'][3]['decode_flops']:.2f}"
        assert " ".join([row["arm"], *flops, times, "1.5 KiB", f"{row['training_flops'] / 1e12:.3g}T"]) in told["Cost"]
    for row in found["speed"]:
        assert f"{row['tokens_a_second']:,.0f}" in told["Cost"]
    for row in found["lookup"]:
        assert f"{row['median_us']:,.3g} {row['p99_us']:,.3g}" in told["Cost"]
    for row in found["ladder"]:
        assert f"{row['rows']:,} {bytes_text(row['bytes'])} {row['perplexity']:.2f}" in told["Which size"]


def test_every_command_and_fingerprint_is_on_the_page(law):
    found, told = law
    method = found["method"]
    tables = (table["fingerprint"] for table in method["tables"].values())
    for words in (*method["commands"], method["tokenizer"], *method["models"].values(), *tables):
        assert words in told["Method"]


def test_intervals_are_drawn_as_they_are():
    """The interval of the table against plain-1x on law covers zero: hollow, and drawn on both sides of the line at 0."""
    found = results(("law",), shift={"law": 0.5075})
    chart = next(c for c in charts_of(render(found)) if c.get("aria-label").startswith("on law"))
    zero = float(re.match(r"M([\d.]+)", next(p for p in chart.iter("path") if p.get("class") == "base").get("d"))[1])
    line = next(p for p in chart.iter("path") if "interval" in p.get("class"))
    assert line.get("class") == "interval unshown"
    begin, end = re.match(r"M([\d.]+) [\d.]+H([\d.]+)", line.get("d")).groups()
    assert float(begin) < zero < float(end)


def test_the_same_intervals_in_numbers():
    """On wiki the table is worse, on law nothing is shown, on the rest it is better."""
    told = sections_of(render(results(shift={"law": 0.32, "wiki": 0.6})))["Quality"]
    rows = told[told.index("The same in numbers") : told.index("Quality against")]
    found = dict(re.findall(r"(\S+) plain-1x [\d.]+% \w+ \([^)]*\) \S+ (better|worse|no difference shown)", rows))
    assert found == {"held-out": "better", "wiki": "worse", "law": "no difference shown"}


def test_the_knee_is_marked():
    chart = next(c for c in charts_of(render(results())) if c.get("aria-label") == "quality")
    assert "knee: 19.8 MiB" in [text.text for text in chart.iter("text")]


def charts_of(html):
    return [ET.fromstring(chart) for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_what_no_reader_can_tell_apart_is_neither_better_nor_worse():
    """A class of the tail whose interval covers zero, and one document."""
    told = sections_of(render(results(("memo",), documents=1)))
    assert "no difference shown" in told["Quality"]
    assert "better" not in told["Quality"].partition("The same in numbers")[2].partition("Quality against")[0]
    assert "A single document has no interval: nothing is shown by it." in told["Quality"]


PRICES = {
    "after": ({}, "pays at the latest after"),  # Scone is better than every rival there
    "never": ({"tokens_a_day": "1M"}, "pays"),
    "at once": ({"cheap": True}, "pays"),
}


@pytest.mark.parametrize("outcome", PRICES)
def test_whether_it_pays_is_told_for_every_outcome(outcome):
    changes, name = PRICES[outcome]
    found = results(("law",))
    cheap = {"training_flops": 1e12} if changes.pop("cheap", False) else {}
    costs = [row | cheap if row["arm"] == "table" else row for row in found["cost"]]
    losses = {row["arm"]: row["value"] for row in found["results"] if row["metric"] == "nats_per_token"}
    found["payback"] = pays(costs, losses, **changes)
    assert found["payback"]["outcome"] == outcome
    html = render(found)
    assert f"<dt>{name}</dt>" in html
    assert found["payback"]["verdict"] in sections_of(html)["Does it pay"]
    assert ("cost against tokens served" in html) == (outcome == "after")


def test_what_it_hinges_on_is_told_as_it_was_worked_out():
    found = results(("law",))
    html = render(found)
    told, hinge = sections_of(html)["Does it pay"], found["payback"]["hinges_on"]
    for row in found["payback"]["assumptions"]:
        assert f"{big(row['halved'])} tokens {big(row['doubled'])} tokens" in told
        assert row["text"] in told
        strong = re.findall(rf'<tr class="strong"><td class="\w+">{escape(row["text"], quote=True)}</td>', html)
        assert bool(strong) == (row["assumption"] == hinge)


def test_the_course_of_costs_falls_through_zero_at_break_even():
    chart = next(c for c in charts_of(render(results(("law",)))) if c.get("aria-label") == "cost against tokens served")
    line = next(p for p in chart.iter("path") if p.get("class") == "line")
    (_, first), (middle, zero), (_, last) = (map(float, p.split()) for p in line.get("d")[1:].split("L"))
    assert first < zero < last
    assert zero == pytest.approx((first + last) / 2, abs=0.2)
    mark = next(p for p in chart.iter("path") if p.get("class") == "mark")
    assert mark.get("d").startswith(f"M{middle} ")


def test_prices_without_a_rival():
    found = results(("law",))
    found["payback"] = payback(contender(found["cost"][3], 3.7), [], Prices())
    told = sections_of(render(found))["Does it pay"]
    assert found["payback"]["verdict"] in told
    assert "Break-even" not in told


def test_hostile_text_is_shown_and_does_nothing():
    html = render(results(("held-out", *HOSTILE), texts=HOSTILE))
    assert "<script" not in html
    assert html.encode("utf-8").decode("utf-8") == html
    text = "".join(Tags(html).text)
    for shown in (
        HOSTILE[0],
        r"\x1b[31m\x00red",
        "\\u202eevil\\u202c \u05d0\u05d1\u05d2",
        HOSTILE[3],
        r"\xe2 no Unicode",
    ):
        assert shown in text


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        (None, "pays after"),
        ("at least", "pays at the latest after"),
        ("at most", "pays, if at all, no earlier than after"),
    ],
)
def test_a_bound_on_the_break_even_is_told_as_one(bound, says):
    found = results(("law",))
    found["payback"] = found["payback"] | {"baseline": found["payback"]["baseline"] | {"bound": bound}}
    assert f"<dt>{says}</dt>" in render(found)


def test_what_costs_no_more_to_train_is_not_said_to():
    found = results(("law",))
    assert "Scone costs more to train" in sections_of(render(found))["Does it pay"]
    found["payback"] |= {"extra_training_dollars": -1.0, "outcome": "at once"}
    assert "Scone costs no more to train" in sections_of(render(found))["Does it pay"]


def test_how_long_the_prompts_were_is_told():
    found = results(("law",))
    lengths = {1: 256, 8: 202, 64: 25}
    found["speed"] = [row | {"length": lengths[row["batch"]]} for row in found["speed"]]
    assert "256 (batch 1), 202 (batch 8) and 25 (batch 64) tokens" in sections_of(render(found))["Cost"]


def test_contexts_that_were_cut_are_told():
    found = results(("law",))
    found["tasks"] = [row | {"cut": 7 * (row["task"] == "piqa")} for row in found["tasks"]]
    told = sections_of(render(found))["Tasks"]
    assert "contexts cut on the left piqa 1,000 1 7 arc_easy 1,000 1 0" in told
