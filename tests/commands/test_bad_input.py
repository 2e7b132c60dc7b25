"""What can be wrong with what a stage is given: one clear line, its exit code, and nothing that was there is touched."""

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from messages import error_of
from processes import Ended
from workspaces import COUNT, SELECT, TRAIN, WRITES, contents, copy_of, manifest, timeless, write_manifest

from scone_cli.artifacts.manifest import MANIFEST
from scone_cli.artifacts.publish import workspace_lock

# What each stage reads of its workspace, and settings with which it has work to do.
READS: dict[str, tuple[str, ...]] = {
    "count-ngrams": ("tokens",),
    "select-vocab": ("tokens", "counts"),
    "train-fgram": ("tokens", "vocab"),
    "precompute": ("vocab", "model"),
    "eval": ("tokens", "model", "table"),
}
WORK = {
    "count-ngrams": (*COUNT, "--min-count", "7"),
    "select-vocab": ("--size", "500"),
    "train-fgram": (*TRAIN, "--seed", "1"),
    "precompute": ("--dtype", "float32"),
    "eval": ("--ladder", "--no-speed"),
}
TEXT = "A document with enough words in it to be one. " * 50


@pytest.fixture
def work(small, tmp_path) -> Path:
    """A workspace to spoil."""
    return copy_of(small / "work", tmp_path / "work")


@pytest.fixture
def refused(scone, work):
    """Run a command that must fail with `code` and one line that names `facts`, and change nothing in the workspace."""

    def run(code: int, facts: Sequence[str], *args: object) -> str:
        before = contents(work)
        found, out, err = scone("--quiet", "--workspace", work, *args)
        assert err.startswith("error: ")
        error_of(err, *facts)
        assert (found, out) == (code, "")
        assert published(contents(work)) == published(before)
        return err

    return run


def published(found: dict[str, str]) -> dict[str, str]:
    """Without what is being made: a failed run may keep what it finished for the next."""
    return {name: digest for name, digest in found.items() if not name.startswith(".")}


def arguments(stage: str, small: Path) -> list[object]:
    return [stage, *([small / "corpus"] if stage == "count-ngrams" else []), *WORK[stage]]


# ---- the corpus --------------------------------------------------------------------------------------------------


def compressed(path: Path, content: bytes) -> None:
    """Write the beginning of a compressed file."""
    whole = gzip.compress(content) if path.suffix == ".gz" else zstandard.compress(content)
    path.write_bytes(whole[: len(whole) // 2])


BAD_CORPORA: dict[str, tuple[int, tuple[str, ...], Callable[[Path], object]]] = {
    "absent": (66, ("PATH",), lambda _: None),
    "empty folder": (66, ("PATH", "files"), lambda path: path.mkdir()),
    "empty": (66, ("text",), lambda path: path.write_text("")),
    "empty.jsonl": (66, ("text",), lambda path: path.write_text('{"text": ""}\n\n')),
    "latin": (65, ("PATH", "UTF-8", "0xff", "5"), lambda path: path.write_bytes(b"some \xff text")),
    "cut.zst": (65, ("PATH", ".zst"), lambda path: compressed(path, os.urandom(5000))),
    "cut.jsonl.gz": (65, ("PATH", ".gz"), lambda path: compressed(path, json.dumps({"text": TEXT}).encode())),
    "other.jsonl": (
        65,
        ("PATH", "line 2", "'text'", "'id'"),
        lambda path: path.write_text(json.dumps({"text": TEXT}) + '\n{"id": 7}\n'),
    ),
    "not.jsonl": (65, ("PATH", "line 1", "JSON"), lambda path: path.write_text("text\n")),
    "other.parquet": (
        65,
        ("PATH", "'text'", "'id'"),
        lambda path: pq.write_table(pa.table({"id": [1, 2]}), path),
    ),
    "not.parquet": (65, ("PATH", "Parquet"), lambda path: path.write_text(TEXT)),
}


@pytest.mark.parametrize("stage", ["count-ngrams", "eval"])
@pytest.mark.parametrize("name", BAD_CORPORA)
def test_a_corpus_that_cannot_be_read(refused, tmp_path, stage, name):
    code, facts, make = BAD_CORPORA[name]
    make(tmp_path / name)
    refused(code, [str(tmp_path / name) if fact == "PATH" else fact for fact in facts], stage, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "code"), [(None, 66), ("", 65), ("{", 65), ("{}", 65), ('{"model": {"type": "Unheard"}}', 65)]
)
def test_a_tokenizer_that_cannot_be_read(refused, small, tmp_path, content, code):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    refused(code, ("tokenizer.json",), "count-ngrams", small / "corpus", "--tokenizer", path)


# ---- artifacts ---------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(folder: Path, **changes: object) -> None:
    write_manifest(folder, manifest(folder) | changes)


def biggest(folder: Path) -> Path:
    return max((path for path in folder.iterdir() if path.name != MANIFEST), key=lambda path: path.stat().st_size)


HARMS: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
    "flipped bit": (("SHA-256",), lambda folder: flip(biggest(folder))),
    "truncated": (("100",), lambda folder: os.truncate(biggest(folder), 100)),
    "file missing": (("manifest",), lambda folder: biggest(folder).unlink()),
    "half-written": ((MANIFEST,), lambda folder: (folder / MANIFEST).unlink()),
    "foreign kind": (("'porridge'",), lambda folder: edit_manifest(folder, artifact="porridge")),
    "foreign manifest": ((MANIFEST,), lambda folder: (folder / MANIFEST).write_text("[1]")),
    "newer": (("99",), lambda folder: edit_manifest(folder, schema_version=99, strange=1)),
}
PAIRS = [(stage, artifact) for stage, artifacts in READS.items() if stage != "count-ngrams" for artifact in artifacts]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(("stage", "artifact"), PAIRS)
def test_a_bad_artifact_is_not_read(refused, small, work, stage, artifact, harm):
    facts, spoil = HARMS[harm]
    if harm in ("flipped bit", "truncated", "file missing"):
        facts = (*facts, biggest(work / artifact).name)
    spoil(work / artifact)
    err = refused(65, facts, *arguments(stage, small))
    assert str(work / artifact) in err
    assert "scone" in err.splitlines()[1]  # what to run next, or to upgrade


@pytest.mark.parametrize(("stage", "artifact"), [("count-ngrams", "tokens"), *PAIRS])
def test_one_flipped_bit_in_any_file_is_found(refused, small, work, stage, artifact):
    for path in sorted((small / "work" / artifact).iterdir()):
        if path.name != MANIFEST:
            copy_of(small / "work", work)
            flip(work / artifact / path.name)
            refused(65, (path.name, "SHA-256"), *arguments(stage, small))


@pytest.mark.parametrize(
    "args",
    [
        *(
            ("select-vocab", "--size", "500"),
            ("train-fgram", *TRAIN, "--seed", "1"),
            ("eval", "--ladder", "--no-speed"),
            ("lookup", "abc"),
        ),
        *(
            ("generate", "--prompt", "abc"),
            ("generate", "--prompt", "abc", "--live"),
            ("inspect", "vocab", "--text", "abc"),
        ),
    ],
    ids=str,
)
def test_a_tokenizer_in_which_two_ids_changed_places_is_not_used(refused, work, args):
    path = work / "tokens" / "tokenizer.json"
    raw = json.loads(path.read_text())
    vocab = raw["model"]["vocab"]
    one, other = (next(word for word, i in vocab.items() if i == id_) for id_ in (100, 101))
    vocab[one], vocab[other] = vocab[other], vocab[one]
    size, spoilt = path.stat().st_size, json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
    path.write_text(spoilt + " " * (size - len(spoilt.encode())))
    assert path.stat().st_size == size
    refused(65, ("tokenizer",), *(work / arg if arg == "vocab" else arg for arg in args))


@pytest.mark.parametrize("harm", ["half-written", "foreign kind", "foreign manifest", "newer"])
@pytest.mark.parametrize(
    ("stage", "artifact"), [(stage, artifact) for stage, artifacts in WRITES.items() for artifact in artifacts]
)
def test_what_is_not_ours_or_newer_is_not_replaced(refused, small, work, stage, artifact, harm):
    HARMS[harm][1](work / artifact)
    refused(65, (str(work / artifact), *(HARMS[harm][0] if harm != "half-written" else ())), *arguments(stage, small))


@pytest.mark.parametrize("harm", ["truncated", "file missing"])
def test_a_damaged_artifact_is_made_again(forks, small, work, harm):
    HARMS[harm][1](work / "vocab")
    ended = forks.run("--workspace", work, "select-vocab", *SELECT, "--json")
    assert (ended.code, json.loads(ended.out)["up_to_date"]) == (0, False)
    assert contents(work / "vocab") == contents(small / "work" / "vocab")


@pytest.mark.parametrize(("stage", "artifact"), PAIRS)
def test_an_artifact_that_is_not_there(refused, small, work, stage, artifact):
    shutil.rmtree(work / artifact)
    error_of(refused(66, (str(work / artifact), artifact), *arguments(stage, small)), hint=("scone",))


# ---- artifacts that were not made from one another ---------------------------------------------------------------


@pytest.fixture(scope="module")
def other(forks, small, tmp_path_factory) -> Path:
    """A workspace of the same corpus with another tokenizer."""
    folder = tmp_path_factory.mktemp("other") / "work"
    for args in (
        ("count-ngrams", small / "corpus", *COUNT, "--vocab-size", "350"),
        ("select-vocab", *SELECT),
        ("train-fgram", *TRAIN),
        ("precompute",),
    ):
        ended = forks.run("--workspace", folder, *args)
        assert ended.code == 0, ended.err
    return folder


@pytest.mark.parametrize(
    ("stage", "replaced", "named"),
    [
        ("select-vocab", "tokens", "tokens"),
        ("train-fgram", "tokens", "tokens"),
        ("precompute", "tokens", "tokenizer"),
        ("precompute", "vocab", "tokenizer"),
        ("precompute", "model", "tokenizer"),
        ("eval", "tokens", "tokenizer"),
        ("eval", "model", "table"),
        ("eval", "table", "model"),
    ],
)
def test_another_tokenizer_than_the_artifacts(refused, small, work, other, stage, replaced, named):
    copy_of(other / replaced, work / replaced)
    refused(65, (str(work), named), *arguments(stage, small))


def test_a_rival_with_another_tokenizer(refused, other):
    shutil.copytree(other / "model", other / "rival", dirs_exist_ok=True)
    refused(65, ("rival", "tokenizer"), "eval", "--against", other / "rival")


def test_a_model_and_a_vocabulary_that_do_not_belong_together(forks, refused, work):
    assert forks.run("--workspace", work, "select-vocab", "--size", "300").code == 0
    error_of(refused(65, (str(work / "model"),), "precompute"), hint=(f"scone --workspace {work} train-fgram",))


def test_a_table_of_another_model(forks, refused, work):
    assert forks.run("--workspace", work, "train-fgram", *TRAIN, "--seed", "5").code == 0
    error_of(refused(65, (str(work / "table"), "model"), "eval"), hint=(f"scone --workspace {work} precompute",))


def test_a_plain_model_has_no_table(forks, refused, work):
    assert forks.run("--workspace", work, "train-fgram", *TRAIN, "--kind", "plain").code == 0
    refused(2, (str(work / "model"), "plain"), "precompute")


def test_no_such_rival(refused, tmp_path):
    refused(66, (str(tmp_path / "rival"), "model"), "eval", "--against", tmp_path / "rival")


# ---- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        ("[select-vocab]\nsizes = 5\n", ("[select-vocab]", "'sizes'", "'size'")),
        ("[select_vocabulary]\nsize = 5\n", ("'select_vocabulary'", "'select-vocab'")),
        ('[select-vocab]\nmin-count = "5"\n', ("min-count", "'5'", "whole number")),
        ("[train-fgram]\ntied-head = 1\n", ("tied-head", "1", "true", "false")),
        ("[select-vocab\n", ("TOML",)),
    ],
)
def test_a_recipe_with_a_mistake(refused, tmp_path, recipe, facts):
    (tmp_path / "recipe.toml").write_text(recipe)
    refused(2, (str(tmp_path / "recipe.toml"), *facts), "--config", tmp_path / "recipe.toml", "select-vocab")


@pytest.mark.parametrize(
    "args",
    [
        ("count-ngrams", "corpus", "--max-n", "1"),
        ("count-ngrams", "corpus", "--held-out", "1"),
        ("count-ngrams", "corpus", "--vocab-size", "100"),
        ("count-ngrams", "corpus", "--min-docs", "0"),
        ("count-ngrams", "corpus", "--min-count", "99999999999999999999"),
        ("count-ngrams", "corpus", "--memory", "1"),
        ("count-ngrams", "corpus", "--memory", "lots"),
        ("count-ngrams", "corpus", "--exclude-tokens", "100000"),
        ("count-ngrams", "nowhere", "--exclude-tokens", "abc"),  # before it is looked for
        ("select-vocab", "--size", "0"),
        ("select-vocab", "--min-count", "2"),  # the counts leave out what occurs less than 5 times
        ("select-vocab", "--min-count", "1000000"),
        ("train-fgram", "--dim", "30", "--heads", "4"),
        ("train-fgram", "--steps", "0"),
        ("precompute", "--dtype", "int3"),
    ],
)
def test_a_setting_that_cannot_be_used(refused, small, args):
    option = next(arg for arg in args if arg.startswith("--"))
    facts = ("100", "257") if option == "--vocab-size" else (option,)
    refused(2, facts, *(small / "corpus" if arg == "corpus" else arg for arg in args))


def test_a_report_is_not_a_list_of_bad_documents(scone, tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps({'text': TEXT})}\n" * 3 + "{}\n" * 12)
    args = ("count-ngrams", tmp_path / "a.jsonl", "--vocab-size", "300", "--held-out", "0")
    code, out, _ = scone("--workspace", tmp_path / "work", *args, "--on-bad-document", "skip", "--json")
    report = json.loads(out)
    tokens = json.loads((tmp_path / "work" / "tokens" / MANIFEST).read_text())
    in_manifest = tokens["summary"]["first_skipped_documents"]
    assert (code, report["skipped_documents"], len(in_manifest)) == (0, 12, 12)
    assert report["first_skipped_documents"] == in_manifest[:5]


# ---- the machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", READS)
def test_a_workspace_that_another_run_holds(refused, small, work, stage):
    with workspace_lock(work):
        error_of(refused(75, (str(work),), *arguments(stage, small)), hint=("again",))


@pytest.mark.parametrize("stage", ["count-ngrams", "train-fgram", "precompute"])
def test_no_file_may_grow_further(forks, small, work, tmp_path, stage):
    """A limit on the size of a file stands for a full disk; the smaller it is, the sooner a stage meets it."""
    expected = copy_of(small / "work", tmp_path / "expected")
    assert forks.run("--workspace", expected, *arguments(stage, small)).code == 0
    largest = biggest(expected / WRITES[stage][-1]).stat().st_size
    for limit in (700, largest // 3, largest - 1):  # 700 bytes: enough for the message
        full_disk(forks.run("--quiet", "--workspace", work, *arguments(stage, small), limit=limit), small, work)
    assert forks.run("--quiet", "--workspace", work, *arguments(stage, small)).code == 0
    assert everything(work) == everything(expected)


def full_disk(ended: Ended, small: Path, work: Path, *facts: str) -> None:
    """The run must have failed as on a full disk, with everything that was there intact."""
    assert ended.err.startswith("error: ")
    error_of(ended.err, *(facts or ("space",)))
    assert (ended.code, ended.out) == (74, "")
    assert published(contents(work)) == published(contents(small / "work"))


def everything(work: Path) -> dict[str, dict]:
    return {folder.name: timeless(folder) for folder in work.iterdir() if folder.is_dir() and folder.name != ".runs"}


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("stage", ["count-ngrams", "train-fgram", "precompute"])
def test_a_full_disk(forks, small, disk, tmp_path, stage):
    expected = copy_of(small / "work", tmp_path / "expected")
    assert forks.run("--workspace", expected, *arguments(stage, small)).code == 0
    work = copy_of(small / "work", disk / "work")
    filler = disk / "filler"
    for free in (4, 40):
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - free * 1024))
        what = {"count-ngrams": "counting", "train-fgram": "training", "precompute": "table"}[stage]
        full_disk(forks.run("--quiet", "--workspace", work, *arguments(stage, small)), small, work, "disk", what)
    filler.unlink()
    assert forks.run("--quiet", "--workspace", work, *arguments(stage, small)).code == 0
    assert everything(work) == everything(expected)


@pytest.mark.parametrize("name", ["ids.bin", "ids.npy", "ids.bin.gz"])
def test_token_ids_are_not_evaluated_as_text(refused, tmp_path, name):
    (tmp_path / name).write_bytes(b"\1\0\2\0")
    refused(65, (name, "token ids"), "eval", tmp_path / name)


@pytest.mark.parametrize(
    ("facts", "args"),
    [
        (("CORPUS", "empty"), ("count-ngrams", "")),
        (("CORPUS", "empty"), ("eval", "")),
        (("--terms", "empty"), ("eval", "--terms", "")),
        (("-", "standard input"), ("eval", "-")),
        (("--document-separator", "UTF-8"), ("count-ngrams", ".", "--document-separator", "\udc80")),
        (("--document-separator", "regular expression"), ("eval", ".", "--document-separator", r"^\d{99999999999}")),
        (("--vocab-size", 99999999999), ("count-ngrams", ".", "--vocab-size", 99999999999)),
        (("--separator", 99999999999999999999), ("count-ngrams", ".", "--separator", 99999999999999999999)),
        (("--separator", -1), ("count-ngrams", ".", "--separator", -1)),
    ],
)
def test_arguments_that_cannot_be_used(refused, facts, args):
    refused(2, tuple(map(str, facts)), *args)


@pytest.mark.parametrize("num_good", [0, 2000])
def test_nothing_stays_of_the_work_on_a_bad_corpus(scone, tmp_path, num_good):
    record = json.dumps({"text": TEXT}) + "\n"
    (tmp_path / "a.jsonl").write_text(record * num_good + "not JSON\n")
    code, _, _ = scone("--quiet", "--workspace", tmp_path / "work", "count-ngrams", tmp_path / "a.jsonl", *COUNT)
    assert code == 65
    assert not list((tmp_path / "work").glob(".*partial*"))
