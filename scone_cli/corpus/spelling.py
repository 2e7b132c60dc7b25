"""Shows token ids as readable text that is safe on a terminal and on a page.

A blank is shown as `·`. Non-printing characters (control and format characters, lone surrogates, bytes that are only a part of
a character) and the characters `·` and backslash are escaped as in Python strings, so that the text shown is never ambiguous.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.artifacts.manifest import Manifest
from scone_cli.formatting import visible

if TYPE_CHECKING:
    from scone_cli.corpus.tokenizer import Tokenizer

_UNKNOWN = "\ufffd"  # a decoder writes it in place of bytes that are no character


class Speller:
    """Shows token ids as text with the tokenizer of an artifact, or as numbers without a tokenizer."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> str:
        r"""The tokens as visible text; a byte that is only a part of a character is written as `\xe2`."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        text = self.tokenizer.decode(ids)
        if _UNKNOWN in text or (ids and not text):
            text = b"".join(bytes_of(self.tokenizer, token) for token in ids).decode("utf-8", "surrogateescape")
        return visible(text)


def speller_of(folder: Path, manifest: Manifest) -> tuple[Speller, str]:
    """The speller for an artifact's tokens, and a note on its source: the same tokenizer in `tokens/` beside it, or in it."""
    # Beside the artifact's path, and if that is a link, also beside the folder that it leads to.
    beside = [Path(os.path.abspath(folder)).parent, folder.resolve().parent]
    places = [
        *(place / "tokens" / "tokenizer.json" for place in beside),
        folder / "tokenizer.json",
    ]  # a table has its own
    path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        return Speller(None), f"shown as token ids: there is no {path}"
    from scone_cli.corpus.tokenizer import Tokenizer  # noqa: PLC0415 - heavy, and not every artifact has tokens

    tokenizer = Tokenizer.load(path)
    if tokenizer.sha256 != manifest.tokenizer:
        return Speller(None), f"shown as token ids: {path} is not the tokenizer of this artifact"
    return Speller(tokenizer), f"decoded with {path}"


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes of one token; for a part of a character, from its name, in which byte-level BPE writes a letter per byte."""
    text = tokenizer.decode([token])
    if text and _UNKNOWN not in text:
        return text.encode()
    name = tokenizer.token_text(token)
    return bytes(_BYTES[letter] for letter in name) if _BYTES.keys() >= set(name) else name.encode()


def _byte_letters() -> dict[str, int]:
    """The byte of each letter in byte-level BPE: printing Latin-1 characters stand for themselves, others from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_letters()
