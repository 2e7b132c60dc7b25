"""`scone inspect` on a trained model: what a person sees, in a terminal, on a page and as JSON."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from html_tags import Tags, tree_of
from messages import error_of, names
from trained import log_rows, publish_model

from scone_cli.report.ngram_figures import figures_of

KINDS = {  # and what a person must be told of each
    "scone": ({"kind": "scone", "combine": "add", "tied_head": False}, ["added", "A_f-gram", 6800]),
    "plain": ({"kind": "plain"}, ["plain", "tied", 6656]),
    "hashed": ({"kind": "hashed", "hashed_rows": 300}, ["hashed", 300, 4624]),
}


def titles_of(scone, model):
    """The titles of the four figures: what it is, what it takes, how the loss fell, how training went."""
    titles = [figure.title for figure in figures_of(json.loads(scone("inspect", model, "--json")[1]))]
    assert len(set(titles)) == len(titles) == 4
    return titles


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for kind, (changes, _) in KINDS.items():
        publish_model(folder / kind, log_rows(250, 25, 60 if kind == "scone" else 0), **changes)
    publish_model(folder / "one", log_rows(1, 1, 0), kind="plain")
    publish_model(folder / "two", log_rows(2, 5, 0), kind="plain")
    return folder


def test_settings_that_say_nothing_of_a_kind_are_left_out(scone, models):
    shown = scone("inspect", models / "plain")[1]
    assert not {"combine", "f-gram layers", "fgram layers", "learned rows", "hashed rows"} & {
        line.strip().rsplit("  ", 1)[0].strip() for line in shown.splitlines()
    }


@pytest.mark.parametrize("name", [*KINDS, "one", "two"])
@pytest.mark.parametrize("columns", [None, 140, 120, 80, 40])
def test_a_model_in_a_terminal(scone, models, monkeypatch, name, columns):
    if columns:
        monkeypatch.setattr("scone_cli.console.results.is_terminal", lambda _: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
    titles = titles_of(scone, models / name)
    code, out, err = scone("inspect", models / name)
    assert (code, err) == (0, "")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    places = [plain.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert max(map(len, plain[places[0] :].splitlines())) <= (columns or 100)
    curve = plain[places[2] : places[3]]
    assert names(curve, "nats", "tokens")
    rows = [line.split() for line in curve.splitlines() if re.match(r" *\d", line)]
    assert [len(row) for row in rows] == [4] * {"one": 1, "two": 2}.get(name, 10)
    assert [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)
    assert (rows[-1][3] == "-") == (name == "two")  # the loss on held-out text, if it was looked at
    assert re.search(r"sconeinspect\S+--html", "".join(plain[places[3] :].split())), "where the curve is drawn"
    assert names(plain[places[0] : places[2]], *(KINDS[name][1] if name in KINDS else ["plain", "tied", 6656]))
    assert ("A_f-gram" in plain[places[0] : places[1]]) == (name == "scone")


def test_it_is_drawn_in_what_stdout_can_show(models):
    command = [sys.executable, "-m", "scone_cli", "inspect", str(models / "scone")]
    ended = subprocess.run(command, env={"PYTHONIOENCODING": "ascii", "PATH": "/bin"}, capture_output=True, check=True)
    assert ended.stdout.isascii()
    assert b"\\u" not in ended.stdout


@pytest.mark.parametrize(("name", "num_charts"), [("scone", 5), ("plain", 4), ("hashed", 4), ("one", 4), ("two", 4)])
def test_a_page_of_a_model(scone, models, tmp_path, name, num_charts):
    page = tmp_path / "model.html"
    code, out, err = scone("inspect", models / name, "--html", page)
    assert (code, err) == (0, "")
    assert str(page) in out
    html = page.read_text(encoding="utf-8")
    Tags(html)
    assert [title.text for title in tree_of(html).all("h2")] == titles_of(scone, models / name)
    assert not re.search(r"https?:|//|url\(|@import|nan|None", html)
    charts = [ET.fromstring(chart) for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
    assert len(charts) == num_charts
    for chart in charts:
        ticks = [text for text in chart.iter("text") if text.get("class") == "tick"]
        assert all(6.2 * len(text.text) < 40 for text in ticks if text.get("text-anchor") == "end")  # beside the title
    marks = list(charts[0].iter("circle"))
    assert len(marks) == {"one": 2, "two": 2}.get(name, 10)
    facts = [fact.text for fact in tree_of(html).one("dl").all("dd", "value")]
    assert {"scone": "8,352"}.get(name, "7,552") in facts  # resident parameters
    assert name not in KINDS or "4.6" in facts  # held-out loss
    assert name in facts if name in KINDS else "plain" in facts


def test_one_object_with_the_same_numbers(scone, models):
    found = json.loads(scone("inspect", models / "scone", "--json", "--rows", 2)[1])
    assert (found["config"]["kind"], found["config"]["combine"]) == ("scone", "add")
    assert [row["step"] for row in found["last_rows"]] == [249, 250]
    assert {"parameters", "cost", "training", "curve", "held_out"} <= set(found["portrait"])
    by_file = {row["file"]: row["parameters"] for row in found["files"] if "parameters" in row}
    by_part = {row["part"]: row["parameters"] for row in found["portrait"]["parameters"]}
    assert by_file["fgram.safetensors"] == by_part["A_f-gram"]
    assert sum(by_file.values()) == sum(by_part.values())


def test_a_file_of_a_model_is_shown_as_it_is(scone, models):
    found = json.loads(scone("inspect", models / "scone" / "log.parquet", "--json", "--rows", 1)[1])
    assert "portrait" not in found
    assert len(found["last_rows"]) == 1


def test_a_spoiled_model_is_one_line(scone, tmp_path):
    publish_model(tmp_path / "model", log_rows(3, 1, 0))
    path = tmp_path / "model" / "main.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    code, out, err = scone("inspect", tmp_path / "model")
    assert (code, out) == (65, "")
    assert err.startswith("error: ")
    error_of(err, str(path), hint=("scone",))
