import json
from itertools import pairwise

import numpy as np
import pytest
from messages import refusal

from scone_cli.corpus import encode
from scone_cli.corpus.encode import encode_corpus
from scone_cli.corpus.files import find_files
from scone_cli.corpus.readers import read_documents
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import InputMissing
from scone_cli.progress import silent

TEXTS = [f"Document {number} says hello. " * (number % 5 + 1) for number in range(40)]
TOKENIZER = Tokenizer(train_tokenizer(iter(TEXTS), 280), "tokenizer.json")


@pytest.mark.parametrize("batch_bytes", [1, 300, 1 << 20])
def test_encoded_corpus_is_everything_in_order(tmp_path, monkeypatch, batch_bytes):
    monkeypatch.setattr(encode, "_BATCH_BYTES", batch_bytes)
    for number in range(4):
        records = (json.dumps({"text": text}) + "\n" for text in TEXTS[number::4])
        (tmp_path / f"{number}.jsonl").write_text("".join(records))
    files = find_files([tmp_path])
    told: list[float] = []
    stream = encode_corpus(files, TOKENIZER, "text", lambda _what, done, *_: told.append(done))
    expected = [document for file in files for document in read_documents(file)]
    assert stream.names == [document.name for document in expected]
    assert stream.num_bytes.tolist() == [document.num_bytes for document in expected]
    found = [TOKENIZER.decode(stream.tokens[start:end]) for start, end in pairwise(stream.starts)]
    assert found == [document.text for document in expected]
    assert stream.starts.dtype == np.int64
    assert told == sorted(told)
    assert told[-1] == sum(file.bytes for file in files)


def test_corpus_without_text(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    with refusal(InputMissing, "document", "text"):
        encode_corpus(find_files([tmp_path]), TOKENIZER, "text", silent)
