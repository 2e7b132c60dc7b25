"""The types of results.json are what its page says, and what an evaluation writes."""

import os
from pathlib import Path

from result_keys import tables_of_keys, wrong_keys

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
START, END = "<!-- keys: ", "<!-- end of keys -->"


def test_the_page_tells_the_keys_that_the_types_have():
    """Where types or their comments change, give SCONE_WRITE_GOLDEN=1, which writes the page, and look at what git shows."""
    before, kept = PAGE.read_text(encoding="utf-8").split(START)
    start, _, kept = kept.partition("\n")
    made = f"\n{tables_of_keys()}"
    if os.environ.get("SCONE_WRITE_GOLDEN") == "1":
        PAGE.write_text(f"{before}{START}{start}\n{made}{END}\n", encoding="utf-8", newline="\n")
        return
    assert kept == f"{made}{END}\n", "docs/evaluation.md is out of date: run this test with SCONE_WRITE_GOLDEN=1"


def test_every_key_says_what_it_is():
    lines = [line for line in tables_of_keys().splitlines() if line.startswith("| ")]
    assert len(lines) > 150
    assert not [line for line in lines if line.endswith("|  |")]


def test_wrong_keys_are_found():
    row = {"arm": "a", "corpus": "b", "metric": "c", "value": 1.0, "stderr": None, "n": 2, "seconds": 3}
    assert wrong_keys({"results": [row], "verdict": ""}) == []
    assert wrong_keys({"results": [{**row, "stderr": "0.1"}]}) == ["results.results.stderr: '0.1' is no float"]
    unknown = {**row, "m": row["n"]}
    del unknown["n"]
    found = wrong_keys({"results": [row, unknown], "other": []})
    assert sorted(found) == [
        f"results{where} is missing or unknown" for where in (".results: m", ".results: n", ": other")
    ]
