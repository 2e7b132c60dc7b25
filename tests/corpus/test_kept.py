"""Tokens of files that have not changed are copied: the same bytes as a run from nothing, without reading the files again."""

import gzip
import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from workspaces import COUNT, copy_of, timeless

from scone_cli.artifacts.schemas import FILES_FILE, HELD_OUT, TOKEN_FILES
from scone_cli.corpus import part_writer, shards
from scone_cli.corpus.look_ahead import look_ahead
from scone_cli.corpus.prepare import prepare_tokens
from scone_cli.corpus.token_settings import TokenSettings
from scone_cli.corpus.token_stream import split_of
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.progress import silent
from scone_cli.runtime.worker_pool import Pool

TEXTS = [f"Document {number} of {number % 7} says its words, and the end.\n" * (number % 5 + 1) for number in range(90)]
WORDS = ["[UNK]", "Document", "of", "says", "its", "words", "and", "the", "end"]
WORDPIECE = {
    "version": "1.0",
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {word: number for number, word in enumerate(WORDS)},
    },
}
RULES = '[two]\nterms = ["Document 2", "its words"]\n'


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A corpus of files of one and of many documents, and what settings may name; small tasks and parts."""
    monkeypatch.setattr(shards, "_TASK_BYTES", 4000)
    monkeypatch.setattr(part_writer, "_PART_TOKENS", 200)
    (tmp_path / "corpus" / "law").mkdir(parents=True)
    for number, text in enumerate(TEXTS[:20]):
        (tmp_path / "corpus" / f"{number:02d}.txt").write_text(text)
    for number in range(7):
        lines = [
            json.dumps({"text": text, "id": f"id-{number}-{n}"})
            for n, text in enumerate(TEXTS[20 + 10 * number :][:10])
        ]
        (tmp_path / "corpus" / "law" / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "tokenizer.json").write_bytes(train_tokenizer(iter(TEXTS), 300))
    (tmp_path / "other.json").write_bytes(train_tokenizer(iter(TEXTS[:50]), 280))
    (tmp_path / "wordpiece.json").write_text(json.dumps(WORDPIECE))
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "excluded.txt").write_text("law/3.jsonl:2\nid-5-5\n")
    return tmp_path


class Run:
    """A run in a workspace: what it read, what it told, and the bytes of `tokens/`."""

    def __init__(self, place: Path, work: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
        self.read, self.told, self.tokens = list[str](), "", place / work / "tokens"
        (place / work).mkdir(exist_ok=True)
        corpus = place / str(settings.pop("corpus", "corpus"))
        given = {"tokenizer": place / "tokenizer.json", "held_out": 0.2} | settings

        def encode(files, *args):
            self.read += [file.name for file in files]
            return real(files, *args)

        def progress(what, *_, detail="", **__):
            self.told = detail if what == "kept" else self.told

        real = shards.encode_texts
        with monkeypatch.context() as patch, Pool(1) as pool:
            patch.setattr(shards, "encode_texts", encode)
            prepared = prepare_tokens(TokenSettings(**given), [corpus], self.tokens, silent)
            prepared.write(pool, progress)
        self.bytes = timeless(self.tokens)


@pytest.fixture
def run(place, monkeypatch) -> Callable[..., Run]:
    return lambda work="work", **settings: Run(place, work, monkeypatch, **settings)


def grown(corpus: Path) -> set[str]:
    """A file in the middle: the tasks behind it are others."""
    (corpus / "05b.txt").write_text("A new document, quite short.")
    (corpus / "law" / "2b.jsonl").write_text(json.dumps({"text": "Another one. " * 40}) + "\n")
    return {"05b.txt", "law/2b.jsonl"}


def changed(corpus: Path) -> set[str]:
    with (corpus / "law" / "3.jsonl").open("a") as file:
        file.write(json.dumps({"text": "One more line. " * 30}) + "\n")
    (corpus / "07.txt").write_text(TEXTS[8] + "More of it.\n")
    return {"law/3.jsonl", "07.txt"}


def removed(corpus: Path) -> set[str]:
    (corpus / "law" / "0.jsonl").unlink()
    (corpus / "03.txt").unlink()
    return set()


def renamed(corpus: Path) -> set[str]:
    """Its documents have other names; where the ending is another too, it may be read in another way."""
    (corpus / "law" / "1.jsonl").rename(corpus / "9.jsonl")
    (corpus / "04.txt").rename(corpus / "law" / "04.txt")
    (corpus / "law" / "2.jsonl").rename(corpus / "law" / "2.txt")
    return {"law/2.txt"}


def copied(corpus: Path) -> set[str]:
    """Files of equal content, before and after."""
    shutil.copyfile(corpus / "law" / "5.jsonl", corpus / "law" / "5 copy.jsonl")
    return set()


def swapped(corpus: Path) -> set[str]:
    """Two files have each other's content."""
    (corpus / "01.txt").rename(corpus / "x")
    (corpus / "02.txt").rename(corpus / "01.txt")
    (corpus / "x").rename(corpus / "02.txt")
    return set()


@pytest.mark.parametrize("settings", [{}, {"tokenizer": "wordpiece.json"}, {"redact": "rules.toml"}], ids=str)
@pytest.mark.parametrize("change", [grown, changed, removed, renamed, copied, swapped])
def test_only_what_is_new_is_read(place, run, change, settings):
    settings = {name: place / value for name, value in settings.items()}
    first = run(**settings)
    assert len(first.read) == 27
    assert not first.told
    new = change(place / "corpus")
    again = run(**settings)
    assert set(again.read) == new
    assert len(again.read) == len(new)
    assert again.bytes == run("nothing", **settings).bytes != first.bytes
    files = len(list((place / "corpus").rglob("*.*")))
    assert again.told.startswith(f"{files - len(new)} of {files} files (")
    third = run(**settings)  # what was copied can be copied again
    assert third.bytes == again.bytes


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"redact": "rules.toml"}, "redact"),
        ({"tokenizer": "other.json"}, "tokenizer"),
        ({"exclude_documents": "excluded.txt"}, "exclude-documents"),
        ({"document_separator": "A line"}, "document-separator"),
        ({"held_out": 0.1}, "held-out"),
    ],
    ids=str,
)
def test_with_other_settings_all_is_read(place, run, settings, reason):
    run()
    settings = {
        name: place / value if isinstance(value, str) and "." in value else value for name, value in settings.items()
    }
    again = run(**settings)
    assert len(again.read) == 27
    assert reason in again.told
    assert again.bytes == run("nothing", **settings).bytes


def test_a_document_that_is_excluded_leaves_the_tokens_in_the_same_run(place, run):
    excluding = {"exclude_documents": place / "excluded.txt"}
    assert names(run().tokens) > names(run(**excluding).tokens)
    (place / "excluded.txt").write_text("law/3.jsonl:2\nid-5-5\nlaw/3.jsonl:4\n")
    again = run(**excluding)
    assert not {"law/3.jsonl:2", "law/3.jsonl:4", "law/5.jsonl:6"} & names(again.tokens)
    assert again.bytes == run("nothing", **excluding).bytes
    grown(place / "corpus")
    again = run(**excluding)
    assert len(again.read) == 2
    assert again.bytes == run("nothing 2", **excluding).bytes


def test_a_document_that_the_list_names_by_its_folder_leaves_with_the_folders_new_name(place, run):
    """Its name in `tokens/`, without the folder, is the same; and renamed files are read, as the list may know the name."""
    (place / "excluded.txt").write_text("moved/law/3.jsonl:2\nlaw/9.jsonl:1\n")
    excluding = {"exclude_documents": place / "excluded.txt"}
    assert "law/3.jsonl:2" in names(run(**excluding).tokens)
    (place / "corpus").rename(place / "moved")
    moved = run(corpus="moved", **excluding)
    assert "law/3.jsonl:2" not in names(moved.tokens)
    assert moved.bytes == run("nothing", corpus="moved", **excluding).bytes
    renamed(place / "moved")
    again = run(corpus="moved", **excluding)
    assert set(again.read) == {"9.jsonl", "law/04.txt", "law/2.txt"}
    assert again.bytes == run("nothing 2", corpus="moved", **excluding).bytes


def names(tokens: Path) -> set[str]:
    return {name for path in tokens.glob("part-*") for name in pq.read_table(path)["doc"].to_pylist()}


def test_a_tokenizer_of_the_corpus_keeps_nothing_and_says_what_to_do(place, run):
    run(tokenizer=None, vocab_size=600)
    for number in range(3):
        (place / "corpus" / f"new-{number}.txt").write_text(f"Zebras {number} and quaggas are equids. " * 30)
    again = run(tokenizer=None, vocab_size=600)
    assert len(again.read) == 30
    assert "--tokenizer FILE" in again.told
    assert again.bytes == run("nothing", tokenizer=None, vocab_size=600).bytes


def test_a_tokenizer_that_was_trained_may_be_named_the_next_time(place, run):
    trained = run(tokenizer=None, vocab_size=600)
    shutil.copyfile(trained.tokens / "tokenizer.json", place / "own.json")
    new = grown(place / "corpus")
    again = run(tokenizer=place / "own.json")
    assert set(again.read) == new
    assert again.bytes == run("nothing", tokenizer=place / "own.json").bytes


def test_tokens_of_another_library_are_not_kept(place, run, monkeypatch):
    """The library is chosen by a look at the corpus, so a file that is new may change what encodes all others."""
    encode = Tokenizer._encode_fast

    def wrong(self, texts):
        return [ids[::-1] if "zebra" in text else ids for text, ids in zip(texts, encode(self, texts), strict=True)]

    monkeypatch.setattr(Tokenizer, "_encode_fast", wrong)
    (place / "corpus" / "late.txt").write_text("word " * 100_000 + "a zebra")  # beyond what is compared
    assert not run().told
    for number in range(20):
        (place / "corpus" / f"early-{number}.txt").write_text(f"a zebra {number}")
    again = run()
    assert again.told == "no file, because tokenizer-library changed"
    assert again.bytes == run("nothing").bytes


def test_a_corpus_of_token_ids_is_read_anew(place, run):
    shutil.rmtree(place / "corpus" / "law")
    for path in list((place / "corpus").iterdir()):
        np.arange(5, 200, dtype="<u2").tofile(path.with_suffix(".bin"))
        path.unlink()
    ids = {"tokenizer": None, "separator": 9}
    first = run(**ids)
    np.arange(3, 90, dtype="<u2").tofile(place / "corpus" / "new.bin")
    again = run(**ids)
    assert not again.told
    assert not (again.tokens / FILES_FILE).exists()
    assert again.bytes == run("nothing", **ids).bytes != first.bytes


def test_files_with_skipped_documents_are_read_again(place, run):
    with (place / "corpus" / "law" / "4.jsonl").open("a") as file:
        file.write('{"no text": 1}\n')
    run(on_bad_document="skip")
    grown(place / "corpus")
    again = run(on_bad_document="skip")
    assert set(again.read) == {"law/4.jsonl", "05b.txt", "law/2b.jsonl"}
    assert again.bytes == run("nothing", on_bad_document="skip").bytes


@pytest.mark.parametrize("spoil", ["part", "part missing", "files", "files missing"])
def test_what_is_damaged_is_read_again(place, run, spoil, capsys):
    first = run()
    path = first.tokens / FILES_FILE if "files" in spoil else sorted(first.tokens.glob("part-*"))[3]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if "missing" not in spoil:
        path.write_bytes(content)
    new = grown(place / "corpus")
    again = run()
    assert len(again.read) == 29 if "files" in spoil else new < set(again.read) < names_of_files(again.tokens)
    assert again.bytes == run("nothing").bytes
    assert ("is damaged" in capsys.readouterr().err) == ("part" in spoil)


def test_odd_files(place, run):
    """Empty files, documents without text, copies, compressed files and columns, before and after changes."""
    corpus = place / "corpus"
    (corpus / "04-empty.txt").write_text("")
    (corpus / "05-blank.jsonl").write_text(json.dumps({"text": ""}) + "\n\n")
    (corpus / "copy.txt").write_text(TEXTS[3])
    (corpus / "z.jsonl.gz").write_bytes(gzip.compress((corpus / "law" / "2.jsonl").read_bytes()))
    pq.write_table(pa.table({"text": TEXTS[:9], "n": range(9)}), corpus / "y.parquet")
    first = run()
    assert len(first.read) == 32
    (corpus / "06.txt").write_text("")
    (corpus / "copy.txt").unlink()
    (corpus / "z.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a b c"}'))
    again = run()
    assert again.read == ["z.jsonl.gz"]  # 06.txt is what 04-empty.txt was
    assert again.bytes == run("nothing").bytes


def names_of_files(tokens: Path) -> set[str]:
    return set(pq.read_table(tokens / FILES_FILE)["file"].to_pylist())


def test_the_list_of_files(place, run):
    """Its rows are those of the parts, and its numbers those of the manifest."""
    tokens = run(redact=place / "rules.toml").tokens
    files = pq.read_table(tokens / FILES_FILE)
    assert files.schema.equals(TOKEN_FILES)
    parts = {path.name: pq.read_table(path)["doc"].to_pylist() for path in sorted(tokens.glob("part-*"))}
    found = [
        {name.partition(":")[0] for row in rows for name in parts[row["part"]][row["first"] :][: row["number"]]}
        for rows in files["rows"].to_pylist()
    ]
    assert found == [{name} for name in files["file"].to_pylist()]
    assert sum(row["number"] for rows in files["rows"].to_pylist() for row in rows) == sum(map(len, parts.values()))
    summary = json.loads((tokens / "manifest.json").read_text())["summary"]
    for name, key in (("num_tokens", "tokens"), ("num_documents", "documents"), ("num_bytes", "bytes")):
        assert sum(files[name].to_pylist()) == summary[key]
    assert sum(counts[1] for counts in files["redacted"].to_pylist()) == summary["redacted_documents"] > 0


def test_the_only_document_is_cut_and_nothing_is_kept(place, run):
    shutil.rmtree(place / "corpus")
    (place / "corpus").mkdir()
    (place / "corpus" / "a.txt").write_text("hello there. " * 50)
    run()
    (place / "corpus" / "b.txt").write_text("")
    again = run()
    assert set(again.read) == {"a.txt", "b.txt"}
    assert again.bytes == run("nothing").bytes


def test_copies_of_one_document_are_held_out_when_there_are_others(place, run):
    """As long as there is no other document, nothing is held out; the rows then say so."""
    shutil.rmtree(place / "corpus")
    (place / "corpus").mkdir()
    drawn = next(text for text in TEXTS if split_of(text.encode(), 0.2) == HELD_OUT)
    for name in ("a.txt", "b.txt"):
        (place / "corpus" / name).write_text(drawn)
    run()
    for number, text in enumerate(each for each in TEXTS if each != drawn):
        (place / "corpus" / f"{number}.txt").write_text(text)
    again = run()
    assert {"a.txt", "b.txt"} < set(again.read)
    assert again.bytes == run("nothing").bytes


def test_token_ids_are_read_anew(place, run):
    shutil.rmtree(place / "corpus")
    ids = {"tokenizer": None, "separator": 0, "token_dtype": "uint16", "held_out": 0.2}
    (place / "corpus").mkdir()
    for number in range(6):
        (np.arange(number, 3000, dtype=np.uint16) % 50).tofile(place / "corpus" / f"{number}.bin")
        if number > 3:
            again = run(**ids)
    assert not again.told
    assert not (again.tokens / FILES_FILE).exists()
    assert again.bytes == run("nothing", **ids).bytes


def test_work_on_documents_that_are_gone_is_not_kept(forks, small, tmp_path):
    """The run before was killed at its last moment; then the new document was removed, and what was published is up to date."""
    work, corpus = copy_of(small / "work", tmp_path / "work"), copy_of(small / "corpus", tmp_path / "corpus")
    command = ["--workspace", work, "count-ngrams", corpus, *COUNT]
    before = {name: timeless(work / name) for name in ("tokens", "counts")}
    (corpus / "new.txt").write_text("of somebody who does not want it " * 200)
    assert forks.run(*command, moment=60, signum=signal.SIGKILL).code == -signal.SIGKILL
    assert {path.name[:8] for path in work.glob(".*.partial-*")} == {".tokens.", ".counts."}
    (corpus / "new.txt").unlink()
    assert forks.run(*command).code == 0
    assert not [*work.glob(".*.partial-*")]
    assert {name: timeless(work / name) for name in before} == before


def test_a_plan_tells_which_files_are_kept(place, run):
    run()
    grown(place / "corpus")
    settings = TokenSettings(tokenizer=place / "tokenizer.json", held_out=0.2)
    plan = partial(look_ahead, settings, [place / "corpus"], place / "work" / "tokens", silent)
    assert plan().kept == run().told
    assert plan().kept == plan(force=True).kept == ""  # up to date, or all is made again


@pytest.mark.slow
def test_a_run_that_was_killed_continues_to_the_bytes_of_one_from_nothing(forks, small, tmp_path):
    shutil.copytree(small / "corpus", tmp_path / "corpus")
    tokenizer = shutil.copy(small / "work" / "tokens" / "tokenizer.json", tmp_path / "tokenizer.json")
    command = ["count-ngrams", tmp_path / "corpus", "--tokenizer", tokenizer, "--held-out", "0.1", "--max-n", "3"]
    assert forks.run("--workspace", tmp_path / "before", *command).code == 0
    for number in range(0, 60, 9):
        (tmp_path / "corpus" / f"{number}-new.txt").write_text(f"abc def {number} " * 200)
    assert forks.run("--workspace", tmp_path / "nothing", *command).code == 0
    expected = [timeless(tmp_path / "nothing" / name) for name in ("tokens", "counts")]
    whole = forks.run("--workspace", copy_of(tmp_path / "before", tmp_path / "whole"), *command)
    assert "kept: 60 of 67 files" in whole.err
    for moment in range(2, len(whole.moments), max(1, len(whole.moments) // 6)):
        work = copy_of(tmp_path / "before", tmp_path / f"killed-{moment}")
        assert forks.run("--workspace", work, *command, moment=moment, signum=signal.SIGKILL).code == -signal.SIGKILL
        assert forks.run("--workspace", work, *command).code == 0
        assert [timeless(work / name) for name in ("tokens", "counts")] == expected
