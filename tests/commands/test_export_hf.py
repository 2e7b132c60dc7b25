"""`scone export --to hf`: the folder, its card, and what is refused; what loads the folder is in tests/serving/test_hf.py."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
from messages import error_of, names
from workspaces import contents, copy_of, manifest, write_manifest

yaml = pytest.importorskip("yaml")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.hf

TO = ("export", "--to", "hf")
FILES = {
    *("README.md", "config.json", "generation_config.json", "manifest.json", "model.safetensors"),
    *("modeling_scone.py", "tokenizer.json", "tokenizer_config.json"),
}
_IN_TABLE = ("fgrams.safetensors", "index.safetensors", "manifest.json", "rows-00000.safetensors", "tokenizer.json")
TABLE = {f"table/{name}" for name in _IN_TABLE}


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory, forks):
    """An export of the small workspace's model and what the command printed; to copy, not to change."""
    folder = tmp_path_factory.mktemp("export") / "exported"
    ended = forks.run("--quiet", "--workspace", small / "work", *TO, folder, "--json")
    assert (ended.code, ended.err) == (0, "")
    return folder, json.loads(ended.out)


@pytest.fixture
def exported(whole, tmp_path):
    return copy_of(whole[0], tmp_path / "exported")


@pytest.fixture
def work(small):
    return small / "work"


def card(folder):
    """The front matter of README.md, and the rest of it."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def table_below(text, first):
    """The cells of the Markdown table whose heading begins with `first`, by the first cell of a line."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(heading[1:], row[1:], strict=True)) for row in rows}


def is_rounded(text, value):
    """Whether the text is the number to as many digits as it has."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5001 * 10**-digits


# ---- the folder --------------------------------------------------------------------------------------------------


def test_it_tells_what_it_wrote(work, whole):
    folder, told = whole
    assert contents(folder).keys() == FILES | TABLE
    table, model = manifest(work / "table"), manifest(work / "model")
    assert told.pop("seconds") > 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert told.pop("bytes") == sum(path.stat().st_size for path in files) - (folder / "manifest.json").stat().st_size
    assert told.pop("parameters") == model["summary"]["resident_parameters"]
    assert told == {
        "schema_version": 1,
        "to": "hf",
        "out": str(folder),
        "kind": "scone",
        "vocab_size": 400,
        "dim": 16,
        "layers": 1,
        "context": 32,
        "rows": table["summary"]["rows"],
        "dtype": table["summary"]["dtype"],
        "rows_bytes": table["summary"]["rows_bytes"],
        "max_n": 4,
    }


def test_the_card_has_the_figures_of_the_evaluation(work, whole):
    head, text = card(whole[0])
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text-generation")
    assert "license" not in head
    assert text.startswith("\n# exported\n")
    results = json.loads((work / "eval" / "results.json").read_text())
    [corpus] = results["method"]["corpora"]
    assert names(text, corpus["corpus"], corpus["documents"], corpus["tokens"])
    shown = table_below(text, "arm")
    assert shown.keys() == {"table", "none"}
    for row in results["results"]:
        column = row["metric"].replace("_", " ")
        if row["arm"] in shown and column in shown[row["arm"]]:
            value, error = shown[row["arm"]].pop(column).split(" ± ")
            assert is_rounded(value, row["value"])
            assert is_rounded(error, row["stderr"])
    assert shown == {"table": {}, "none": {}}
    [row] = [row for row in results["differences"] if (row["arm"], row["against"]) == ("table", "none")]
    [difference] = table_below(text, "table against").values()
    assert is_rounded(difference["nats per token"], row["nats_per_token"])
    low, high = difference["95% interval"].split(" to ")
    assert is_rounded(low, row["low"])
    assert is_rounded(high, row["high"])


@pytest.mark.parametrize("why", ["no evaluation", "one of another table", "a damaged one"])
def test_a_card_without_figures_says_so(scone, forks, work, tmp_path, why):
    workspace, more = copy_of(work, tmp_path / "work"), ()
    if why == "no evaluation":
        (workspace / "eval" / "manifest.json").unlink()
    elif why == "a damaged one":
        (workspace / "eval" / "results.json").write_text("{")
    else:
        more = ("--table", tmp_path / "int8")
        ended = forks.run("--workspace", workspace, "precompute", "--dtype", "int8", "--out", tmp_path / "int8")
        assert ended.code == 0, ended.err
    code, _, err = scone("--quiet", "--workspace", workspace, *TO, tmp_path / "exported", *more)
    assert (code, err) == (0, "")
    _, text = card(tmp_path / "exported")
    assert "Not evaluated" in text
    assert "| arm |" not in text


def test_every_byte_is_verified(scone, exported):
    assert scone("--quiet", "verify", exported)[0] == 0
    for name in ("model.safetensors", "table/rows-00000.safetensors", "README.md"):
        content = (exported / name).read_bytes()
        (exported / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        code, out, _ = scone("--quiet", "verify", exported)
        assert code == 65
        assert names(out, name, "SHA-256", f"scone export --to hf {exported}")
        (exported / name).write_bytes(content)


def test_an_earlier_export_is_replaced(scone, work, exported):
    """The plain model's has no table: nothing of the other export is left."""
    assert scone("--quiet", "--workspace", work, *TO, exported, "--model", work / "plain")[0] == 0
    assert contents(exported).keys() == FILES
    assert names(card(exported)[1], "without n-gram embeddings", "as a rival of a table")
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]


@pytest.mark.parametrize(
    "is_there",
    [pytest.param(False, id="nothing before", marks=pytest.mark.long), pytest.param(True, id="an earlier export")],
)
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(forks, work, whole, tmp_path, is_there):
    """Nothing is at DIR until all of it is; an earlier export stays until then."""
    target, earlier = tmp_path / "to" / "exported", tmp_path / "earlier"
    if is_there:
        (copy_of(whole[0], earlier) / "config.json").write_text("{}")
    (tmp_path / "to").mkdir()

    def export(**options):
        return forks.run("--quiet", "--workspace", work, *TO, target, **options)

    def run(**options):
        shutil.rmtree(target, ignore_errors=True)
        if is_there:
            copy_of(earlier, target)
        return export(**options)

    moments, old, new = run().moments, contents(earlier), contents(target)
    assert new == contents(whole[0])
    own = [number for number, moment in enumerate(moments, 1) if str(target.parent) in moment]
    for moment in (own[0], own[len(own) // 2], len(moments)):  # the last one puts it in its place
        where = f"killed before {moment} of {len(moments)}: {moments[moment - 1]}"
        assert run(moment=moment).code == -signal.SIGKILL, where
        assert contents(target) in (old, new), where
    again = export()
    assert (again.code, again.err) == (0, "")
    assert contents(target) == new
    assert [path.name for path in target.parent.iterdir()] == ["exported"]


# ---- what cannot be ----------------------------------------------------------------------------------------------


def test_what_scone_did_not_export_is_not_replaced(scone, work, whole, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    copy_of(whole[0] / "table", tmp_path / "table")
    for name, fact in (("mine", "manifest.json"), ("table", "'exported-table'")):
        before = contents(tmp_path)
        code, out, err = scone("--quiet", "--workspace", work, *TO, tmp_path / name)
        assert (code, out) == (65, "")
        error_of(err, str(tmp_path / name), fact)
        assert contents(tmp_path) == before


def test_a_hashed_model_is_not_exported(scone, work, tmp_path):
    hashed = copy_of(work / "model", tmp_path / "hashed")
    facts = manifest(hashed)
    facts["summary"]["kind"] = "hashed"
    write_manifest(hashed, facts)
    code, out, err = scone("--quiet", "--workspace", work, *TO, tmp_path / "exported", "--model", hashed)
    assert (code, out) == (2, "")
    error_of(err, str(hashed), "hashed")
    assert not (tmp_path / "exported").exists()


def test_a_table_of_another_model_and_one_for_a_plain_model(scone, work, tmp_path):
    model = copy_of(work / "model", tmp_path / "model")
    facts = manifest(model)
    facts["files"]["main.safetensors"]["sha256"] = "0" * 64
    write_manifest(model, facts)
    for args in (("--model", model), ("--model", work / "plain", "--table", work / "table")):
        code, out, err = scone("--quiet", "--workspace", work, *TO, tmp_path / "exported", *args)
        assert (code > 1, out) == (True, "")
        error_of(err, str(args[1]))
        assert not (tmp_path / "exported").exists()


def test_a_licence_that_was_stated_stays(scone, small, tmp_path):
    out = tmp_path / "exported"
    assert scone("--workspace", small / "work", "export", "--to", "hf", out)[0] == 0
    card = (out / "README.md").read_text()
    assert "license:" not in card.split("---")[1]
    (out / "README.md").write_text(card.replace("library_name", "license: mit\nlibrary_name", 1))
    assert scone("--workspace", small / "work", "export", "--to", "hf", out)[0] == 0
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert front["license"] == "mit"
    assert scone("verify", out)[0] == 0


def test_a_folder_that_is_not_utf8_is_refused(scone, small, tmp_path):
    code, out, err = scone("--workspace", small / "work", "export", "--to", "hf", tmp_path / "bad\udcff")
    assert (code, out) == (2, "")
    error_of(err, "UTF-8")


def test_an_exported_model_is_no_rival(scone, work, tmp_path):
    out = tmp_path / "exported"
    assert scone("--workspace", work, "export", "--to", "hf", out)[0] == 0
    for args in (("eval", "--against", out), ("generate", "--prompt", "a", "--model", out)):
        code, _, err = scone("--workspace", work, *args)
        assert code == 2
        error_of(err, "exported", hint=("scone-work/model",))
