"""What tokenizers have no token for: found exactly, and told wherever bits per byte are."""

import json

import pytest
from messages import names, refusal
from report_cases import results
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from scone_cli.artifacts.manifest import Manifest
from scone_cli.corpus.files import find_files
from scone_cli.corpus.left_out import may_leave_out
from scone_cli.corpus.remarks import LEFT_OUT, UNKNOWN, flattery
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.errors import BadData
from scone_cli.evaluation.texts import held_out_text, text_of_files
from scone_cli.report.eval_page import render
from scone_cli.report.eval_summary import summary_of

BYTES = {f"<0x{byte:02X}>": 10 + byte for byte in range(256)}


def content(model, pre_tokenizer=None, normalizer=None) -> bytes:
    library = Library(model)
    if pre_tokenizer:
        library.pre_tokenizer = pre_tokenizer
    if normalizer:
        library.normalizer = normalizer
    return library.to_str().encode()


def bpe(*more: str, **options) -> models.BPE:
    vocab = {letter: number for number, letter in enumerate(["h", "e", "he", *more])}
    return models.BPE(vocab | options.pop("vocab", {}), [("h", "e")], **options)


def opened(data: bytes) -> Tokenizer:
    return Tokenizer(data, "my.json", lambda _: None)


LEAVING = {
    "letters": (content(bpe()), "hexhe é he", 3),  # x and é; the blanks do not count
    "what stands between": (content(bpe(), pre_tokenizers.Whitespace()), "hehe zé\n—he", 6),
    "a part of the bytes": (content(bpe("\u0120"), pre_tokenizers.ByteLevel(add_prefix_space=False)), "he zhe", 1),
    "a delimiter": (content(bpe(unk_token="he"), pre_tokenizers.Split("e", "removed")), "hehex", 2),
    "marks of punctuation": (content(bpe(unk_token="he"), pre_tokenizers.Punctuation("removed")), "he, he!", 2),
    "what is replaced by nothing": (content(bpe(unk_token="he"), normalizer=normalizers.Replace("x", "")), "xhex", 2),
    "letters that end words": (content(bpe(end_of_word_suffix="</w>"), pre_tokenizers.Whitespace()), "he he", 2),
    "all": (content(models.BPE({}, [])), "abc d", 4),
}
KEEPING = {
    "all bytes": (train_tokenizer(iter(["a text"]), 257), "a é\n\0"),
    "all bytes, composed": (
        content(bpe(*pre_tokenizers.ByteLevel.alphabet()), pre_tokenizers.ByteLevel(), normalizers.NFC()),
        "e\u0301",
    ),
    "bytes to fall back on": (
        content(bpe("▁", byte_fallback=True, vocab=BYTES), pre_tokenizers.Metaspace()),
        "a é\n",
    ),
    "an unknown token": (content(bpe("?", unk_token="?"), pre_tokenizers.Whitespace()), "a é he"),
    "words": (
        content(
            models.WordPiece({"[UNK]": 0, "he": 1}), pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
        ),
        "a é he",
    ),
    "pieces": (content(models.Unigram([("?", -9.0), ("h", -1.0)], 0), pre_tokenizers.Metaspace()), "a é he"),
}


@pytest.mark.parametrize("name", LEAVING)
def test_bytes_without_a_token_are_counted(name):
    data, text, expected = LEAVING[name]
    assert may_leave_out(json.loads(data))
    tokenizer = opened(data)
    assert tokenizer.bytes_left_out([text]) == expected
    assert tokenizer.bytes_left_out(["", text, "he", text]) == 2 * expected + tokenizer.bytes_left_out(["he"])


@pytest.mark.parametrize("name", KEEPING)
def test_tokenizers_that_leave_nothing_out_are_known(name):
    data, text = KEEPING[name]
    assert not may_leave_out(json.loads(data))
    tokenizer = opened(data)
    assert tokenizer.bytes_left_out([text]) == 0
    if name != "words" and name != "an unknown token":  # blanks are left out by these
        assert opened(data).encode_batch([text])[0].size


def test_the_unknown_token_is_found():
    assert [opened(data).unknown for data, _ in KEEPING.values()] == [None, None, None, 3, 0, 0]


CANNOT = {
    "WordLevel": content(models.WordLevel({"hello": 0}), pre_tokenizers.Whitespace()),
    "WordPiece": content(models.WordPiece({"hello": 0}), pre_tokenizers.Whitespace()),
    "Unigram": content(models.Unigram([("hello", -1.0)], None), pre_tokenizers.Metaspace()),
    "BPE": content(bpe(unk_token="[UNK]"), pre_tokenizers.Whitespace()),
}


@pytest.mark.parametrize("name", CANNOT)
def test_a_text_that_cannot_be_encoded_is_named(name):
    tokenizer = opened(CANNOT[name])
    assert tokenizer.end_of_document == tokenizer.vocab_size - 1, "no name of one can be spelled"
    with refusal(BadData, "my.json", "b.txt", hint=("unknown token",)):
        tokenizer.encode_batch(["", "world"], ["a.txt", "b.txt"])
    with refusal(BadData, "my.json", "'world'"):
        tokenizer.encode_batch(["world"])


# ---- whole commands ----------------------------------------------------------------------------------------------


def count(scone, folder, data: bytes, text: str, *more: object) -> tuple[int, str, str]:
    (folder / "my.json").write_bytes(data)
    (folder / "a.jsonl").write_text((json.dumps({"text": text}) + "\n") * 40)
    args = ("--tokenizer", "my.json", "--min-count", "1", "--held-out", "0", "--workers", "1", "--json", *more)
    return scone("--quiet", "count-ngrams", "a.jsonl", *args)


def test_text_without_a_token_is_told_and_kept(scone, tmp_path):
    data, text, expected = LEAVING["what stands between"]
    code, out, err = count(scone, tmp_path, data, text)
    assert code == 0
    share = expected / len(text.encode())
    assert json.loads(out)["share_of_bytes_without_token"] == pytest.approx(share)
    slow, warning = err.splitlines()
    assert names(slow, "my.json", "fastokens")
    assert "partial" not in err, "no name of a hidden file"
    assert names(warning, "my.json", f"{100 * share:.1f}%")
    manifest = json.loads((tmp_path / "scone-work" / "tokens" / "manifest.json").read_bytes())
    assert manifest["summary"]["share_of_bytes_without_token"] == pytest.approx(share)


def test_unknown_tokens_are_told_and_kept(scone, tmp_path):
    data, text = KEEPING["an unknown token"]
    code, out, err = count(scone, tmp_path, data, text)
    assert code == 0
    assert json.loads(out)["share_of_tokens_unknown"] == pytest.approx(2 / 3)
    assert names(err.splitlines()[-1], "my.json", "66.7%")


def test_a_tokenizer_that_gives_no_token_is_refused(scone, tmp_path):
    data, text, _ = LEAVING["all"]
    code, _, err = count(scone, tmp_path, data, text)
    assert code == 65
    assert names(err.splitlines()[-2], "my.json", 40)


def test_a_document_that_cannot_be_encoded_is_named(scone, tmp_path):
    code, out, err = count(scone, tmp_path, CANNOT["WordLevel"], "hello hello world")
    assert (code, out) == (65, "")
    assert names(err.splitlines()[-2], "error", "my.json", "a.jsonl:1")


# ---- evaluations -------------------------------------------------------------------------------------------------


def test_an_evaluation_knows_what_has_no_token(tmp_path):
    data, text, expected = LEAVING["what stands between"]
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": text}) + "\n") * 3)
    corpus = text_of_files("mine", find_files([tmp_path]), opened(data), "text")
    assert sum(stream.num_left_out for stream, _ in corpus.pieces()) == 3 * expected
    made = {
        "artifact": "tokens",
        "schema_version": 1,
        "stage": "",
        "stage_version": 1,
        "fingerprint": "",
        "tokenizer": "",
    }
    for key in ("held-out tokens", "held_out_tokens"):
        made |= {"settings": {}, "inputs": {}, "summary": {**made.get("summary", {}), key: 10, LEFT_OUT: 0.25}}
    assert held_out_text(tmp_path, Manifest(**made)).left_out == 0.25


def test_a_summary_and_a_page_say_so():
    found = results() | {"verdict": ""}
    found["method"]["corpora"][0] |= {LEFT_OUT: 0.25, UNKNOWN: 0.5}
    for shown in (str(summary_of(found)), render(found)):
        assert names(shown, "25.0%", "50.0%")
    found["method"]["corpora"][0] |= {LEFT_OUT: 0.0, UNKNOWN: 1e-5}
    assert list(flattery(found["method"]["corpora"][0])) == []
