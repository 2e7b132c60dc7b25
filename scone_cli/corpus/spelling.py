"""Token ids as text that a person can read, and that can break neither a terminal nor a page.

Blanks show as `·`. Whatever does not print (control and format characters, lone surrogates, bytes that are only a part
of a character) and the two characters `·` and backslash themselves are escaped as in Python's strings, so that what is
shown is never two things.
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

_UNKNOWN = "\ufffd"  # what a decoder puts in the place of bytes that are no character


class Speller:
    """Spells token ids with the tokenizer of an artifact, or as numbers where there is none."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> str:
        r"""The tokens as visible text; bytes that are only a part of a character as `\xe2`."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        text = self.tokenizer.decode(ids)
        if _UNKNOWN in text or (ids and not text):
            text = b"".join(bytes_of(self.tokenizer, token) for token in ids).decode("utf-8", "surrogateescape")
        return visible(text)


def speller_of(folder: Path, manifest: Manifest) -> tuple[Speller, str]:
    """What spells the tokens of an artifact: the tokenizer that lies beside it if it is its own; and a note on that."""
    # Beside the artifact as it is named, or, if that is a link, beside the folder that it leads to.
    beside = [Path(os.path.abspath(folder)).parent, folder.resolve().parent]
    places = [place / "tokens" / "tokenizer.json" for place in beside]
    path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        return Speller(None), f"shown as token ids: there is no {path}"
    from scone_cli.corpus.tokenizer import Tokenizer  # noqa: PLC0415 - heavy, and not every artifact has tokens

    tokenizer = Tokenizer.load(path)
    if tokenizer.sha256 != manifest.tokenizer:
        return Speller(None), f"shown as token ids: {path} is not the tokenizer of this artifact"
    return Speller(tokenizer), f"decoded with {path}"


def bytes_of(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes of one token. Of a part of a character only its name is known, which byte-level BPE spells in letters."""
    text = tokenizer.decode([token])
    if text and _UNKNOWN not in text:
        return text.encode()
    name = tokenizer.token_text(token)
    return bytes(_BYTES[letter] for letter in name) if _BYTES.keys() >= set(name) else name.encode()


def _byte_letters() -> dict[str, int]:
    """Byte-level BPE's letter for each byte: the printing ones of Latin-1 are their own, the others follow from U+0100."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_letters()
