"""Counts the bytes of text that a tokenizer drops without a token: they make bits per byte look too good.

Bits per byte divides by all bytes, but dropped text costs no bits. A tokenizer.json drops text if it has neither all bytes nor
an unknown token, or if its normalizer or splitter removes characters. Every character that no token covers counts, except
white space, which word tokenizers drop on purpose. Most tokenizers cannot drop text; their parts (normalizer, splitter, model)
tell which. For the others, all text is encoded a second time with the slow library, which says what each token covers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers

from scone_cli.arrays import I64

# Types of tokenizer parts that keep every character, or replace it by another one.
_KEEPING = {
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "Lowercase",
    "BertNormalizer",
    "StripAccents",
    "Strip",
} | {
    *("Prepend", "ByteLevel", "Whitespace", "WhitespaceSplit", "BertPreTokenizer", "Metaspace", "UnicodeScripts"),
    *("Digits", "Sequence", "FixedLength"),
}
_LEFT_OUT = "\N{NULL}left out"  # the unknown token of the twin tokenizer; no vocabulary contains it


def unknown_token(raw: dict[str, Any]) -> int | None:
    """The id of a tokenizer's unknown token, or None."""
    model = raw["model"]
    if "unk_id" in model:
        return None if model["unk_id"] is None else int(model["unk_id"])
    vocab, added = model.get("vocab") or {}, raw.get("added_tokens") or []
    found = vocab.get(model.get("unk_token")) if isinstance(vocab, dict) else None
    return (
        found if found is not None else next((t["id"] for t in added if t["content"] == model.get("unk_token")), None)
    )


def may_leave_out(raw: dict[str, Any]) -> bool:
    """Whether a tokenizer may drop text, judged by the parts of its `tokenizer.json`."""
    parts = [*_parts(raw.get("normalizer")), *_parts(raw.get("pre_tokenizer"))]
    if not all(_keeps(part) for part in parts):
        return True
    model = raw["model"]
    if model.get("type") not in (None, "BPE") or unknown_token(raw) is not None:
        return False  # unknown text is an error here, or becomes the unknown token
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return True
    vocab = model.get("vocab") or {}
    if any(part.get("type") == "ByteLevel" for part in parts):
        return not all(letter in vocab for letter in tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return not (model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocab for byte in range(256)))


def _parts(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if part is not None:
        yield part
        for inner in [*part.get("normalizers", []), *part.get("pretokenizers", [])]:
            yield from _parts(inner)


def _keeps(part: dict[str, Any]) -> bool:
    pattern = part.get("pattern", part.get("delimiter", ""))
    said = pattern.get("String", "") if isinstance(pattern, dict) else pattern
    if said and said.isspace():
        return True  # it can remove only white space
    if part.get("type") in ("Split", "Punctuation"):
        return part.get("behavior") != "Removed"
    if part.get("type") == "Replace":
        return bool(part.get("content"))
    return part.get("type") in _KEEPING


class Coverage:
    """Measures which bytes of a text no token covers; `raw` is the `tokenizer.json` as it is used."""

    def __init__(self, raw: dict[str, Any]) -> None:
        model = raw["model"]
        self._left_out = -1
        if model.get("type") in (None, "BPE") and unknown_token(raw) is None:
            # Such a model drops unknown text, and then gives wrong offsets. The twin has an unknown token, so its offsets are
            # right.
            added = [token["id"] for token in raw.get("added_tokens") or []]
            self._left_out = max([*model["vocab"].values(), *added], default=-1) + 1
            model = model | {
                "vocab": model["vocab"] | {_LEFT_OUT: self._left_out},
                "unk_token": _LEFT_OUT,
                "fuse_unk": False,
            }
        self._twin = tokenizers.Tokenizer.from_str(json.dumps(raw | {"model": model}))
        self._twin.encode_special_tokens = True

    def bytes_left_out(self, texts: Sequence[str]) -> list[int]:
        """The number of bytes of each text that no token covers, without white space.

        Raises:
            Exception: the library's, as for encoding.
        """
        encodings = self._twin.encode_batch(list(texts), add_special_tokens=False)
        return [self._of(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def _of(self, text: str, encoding: tokenizers.Encoding) -> int:
        ids = np.array(encoding.ids, np.int64)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)[ids != self._left_out]
        steps = np.bincount(spans[:, 0], minlength=len(text) + 1) - np.bincount(spans[:, 1], minlength=len(text) + 1)
        is_covered = np.cumsum(steps)[:-1] > 0
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        distinct, which = np.unique(codes, return_inverse=True)
        sizes: I64 = np.array([0 if chr(c).isspace() else len(chr(c).encode()) for c in distinct.tolist()], np.int64)
        return int(sizes[which][~is_covered].sum())
