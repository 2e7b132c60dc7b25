"""`scone select-vocab`: the most frequent n-grams of all lengths become the f-gram vocabulary (paper, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scone_cli.artifacts import Manifest, fingerprint, open_artifact, publish, staging_folder, up_to_date
from scone_cli.errors import BadSetting, MismatchedArtifacts
from scone_cli.progress import Progress
from scone_cli.stages import Report, setting

if TYPE_CHECKING:
    from scone_cli.vocabulary import Vocabulary

STAGE = "select-vocab"
STAGE_VERSION = 1


@dataclass(frozen=True)
class SelectVocab:
    """Settings of `select-vocab`."""

    size: int = setting(1_000_000, "Keep at most this many f-grams.")
    min_count: int | None = setting(
        None, "Keep only n-grams that occur at least this often (default: all that were counted)."
    )
    seed: int = setting(0, "Recorded in the manifest; nothing in this stage is random.")


def run(config: SelectVocab, inputs: Path, out: Path, progress: Progress, force: bool = False) -> Report:
    """Read `tokens/` and `counts/` of the workspace `inputs` and write the vocabulary folder `out`.

    Raises:
        BadSetting: a setting out of its range, or no n-gram is as frequent as asked for.
        MismatchedArtifacts: the counts were not made from these tokens.
    """
    if not 1 <= config.size < 2**32 or not (config.min_count is None or 1 <= config.min_count < 2**63):
        raise BadSetting(
            f"--size {config.size} --min-count {config.min_count}: expected 1 or more of both, and ids of 32 bits"
        )
    tokens = open_artifact(inputs / "tokens", "tokens")
    counts = open_artifact(inputs / "counts", "counts")
    if counts.inputs["tokens"] != tokens.fingerprint or counts.tokenizer != tokens.tokenizer:
        raise MismatchedArtifacts(
            f"{inputs / 'counts'}: made from other tokens than {inputs / 'tokens'}", "run: scone count-ngrams CORPUS"
        )
    min_count = counts.settings["min_count"] if config.min_count is None else config.min_count
    if min_count < counts.settings["min_count"]:
        raise BadSetting(
            f"--min-count {min_count}: the counts leave out what occurs less than {counts.settings['min_count']} times",
            f"give --min-count {counts.settings['min_count']}, or first run: "
            f"scone count-ngrams --min-count {min_count} CORPUS",
        )
    settings = {"size": config.size, "min_count": min_count, "seed": config.seed}
    made_from = {"tokens": tokens.fingerprint, "counts": counts.fingerprint}
    mark = fingerprint(STAGE, STAGE_VERSION, settings, made_from | {"tokenizer": tokens.tokenizer})
    if not force and (manifest := up_to_date(out, "vocab", mark)):
        return Report.of(out, manifest, up_to_date=True)

    from scone_cli.vocabulary import Vocabulary  # noqa: PLC0415 - heavy: only when the stage runs

    progress("ranking", 0, 1, "vocabulary")
    max_n, num_tokens = counts.settings["max_n"], tokens.summary["vocabulary size"]
    vocabulary = Vocabulary.select(inputs / "counts", max_n, config.size, min_count, num_tokens)
    if not vocabulary.trie.num_fgrams:
        raise BadSetting(
            f"--min-count {min_count}: no n-gram in {inputs / 'counts'} occurs that often",
            "give a smaller one, to scone count-ngrams too, or more text",
        )
    progress("ranking", 1, 1, "vocabulary", f"{vocabulary.trie.num_fgrams:,} f-grams")
    staging = staging_folder(out, mark)
    vocabulary.write(staging / "vocab.parquet")
    settings |= {"max_n": max_n, "num_tokens": num_tokens}
    summary = _summary(vocabulary, inputs / "tokens", progress)
    manifest = Manifest.new(
        "vocab", STAGE, STAGE_VERSION, mark, settings, made_from, tokens.tokenizer, config.seed, summary
    )
    return Report.of(out, publish(staging, out, manifest), up_to_date=False)


def _summary(vocabulary: Vocabulary, tokens: Path, progress: Progress) -> dict[str, Any]:
    """What a person decides the size by: the cutoff, the lengths, and how much unseen text the f-grams cover."""
    import numpy as np  # noqa: PLC0415

    from scone_cli.corpus import HELD_OUT, read_tokens  # noqa: PLC0415

    lengths, counts = vocabulary.trie.lengths, vocabulary.counts
    held_out = read_tokens(tokens, HELD_OUT)
    _, matched = vocabulary.trie.index().match(held_out.tokens, held_out.starts)
    progress("matching held-out text", matched.size, matched.size, "tokens")
    hits = np.bincount(matched, minlength=vocabulary.trie.max_n + 1)
    share = hits / matched.size if matched.size else np.full(hits.size, np.nan)
    return {
        "f-grams": vocabulary.trie.num_fgrams,
        "cutoff count": int(counts[-1]) if counts.size else 0,
        "held-out tokens": int(matched.size),
        "share of held-out positions matched": round(1 - float(share[0]), 4) if matched.size else None,
        "mean match length": round(float(matched[matched > 0].mean()), 3) if (matched > 0).any() else None,
        "lengths": [
            {
                "n": n,
                "f-grams": int((lengths == n).sum()),
                "occurrences": int(counts[lengths == n].sum()),
                "share of held-out positions": round(float(share[n]), 4) if matched.size else None,
            }
            for n in range(2, vocabulary.trie.max_n + 1)
        ],
    }
