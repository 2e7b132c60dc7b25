"""Packed files: the text in memory, mapped; sub-corpora kept apart; and what a crash leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import random_documents, slow_ranking, trie_of, write_part
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from messages import error_of, names, refusal
from workspaces import TRAIN as OPTIONS

from scone_cli.artifacts.schemas import HELD_OUT, TRAIN
from scone_cli.corpus.token_stream import read_tokens
from scone_cli.errors import BadSetting, InputMissing, SconeError, StorageFailure
from scone_cli.progress import silent
from scone_cli.training.packed_text import PackedText, open_packed, write_packed
from scone_cli.vocab.index import NONE

NUM_TOKENS, MAX_N, END, CONTEXT = 8, 3, 7, 4
DOCUMENTS = random_documents(0, 6, [30, 8, 0, 25, 1, 40])
INDEX = trie_of(slow_ranking(DOCUMENTS, MAX_N, 40, 2), NUM_TOKENS, MAX_N).index()
FILES = ("ids.bin", "text.json", "tokens.bin")


@pytest.fixture
def tokens_folder(tmp_path):
    """Two parts; documents in two folders and in none, one of them held out."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    write_part(folder, 0, DOCUMENTS[:4], [TRAIN, HELD_OUT, TRAIN, TRAIN], ["law/a", "law/b", "law/c", "code/x/d"])
    write_part(folder, 1, DOCUMENTS[4:], None, ["README", "code/f"])
    return folder


def write(folder: Path, tokens_folder: Path, names: tuple[str, ...] = (), progress=silent, index=INDEX) -> None:
    write_packed(folder, tokens_folder, END, NUM_TOKENS, index, names, progress)


def in_memory(tokens_folder: Path, context: int, folder: str | None = None, index=INDEX, split=TRAIN) -> PackedText:
    """The slow twin: all of it read at once, one document at a time."""
    stream = read_tokens(tokens_folder, split)
    tokens, starts = [], [0]
    for name, first, last in zip(stream.names, stream.starts, stream.starts[1:], strict=False):
        if folder in (None, name.split("/")[0] if "/" in name else "."):
            tokens += stream.tokens[first:last].tolist()
            starts.append(len(tokens))
    return PackedText.pack(np.array(tokens, np.uint32), np.array(starts), END, index, context)


def same_windows(text: PackedText, other: PackedText, first: int = 0) -> None:
    """The windows of `other` are those of `text` from `first` on, with their history."""
    numbers = np.arange(other.num_windows)
    for before in (0, 3):
        for mine, its in zip(text.windows(numbers + first, before), other.windows(numbers, before), strict=True):
            assert mine.dtype == its.dtype == np.uint32
            assert mine.tolist() == its.tolist()


# ---- what is in them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [INDEX, None])
@pytest.mark.parametrize("context", [1, 4, 16])
def test_mapped_is_in_memory(tmp_path, tokens_folder, index, context):
    write(tmp_path / "packed", tokens_folder, index=index)
    text = open_packed(tmp_path / "packed", context, {})
    assert text.tokens.dtype == np.uint16
    assert not text.tokens.flags.owndata  # mapped
    assert (tmp_path / "packed" / "ids.bin").exists() == (index is not None)
    expected = in_memory(tokens_folder, context, index=index)
    assert text.num_windows == expected.num_windows
    assert text.tokens.tolist() == expected.tokens.tolist()
    same_windows(text, expected)


def test_sub_corpora_worked_by_hand(tmp_path):
    """1 2 | 5 of `b`, 3 of none, 4 4 of `a`: what is not named is left out, and each begins and ends with END."""
    (tmp_path / "tokens").mkdir()
    write_part(tmp_path / "tokens", 0, [[1, 2], [3], [5]], None, ["b/1", "2", "b/c/3"])
    write_part(tmp_path / "tokens", 1, [[4, 4], [6]], [TRAIN, HELD_OUT], ["a/1", "a/2"])
    index = trie_of([(4, 4), (2, 5)], NUM_TOKENS, 2).index()
    write_packed(tmp_path / "packed", tmp_path / "tokens", END, NUM_TOKENS, index, ["a", "b"], silent)
    text = open_packed(tmp_path / "packed", 2, {"a": 3, "b": 1})
    assert text.tokens.tolist() == [END, 4, 4, END, END, 1, 2, END, 5, END]
    assert text.ids.tolist() == [NONE, NONE, 0, NONE, NONE, NONE, NONE, NONE, NONE, NONE]
    assert [(part.name, part.num_tokens, part.weight) for part in text.sub_corpora] == [("a", 4, 3), ("b", 6, 1)]
    assert text.windows(np.arange(3))[0].tolist() == [[END, 4, 4], [END, 1, 2], [2, END, 5]]


@st.composite
def corpora(draw: st.DrawFn) -> list[list[tuple[str, list[int]]]]:
    """Parts of documents; a folder's name is the one token in its documents, so that mixing them would show."""
    folder = st.sampled_from("01234")
    document = st.tuples(folder, st.integers(0, 9)).map(lambda drawn: (drawn[0], [int(drawn[0])] * drawn[1]))
    return draw(st.lists(st.lists(document, max_size=6), min_size=1, max_size=4))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora(), st.integers(1, 4))
def test_documents_never_mix(tmp_path, parts, context):
    shutil.rmtree(tmp_path)
    (tmp_path / "tokens").mkdir(parents=True)
    for number, documents in enumerate(parts):
        write_part(
            tmp_path / "tokens",
            number,
            [tokens for _, tokens in documents],
            None,
            [f"{name}/_" for name, _ in documents],
        )
    there = sorted({name for documents in parts for name, _ in documents if name != "4"})
    assume(there)
    write_packed(tmp_path / "packed", tmp_path / "tokens", END, NUM_TOKENS, None, there, silent)
    text = open_packed(tmp_path / "packed", context, dict.fromkeys(there, 1))
    first = 0
    for name in there:
        alone = in_memory(tmp_path / "tokens", context, name, index=None)
        same_windows(text, alone, first)
        first += alone.num_windows
    assert text.num_windows == first
    for row in text.windows(np.arange(first), before=2)[0].tolist():
        assert len(set(row) - {END}) <= 1


@pytest.mark.parametrize(("num_tokens", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_two_bytes_a_token_where_that_is_enough(tmp_path, num_tokens, dtype):
    (tmp_path / "tokens").mkdir()
    write_part(tmp_path / "tokens", 0, [[1, num_tokens - 1, 2]])
    write_packed(tmp_path / "packed", tmp_path / "tokens", 0, num_tokens, None, [], silent)
    text = open_packed(tmp_path / "packed", 4, {})
    assert text.tokens.dtype == dtype
    assert text.windows(np.array([0]))[0].tolist() == [[0, 1, num_tokens - 1, 2, 0]]


def test_held_out_text_is_packed_by_itself(tmp_path, tokens_folder):
    write_packed(tmp_path / "packed", tokens_folder, END, NUM_TOKENS, INDEX, [], silent, HELD_OUT)
    text = open_packed(tmp_path / "packed", CONTEXT, {})
    assert text.tokens.tolist() == [END, *DOCUMENTS[1], END]
    same_windows(text, in_memory(tokens_folder, CONTEXT, split=HELD_OUT))


# ---- whole or not at all -----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_whole_is_found_again(tmp_path, tokens_folder):
    folder = tmp_path / "packed"
    write(folder, tokens_folder)
    assert sorted(path.name for path in folder.iterdir()) == list(FILES)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    said = []
    write(folder, tokens_folder, progress=lambda *report: said.append(report))
    assert said == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-2], "empty": b"", "flipped": bytes([content[0] ^ 1]) + content[1:]}[how])


@pytest.mark.parametrize("how", ["missing", "cut", "empty", "flipped"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_done_again(tmp_path, tokens_folder, name, how):
    folder = tmp_path / "packed"
    write(folder, tokens_folder, ("code", "law"))
    whole = contents(folder)
    spoil(folder / name, how)
    write(folder, tokens_folder, ("code", "law"))
    assert contents(folder) == whole


class Crash(Exception):
    pass


@pytest.mark.parametrize("stop_at", range(5))
def test_a_run_that_was_cut_off_leaves_nothing_that_is_taken_for_whole(tmp_path, tokens_folder, stop_at):
    write(tmp_path / "whole", tokens_folder)
    reports = []

    def progress(*report: object, **_: object) -> None:
        if len(reports) == stop_at:
            raise Crash
        reports.append(report)

    with pytest.raises(Crash):
        write(tmp_path / "packed", tokens_folder, progress=progress)
    with refusal(InputMissing, "training text", hint=("workspace",)):
        open_packed(tmp_path / "packed", CONTEXT, {})
    write(tmp_path / "packed", tokens_folder)
    assert contents(tmp_path / "packed") == contents(tmp_path / "whole")


def test_the_note_is_written_last(tmp_path, tokens_folder, monkeypatch):
    """And after the bytes it vouches for are on the disk."""
    done = []
    monkeypatch.setattr("scone_cli.training.packed_text.fsync", lambda path: done.append(path.name))
    monkeypatch.setattr("scone_cli.training.packed_text.write_atomically", lambda path, _: done.append(path.name))
    write(tmp_path / "packed", tokens_folder)
    assert done == ["tokens.bin", "ids.bin", "text.json"]


# ---- what is said ------------------------------------------------------------------------------------------------


def test_a_sub_corpus_that_is_not_there(tmp_path, tokens_folder):
    with refusal(BadSetting, "'novels'", hint=("., code, law",)):
        write(tmp_path / "packed", tokens_folder, ("law", "novels"))


def test_too_little_disk(tmp_path, tokens_folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))
    with refusal(StorageFailure, 100, 612, "disk", "training text"):
        write(tmp_path / "packed", tokens_folder)


def test_progress(tmp_path, tokens_folder):
    """Tokens, and the bytes of disk before the first of them is written."""
    said = []
    write(tmp_path / "packed", tokens_folder, progress=lambda *report: said.append(report))
    measuring, packing = (
        [report for report in said if report[0] == what] for what in dict.fromkeys(report[0] for report in said)
    )
    assert packing[0][1:4] == (0, 102, "tokens")
    assert names(packing[0][4], "612 B")
    assert packing[-1][1:] == (102, 102, "tokens")
    assert len(measuring) == 3


# ---- the stage ---------------------------------------------------------------------------------------------------


def test_training_holds_neither_text_in_memory(scone, small, tmp_path, monkeypatch):
    class Enough(SconeError):
        pass

    def look(_model, text, *_: object) -> None:
        stream = read_tokens(work / "tokens", HELD_OUT)
        assert text.held_out.tokens.size == stream.tokens.size + stream.starts.size
        for each in (text.train, text.held_out):
            assert not each.tokens.flags.owndata  # mapped
            assert not each.ids.flags.owndata
        raise Enough("as it should be")

    monkeypatch.setattr("scone_cli.training.loop.train", look)
    work = shutil.copytree(small / "work", tmp_path / "work")
    code, _, err = scone("--quiet", "--workspace", work, "train-fgram", *OPTIONS, "--seed", "1")
    assert (code, err) == (1, "error: as it should be\n")  # our own words


def test_a_mixture_on_the_command_line(scone, small, tmp_path):
    """The small corpus has no folders: all its documents are in `.`."""
    work = shutil.copytree(small / "work", tmp_path / "work")
    options = [*OPTIONS, "--steps", "2"]
    code, _, err = scone("--workspace", work, "train-fgram", *options, "--mixture", ".=1,novels=2")
    assert code == 2
    _, hint = error_of(err, "--mixture", "'novels'")
    assert hint.endswith(" .")
    code, out, err = scone("--workspace", work, "train-fgram", *options, "--mixture", ".=1", "--json")
    assert code == 0, err
    (row,) = json.loads(out)["mixture"]
    assert row["sub-corpus"] == "."
    assert row["share"] == 1
    assert row["epochs"] == pytest.approx(8 / ((row["tokens"] - 1) // 32), abs=0.001)
    code, _, err = scone("--workspace", work, "train-fgram", "--mixture", "law")
    assert code == 2
    assert err.startswith("error: ")
    error_of(err, "--mixture law", "'law'", "0")
