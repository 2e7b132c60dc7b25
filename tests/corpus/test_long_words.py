import pytest

from scone_cli.corpus import long_words
from scone_cli.corpus.long_words import in_pieces
from scone_cli.corpus.tokenizer import train_tokenizer

WORDS = "words of a text, and a line -------------------------------------------------- under them\n" * 200


def test_text_with_blanks_is_left_as_it_is():
    assert list(in_pieces([WORDS, "", "x" * 999, "one"])) == [WORDS, "", "x" * 999, "one"]


@pytest.mark.parametrize(
    "run", ["漢字" * 600, "ACGT" * 400, "1" * 1500, "=-" * 800, "_" * 1200, "\n" * 1100, "aB3/" * 3000]
)
def test_long_runs_come_in_pieces_and_nothing_is_lost(run):
    pieces = list(in_pieces([f"before {run}", WORDS, f"{run} after"]))
    assert "".join(pieces) == f"before {run}{WORDS}{run} after"
    assert max(len(piece) for piece in pieces if piece != WORDS) <= 100


def test_of_long_runs_so_much_is_taken_and_all_other_text(monkeypatch):
    monkeypatch.setattr(long_words, "_LEARNED", 250)
    pieces = list(in_pieces(["a " + "b" * 2000 + " c", "d" * 2000 + " e"]))
    assert [piece for piece in pieces if piece] == ["a ", "b" * 100, "b" * 100, "b" * 50, " c", " e"]


def test_a_tokenizer_is_trained_on_text_without_blanks():
    """In a second: as one word it would take minutes."""
    alphabet = "".join(chr(0x4E00 + number) for number in range(50))
    text = "".join(alphabet[number * number % 50] for number in range(60_000))
    assert train_tokenizer(in_pieces([text]), 400) == train_tokenizer(in_pieces([text]), 400)
