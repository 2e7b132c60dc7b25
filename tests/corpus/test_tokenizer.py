import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from messages import names, refusal
from tokenizers import models, pre_tokenizers, processors

from scone_cli.corpus.tokenizer import END_OF_TEXT, Tokenizer, train_tokenizer
from scone_cli.errors import BadData, BadSetting, InputMissing

TEXTS = [
    f"The {word} sat on the {word}'s mat, {number} times.\r\n" for number in range(40) for word in ("cat", "bät", "猫")
]
CONTENT = train_tokenizer(iter(TEXTS), 300)


def silence(message: str) -> None:
    raise AssertionError(f"an unexpected notice: {message}")


def make(content: bytes = CONTENT) -> Tokenizer:
    return Tokenizer(content, "tokenizer.json", silence)


TOKENIZER = make()
REFERENCE = tokenizers.Tokenizer.from_str(CONTENT.decode())
REFERENCE.encode_special_tokens = True


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_batch([text])[0].tolist()


def edited(**changes: object) -> bytes:
    return json.dumps(json.loads(CONTENT) | changes).encode()


# ---- encoding ----------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=5))
def test_decoding_gives_the_text_back(texts):
    assert [TOKENIZER.decode(tokens) for tokens in TOKENIZER.encode_batch(texts)] == texts


@given(st.lists(st.text() | st.sampled_from([END_OF_TEXT, "the cat", "\r\n", "\0"]), max_size=8).map("".join))
def test_both_libraries_give_the_same_ids(text):
    assert TOKENIZER.backend == "fastokens"
    assert ids(TOKENIZER, text) == REFERENCE.encode(text, add_special_tokens=False).ids


def test_batches_are_uint32_in_order_and_may_be_empty():
    tokenizer = make()
    batch = tokenizer.encode_batch(["the cat", "", "猫"])
    assert [tokens.dtype for tokens in batch] == [np.uint32] * 3
    assert [tokenizer.decode(tokens) for tokens in batch] == ["the cat", "", "猫"]
    assert tokenizer.encode_batch([]) == []


def test_attributes_of_a_file(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(CONTENT)
    tokenizer = Tokenizer.load(path)
    assert tokenizer.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert tokenizer.end_of_document == 0
    assert tokenizer.vocab_size == 300
    assert tokenizer.decode([0]) == END_OF_TEXT


def test_token_text_is_readable():
    tokenizer = make()
    (cat,) = ids(tokenizer, " cat")
    assert tokenizer.token_text(cat) == " cat"
    assert tokenizer.token_text(tokenizer.end_of_document) == END_OF_TEXT
    half = ids(tokenizer, "é")[0]  # the first byte of two
    assert tokenizer.token_text(half) == "Ã"
    assert tokenizer.token_text(10**6) == "<1000000>"


def test_settings_of_the_file_that_change_ids_by_length_or_chance_are_ignored():
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    pad = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    pad |= {"pad_to_multiple_of": None}
    model = json.loads(CONTENT)["model"] | {"dropout": 0.9}
    assert ids(make(edited(truncation=cut, padding=pad, model=model)), TEXTS[0]) == ids(make(), TEXTS[0])


def test_no_special_token_is_added():
    wrapped = tokenizers.Tokenizer.from_str(CONTENT.decode())
    wrapped.post_processor = processors.TemplateProcessing(f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    assert ids(make(wrapped.to_str().encode()), "the cat") == ids(make(), "the cat")


# ---- the end of a document ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("slow", [True, False])
def test_text_cannot_spell_the_end_of_a_document(special, slow, monkeypatch):
    (token,) = json.loads(CONTENT)["added_tokens"]
    tokenizer = make(edited(added_tokens=[token | {"special": special}]))
    if slow:
        monkeypatch.setattr(tokenizer, "_fast", None)
    for text in (END_OF_TEXT, f"a{END_OF_TEXT}b", f" {END_OF_TEXT}\n" * 3):
        found = ids(tokenizer, text)
        assert tokenizer.end_of_document not in found
        assert tokenizer.decode(found) == text


def test_other_names_of_the_end_of_a_document():
    raw = json.loads(CONTENT.decode().replace(END_OF_TEXT, "</s>"))
    assert make(json.dumps(raw).encode()).end_of_document == 0


def test_without_such_a_token_its_id_is_one_past_the_vocabulary():
    tokenizer = make(CONTENT.replace(END_OF_TEXT.encode(), b"<|unheard of|>"))
    assert tokenizer.end_of_document == 300
    assert tokenizer.vocab_size == 301
    assert tokenizer.token_text(300) == "<300>"


def test_a_name_that_text_can_spell_is_not_the_end_of_a_document():
    words = tokenizers.Tokenizer(models.WordLevel({"[SEP]": 0, "cat": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    notices: list[str] = []
    tokenizer = Tokenizer(words.to_str().encode(), "words.json", notices.append)
    assert ids(tokenizer, "cat [SEP] dog") == [1, 0, 2]
    assert (tokenizer.end_of_document, tokenizer.vocab_size) == (3, 4)
    assert tokenizer.backend == "tokenizers"
    assert len(notices) == 1
    assert "words.json" in notices[0]


def test_vocabulary_with_gaps_counts_to_its_largest_id():
    words = tokenizers.Tokenizer(models.WordLevel({"cat": 1, "?": 7}, unk_token="?"))
    tokenizer = Tokenizer(words.to_str().encode(), "words.json", lambda _: None)
    assert (tokenizer.end_of_document, tokenizer.vocab_size) == (8, 9)


# ---- the fast library ---------------------------------------------------------------------------------------------


def test_other_ids_make_it_fall_back_loudly(monkeypatch):
    notices: list[str] = []
    tokenizer = Tokenizer(CONTENT, "t.json", notices.append)
    right = make().encode_batch(TEXTS)
    encode = tokenizer._encode_fast
    monkeypatch.setattr(tokenizer, "_encode_fast", lambda texts: [tokens[::-1].copy() for tokens in encode(texts)])
    for found in (tokenizer.encode_batch(TEXTS), tokenizer.encode_batch(TEXTS)):
        assert all(map(np.array_equal, found, right))
    assert tokenizer.backend == "tokenizers"
    assert len(notices) == 1
    assert names(notices[0], "ids")


def test_a_difference_in_the_documents_alone_is_seen(monkeypatch):
    notices: list[str] = []
    tokenizer = Tokenizer(CONTENT, "t.json", notices.append)
    encode = tokenizer._encode_fast

    def wrong(texts):
        return [tokens[:-1] if "rare" in text else tokens for text, tokens in zip(texts, encode(texts), strict=True)]

    monkeypatch.setattr(tokenizer, "_encode_fast", wrong)
    assert tokenizer.decode(tokenizer.encode_batch(["a", "a rare word"])[1]) == "a rare word"
    assert names(notices[0], "'a rare word'")


def test_a_difference_in_the_added_tokens_is_seen(monkeypatch):
    notices: list[str] = []
    (token,) = json.loads(CONTENT)["added_tokens"]
    added = token | {"id": 300, "content": "<tool>", "special": False}
    tokenizer = Tokenizer(edited(added_tokens=[token, added]), "t.json", notices.append)
    assert ids(tokenizer, "a<tool>b")[1] == 300
    assert not notices
    monkeypatch.setattr(tokenizer, "_compared", False)
    monkeypatch.setattr(tokenizer, "_encode_fast", make().encode_batch)  # knows no such token
    assert ids(tokenizer, "fine") == ids(TOKENIZER, "fine")
    assert "<tool>" in notices[0]


@pytest.mark.parametrize(
    ("bad_calls", "num_calls", "backend"),  # the comparison is the first call, each batch one after it
    [({0}, 1, "tokenizers"), ({2, 3}, 5, "fastokens")],
)
def test_an_error_makes_it_fall_back_loudly(monkeypatch, bad_calls, num_calls, backend):
    notices: list[str] = []
    tokenizer = Tokenizer(CONTENT, "t.json", notices.append)
    encode, calls = tokenizer._encode_fast, []

    def broken(texts):
        calls.append(texts)
        if len(calls) - 1 in bad_calls:
            raise ValueError("match limit\nexceeded")
        return encode(texts)

    monkeypatch.setattr(tokenizer, "_encode_fast", broken)
    found = [tokenizer.encode_batch([text])[0] for text in TEXTS[:4]]
    assert [tokenizer.decode(tokens) for tokens in found] == TEXTS[:4]
    assert (len(calls), tokenizer.backend) == (num_calls, backend)  # a batch that fails says nothing of the next
    assert len(notices) == 1
    assert names(notices[0], "match limit exceeded")


@pytest.mark.parametrize(("kept", "expected"), [("fastokens", ["fastokens", 0]), ("tokenizers", ["tokenizers", 1])])
def test_a_backend_that_was_chosen_before_is_kept_without_comparing(monkeypatch, kept, expected):
    notices: list[str] = []
    tokenizer = Tokenizer(CONTENT, "t.json", notices.append)
    monkeypatch.setattr(tokenizer, "_compare", lambda _: pytest.fail("compared"))
    tokenizer.keep_backend(kept)
    assert ids(tokenizer, TEXTS[0]) == ids(TOKENIZER, TEXTS[0])
    assert [tokenizer.backend, len(notices)] == expected


def test_the_notice_goes_to_stderr_by_default(capsys, monkeypatch):
    tokenizer = Tokenizer(CONTENT, "t.json")
    monkeypatch.setattr(tokenizer, "_encode_fast", lambda texts: [np.zeros(1, np.uint32)] * len(texts))
    tokenizer.encode_batch(["a"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert names(err, "t.json", "fastokens", "ids")


# ---- bad files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"model": 3}',
        b'{"model": {"type": "Foo"}}',
        CONTENT[:-100],
        edited(added_tokens=[{"id": 0}]),
        edited(pre_tokenizer={"type": "Foo"}),
    ],
)
def test_file_that_is_no_tokenizer(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with refusal(BadData, str(path), "tokenizer.json") as caught:
        Tokenizer.load(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


def test_file_that_is_not_there(tmp_path: Path):
    for path in (tmp_path / "none.json", tmp_path):
        with refusal(InputMissing, "tokenizer"):
            Tokenizer.load(path)


# ---- training ----------------------------------------------------------------------------------------------------


def test_training_does_not_depend_on_the_order_of_texts():
    for seed in range(3):
        shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
        assert train_tokenizer(iter(shuffled), 300) == CONTENT


def test_smallest_vocabulary_is_the_bytes():
    tokenizer = make(train_tokenizer(iter(TEXTS), 257))
    assert tokenizer.vocab_size == 257
    assert len(ids(tokenizer, "猫 cat")) == 7
    with refusal(BadSetting, 256, 257):
        train_tokenizer(iter(TEXTS), 256)


def test_small_corpus_gives_fewer_tokens():
    assert make(train_tokenizer(iter(["ab ab", ""]), 5000)).vocab_size < 270
    assert make(train_tokenizer(iter([]), 5000)).vocab_size == 257


def test_an_error_of_the_reader_comes_through():
    def texts():
        yield "fine"
        raise BadData("line 2: not UTF-8")

    with refusal(BadData, "line 2"):
        train_tokenizer(texts(), 300)


# ---- how much text a token stands for ------------------------------------------------------------------------------


@given(st.lists(st.text() | st.sampled_from([END_OF_TEXT, "the cat", "bät"]), max_size=5).map("".join))
def test_byte_lengths_add_up_to_the_text(text):
    lengths = TOKENIZER.byte_lengths()
    assert lengths.size == TOKENIZER.vocab_size
    assert lengths[ids(TOKENIZER, text)].sum() == len(text.encode())


def test_byte_lengths_of_added_tokens_and_of_other_tokenizers():
    (token,) = json.loads(CONTENT)["added_tokens"]
    added = token | {"id": 300, "content": "<wërkzeug>", "special": False}
    tokenizer = make(edited(added_tokens=[token, added]))
    assert tokenizer.byte_lengths()[[0, 300]].tolist() == [len(END_OF_TEXT), len("<wërkzeug>".encode())]
    words = tokenizers.Tokenizer(models.WordLevel({"cat": 1, "?": 2}, unk_token="?"))
    assert Tokenizer(words.to_str().encode(), "words.json", lambda _: None).byte_lengths() is None
