"""What a table is made from: tokens, a vocabulary and a model that belong together."""

from __future__ import annotations

import shlex
from pathlib import Path

from scone_cli.artifacts.manifest import TOKENIZER, Manifest, json_of, open_artifact
from scone_cli.errors import BadSetting, MismatchedArtifacts
from scone_cli.vocab.vocabulary import check_knows_its_fgrams


def open_inputs(workspace: Path, vocab: Path | None, hashes: bool) -> tuple[Manifest, Manifest, Manifest]:
    """Open the tokens of a workspace, a vocabulary (None: that of the workspace) and the model; check that they fit.

    Raises:
        MismatchedArtifacts: they have different tokenizers; the vocabulary is not that of the model's training and was not
            named, or has f-grams that the model cannot read.
        BadSetting: the model has no f-gram model, so there are no rows.
        SconeError: see `open_artifact`.
    """
    folder = workspace / "model"
    tokens = open_artifact(workspace / "tokens", "tokens", hashes=False)
    found = open_artifact(vocab or workspace / "vocab", "vocab", hashes)
    model = open_artifact(folder, "model", hashes)
    if model.summary["kind"] != "scone":
        raise BadSetting(f"{folder}: a {model.summary['kind']} model, it has no table", "run: scone train-fgram")
    for place, manifest in ((vocab or workspace / "vocab", found), (folder, model)):
        if manifest.tokenizer != tokens.tokenizer:
            raise MismatchedArtifacts(
                f"{place}: made with tokenizer {manifest.tokenizer[:12]}, "
                f"but {workspace / 'tokens'} has {tokens.tokenizer[:12]}",
                "run: scone select-vocab && scone train-fgram"
                if vocab is None
                else f"count its n-grams with --tokenizer {shlex.quote(str(workspace / 'tokens' / TOKENIZER))}",
            )
    if model.inputs["vocab"] != found.fingerprint:
        if vocab is None:
            raise MismatchedArtifacts(
                f"{folder}: trained with vocabulary {model.inputs['vocab'][:12]}, "
                f"but {workspace / 'vocab'} is {found.fingerprint[:12]}",
                "run: scone train-fgram; or, to keep the model and make a table of this vocabulary, "
                f"scone precompute --vocab {shlex.quote(str(workspace / 'vocab'))}",
            )
        _check_readable(vocab, found, folder, model)
    return tokens, found, model


def _check_readable(place: Path, vocab: Manifest, folder: Path, model: Manifest) -> None:
    """Refuse a vocabulary that the model was not trained with and cannot read."""
    check_knows_its_fgrams(folder, model)
    found, shape = vocab.settings, json_of((folder / "config.json").read_bytes())
    if found["num_tokens"] != shape["vocab_size"] or found["max_n"] > shape["max_n"]:
        raise MismatchedArtifacts(
            f"{place}: {found['num_tokens']:,} token ids and f-grams of up to {found['max_n']} tokens, "
            f"but {folder} has {shape['vocab_size']:,} and {shape['max_n']}",
            "count with the model's tokenizer, and give count-ngrams and select-vocab the model's --max-n",
        )
