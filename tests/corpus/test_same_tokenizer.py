"""A tokenizer is the same if it gives texts the same ids, whatever its file looks like; everything else is refused."""

from __future__ import annotations

import hashlib
import json

import pytest
import tokenizers
from messages import refusal

from scone_cli.corpus.same_tokenizer import check_same_tokenizer
from scone_cli.corpus.tokenizer import train_tokenizer
from scone_cli.errors import BadData, BadSetting, InputMissing, MismatchedArtifacts

CONTENT = train_tokenizer(iter(["the cat sat on the mat, and the cat was fat"]), 280)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def own(tmp_path):
    """Where the table has its own."""
    path = tmp_path / "own.json"
    path.write_bytes(CONTENT)
    return path


def unchanged(_):
    pass


def written(path, change=unchanged, **form):
    """The tokenizer, changed, as another file."""
    raw = json.loads(CONTENT)
    change(raw)
    path.write_text(json.dumps(raw, **form))
    return path


class Fast:
    """As transformers' fast tokenizers."""

    def __init__(self, inner):
        self.backend_tokenizer = inner


def test_the_file_itself_needs_no_copy(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(CONTENT)
    for given in (path, str(path)):
        check_same_tokenizer(given, SHA, [], "table")


def with_template(raw):
    raw["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    raw["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    raw["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    raw["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}


def as_older_versions_wrote_merges(raw):
    raw["model"]["merges"] = [" ".join(pair) for pair in raw["model"]["merges"]]
    del raw["model"]["ignore_merges"]


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (unchanged, {"indent": 4}),
        (unchanged, {"sort_keys": True, "ensure_ascii": True}),
        (lambda raw: raw.update(model=dict(reversed(raw["model"].items()))), {}),
        (as_older_versions_wrote_merges, {}),
        (with_template, {}),
    ],
    ids=["indented", "sorted", "reversed", "older", "cut and padded"],
)
def test_what_says_the_same_in_another_way_is_the_same(tmp_path, own, change, form):
    path = written(tmp_path / "given.json", change, **form)
    assert path.read_bytes() != CONTENT
    for given in (path, tokenizers.Tokenizer.from_file(str(path)), Fast(tokenizers.Tokenizer.from_file(str(path)))):
        check_same_tokenizer(given, SHA, [tmp_path / "nowhere", own], "table")


def swap_two_ids(raw):
    vocab = raw["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (swap_two_ids, "model"),
        (lambda raw: raw["model"]["merges"].reverse(), "model"),
        (lambda raw: raw["model"].update(dropout=0.1), "dropout"),
        (lambda raw: raw["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer"),
        (lambda raw: raw.update(normalizer={"type": "NFC"}), "normalizer"),
        (
            lambda raw: raw["added_tokens"].append(raw["added_tokens"][0] | {"id": 281, "content": "<|x|>"}),
            "added_tokens",
        ),
    ],
)
def test_another_tokenizer_is_refused_and_what_is_other_is_told(tmp_path, own, change, part):
    path = written(tmp_path / "given.json", change)
    for given, name in ((path, str(path)), (tokenizers.Tokenizer.from_file(str(path)), "Tokenizer")):
        with refusal(MismatchedArtifacts, name, "the table", SHA[:12], part, hint=("tokenizer.json",)):
            check_same_tokenizer(given, SHA, [own], "the table")


def test_without_a_copy_of_its_own_another_file_is_not_believed(tmp_path, own):
    path = written(tmp_path / "given.json", indent=1)
    own.write_bytes(CONTENT + b" ")  # no more what it was
    with refusal(MismatchedArtifacts, str(path), "the table", SHA[:12], "no copy"):
        check_same_tokenizer(path, SHA, [own], "the table")


def test_a_table_of_token_ids_has_none(own):
    with refusal(MismatchedArtifacts, "the table", "without a tokenizer"):
        check_same_tokenizer(own, "", [], "the table")


@pytest.mark.parametrize(
    "given", [3, None, b"tokenizer.json", {"model": {}}, object(), Fast(None)], ids=lambda g: type(g).__name__
)
def test_what_is_no_tokenizer_is_refused(own, given):
    with refusal(BadSetting, "tokenizer", type(given).__name__, "transformers"):
        check_same_tokenizer(given, SHA, [own], "the table")


def test_a_file_that_is_none_is_refused(tmp_path, own):
    with refusal(InputMissing, "nowhere.json"):
        check_same_tokenizer(tmp_path / "nowhere.json", SHA, [own], "the table")
    with refusal(InputMissing, str(tmp_path)):
        check_same_tokenizer(tmp_path, SHA, [own], "the table")
    for content in (b"", b"{}", b"\xff", b"[" * 5000):
        (tmp_path / "given.json").write_bytes(content)
        with refusal(BadData, "given.json", "tokenizer"):
            check_same_tokenizer(tmp_path / "given.json", SHA, [own], "the table")
