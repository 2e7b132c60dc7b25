"""Matches a text for `scone inspect vocab/ --text`: the f-gram at each position, and the text cut into segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scone_cli.artifacts.manifest import Manifest, check_files
from scone_cli.corpus.spelling import Speller, speller_of
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import MismatchedArtifacts
from scone_cli.vocab.index import NONE
from scone_cli.vocab.summary import summarise_matches
from scone_cli.vocab.vocabulary import Vocabulary

Position = dict[str, Any]  # one token of a text, and the longest f-gram that ends there


def open_with_tokenizer(folder: Path, manifest: Manifest, what: str) -> tuple[Speller, Tokenizer, Vocabulary]:
    """Open the vocabulary in `folder` with its own tokenizer, and check its files; `what` begins the error message.

    Raises:
        MismatchedArtifacts: the tokenizer is not beside the vocabulary.
        BadData: see `Vocabulary.read`.
    """
    spell, note = speller_of(folder, manifest)
    if spell.tokenizer is None:
        raise MismatchedArtifacts(
            f"{folder}: {what} the vocabulary's own tokenizer; {note}",
            "leave vocab/ beside the tokens/ it was made from",
        )
    check_files(folder, manifest, hashes=True)
    return (
        spell,
        spell.tokenizer,
        Vocabulary.read(folder, manifest.settings["num_tokens"], manifest.settings["max_n"]),
    )


def cut(folder: Path, manifest: Manifest, text: str) -> dict[str, Any]:
    """Tokenise a text as one document and match it with the vocabulary in `folder`; returns JSON values.

    `positions` has the longest f-gram that ends at each token. `segments` are matches that do not overlap, chosen from the
    end: the match that ends at the last token, then the match that ends just before it begins, and so on.

    Raises:
        MismatchedArtifacts, BadData: see `open_with_tokenizer`.
    """
    spell, tokenizer, vocabulary = open_with_tokenizer(folder, manifest, "a text must be cut with")
    tokens = tokenizer.encode_batch([text])[0]
    ids, lengths = vocabulary.trie.index().match(tokens)
    token_list, length_list = tokens.tolist(), lengths.tolist()
    positions: list[Position] = []
    for position, (token, i, n) in enumerate(zip(token_list, ids.tolist(), length_list, strict=True)):
        row: Position = {"position": position, "token": token, "text": spell([token]), "n": n}
        row |= dict.fromkeys(("id", "count", "docs", "fgram"))
        if i != NONE:
            first = position - n + 1
            fgram = spell(token_list[first : position + 1])
            row |= {"id": i, "count": int(vocabulary.counts[i]), "docs": int(vocabulary.docs[i]), "fgram": fgram}
        positions.append(row)
    segments = [
        {"first": first, "last": last, "n": length_list[last], "id": positions[last]["id"]}
        | {"text": spell(token_list[first : last + 1])}
        for first, last in _segments(length_list)
    ]
    return {"text": text, **summarise_matches(lengths), "segments": segments, "positions": positions}


def _segments(lengths: list[int]) -> list[tuple[int, int]]:
    """The first and last position of each segment; a position without a match is its own segment."""
    segments = []
    last = len(lengths) - 1
    while last >= 0:
        first = last - max(lengths[last], 1) + 1
        segments.append((first, last))
        last = first - 1
    return segments[::-1]
