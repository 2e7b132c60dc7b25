"""Writes a model, its tokenizer and its table as one folder that Hugging Face transformers loads: `scone export --to hf`.

The folder stands alone: it names no workspace, and `serving.hf` opens it on any machine where scone is installed. A `hashed`
model is not exported: it is a baseline for `scone eval`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from scone_cli import __version__
from scone_cli.artifacts.manifest import (
    TOKENIZER,
    Manifest,
    digest_file,
    digest_json,
    digest_weights,
    fingerprint,
    read_manifest,
)
from scone_cli.artifacts.publish import check_replaces_only, publish, staging_folder
from scone_cli.errors import BadSetting, SconeError
from scone_cli.evaluation.result_types import Results
from scone_cli.evaluation.results import read_results
from scone_cli.model.cpu_kernels import EPSILON
from scone_cli.model.model import ModelConfig
from scone_cli.progress import Progress
from scone_cli.report.model_card import model_card
from scone_cli.serving import export_base
from scone_cli.serving.hf import SconeConfig, SconeForCausalLM
from scone_cli.serving.hf_table import TABLE
from scone_cli.serving.loaded_model import LoadedModel, open_model
from scone_cli.table.exported import export_table

STAGE_VERSION = 1
ARTIFACT = "exported-model"
CARD = "README.md"
_NORMS = {"attention_norm.gain": "input_layernorm.weight", "mlp_norm.gain": "post_attention_layernorm.weight"}
_MATRICES = {  # a matrix of ours is one or several of a Llama's, one below the other
    "qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "out.weight": ("self_attn.o_proj.weight",),
    "gate_up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "down.weight": ("mlp.down_proj.weight",),
}
_OUTSIDE = {
    "token_embedding.weight": "model.embed_tokens.weight",
    "embedding_norm.gain": "model.embedding_norm.weight",
    "norm.gain": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def export_hf(workspace: Path, model: Path | None, table: Path | None, out: Path, progress: Progress) -> Manifest:
    """Write the model `model` (None: the workspace's) with the table `table` (None: the workspace's) to the folder `out`.

    The folder appears whole or not at all; an earlier export is replaced.

    Raises:
        BadSetting: a hashed model; a table for a plain model.
        ForeignArtifact: `out` holds something that scone did not write.
        InputMissing, MismatchedArtifacts, DamagedArtifact, StorageFailure: see `load_model`.
    """
    try:
        os.fspath(out.absolute()).encode()
    except UnicodeEncodeError as error:
        raise BadSetting(f"{out}: not UTF-8, so transformers could not open it", "name another folder") from error
    folder = model or workspace / "model"
    manifest = read_manifest(folder, "model")
    if manifest.summary["kind"] == "hashed":
        raise BadSetting(f"{folder}: a hashed model is a baseline of scone eval, and is not exported", "name another")
    with open_model(folder, workspace, table, False, "mmap", "cpu") as loaded:
        has_table = loaded.kind == "scone"
        made_from = {"model": manifest.fingerprint, "weights": digest_weights(manifest)}
        made_from |= {"table": loaded.table.manifest.fingerprint} if has_table else {}
        results = _evaluation_of(workspace / "eval", made_from)
        made_from["eval"] = digest_json(results)
        mark = fingerprint("export", STAGE_VERSION, {"to": "hf", "scone": __version__}, made_from)
        check_replaces_only(ARTIFACT, out)
        staging = staging_folder(out, mark)
        if has_table:
            export_table(loaded.table.folder, staging / TABLE, progress)
        on_base = loaded.network.base is not None
        network = export_base.network_of(loaded, manifest) if on_base else _network(loaded, manifest)
        disable_progress_bar()
        network.save_pretrained(staging)
        if on_base:
            export_base.write_tokenizer(loaded, staging)
        elif loaded.tokenizer is not None:
            _write_tokenizer(workspace / "tokens" / TOKENIZER, loaded, staging)
        facts = _facts(network, loaded)
        card = model_card(out.absolute().name, facts, results, _stated_licence(out / CARD))
        (staging / CARD).write_text(card, encoding="utf-8")
        whole = Manifest.new(
            ARTIFACT,
            stage="export",
            stage_version=STAGE_VERSION,
            fingerprint=mark,
            settings={"to": "hf"},
            inputs=made_from | {"tokenizer": manifest.tokenizer},
            tokenizer=digest_file(staging / TOKENIZER) if loaded.tokenizer is not None else "",
            summary=facts,
        )
        return publish(staging, out, whole)


def _stated_licence(card: Path) -> str:
    """The licence that the user added to the card of an earlier export; empty if there is none."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    found = re.search(r"\A---\n(?:.*\n)*?license: *(.*)\n(?:.*\n)*?---\n", text)
    return found[1] if found else ""


def _evaluation_of(folder: Path, made_from: dict[str, str]) -> Results:
    """The results of the workspace's evaluation if it is one of this model and table, else empty."""
    try:
        evaluated = read_manifest(folder, "eval").inputs
        is_ours = all(evaluated.get(name) == found for name, found in made_from.items())
        return read_results(folder) if is_ours else {}
    except (SconeError, OSError):
        return {}  # not evaluated: the card says so


def _network(loaded: LoadedModel, manifest: Manifest) -> SconeForCausalLM:
    """The model with the weights of ours and no open table."""
    end = loaded.end_of_document
    network = SconeForCausalLM(_config(loaded, digest_weights(manifest), manifest.tokenizer))
    network.load_state_dict(_weights(loaded.network.main.state_dict()), strict=False)
    network.tie_weights()
    network.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)
    return network


def _facts(network: PreTrainedModel, loaded: LoadedModel) -> dict[str, Any]:
    facts = {
        "kind": loaded.kind,
        "parameters": sum(each.numel() for each in network.parameters()),
        "vocab_size": loaded.vocab_size,
        "dim": loaded.dim,
        "layers": network.config.get_text_config().num_hidden_layers,
        "context": loaded.context,
    }
    if loaded.kind != "scone":
        return facts
    table = loaded.table
    rows_bytes = len(table) * table.row_bytes
    return facts | {"rows": len(table), "dtype": table.format, "rows_bytes": rows_bytes, "max_n": table.index.max_n}


def _write_tokenizer(path: Path, loaded: LoadedModel, folder: Path) -> None:
    """Write what `AutoTokenizer` opens: the same ids, and the end-of-document token before every text, as in training.

    Special tokens in a text are split like other text, as they were in training.
    """
    assert loaded.tokenizer is not None
    end = loaded.tokenizer.token_text(loaded.end_of_document)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=os.fspath(path),
        bos_token=end,
        eos_token=end,
        pad_token=end,
        split_special_tokens=True,
        padding_side="left",
        model_max_length=loaded.context,
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
    )
    tokenizer.save_pretrained(folder)


def _config(loaded: LoadedModel, weights: str, tokenizer: str) -> SconeConfig:
    shape: ModelConfig = loaded.network.config
    has_table = loaded.kind == "scone"
    return SconeConfig(
        architectures=["SconeForCausalLM"],
        auto_map={
            "AutoConfig": "modeling_scone.SconeConfig",
            "AutoModelForCausalLM": "modeling_scone.SconeForCausalLM",
        },
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=shape.tied_head,
        bos_token_id=loaded.end_of_document,
        eos_token_id=loaded.end_of_document,
        dtype="float32",
        fgram_max_n=shape.max_n if has_table else 0,
        fgram_tokenizer=tokenizer if has_table else "",
        fgram_weights=weights if has_table else "",
    )


def _weights(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of our main model under a Llama's names."""
    weights = dict[str, Tensor]()
    for name, value in ours.items():
        if name in _OUTSIDE:
            weights[_OUTSIDE[name]] = value
            continue
        _, number, inner = name.split(".", 2)
        prefix = f"model.layers.{number}."
        if inner in _NORMS:
            weights[prefix + _NORMS[inner]] = value
        else:
            names = _MATRICES[inner]
            weights |= dict(zip((prefix + each for each in names), value.chunk(len(names)), strict=True))
    return weights
