"""A workspace of text with known secrets, for audits; and the slow, readable twin of an audit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from published import manifest_of

from scone_cli.artifacts.publish import publish, staging_folder
from scone_cli.corpus.personal import kinds_in
from scone_cli.corpus.spelling import bytes_of
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.formatting import visible

SECRET, MAIL = "Quibblethorpe", "q.thorpe@example.org"
PLANTED = f"{SECRET} lives in Z\u00fcrich, mail {MAIL} at once. " * 9
GIVEN = [SECRET, MAIL, "lives in Z\u00fcrich", f"in Z\u00fcrich, mail {MAIL} at once. {SECRET}", "Nobody Atall"]
OTHERS = [
    f"Number {number}: the caf\u00e9 at the corner opens at {number % 5}, and closes when \U0001f642 nobody lives in it. "
    * 6
    for number in range(24)
]


def write_texts(folder: Path, texts: Mapping[str, str]) -> Path:
    """A folder of plain documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def corpus(with_secret: bool) -> dict[str, str]:
    """Documents by name; one of them is planted."""
    texts = {f"{number}.txt": text for number, text in enumerate(OTHERS)}
    return texts | ({"planted.txt": PLANTED} if with_secret else {})


def publish_files(target: Path, kind: str, files: Mapping[str, bytes], tokenizer: str, **facts: object) -> Path:
    """An artifact of these files."""
    staging = staging_folder(target, "d" * 64)
    for name, content in files.items():
        (staging / name).write_bytes(content)
    publish(staging, target, manifest_of("d" * 64, kind, tokenizer=tokenizer, **facts))
    return target


def add_the_rest(work: Path, examples: bool) -> None:
    """A model with learned rows, a table and an evaluation, as far as an audit reads them; the secret is in its examples."""
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    vocab, words = (work / "vocab" / "vocab.parquet").read_bytes(), (work / "tokens" / "tokenizer.json").read_bytes()
    publish_files(work / "model", "model", {"learned-fgrams.parquet": vocab}, tokenizer.sha256)
    of_table = {"vocab.parquet": vocab, "tokenizer.json": words}
    made_from = {"vocab": json.loads((work / "vocab" / "manifest.json").read_text())["fingerprint"]}
    publish_files(work / "table", "table", of_table, tokenizer.sha256, inputs=made_from)
    results: dict[str, Any] = {
        "tokens": [{"text": visible(" lives"), "before": visible(f"\n{SECRET}")}, {"text": "e", "before": None}],
        "fgrams": [{"text": visible(" in Z\u00fcrich")}, {"text": visible("the caf\u00e9")}],
        "terms": [{"term": None}, {"term": MAIL}],
    }
    content = json.dumps(results if examples else {}).encode()
    publish_files(work / "eval", "eval", {"results.json": content}, tokenizer.sha256)


# ---- the slow twin -----------------------------------------------------------------------------------------------


def things(work: Path) -> Iterator[tuple[str, list[Any], list[bytes], list[int]]]:
    """All places of a workspace with n-grams: its name, ids, what each spells, and the documents that hold it."""
    tokenizer = Tokenizer.load(work / "tokens" / "tokenizer.json")
    pieces = [bytes_of(tokenizer, token) for token in range(tokenizer.vocab_size)]
    files = [(f"counts/{path.name}", path) for path in sorted((work / "counts").glob("*.parquet"))]
    files += [("vocab", work / "vocab" / "vocab.parquet"), ("model", work / "model" / "learned-fgrams.parquet")]
    files += [("table", work / "table" / "vocab.parquet")]
    for name, path in files:
        rows = pq.read_table(path).to_pylist()
        yield name, *slow_columns(rows, pieces)


def slow_columns(rows: list[dict[str, Any]], pieces: Sequence[bytes]) -> tuple[list[Any], list[bytes], list[int]]:
    spelled = [b"".join(pieces[token] for token in row["tokens"]) for row in rows]
    return [row["tokens"] for row in rows], spelled, [row["docs"] for row in rows]


def slow_facts(
    work: Path, texts: Sequence[str], comes_only_from: Callable[[list[int]], bool]
) -> dict[str, dict[str, Any]]:
    """What an audit says of n-grams, by place; white space is a blank."""
    facts = {}
    for name, tokens, spelled, docs in things(work):
        plain = [text.replace(b"\n", b" ").replace(b"\t", b" ") for text in spelled]
        held = [[text for text in texts if text.encode() in each] for each in plain]
        parts = [
            not holds
            and len(ngram) > 1
            and each.strip(b" ") != b""
            and any(each in f" {text} ".encode() for text in texts)
            for each, holds, ngram in zip(plain, held, tokens, strict=True)
        ]
        own = [len(ngram) > 1 and comes_only_from(ngram) for ngram in tokens]
        facts[name] = {
            "looked_at": len(plain),
            "holding": sum(map(bool, held)),
            "only": sum(own),
            "found": sum(bool(holds) or is_own for holds, is_own in zip(held, own, strict=True)),
            "parts": sum(parts),
            "rare_parts": sum(part and num < 10 for part, num in zip(parts, docs, strict=True)),
            "personal": sum(bool(kinds_in(each.decode(errors="ignore"))) for each in spelled),
            "docs": {"1": docs.count(1), "2-4": sum(1 < n < 5 for n in docs), "5-9": sum(4 < n < 10 for n in docs)},
            "texts": {
                str(line): sum(text in holds for holds in held)
                for line, text in enumerate(texts, 1)
                if any(text in holds for holds in held)
            },
        }
    return facts
