"""`scone inspect` on counts and vocabularies: what a person sees, in a terminal, on a page and as JSON."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from html_tags import Tags, tree_of
from messages import error_of
from portrayed import MAX_N, Portrayed

from scone_cli.artifacts.manifest import read_manifest
from scone_cli.report.ngram_figures import figures_of
from scone_cli.vocab.segment import cut


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Portrayed(tmp_path_factory.mktemp("tiny"))


FIGURES = {"vocab": 6, "counts": 4}  # without numbers of matching, counts lack the first and the fourth


def titles_of(scone, tiny, kind):
    """The titles of the figures."""
    titles = [figure.title for figure in figures_of(json.loads(scone("inspect", tiny.folder / kind, "--json")[1]))]
    assert len(set(titles)) == len(titles) == FIGURES[kind]
    return titles


@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("columns", [None, 140, 80, 40])
def test_figures_in_a_terminal_keep_to_its_width(scone, tiny, monkeypatch, kind, columns):
    if columns:
        monkeypatch.setattr("scone_cli.console.results.is_terminal", lambda _: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
    titles = titles_of(scone, tiny, kind)
    code, out, err = scone("inspect", tiny.folder / kind)
    assert (code, err) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "\x1b" not in plain
    places = [plain.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    figures = plain[places[kind == "vocab"] :]
    assert max(map(len, figures.splitlines())) <= (columns or 200)
    assert ("█" in figures) == (columns != 40)
    assert "</script" in "".join(figures.split())


def test_bars_are_drawn_in_what_stdout_can_show(tiny):
    command = [sys.executable, "-m", "scone_cli", "inspect", str(tiny.folder / "vocab")]
    ended = subprocess.run(command, env={"PYTHONIOENCODING": "ascii", "PATH": "/bin"}, capture_output=True, check=True)
    assert ended.stdout.isascii()
    assert re.search(rb"\d% *\| *---", ended.stdout)


@pytest.mark.parametrize("kind", FIGURES)
def test_a_page_has_every_figure(scone, tiny, tmp_path, kind):
    page = tmp_path / "page.html"
    code, out, err = scone("inspect", tiny.folder / kind, "--html", page)
    assert (code, err) == (0, "")
    assert str(page) in out
    html = page.read_text(encoding="utf-8")
    found = Tags(html)
    assert [title.text for title in tree_of(html).all("h2")] == titles_of(scone, tiny, kind)
    assert not re.search(r"https?:|//|url\(|@import", html)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "\x1b" not in html
    assert ("30.0 MiB" in html) == (kind == "vocab"), "a table's size has its unit"
    charts = [ET.fromstring(chart) for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert len(charts) == {"vocab": 8, "counts": 4}[kind]
    for chart in charts:
        kinds = [text.get("class") for text in chart.iter("text")]
        assert kinds.count("axis") == 2
        assert kinds.count("name") == 1
    assert any("</script" in text for text in found.text)


def test_titles_fit_on_their_charts(scone, tiny, tmp_path):
    """Seven pixels a letter is more than any of them takes on average."""
    for kind in FIGURES:
        scone("inspect", tiny.folder / kind, "--html", tmp_path / "page.html")
        for chart in re.findall(r"<svg.*?</svg>", (tmp_path / "page.html").read_text(), re.DOTALL):
            root = ET.fromstring(chart)
            _, _, width, height = map(float, root.get("viewBox").split())
            for text in root.iter("text"):
                room = height if "rotate" in text.get("transform", "") else width
                if text.get("class") in {"axis", "name"}:
                    assert len(text.text) * 7 < room, text.text


def test_one_object_with_all_figures(scone, tiny, tmp_path):
    for args in ((), ("--html", tmp_path / "page.html")):
        out = scone("inspect", tiny.folder / "vocab", "--json", *args)[1]
        assert out.count("\n") == 1
        found = json.loads(out)
        assert found["artifact"] == "vocab"
        assert {"ladder", "lengths", "rank_frequency", "matched", "positions", "tail", "examples"} <= set(
            found["portrait"]
        )
        assert found["first_rows"]
    assert (found["html"], found["html_bytes"]) == (
        str(tmp_path / "page.html"),
        (tmp_path / "page.html").stat().st_size,
    )


def test_a_file_of_counts_is_shown_as_it_is(scone, tiny):
    found = json.loads(scone("inspect", tiny.folder / "counts" / "n=3.parquet", "--json")[1])
    assert "portrait" not in found
    assert len(found["first_rows"]) == 10


def test_what_pages_and_texts_do_not_fit(scone, tiny, tmp_path):
    page = tmp_path / "page.html"
    for path in (tiny.folder / "tokens", tiny.folder, tiny.folder / "counts" / "n=3.parquet"):
        code, out, err = scone("inspect", path, "--html", page)
        assert (code, out) == (2, "")
        error_of(err, "--html", str(path))
        assert not page.exists()
    for path in (tiny.folder / "counts", tiny.folder, tiny.folder / "vocab" / "vocab.parquet"):
        code, out, err = scone("inspect", path, "--text", "the cat")
        assert (code, out) == (2, "")
        error_of(err, "--text", str(path))
    assert scone("inspect", tiny.folder / "vocab", "--text", "a", "--html", page)[0] == 2
    assert scone("inspect", tiny.folder / "vocab", "--html", tmp_path)[0] == 2
    assert scone("inspect", tiny.folder / "nowhere", "--text", "a")[0] == 66


# ---- a text in its matches ---------------------------------------------------------------------------------------


TEXTS = [
    "the cat sat on the mat",
    "",
    "\0",
    " ",
    "caf\u00e9 \U0001f642 \U0001f643\U0001f644",
    "<script>alert('x') & more</script>",
    "\x1b[31mred\x1b[0m",
    "[brackets] [bold]no[/bold]",
    "x" * 2000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_cut_into_its_matches(tiny, text):
    found = cut(tiny.folder / "vocab", read_manifest(tiny.folder / "vocab"), text)
    assert found["text"] == text
    tokens = tiny.tokenizer.encode_batch([text])[0].tolist()
    assert [row["token"] for row in found["positions"]] == tokens
    for end, row in enumerate(found["positions"], start=1):
        suffixes = [tuple(tokens[end - n : end]) for n in range(min(MAX_N, end), 1, -1)]
        longest = next((fgram for fgram in suffixes if fgram in tiny.fgrams), ())
        assert row["n"] == len(longest)
        assert row["id"] == (tiny.fgrams.index(longest) if longest else None)
    spans = [(row["first"], row["last"]) for row in found["segments"]]
    assert [place for first, last in spans for place in range(first, last + 1)] == list(range(len(tokens)))
    for row in found["segments"]:
        used = found["positions"][row["last"]]
        assert (row["n"], row["id"]) == (used["n"], used["id"])
        assert row["last"] - row["first"] + 1 == max(row["n"], 1)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("columns", [None, 30])
def test_a_cut_text_breaks_no_terminal(scone, tiny, monkeypatch, text, columns):
    if columns:
        monkeypatch.setattr("scone_cli.console.results.is_terminal", lambda _: True)
        monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = scone("inspect", tiny.folder / "vocab", "--text", text)
    assert (code, err) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert all(character.isprintable() or character == "\n" for character in plain)
    if columns:
        assert max(map(len, plain.splitlines())) <= columns
    json.loads(scone("inspect", tiny.folder / "vocab", "--text", text, "--json")[1])


@pytest.mark.parametrize("text", ["caf\udce9", "half \ud83d"])
def test_a_text_that_is_no_unicode_is_refused(scone, tiny, text):
    code, out, err = scone("inspect", tiny.folder / "vocab", "--text", text)
    assert (code, out) == (65, "")
    error_of(err, "--text", "UTF-8")


def test_brackets_show_matches_without_colours_too(scone, tiny, monkeypatch):
    text = "the cat sat on the zebra"
    plain = scone("inspect", tiny.folder / "vocab", "--text", text)[1]
    cut_line = plain.splitlines()[2]
    assert cut_line.replace("[", "").replace("]", "").replace("·", " ") == text
    assert "[" in cut_line
    assert "\x1b" not in plain
    monkeypatch.setattr("scone_cli.console.results.is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", scone("inspect", tiny.folder / "vocab", "--text", text)[1])
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", scone("inspect", tiny.folder / "vocab", "--text", text)[1])


def test_only_its_own_tokenizer_will_do(scone, tmp_path):
    made = Portrayed(tmp_path)
    (tmp_path / "tokens").rename(tmp_path / "elsewhere")
    code, out, err = scone("inspect", made.folder / "vocab", "--text", "the cat")
    assert (code, out) == (65, "")
    error_of(err, "tokenizer", str(made.folder / "vocab"))
