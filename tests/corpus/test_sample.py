import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import refusal

from scone_cli.artifacts.schemas import TRAIN
from scone_cli.corpus import sample as sampling
from scone_cli.corpus.files import find_files
from scone_cli.corpus.held_out import HeldOut
from scone_cli.corpus.readers import read_documents
from scone_cli.corpus.sample import draw_texts, look_at
from scone_cli.corpus.token_stream import split_of
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadData
from scone_cli.progress import silent

TEXTS = [f"Document {number} is about {number * number}. " * (1 + number % 9) for number in range(300)]
SIZE = sum(map(len, TEXTS))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(10):
        records = (json.dumps({"text": text}) + "\n" for text in TEXTS[number::10])
        (folder / f"{number}.jsonl").write_text("".join(records))
    return folder


def drawn(folder: Path, held_out: float = 0.0) -> tuple[list[str], int]:
    texts, size = draw_texts(find_files([folder]), "text", HeldOut(held_out), silent, None)
    return sorted(texts), size


def test_a_small_corpus_is_used_whole_but_for_what_is_held_out(source):
    assert drawn(source) == (sorted(TEXTS), SIZE)
    train = sorted(text for text in TEXTS if split_of(text, 0.3) == TRAIN)
    assert drawn(source, held_out=0.3) == (train, sum(map(len, train)))
    assert 0 < len(train) < len(TEXTS)


@pytest.mark.parametrize("budget", [1, 1000, 5000, SIZE - 1])
def test_a_sample_is_as_large_as_it_should_be_and_the_same_in_any_order(source, tmp_path, monkeypatch, budget):
    monkeypatch.setattr(sampling, "TRAINING_BYTES", budget)
    texts, size = drawn(source)
    assert budget <= size < budget + max(map(len, TEXTS))
    assert size == sum(min(len(text), budget) for text in texts)
    other = tmp_path / "other"
    other.mkdir()
    text = "".join(path.read_text() for path in sorted(source.iterdir(), reverse=True))
    (other / "all.jsonl").write_text("".join(reversed(text.splitlines(keepends=True))))
    assert drawn(other) == (texts, size)


def test_a_document_drawn_does_not_depend_on_the_split(source, monkeypatch):
    """The hash that draws is another one: else the sample would be the documents next to the held-out ones."""
    monkeypatch.setattr(sampling, "TRAINING_BYTES", SIZE // 2)
    texts, _ = drawn(source)
    later = [text for text in texts if split_of(text, 0.5) == TRAIN]
    assert 0.35 < len(later) / len(texts) < 0.65


def test_of_a_very_large_corpus_the_beginnings_are_read(tmp_path, monkeypatch):
    for number in range(2):
        pq.write_table(pa.table({"text": TEXTS[number::2]}), tmp_path / f"{number}.parquet")
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(sampling, "_READ_BYTES", size // 10 - 2)  # position and share are rounded
    texts, _ = drawn(tmp_path)
    assert set(texts) == {*TEXTS[0::2][:15], *TEXTS[1::2][:15]}


def test_bad_documents_stop_it_or_are_left_out(source):
    (source / "bad.jsonl").write_text('{"text": 1}\n')
    files = find_files([source])
    with refusal(BadData, "bad.jsonl", "line 1"):
        draw_texts(files, "text", HeldOut(0.0), silent, None)
    bad = []
    assert draw_texts(files, "text", HeldOut(0.0), silent, bad.append)[1] == SIZE
    assert [error.name for error in bad] == ["bad.jsonl:1"]


def test_the_bound_of_tokens(source):
    files = find_files([source])
    tokenizer = Tokenizer(train_tokenizer(iter(TEXTS), 300), "tokenizer.json")
    look = look_at(files, "text", None)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch([d.text for file in files for d in read_documents(file)]))
    assert tokens < look.tokens_bound(tokenizer, files) < 2 * tokens
    (source / "empty.txt").write_text("")
    nothing = find_files([source / "empty.txt"])
    assert look_at(nothing, "text", None).tokens_bound(tokenizer, nothing) == 0
