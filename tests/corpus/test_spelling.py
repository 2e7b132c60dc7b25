"""Token ids as text that breaks nothing."""

import itertools
import sys

import pytest
import tokenizers
from messages import names

from scone_cli.artifacts.manifest import Manifest
from scone_cli.corpus.spelling import Speller, speller_of
from scone_cli.corpus.tokenizer import Tokenizer, train_tokenizer
from scone_cli.formatting import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" of the", "·of·the"),
        ("a\n\t\r\\n", r"a\n\t\r\\n"),
        ("\x1b[31m\0\x7f", r"\x1b[31m\x00\x7f"),
        ("l·l", r"l\xb7l"),
        ("\u202eevil\u200b", r"\u202eevil\u200b"),
        ("\udce2\ud800", r"\xe2\ud800"),
        ("\u0301e\u0301", "\\u0301e\u0301"),
        ("\U0001f642\U000e0001\u4f60", "\U0001f642\\U000e0001\u4f60"),
        ("<b>&", "<b>&"),
        ("", ""),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown


@pytest.mark.slow
def test_all_that_is_shown_prints_and_no_two_characters_are_shown_alike():
    characters = list(map(chr, range(sys.maxunicode + 1)))
    shown = [visible(f"a{character}") for character in characters if not 0xDC80 <= ord(character) <= 0xDCFF]
    assert all(text.isprintable() and " " not in text for text in shown)
    assert len(set(shown)) == len(shown)


def test_parts_of_characters_are_bytes():
    """With no merges, every byte is a token: an emoji is four, of which some, but not all, are in an n-gram."""
    tokenizer = Tokenizer(train_tokenizer(iter([""]), 257), "tokenizer.json")
    spell = Speller(tokenizer)
    ids = tokenizer.encode_batch(["a \U0001f642b"])[0].tolist()
    assert spell(ids) == "a·\U0001f642b"
    assert spell(ids[:4]) == r"a·\xf0\x9f"
    assert spell(ids[3:]) == r"\x9f\x99\x82b"
    for byte in range(256):
        token = next(i for i in range(1, 257) if spell([i]) in {visible(chr(byte)), rf"\x{byte:02x}"})
        assert token
    assert len({spell([i]) for i in range(257)}) == 257


def test_a_replacement_character_of_the_text_is_no_part_of_one():
    tokenizer = Tokenizer(train_tokenizer(iter([""]), 257), "tokenizer.json")
    ids = tokenizer.encode_batch(["\ufffd"])[0].tolist()
    assert Speller(tokenizer)(ids) == "\ufffd"
    assert Speller(tokenizer)(ids[:2]) == r"\xef\xbf"


def test_tokens_that_have_no_text_are_named():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "\u0141\u00f3d\u017a": 1}, "[UNK]"))
    spell = Speller(Tokenizer(words.to_str().encode(), "tokenizer.json"))
    assert spell([1, 0]) == "\u0141\u00f3d\u017a·[UNK]"
    assert spell([]) == ""


def test_without_its_own_tokenizer_ids_are_shown(tmp_path):
    manifest = Manifest("vocab", 1, "s", 1, "f", {}, {}, "t" * 64, {})
    spell, note = speller_of(tmp_path / "vocab", manifest)
    assert spell([3, 14]) == "3 14"
    assert names(note, "tokenizer.json")
    missing = note
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokenizer.json").write_bytes(train_tokenizer(iter(["a"]), 257))
    spell, note = speller_of(tmp_path / "vocab", manifest)
    assert spell([3, 14]) == "3 14"
    assert names(note, "tokenizer.json")
    assert note != missing
    assert not list(itertools.filterfalse(str.isascii, note))
