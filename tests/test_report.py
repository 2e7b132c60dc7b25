"""The page of an evaluation: whole, harmless, and with the numbers of the results and no others."""

import re
from xml.etree import ElementTree as ET

import pytest
from report_cases import HOSTILE, MANY_ARMS, minimum, results
from test_page import Tags

from scone_cli.report import render

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
