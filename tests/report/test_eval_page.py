"""The page of an evaluation: whole, harmless, and with the numbers of the results and no others."""

import difflib
import math
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from eval_pages import (
    COST,
    GAIN,
    METHOD,
    PAYS,
    QUALITY,
    SIZE,
    TASKS,
    figures_of,
    row_of,
    sections_html,
    sections_of,
    top_of,
)
from html_tags import Tags, charts_of, tree_of
from messages import leanings, names
from report_cases import ARMS, HOSTILE, MANY_ARMS, minimum, results

from scone_cli.formatting import big, bytes_text, count_text, signed_number
from scone_cli.report.eval_page import render
from scone_cli.report.eval_summary import summary_of
from scone_cli.report.eval_verdict import verdict_of

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
GOLDEN = Path(__file__).with_name("golden_eval_page.html")
MINUS = "\N{MINUS SIGN}"


def test_the_whole_page_is_the_one_that_is_kept():
    """The one page that is compared word by word: `golden_eval_page.html`.

    Where the page is meant to change, give SCONE_WRITE_GOLDEN=1, which writes the file, and look at what git shows of it.
    Its results are made up (`report_cases`), so nothing in it comes from this machine, this version or this day.
    """
    html = render(results(folders=("code", "law")))
    if os.environ.get("SCONE_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(html, encoding="utf-8", newline="\n")
    kept = GOLDEN.read_text(encoding="utf-8")
    assert len(kept) > 20_000
    changes = difflib.unified_diff(kept.splitlines(), html.splitlines(), "kept", "made", n=0, lineterm="")
    assert html == kept, "\n".join(change[:300] for change in changes)


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


def test_a_section_is_there_when_its_numbers_are():
    everything = results()
    marks = [section.attrs["id"] for section in sections_of(render(everything))]
    assert len(set(marks)) == 7
    for section in sections_of(render(everything)):
        assert section.one("h2").text
        assert section.all("p")[0].text
        assert section.all("article")
    parts = {
        QUALITY: ("results", "differences"),
        GAIN: ("match_lengths", "hit_rates", "tail", "tokens", "fgrams", "terms"),
        COST: ("cost", "speed", "lookup", "latency"),
        PAYS: ("payback",),
        SIZE: ("ladder",),
        TASKS: ("tasks",),
    }
    for place, keys in parts.items():
        without = sections_of(render(everything | {key: [] for key in keys}))
        assert [section.attrs["id"] for section in without] == [mark for mark in marks if mark != marks[place]]


@pytest.mark.parametrize(
    ("key", "place", "number"),
    [
        ("match_lengths", GAIN, 0),
        ("tail", GAIN, 1),
        ("hit_rates", GAIN, 2),
        ("tokens", GAIN, 3),
        ("fgrams", GAIN, 4),
        ("speed", COST, 2),
        ("lookup", COST, 3),
        ("latency", COST, 4),
        ("terms", GAIN, 5),
        ("task_differences", TASKS, 1),
        ("cost", COST, 0),
        ("differences", QUALITY, 0),
        ("checks", METHOD, 3),
    ],
)
def test_a_figure_is_there_when_its_numbers_are(key, place, number):
    everything = results()
    with_it, without = figures_of(render(everything)), figures_of(render(everything | {key: []}))
    assert len(set(with_it)) == len(with_it)
    title = [each for each in with_it if each[0] == place][number]
    assert title[1]
    assert title not in without
    if key not in ("cost", "differences"):  # others need these too
        left_out = without[-1:] if key in ("speed", "terms") else []  # the one that tells how to have it
        assert without == [each for each in with_it if each != title] + left_out


def test_what_is_not_there_says_how_to_have_it():
    method = sections_of(render(minimum()))[-1]
    options = ("--against MODEL_DIR", "--ladder", "--tasks FILE_OR_DIR")
    rows = method.all("article")[-1].rows()
    for option in options:
        assert any(names(row[1], option) for row in rows if option in row[1]), option
    assert all(row[0] for row in rows)
    everything = sections_of(render(results()))[METHOD]
    assert [row for row in everything.rows() if "--" in " ".join(row)] == []


def test_the_top_of_the_page():
    """4.2561 - 3.7486 nats at 2.92 bytes a token: 0.2507 bits a byte."""
    html = render(results() | {"verdict": "So it is."})
    verdict_shown, facts = top_of(html)
    assert (verdict_shown.text, verdict_shown.classes) == ("So it is.", {"verdict", "better"})
    low, high = (math.expm1(-0.5075 + sign * 1.96 * (0.004 + 0.03 * 0.5075)) for sign in (-1, 1))
    gain, resident, offloaded, pays_back = facts
    assert names(gain[0], "plain-1x")
    assert gain[1] == f"{MINUS}39.8%"
    assert names(gain[2], "95%", f"{MINUS}{-100 * low:.1f}%", f"{MINUS}{-100 * high:.1f}%", f"{MINUS}0.2507")
    assert gain[2].index(f"{-100 * low:.1f}") < gain[2].index(f"{-100 * high:.1f}")
    assert resident[1] == "2.3 MiB"
    assert names(resident[2], "614,976", "plain-1x")
    assert offloaded[1] == "280.0 MiB"
    assert names(offloaded[2], "1,411,720", "259.4 MiB")
    assert names(pays_back[1], big(results()["payback"]["break_even_tokens"]))
    assert all(name for name, _, _ in facts)
    notes = [note.text for note in tree_of(html).one("header").all("li")]
    assert [names(note, "wiki", 2, 646) for note in notes] == [True]


def test_without_a_verdict_of_the_results_the_page_makes_it():
    assert top_of(render(results()))[0].text == verdict_of(results())


@pytest.mark.parametrize(("shift", "kind"), [(0.0, {"better"}), (0.6, {"worse"}), (0.5075, set())])
def test_the_verdict_is_marked_by_what_was_found(shift, kind):
    assert top_of(render(results(("law",), shift={"law": shift})))[0].classes == {"verdict"} | kind


@pytest.fixture(scope="module")
def law():
    """Results of eight models on one corpus, and the sections of their page."""
    found = results(("law",), MANY_ARMS)
    return found, sections_of(render(found))


def test_the_losses_on_the_page_are_those_of_the_results(law):
    found, told = law
    rivals, _, every_model, _ = told[QUALITY].all("article")
    for row in found["results"]:
        if row["metric"] in ("perplexity", "bits_per_byte"):
            digits = 2 if row["metric"] == "perplexity" and row["value"] < 100 else 1 if row["value"] > 100 else 3
            assert f"{row['value']:.{digits}f} ± {row['stderr']:.{digits}f}" in row_of(every_model, row["arm"])
    for row in found["differences"]:
        change = f"{-100 * math.expm1(row['nats_per_token']):.1f}%"
        if row["against"] in ("plain-1x", "plain-4x"):
            (cells,) = [cells for cells in rivals.rows() if cells[:2] == ["law", row["against"]]]
            assert names(cells[2], change, "95%")
            assert cells[3] == signed_number(row["nats_per_token"], 4)
            assert leanings(cells[4]) == ["better"]
        if row["against"] == "none":
            assert names(told[QUALITY].text, change)
    for row in found["tasks"]:
        assert f"{row['value']:.3f} ± {row['stderr']:.3f}" in row_of(told[TASKS], row["arm"])


def test_where_the_gain_is_on_the_page_is_as_in_the_results(law):
    found, told = law
    lengths, tail, hits, *_ = (figure.rows() for figure in told[GAIN].all("article"))
    for row, cells in zip(found["tail"], tail, strict=True):
        assert cells[2:5] == [f"{row['n']:,}", *(f"{row['losses'][arm]:.3f}" for arm in ("table", "hashed-1x"))]
    for row, cells in zip(found["hit_rates"], hits, strict=True):
        assert cells[:3] == ["law", f"{100 * row['hit_rate']:.1f}%", f"{row['mean_match_length']:.2f}"]
    for row, cells in zip(found["match_lengths"], lengths, strict=True):
        losses = [f"{row['losses'][arm]:.3f}" for arm in MANY_ARMS]
        assert cells[1:] == [f"{100 * row['share']:.1f}%", f"{row['n']:,}", *losses]
        assert cells[0] == str(row["match_length"]) or row["match_length"] == 0


def test_examples_on_the_page_are_those_of_the_results():
    """Totals below zero are gains; only what was compared with the rival that decides is shown."""
    found = results(("law",), texts=("\u00b7the", "\u00b7of"))
    other = [row | {"against": "plain-2.5x", "text": "not-here"} for row in found["tokens"]]
    found["tokens"] += other
    told = sections_of(render(found))[GAIN]
    tokens, fgrams = (figure.all("table") for figure in told.all("article")[3:5])
    gains, losses = (table.rows() for table in tokens)
    assert ["\u00b7the", "4,200", "3.200", "2.700", f"{MINUS}2,100", "in the matter\u00b7the"] in gains
    assert ["\u00b7of", "3,890", "3.200", "3.358", "+613", ""] in losses
    assert ["\u00b7of", "17", "3,890", f"{MINUS}0.473", f"{MINUS}1,840"] in fgrams[0].rows()
    assert "not-here" not in told.text


def test_costs_on_the_page_are_those_of_the_results(law):
    found, told = law
    memory, work, speed, lookups, _ = told[COST].all("article")
    for row in found["cost"]:
        assert row_of(memory, row["arm"])[1] == f"{row['resident_parameters']:,}"
        flops = [f"{row[key] / 1e6:.3g}M" for key in ("prefill_flops", "decode_flops")]
        times = f"{row['decode_flops'] / found['cost'][3]['decode_flops']:.2f}"
        assert row_of(work, row["arm"])[1:6] == [*flops, times, "1.5 KiB", f"{row['training_flops'] / 1e12:.3g}T"]
    shown = [rate for row in speed.rows() for rate in row[1:]]
    assert shown == [count_text(row["tokens_a_second"]) for row in found["speed"]]
    for row, cells in zip(found["lookup"], lookups.rows(), strict=True):
        assert cells[1:] == [f"{row['batch']:,}", f"{row['median_us']:,.3g}", f"{row['p99_us']:,.3g}"]
    for row, cells in zip(found["ladder"], told[SIZE].rows(), strict=True):
        assert cells[:3] == [f"{row['rows']:,}", bytes_text(row["bytes"]), f"{row['perplexity']:.2f}"]
        assert bool(cells[-1]) == row["is_knee"]


def test_every_command_and_fingerprint_is_on_the_page(law):
    found, told = law
    method = found["method"]
    assert [code.text for code in told[METHOD].all("code")] == method["commands"]
    tables = (table["fingerprint"] for table in method["tables"].values())
    marks = [row[1] for row in told[METHOD].all("article")[1].rows()]
    assert sorted(marks) == sorted([method["tokenizer"], *method["models"].values(), *tables])


def test_intervals_are_drawn_as_they_are():
    """The interval of the table against plain-1x on law covers zero: hollow, and drawn on both sides of the line at 0."""
    found = results(("law",), shift={"law": 0.5075})
    chart = charts_of(sections_html(render(found))[QUALITY])[0]
    assert "plain-1x" in [text.text for text in chart.iter("text")]
    zero = float(re.match(r"M([\d.]+)", next(p for p in chart.iter("path") if p.get("class") == "base").get("d"))[1])
    line = next(p for p in chart.iter("path") if "interval" in p.get("class"))
    assert line.get("class") == "interval unshown"
    begin, end = re.match(r"M([\d.]+) [\d.]+H([\d.]+)", line.get("d")).groups()
    assert float(begin) < zero < float(end)


def test_the_same_intervals_in_numbers():
    """On wiki the table is worse, on law nothing is shown, on the rest it is better."""
    told = sections_of(render(results(shift={"law": 0.32, "wiki": 0.6})))[QUALITY]
    rows = [row for row in told.all("article")[0].rows() if row[1] == "plain-1x"]
    found = {row[0]: leanings(row[-1]) for row in rows}
    assert found == {"held-out": ["better"], "wiki": ["worse"], "law": ["unknown"]}
    assert all(names(row[2], "95%") for row in rows)


def test_the_knee_is_marked():
    chart = charts_of(sections_html(render(results()))[SIZE])[0]
    (mark,) = [path for path in chart.iter("path") if path.get("class") == "mark"]
    assert "M" in mark.get("d")
    assert [text.text for text in chart.iter("text") if "19.8 MiB" in text.text]


def test_what_no_reader_can_tell_apart_is_neither_better_nor_worse():
    """A class of the tail whose interval covers zero, and one document."""
    rivals = [sections_of(render(results(("memo",), documents=n)))[QUALITY].all("article")[0] for n in (1, 646)]
    one, many = ([(row[-1], "95%" in row[2]) for row in figure.rows()] for figure in rivals)
    assert [(leanings(finding), has_interval) for finding, has_interval in one] == [(["unknown"], False)] * len(one)
    assert {has_interval for _, has_interval in many} == {True}
    says_more, says = (figure.all("p")[0].text for figure in rivals)
    assert says_more.startswith(says)
    assert says_more.removeprefix(says).strip()


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


def test_how_long_the_prompts_were_is_told():
    found = results(("law",))
    before = sections_of(render(found))[COST].all("article")[2].all("p")[0].text
    lengths = {1: 256, 8: 202, 64: 25}
    found["speed"] = [row | {"length": lengths[row["batch"]]} for row in found["speed"]]
    told = sections_of(render(found))[COST].all("article")[2].all("p")[0].text
    assert not any(str(length) in before for length in lengths.values())
    numbers = [int(number) for number in re.findall(r"\d+", told)]
    pairs = [numbers[i : i + 2] for i in range(len(numbers) - 1)]
    assert all([length, batch] in pairs or [batch, length] in pairs for batch, length in lengths.items())


def test_contexts_that_were_cut_are_told():
    found = results(("law",))
    found["tasks"] = [row | {"cut": 7 * (row["task"] == "piqa")} for row in found["tasks"]]
    told = sections_of(render(found))[TASKS].all("article")[0].all("table")[-1]
    assert told.rows() == [["piqa", "1,000", "1", "7"], ["arc_easy", "1,000", "1", "0"]]


def test_scores_that_say_little_and_are_not_compared_are_told():
    found = results(("law",))
    assert not sections_of(render(found))[TASKS].all("article")[0].all("p")
    vague = [row | {"metric": "perplexity", "value": 39_130.0, "stderr": 3_460_438.0} for row in found["tasks"][:1]]
    told = sections_of(render(found | {"tasks": found["tasks"] + vague}))[TASKS].all("article")[0].one("p").text
    assert names(told, "perplexity of piqa", "error", "not compared")
    assert "acc" not in told


def test_latency_and_terms_on_the_page_are_those_of_the_results(law):
    found, told = law
    latencies = told[COST].all("article")[4].rows()
    for row, cells in zip(found["latency"], latencies, strict=True):
        assert cells[1:3] == [f"{row['first_token_ms']:.3g}", "-"]
        assert cells[3:] == ["40", f"{row['latency_ms']:.3g}", f"{row['latency_p99_ms']:.3g}", "900"]
    terms = told[GAIN].all("article")[-1].rows()
    for row, cells in zip(found["terms"], terms, strict=True):
        assert cells[0] == (row["term"] or "all terms")
        assert cells[1:3] == [f"{row['occurrences']:,}", f"{row['n']:,}"]
        losses = [f"{row['losses'][arm]:.3f} ± 0.050" for arm in ("table", "hashed-1x") if row["n"]]
        assert cells[4:6] == (losses or ["-", "-"])


def test_a_term_that_occurs_in_too_few_places_is_told_as_that():
    found = results(("law",))
    for each in found["terms"][2]["differences"]:
        each |= {"stderr": None, "low": None, "high": None, "finding": "too few"}
    terms = sections_of(render(found))[GAIN].all("article")[-1].rows()
    assert [cells[-1] for cells in terms] == ["better", "better", "too few", "-"]


def test_few_documents_and_words_without_blanks_are_told():
    found = results(("memo",))
    found["clusters"] = [{"corpus": "memo", "by": "blocks", "number": 30, "mean_tokens": 800}]
    found["method"]["corpora"][0] |= {"documents": 2, "words": None, "characters_a_word": 9.0, "unspaced_share": 0.56}
    html = render(found)
    for row in found["differences"]:
        assert names(row["corpus"], "memo")
    assert names(html, "30 blocks of about 800 tokens", "this text only", "more than 80 tokens before", "56.0%")
    assert "for this text only" in top_of(html)[0].text
    assert "this text only" not in render(results(("memo",)))


def test_what_rounding_explains_is_called_so_on_the_page_and_the_terminal():
    found = results(("law",))
    (row,) = [row for row in found["differences"] if row["against"] == "live"]
    told = []
    for end in (0.0009, 0.0011):
        row |= {"nats_per_token": 0.0, "low": -end, "high": end, "finding": "no difference shown"}
        own = next(each for each in sections_of(render(found))[QUALITY].all("article") if "own model" in each.text)
        (quality,) = [rows for heading, rows in summary_of(found | {"verdict": ""}).items() if "quality" in heading]
        told += [{cells[0]: cells[-1] for cells in own.rows()}["the f-gram model itself"]]
        told += [{each["arm"]: each["the table is"] for each in quality}["live"]]
    assert told == ["the same, rounded"] * 2 + ["no difference shown"] * 2


def test_a_model_without_its_rows_is_no_rival():
    alone = results(("law",), arms={arm: ARMS[arm] for arm in ("live", "table", "none")})
    html = render(alone)
    own = next(
        figure for figure in sections_of(html)[QUALITY].all("article") if "own model" in figure.all("h3")[0].text
    )
    findings = {row[0]: row[-1] for row in own.rows()}
    assert findings["without its rows"] == "no rival"
    assert not leanings(findings["without its rows"])
    assert names(sections_of(html)[GAIN].all("p")[0].text, "no rival was measured")
