"""A folder with a causal language model of Hugging Face, before it is loaded: its files, their hashes and its tokenizer.

Such a folder holds `config.json` with a `model_type`, weights as safetensors and, so that its token ids can be compared with
the workspace's, `tokenizer.json`. `hf_model.py` loads it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from scone_cli.artifacts.manifest import (
    MANIFEST,
    TOKENIZER,
    FileStamp,
    Manifest,
    digest_file,
    digest_json,
    json_of,
    read_manifest,
)
from scone_cli.corpus.same_tokenizer import check_same_tokenizer
from scone_cli.errors import BadData, BadSetting, InputMissing, SconeError

HUGGING_FACE = "hugging-face"  # the kind of such a model, beside `scone`, `plain` and `hashed`
CONFIG = "config.json"
SAVE = "save it again: model.save_pretrained(DIR)"


def is_hf_folder(folder: Path) -> bool:
    """Whether a folder holds a model of Hugging Face rather than one that `scone train-fgram` wrote, whole or not."""
    if not (folder / CONFIG).is_file() or (folder / "main.safetensors").exists():
        return False
    with contextlib.suppress(SconeError):
        return read_manifest(folder).artifact == "exported-model"  # which `open_hf_folder` refuses by its name
    return not (folder / MANIFEST).exists()


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file rather than of a folder."""
    return path.suffix == ".gguf"


def open_hf_folder(folder: Path, tokens: Path, of_tokens: Manifest) -> Manifest:
    """Hash the files of a model of Hugging Face, and compare its tokenizer with the one in `tokens/`.

    The manifest is made here, so that such a model can stand beside others: its fingerprint is that of its files.

    Raises:
        BadSetting: transformers is not installed; `scone export` wrote the folder.
        InputMissing: there are no weights, or there is no tokenizer.json.
        BadData: config.json does not name a type of model, or an index names weights that are not in the folder.
        MismatchedArtifacts: its tokenizer gives other ids.
    """
    model_type = _model_type(folder / CONFIG)
    if model_type == "scone":
        hint = "name the model in its workspace: scone-work/model"
        raise BadSetting(f"{folder}: a Scone model that was exported, expected a model of another kind", hint)
    if importlib.util.find_spec("transformers") is None:
        problem = f"{folder}: a model of Hugging Face needs transformers, which is not installed"
        raise BadSetting(problem, "run: pip install 'scone-cli[hf]'")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputMissing(f"{folder}: no weights, expected *.safetensors", SAVE)
    if not (folder / TOKENIZER).is_file():
        raise InputMissing(
            f"{folder}: no {TOKENIZER}, so it is not known whether its token ids mean the same",
            f"copy the file that it was trained with into it; the workspace's is {tokens / TOKENIZER}",
        )
    check_same_tokenizer(folder / TOKENIZER, of_tokens.tokenizer, [tokens / TOKENIZER], str(tokens))
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    for index in indexes:
        _check_index(index, {each.name for each in weights})
    return _manifest([folder / CONFIG, folder / TOKENIZER, *weights, *indexes], model_type, of_tokens)


def open_gguf(path: Path, tokens: Path, of_tokens: Manifest) -> Manifest:
    """Hash a GGUF file, and compare the tokenizer within it with the one in `tokens/`: see `open_hf_folder`.

    Raises:
        BadSetting: a library is not installed.
        InputMissing: there is no such file.
        BadData: it is not a GGUF file that transformers can read.
        MismatchedArtifacts: its tokenizer gives other ids.
    """
    if not path.is_file():
        raise InputMissing(f"{path}: no such file", "name a folder of Hugging Face, or a GGUF file")
    for library in ("transformers", "gguf", "accelerate"):
        if importlib.util.find_spec(library) is None:
            problem = f"{path}: a GGUF file needs {library}, which is not installed"
            raise BadSetting(problem, "run: pip install 'scone-cli[retrofit]'")
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415 - heavy, and an extra

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:  # the libraries raise no more specific class
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BadData(f"{path}: transformers cannot read it ({type(error).__name__}: {reason})") from error
    check_same_tokenizer(tokenizer, of_tokens.tokenizer, [tokens / TOKENIZER], str(tokens))
    return _manifest([path], config.model_type, of_tokens)


def _manifest(files: Sequence[Path], model_type: str, of_tokens: Manifest) -> Manifest:
    """A manifest for files that have none."""
    stamps = {path.name: FileStamp(path.stat().st_size, digest_file(path)) for path in files}
    return Manifest(
        artifact="model",
        schema_version=0,
        stage=HUGGING_FACE,
        stage_version=0,
        fingerprint=digest_json({name: stamp.sha256 for name, stamp in stamps.items()}),
        settings={},
        inputs={},
        tokenizer=of_tokens.tokenizer,
        summary={"kind": HUGGING_FACE, "model_type": model_type},
        files=stamps,
    )


def _check_index(path: Path, weights: set[str]) -> None:
    """Check that an index of weights names only those in its folder: transformers would open what it names anywhere."""
    try:
        named = set(dict(json_of(path.read_bytes())["weight_map"]).values())
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(f"{path}: not an index of weights ({type(error).__name__}: {error})", SAVE) from error
    if others := sorted(map(str, named - weights)):
        raise BadData(f"{path}: names the file {others[0]!r}, which is not in its folder", SAVE)


def _model_type(path: Path) -> str:
    """The type of model that a `config.json` names."""
    try:
        return str(dict(json_of(path.read_bytes()))["model_type"])
    except (ValueError, TypeError, KeyError) as error:
        reason = "no model_type" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise BadData(f"{path}: not the configuration of a model of Hugging Face ({reason})", SAVE) from error
