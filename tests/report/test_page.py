"""Charts and pages: well-formed, complete, and nothing in them from elsewhere."""

import itertools
import re
from xml.etree import ElementTree as ET

import pytest
from html_tags import Tags, tree_of
from messages import leanings, refusal

from scone_cli.errors import BadSetting
from scone_cli.formatting import count_text, value_text
from scone_cli.report.charts import HEIGHT, WIDTH, svg
from scone_cli.report.figures import (
    Axis,
    BarChart,
    Bars,
    Column,
    Dot,
    DotChart,
    Fact,
    Figure,
    Interval,
    IntervalChart,
    Line,
    LineChart,
    Section,
    Table,
)
from scone_cli.report.page import check_target, page, verdict_page, write_page

EVIL = "</script><script>alert(\"x\")</script> & 'q'"
LINES = [Line("one", [1, 10, 1000], [500.0, 20.0, 5.0]), Line(EVIL, [1, 2], [100.0, 10.0])]
CURVES = LineChart(EVIL, Axis("rank", log=True), Axis("count", log=True), LINES, (10, "chosen"))
BARS = BarChart("bars", "class", Axis("share", "share"), ["a", EVIL], [Bars("x", [0.25, None]), Bars("y", [1.0, 0.0])])
INTERVALS = IntervalChart(
    "intervals",
    Axis("change", "share", ends="signed"),
    [
        Interval("one", -0.1, -0.12, -0.08, "better"),
        Interval(EVIL, 0.05, 0.01, 0.09, "worse"),
        Interval("open", 0.0, None, None, "no difference shown"),
    ],
)
DOTS = DotChart(
    "dots", Axis("size"), Axis("loss", "measure", ends="round"), [Dot("a", 5, 2.0), Dot(EVIL, 9, 1.0, strong=True)]
)
FIGURE = Figure(
    EVIL,
    f"Caption {EVIL}",
    [CURVES, BARS, INTERVALS, DOTS],
    [Table([Column("name", "text"), Column("tokens", "literal"), Column("n", "count")], [(EVIL, EVIL, 1234)], EVIL)],
)


@pytest.mark.parametrize("chart", [CURVES, BARS, INTERVALS, DOTS])
def test_a_chart_is_well_formed_and_says_what_it_shows(chart):
    root = ET.fromstring(svg(chart))
    texts = [element.text for element in root.iter("text")]
    assert root.get("aria-label") == chart.title
    assert texts[0] == chart.title
    assert isinstance(chart, IntervalChart) or chart.y.title in texts
    assert (chart.x if isinstance(chart, BarChart) else chart.x.title) in texts


def points(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split())) for point in path.removeprefix("M").split("L")]


def test_a_curve_goes_through_its_points():
    """From 1 to 1000 and from 500 down to 5 on logarithmic axes: 10 is a third of the way, 20 as far as log says."""
    root = ET.fromstring(svg(CURVES))
    path = next(p for p in root.iter("path") if p.find("title") is not None)
    (x1, y1), (x2, y2), (x3, y3) = points(path.get("d"))
    assert x2 - x1 == pytest.approx((x3 - x1) / 3, abs=0.2)
    assert (y2 - y1) / (y3 - y1) == pytest.approx(1.398 / 2, abs=0.01)
    assert y1 < y2 < y3 < HEIGHT
    assert 0 < x1 < x3 < WIDTH
    ticks = [element.text for element in root.iter("text") if element.get("class") == "tick"]
    assert ticks[:3] == ["1", "10", "100"]
    assert "chosen" in ticks


def test_bars_are_as_high_as_their_values():
    rects = [r for r in ET.fromstring(svg(BARS)).iter("rect") if r.find("title") is not None]
    told = [(r.find("title").text, float(r.get("height"))) for r in rects]
    expected = [("x", "a", "25.0%"), ("y", "a", "100.0%"), ("y", EVIL, "0.0%")]
    quarter, whole, nothing = (
        next(height for text, height in told if all(part in text for part in parts)) for parts in expected
    )
    assert len(told) == len(expected)
    assert quarter == pytest.approx(whole / 4)
    assert whole > nothing == 0


@pytest.mark.parametrize("values", [[0.0], [0.003], [0.7], [1.0], [12345.0], [3e9]])
def test_any_value_fits_on_the_axis(values):
    for kind in ("count", "number"):
        chart = BarChart("t", "x", Axis("y", kind), ["a"], [Bars("b", values)])
        (rect,) = ET.fromstring(svg(chart)).iter("rect")
        assert 0 <= float(rect.get("y")) <= HEIGHT
        assert float(rect.get("height")) >= 0
    curve = LineChart("t", Axis("x", log=True), Axis("y"), [Line("l", [1], values)])
    assert ET.fromstring(svg(curve)) is not None


def test_names_of_many_bars_do_not_overlap():
    names = [f"{10**i}" for i in range(8)] * 3
    chart = BarChart("t", "x", Axis("y"), names, [Bars("b", [1.0] * len(names))])
    ticks = [e for e in ET.fromstring(svg(chart)).iter("text") if e.text in names and e.get("text-anchor") == "middle"]
    places = [float(tick.get("x")) for tick in ticks if tick.get("class") == "tick"]
    assert 4 < len(places) < len(names)
    assert min(b - a for a, b in itertools.pairwise(places)) > 8 * 6


def test_intervals_stand_where_their_values_are():
    """-12% to -8% and +1% to +9% on one scale with 0: as far from its line as they are large."""
    root = ET.fromstring(svg(INTERVALS))
    base = next(p for p in root.iter("path") if p.get("class") == "base")
    zero = float(re.match(r"M([\d.]+)", base.get("d"))[1])
    lines = [p for p in root.iter("path") if p.get("class").startswith("interval")]
    assert [line.get("class") for line in lines] == ["interval better", "interval worse"]
    ends = [tuple(map(float, re.match(r"M([\d.]+) [\d.]+H([\d.]+)", line.get("d")).groups())) for line in lines]
    unit = (zero - ends[0][0]) / 12
    assert [round((end - zero) / unit, 1) for pair in ends for end in pair] == pytest.approx([-12, -8, 1, 9], abs=0.1)
    dots = [(dot.get("class"), float(dot.get("cx"))) for dot in root.iter("circle")]
    assert [kind for kind, _ in dots] == ["better", "worse", "unshown"]
    assert dots[2][1] == zero
    texts = [text.text for text in root.iter("text")]
    assert {"\N{MINUS SIGN}10.0%", "+5.0%", "0.0%"} <= set(texts)
    left, right = (next(text for text in root.iter("text") if arrow in text.text) for arrow in "\u2190\u2192")
    assert leanings(left.text) == ["better"]
    assert leanings(right.text) == ["worse"]
    assert float(left.get("x")) < float(right.get("x"))


def test_charts_beside_one_another_have_one_scale():
    axis = Axis("change", "share", ends="signed")
    small, large = ([Interval("a", value, value, value, "better")] for value in (-0.01, -0.5))
    ticks = [
        [text.text for text in ET.fromstring(svg(chart)).iter("text") if text.get("text-anchor") == "middle"]
        for chart in (IntervalChart("t", axis, small, beside=[-0.5]), IntervalChart("t", axis, large))
    ]
    assert ticks[0] == ticks[1]
    assert "0%" in ticks[0]


def test_names_of_points_overlap_neither_points_nor_one_another():
    dots = [Dot(f"model-{i}", 100 + i % 3, 5 + i // 3) for i in range(9)] + [Dot("best", 101, 6.05, strong=True)]
    root = ET.fromstring(svg(DotChart("t", Axis("x", ends="round"), Axis("y", "measure", ends="round"), dots)))
    names = [t for t in root.iter("text") if t.text in {dot.name for dot in dots}]
    assert "best" in [name.text for name in names]
    boxes = []
    for name in names:
        width, x, y = 6 * len(name.text), float(name.get("x")), float(name.get("y"))
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[name.get("text-anchor")]
        boxes.append((left, y - 10, left + width, y))
    boxes += [
        (float(c.get("cx")) - 3, float(c.get("cy")) - 3, float(c.get("cx")) + 3, float(c.get("cy")) + 3)
        for c in root.iter("circle")
    ]
    for a, b in itertools.combinations(boxes, 2):
        if b not in boxes[-len(dots) :] or a not in boxes[-len(dots) :]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_numbers_below_a_chart_do_not_overlap_and_zero_is_one_of_them():
    intervals = [Interval("a", value, None, None, "no difference shown") for value in (-0.55, 2.9)]
    root = ET.fromstring(svg(IntervalChart("t", Axis("x", "share", ends="signed"), intervals)))
    ticks = [t for t in root.iter("text") if t.get("class") == "tick" and t.get("text-anchor") == "middle"]
    assert "0%" in [tick.text for tick in ticks]
    for a, b in itertools.pairwise(ticks):
        assert float(b.get("x")) - float(a.get("x")) > 4 * (len(a.text) + len(b.text))


def test_a_page_to_decide_from():
    folded = Table([Column("n", "count")], [(1,), (2,)], "More", strong=[1], folded=True)
    sections = [Section("First part", EVIL, [FIGURE], [EVIL]), Section("Second", "", [Figure("f", "", [], [folded])])]
    html = verdict_page(EVIL, EVIL, ("So it is.", "better"), [Fact("gain", "5%", EVIL)], [EVIL], sections)
    tags = Tags(html)
    assert [attrs["href"] for tag, attrs in tags.tags if tag == "a"] == ["#firstpart", "#second"]
    assert [attrs["id"] for tag, attrs in tags.tags if tag == "section"] == ["firstpart", "second"]
    tree = tree_of(html)
    verdict = tree.one("p", "verdict")
    assert (verdict.text, verdict.classes) == ("So it is.", {"verdict", "better"})
    details = tree.one("details")
    assert details.one("summary").text == "More"
    assert details.rows() == [["1"], ["2"]]
    assert [line.text for line in tree.all("tr", "strong")] == ["2"]
    assert "<script" not in html


def test_commands_in_a_sentence_are_code_and_words_with_a_hyphen_stay_whole():
    told = "Larger than plain-1x (scone eval --against arms/a-b DIR), says scone 0.1; add --against MODEL_DIR."
    (sentence,) = tree_of(verdict_page("t", told, ("", ""), [], [], [])).all("p")[:1]
    assert sentence.text == told
    assert [code.text for code in sentence.all("code")] == ["scone eval --against arms/a-b DIR"]
    assert [word.text for word in sentence.all("span", "word")] == ["plain-1x", "--against", "arms/a-b", "--against"]


def test_a_page_holds_everything_and_fetches_nothing():
    html = page(EVIL, EVIL, {"f-grams": EVIL}, [FIGURE], [EVIL])
    found = Tags(html)
    assert not re.search(r"https?:|//|@import|url\(", html)
    assert {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe"} == set()
    assert all(not name.startswith("on") and name not in {"src", "href"} for _, attrs in found.tags for name in attrs)
    assert "".join(found.text).count(EVIL) >= 10
    assert "1,234" in found.text
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_a_page_replaces_a_file_whole_and_nothing_else(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("before")
    (tmp_path / "link.html").symlink_to(target)
    check_target(tmp_path / "link.html")
    assert write_page(tmp_path / "link.html", "after \udce2") == len(target.read_bytes())
    assert target.read_text() == r"after \udce2"
    assert (tmp_path / "link.html").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "page.html"]
    (tmp_path / "manifest.json").write_text("{}")
    for path, facts in [
        (tmp_path, (f"{tmp_path}", "folder")),
        (tmp_path / "none" / "page.html", (f"{tmp_path / 'none' / 'page.html'}", "folder")),
        (tmp_path / "page.html", (f"{tmp_path / 'page.html'}", "artifact")),
        ("/dev/null", ("/dev/null", "file")),
    ]:
        with refusal(BadSetting, "--html", *facts, hint=("file",)):
            check_target(tmp_path / path)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("count", 1234567, "1,234,567"),
        ("share", 0.8518, "85.2%"),
        ("share", 0.0, "0.0%"),
        ("share", 0.00042, "0.04%"),
        ("number", 2.749, "2.75"),
        ("text", "a", "a"),
        ("count", None, "-"),
    ],
)
def test_values_in_tables(kind, value, text):
    assert value_text(kind, value) == text


def test_short_counts():
    numbers = [0, 0.5, 12, 999, 1000, 20_000, 1_500_000, 2e9, 3e12]
    assert [count_text(number) for number in numbers] == ["0", "0.5", "12", "999", "1,000", "20k", "1.5M", "2G", "3T"]
