"""What `scone audit` finds of planted text, in every place where it can be, and that it finds nothing after it has gone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audited import GIVEN, MAIL, OTHERS, PLANTED, SECRET, add_the_rest, corpus, publish_files, slow_facts, write_texts
from messages import error_of, names
from workspaces import manifest, write_manifest

from scone_cli.artifacts.publish_version import publish_version
from scone_cli.console import cli
from scone_cli.corpus.personal import DETECTORS
from scone_cli.corpus.redaction_rules import read_rules
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.progress import silent

COUNT = ("--vocab-size", "420", "--max-n", "4", "--min-count", "2", "--held-out", "0.1", "--workers", "1")
NGRAMS = ["counts/n=1.parquet", "counts/n=2.parquet", "counts/n=3.parquet", "counts/n=4.parquet"]
FGRAMS = ["vocab", "model", "table"]


def made(folder: Path, texts: dict[str, str], *options: object) -> Path:
    """A workspace of these documents."""
    work = folder / "work"
    write_texts(folder / "corpus", texts)
    for args in (("count-ngrams", folder / "corpus", *COUNT, *options), ("select-vocab", "--size", "3000")):
        with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(io.StringIO()):
            cli.main(["--quiet", "--workspace", str(work), *map(str, args)])
        assert stop.value.code == 0
    add_the_rest(work, examples=not options)
    return work


@pytest.fixture(scope="module")
def holds(tmp_path_factory) -> Path:
    """A workspace of which one document is planted; to look at, not to change."""
    return made(tmp_path_factory.mktemp("holds"), corpus(with_secret=True))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    """The same, with what was planted redacted."""
    folder = tmp_path_factory.mktemp("clean")
    rules = folder / "rules.toml"
    rules.write_text(f'use = ["email"]\n[given]\nterms = {json.dumps([SECRET, *GIVEN[2:]])}\n')
    return made(folder, corpus(with_secret=True), "--redact", rules)


@pytest.fixture
def texts(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(GIVEN) + "\n")
    return path


@pytest.fixture
def audit(scone):
    """Run the command: its exit code, and its result by place."""

    def run(path: Path, *args: object) -> tuple[int, dict, dict]:
        code, out, err = scone("audit", path, *args, "--json")
        assert "Traceback" not in err
        result = json.loads(out)
        return code, result, {place["name"]: place for place in result["places"]}

    return run


# ---- a text ------------------------------------------------------------------------------------------------------


def test_a_text_is_found_in_every_place_and_not_after_redaction(holds, clean, texts, audit):
    code, result, places = audit(holds, "--text", texts)
    assert (code, result["clean"], result["problems"]) == (1, False, [])
    assert set(places) == {"tokens/tokenizer.json", "tokens", *NGRAMS, *FGRAMS, "eval"}
    for name in ["tokens", *NGRAMS[1:], *FGRAMS, "eval"]:
        assert "1" in places[name]["texts"], name
    assert places["tokens"]["texts"]["4"]["ids"] == ["planted.txt"], "longer than any n-gram"
    assert places["tokens"]["texts"]["2"]["num"] == places["tokens"]["holding"] == 1
    assert {name: place["num"] for name, place in places["eval"]["texts"].items()} == {"1": 1, "2": 1}
    assert all("5" not in place["texts"] for place in places.values())
    assert len(result["notes"]) == 1
    assert names(result["notes"][0], "4", "longer", "parts")

    code, result, places = audit(clean, "--text", texts)
    assert (code, result["found"], result["clean"]) == (0, 0, True)
    assert set(places) == {"tokens/tokenizer.json", "tokens", *NGRAMS, *FGRAMS, "eval"}


def test_it_counts_as_plain_python_does(holds, texts, audit, tmp_path):
    (tmp_path / "documents.txt").write_text("planted.txt\n3.txt\n")
    _, _, places = audit(holds, "--text", texts, "--documents", tmp_path / "documents.txt")
    given, others = set(), set()
    for path in (holds / "tokens").glob("part-*.parquet"):
        for row in pq.read_table(path).to_pylist():
            ngrams = {tuple(row["tokens"][i : i + n]) for n in range(2, 5) for i in range(len(row["tokens"]) - n + 1)}
            (given if row["doc"] in ("planted.txt", "3.txt") else others).update(ngrams)
    expected = slow_facts(holds, GIVEN, lambda ngram: tuple(ngram) in given - others)
    for name, facts in expected.items():
        found = places[name] | {"texts": {line: each["num"] for line, each in places[name]["texts"].items()}}
        assert {key: found[key] for key in facts} == facts, name
    assert expected["vocab"]["only"] > 20
    assert expected["vocab"]["parts"] > expected["vocab"]["rare_parts"] > 3
    assert expected["counts/n=4.parquet"]["holding"] >= 5


def test_text_is_shown_only_when_asked(holds, texts, scone):
    shown = [scone("audit", holds, "--text", texts, *how)[1] for how in ((), ("--json",), ("--show",))]
    assert [SECRET in out or MAIL in out for out in shown] == [False, False, True]
    assert "planted.txt" in shown[0]


def with_fgrams(work: Path, of: Path, rows: list[dict]) -> Path:
    """A workspace with the tokens of another one, and these f-grams."""
    shutil.copytree(of / "tokens", work / "tokens")
    table = pa.Table.from_pylist(rows, pq.read_schema(of / "vocab" / "vocab.parquet"))
    with pa.BufferOutputStream() as content:
        pq.write_table(table, content)
    files = {"vocab.parquet": content.getvalue().to_pybytes()}
    publish_files(work / "vocab", "vocab", files, manifest(of / "vocab")["tokenizer"])
    return work


def test_what_looks_personal_and_what_few_documents_hold_has_limits(holds, scone, tmp_path, audit):
    tokenizer = Tokenizer.load(holds / "tokens" / "tokenizer.json")
    rows = pq.read_table(holds / "vocab" / "vocab.parquet").slice(0, 2).to_pylist()
    rows[0]["tokens"], rows[0]["docs"] = tokenizer.encode_batch([f" {MAIL}"])[0].tolist(), 1
    rows[1]["tokens"], rows[1]["docs"] = tokenizer.encode_batch([" (212) 555-0199 "])[0].tolist(), 9
    work = with_fgrams(tmp_path / "work", holds, rows)
    code, result, places = audit(work)
    assert (code, result["clean"], result["personal"], result["few"]) == (0, True, 3, 2)
    assert places["tokens"]["kinds"]["email"]["ids"] == ["planted.txt"], "nine times in one document"
    kinds = {name: (found["num"], found["ids"]) for name, found in places["vocab"]["kinds"].items()}
    assert kinds == {"email": (1, [0]), "phone-us": (1, [1])}
    assert places["vocab"]["docs"] == {"1": 1, "2-4": 0, "5-9": 1}
    for option in ("--max-personal", "--max-few"):
        limit = result[option.removeprefix("--max-")]
        assert audit(work, option, limit)[0] == 0
        code, _, err = scone("audit", work, option, limit - 1)
        assert code == 1
        error_of(err, work.name, option, limit)


def test_what_the_stages_made_can_all_be_looked_at(small, audit, tmp_path):
    """Also a model without f-grams, and examples of a real evaluation."""
    results = json.loads((small / "work" / "eval" / "results.json").read_text())
    before = next(row["before"] for row in results["tokens"] if row["before"])
    (tmp_path / "texts.txt").write_text(before.replace("\u00b7", " ").strip() + "\n")
    code, result, places = audit(small / "work", "--text", tmp_path / "texts.txt")
    assert (code, result["problems"]) == (1, [])
    assert set(places) == {"tokens/tokenizer.json", "tokens", *NGRAMS, *FGRAMS, "eval"}
    assert places["eval"]["texts"]["1"]["num"] >= 1
    assert places["tokens"]["texts"]["1"]["num"] >= 1
    assert places["table"]["looked_at"] == 600


# ---- documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted", ["planted.txt", "any/corpus/planted.txt", hashlib.sha256(PLANTED.encode()).hexdigest()]
)
def test_what_comes_only_from_a_document(holds, audit, tmp_path, wanted):
    (tmp_path / "documents.txt").write_text(f"{wanted}\n")
    code, result, places = audit(holds, "--documents", tmp_path / "documents.txt", "--show")
    assert (code, result["notes"], result["problems"]) == (1, [], [])
    assert (places["tokens"]["only"], places["tokens"]["own"]["ids"]) == (1, ["planted.txt"])
    assert places["vocab"]["own"]["num"] == places["vocab"]["only"] > len(places["vocab"]["own"]["shown"]) > 3
    assert all(text.replace("·", " ") in PLANTED for text in places["vocab"]["own"]["shown"])
    assert places["eval"]["own"]["ids"] == ["tokens[0]", "fgrams[0]", "terms[1]"], "what stands in no other document"


def test_nothing_is_found_of_a_document_that_was_excluded(texts, audit, tmp_path):
    (tmp_path / "documents.txt").write_text("corpus/planted.txt\n")
    work = made(tmp_path, corpus(with_secret=True), "--exclude-documents", tmp_path / "documents.txt")
    assert audit(work, "--text", texts)[0] == 0
    code, result, places = audit(work, "--documents", tmp_path / "documents.txt")
    assert (code, result["found"], result["problems"], len(result["notes"])) == (0, 0, [], 1)
    assert places["tokens"]["looked_at"] == len(OTHERS)


def test_a_document_that_has_gone_is_told(clean, audit, tmp_path):
    (tmp_path / "documents.txt").write_text("gone.txt\n")
    code, result, _ = audit(clean, "--documents", tmp_path / "documents.txt")
    assert (code, result["found"], result["problems"]) == (0, 0, [])
    assert len(result["notes"]) == 1
    assert names(result["notes"][0], "gone.txt", "--text")


def test_a_hash_is_not_said_to_have_gone_where_text_was_redacted(clean, audit, tmp_path):
    (tmp_path / "documents.txt").write_text(hashlib.sha256(PLANTED.encode()).hexdigest() + "\n")
    code, result, _ = audit(clean, "--documents", tmp_path / "documents.txt")
    assert (code, result["found"], len(result["problems"])) == (1, 0, 1)
    assert names(result["problems"][0], "tokens", 1, "hash", "cannot be compared", "name")


def test_documents_need_tokens(holds, scone, tmp_path):
    (tmp_path / "documents.txt").write_text("planted.txt\n")
    code, out, err = scone("audit", holds / "vocab", "--documents", tmp_path / "documents.txt")
    assert code == 1
    assert names(out, "--documents", "tokens/", "--text")
    error_of(err, "could not be looked at")


# ---- a registry --------------------------------------------------------------------------------------------------


def test_of_two_versions_one_holds_it(holds, clean, texts, audit, tmp_path):
    name, held = tmp_path / "registry" / "law", []
    for work in (holds, clean):
        parts = {part: work / part for part in ("table", "vocab", "eval")}
        held.append(publish_version(name, parts, {}, silent).version.name)
    code, result, places = audit(name, "--text", texts)
    assert (code, result["problems"]) == (1, [])
    found = {place for place, facts in places.items() if facts["found"]}
    assert found == {f"{held[0]}/{part}" for part in ("table", "table/tokenizer.json", "vocab", "eval")}
    assert {f"{held[1]}/{part}" for part in ("table", "vocab", "eval")} < set(places)
    assert audit(name / "versions" / held[1], "--text", texts)[0] == 0


def test_an_encrypted_version_is_not_clean(clean, texts, audit, tmp_path):
    pyrage = pytest.importorskip("pyrage")
    parts = {part: clean / part for part in ("table", "vocab", "eval")}
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    publish_version(tmp_path / "registry", parts, {}, silent, [recipient])
    code, result, _ = audit(tmp_path / "registry", "--text", texts)
    assert (code, result["found"], len(result["problems"])) == (1, 0, 1)
    assert names(result["problems"][0], "encrypted", "scone fetch")
    assert audit(tmp_path / "registry")[0] == 0


# ---- what cannot be looked at, and damage ------------------------------------------------------------------------


@pytest.fixture
def copy(clean, tmp_path) -> Path:
    return shutil.copytree(clean, tmp_path / "work")


def test_unfinished_work_and_a_missing_tokenizer_are_not_clean(copy, texts, audit):
    (copy / ".tokens.partial-0123456789abcdef").mkdir()
    shutil.rmtree(copy / "tokens")
    (copy / "table").rename(copy / "exported")
    facts = manifest(copy / "exported") | {"artifact": "exported-table"}
    write_manifest(copy / "exported", facts | {"tokenizer": "another"})
    (copy / "exported" / "tokenizer.json").unlink()
    code, result, places = audit(copy, "--text", texts)
    assert code == 1
    told = [(Path(problem.partition(":")[0]).name, problem) for problem in result["problems"]]
    without = ["counts", "vocab", "model", "eval"]
    assert sorted(name for name, _ in told) == sorted([".tokens.partial-0123456789abcdef", "exported", *without])
    assert all("tokenizer" in problem for name, problem in told if name in without)
    assert places["vocab"]["docs"]["1"] > 0, "documents are known without text"


@pytest.mark.parametrize("name", ["tokens/part-00000-0000.parquet", "counts/n=3.parquet", "vocab/vocab.parquet"])
@pytest.mark.parametrize("says_so", [True, False])
def test_damage_is_told(copy, texts, scone, name, says_so):
    """Whether the hash of a file is another, or its content is no Parquet."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    (copy / name).write_bytes(content)
    if not says_so:
        facts = manifest(copy / name.partition("/")[0])
        facts["files"][Path(name).name]["sha256"] = hashlib.sha256(content).hexdigest()
        write_manifest(copy / name.partition("/")[0], facts)
    code, out, err = scone("audit", copy, "--text", texts)
    assert (code, out) == (65, "")
    error_of(err, name, "SHA-256" if says_so else "Parquet")


def test_the_rules_on_the_page_of_privacy_are_read(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
    (block,) = re.findall(r"^```\n(use = .*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "rules.toml").write_text(block)
    (tmp_path / "customers.txt").write_text("Jane Doe\n")
    rules = read_rules(tmp_path / "rules.toml")
    assert rules.names == [*DETECTORS, "employee-number", "projects", "customers"]
    assert all(f"| `{name}` |" in page for name in DETECTORS)


def test_an_id_that_the_tokenizer_does_not_have_is_told(holds, scone, tmp_path):
    rows = pq.read_table(holds / "vocab" / "vocab.parquet").slice(0, 2).to_pylist()
    rows[1]["tokens"] = [1, 5000]
    code, _, err = scone("audit", with_fgrams(tmp_path / "work", holds, rows))
    assert code == 65
    error_of(err, 5000, "tokenizer")


def test_bad_files_of_texts_are_told(holds, scone, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"fine\nM\xfcller\n")
    for name, code, facts in (
        ("none.txt", 66, ("--text", "no such file")),
        ("empty.txt", 66, ("no text",)),
        ("latin.txt", 65, ("line 2", "UTF-8")),
    ):
        found, _, err = scone("audit", holds, "--text", tmp_path / name)
        assert found == code
        error_of(err, name, *facts)
