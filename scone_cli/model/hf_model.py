"""A causal language model of Hugging Face, used as our own models are: embed, run with a cache, get logits.

    model = HfModel.load(folder, vocab_size, context)

Everything is left to the model's own `forward`: how it scales embeddings and logits, counts positions and keeps its cache.
So `embed` gives the token ids back, and what comes out of `main` are logits already. A model whose embedding has more rows
than the tokenizer has tokens (padded to a round number) gives these ids a probability too, and may write them, as everywhere
else where it is used; they have no text. Nothing is fetched, and no code from the folder is run.
Shapes: B sequences, C tokens of each, V tokens of the model.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scone_cli.errors import BadData, BadSetting, MismatchedArtifacts, SconeError
from scone_cli.model.hf_folder import HUGGING_FACE, SAVE, is_gguf
from scone_cli.model.model import ModelConfig
from scone_cli.runtime.resources import memory_shortage

_LOGITS = 1 << 28  # alive at once: 1 GiB of float32
_UNBOUNDED = 1 << 40  # tokens: the context of a model without an end, such as Mamba


@dataclass(frozen=True)
class HfConfig(ModelConfig):
    """The shape of such a model, and what was counted when it was loaded.

    context: tokens that it may read here. head_dim: width of a head. kv_bytes: bytes of the keys and values of one token that
    its cache keeps, in all layers. parameters, parameter_bytes: all that is resident. block_weights: weights that multiply
    each token, without embedding and head; of experts only those that a token visits. output_size: rows of the head.
    """

    head_dim: int = 0
    kv_bytes: int = 0
    parameters: int = 0
    parameter_bytes: int = 0
    block_weights: int = 0
    output_size: int = 0


class HfCache:
    """Keys and values of the tokens that B sequences have read so far, kept by the model itself."""

    def __init__(self, inner: Any) -> None:
        """An empty cache for a model of transformers."""
        from transformers import DynamicCache  # noqa: PLC0415 - heavy, and an extra

        self.held = DynamicCache(config=inner.config)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values; layers without attention have none."""
        held = [getattr(layer, name, None) for layer in self.held.layers for name in ("keys", "values")]
        return sum(each.nbytes for each in held if each is not None)


class HfMain(nn.Module):
    """Stands where `MainModel` does: token ids go in, logits come out."""

    def __init__(self, inner: Any) -> None:
        """Wrap a model of transformers."""
        super().__init__()
        self.inner = inner
        parameters = inspect.signature(inner.forward).parameters
        self._cache = "cache" if "cache" in parameters else "past_key_values"  # its name in earlier versions
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        found: torch.device = self.inner.device
        return found

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """The token ids, which the model embeds itself."""
        return tokens

    def embed(self, tokens_BC: Tensor, *_: Tensor | None) -> Tensor:
        """The token ids; there are no rows."""
        return tokens_BC

    def forward(self, tokens_BC: Tensor, cache: HfCache | None = None) -> Tensor:
        """Logits after every token [B, C, V]; with a cache, which they continue, after the last of each sequence [B, 1, V]."""
        if cache is None:
            logits: Tensor = self.inner(input_ids=tokens_BC, use_cache=False).logits
            return logits
        logits = self.inner(input_ids=tokens_BC, use_cache=True, **{self._cache: cache.held}, **self._last).logits
        return logits[:, -1:]

    def logits(self, logits: Tensor) -> Tensor:
        """What `forward` gave: the model has applied its head."""
        return logits


class HfModel(nn.Module):
    """A model of Hugging Face with the attributes of `SconeModel` that evaluation and generation read.

    Attributes:
        history: 0, as of every model without hashed rows.
        most_tokens: how many tokens to read at once, because the logits of all of them are there together.
    """

    history = 0

    def __init__(self, config: HfConfig, inner: Any) -> None:
        """Wrap a loaded model of transformers."""
        super().__init__()
        self.config, self.main = config, HfMain(inner)
        self.most_tokens = max(1, _LOGITS // config.vocab_size)

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.main.device

    def cache(self, streams: int, room: int) -> HfCache:  # noqa: ARG002 - it grows as it is needed
        """An empty cache for so many sequences."""
        return HfCache(self.main.inner)

    @classmethod
    def load(cls, folder: Path, vocab_size: int, context: int | None = None) -> HfModel:
        """Load a folder that `open_hf_folder` has looked at, in the type of its weights, to read `context` tokens at most.

        vocab_size: ids that it must know: the workspace's tokens and end of document. context: None for its own.

        Raises:
            BadData: transformers cannot load it, weights are missing, or it cannot predict from left to right.
            MismatchedArtifacts: it knows fewer ids.
            BadSetting: its own context is shorter.
            NotEnoughMemory: it does not fit into memory.
        """
        try:
            with _quiet():
                inner = _loaded(folder)
                _check_size(folder, inner, vocab_size, context)
                return cls(_config_of(inner, context, _try_out(folder, inner)), inner)
        except SconeError:
            raise
        except Exception as error:  # the libraries raise no more specific class
            if shortage := memory_shortage(error):
                raise shortage from error
            reason = (str(error).strip().splitlines() or [""])[0]
            raise BadData(f"{folder}: transformers cannot load it ({type(error).__name__}: {reason})", SAVE) from error


def load_config(path: Path) -> Any:
    """The configuration of a model in a folder or a GGUF file, as transformers has it."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy, and an extra

    with _quiet():
        if is_gguf(path):
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)


def _loaded(folder: Path) -> Any:
    """The model of transformers; weights that are missing would have been drawn by chance."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy, and an extra

    where = {"gguf_file": folder.name} if is_gguf(folder) else {}
    inner, found = AutoModelForCausalLM.from_pretrained(
        folder.parent if where else folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **where,
    )
    if wrong := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        named = ", ".join(wrong[:3]) + ("" if len(wrong) <= 3 else f" and {len(wrong) - 3:,} more")
        raise BadData(
            f"{folder}: weights are missing or have another shape than {folder / 'config.json'}: {named}", SAVE
        )
    return inner


def _check_size(folder: Path, inner: Any, vocab_size: int, context: int | None) -> None:
    own = inner.config.get_text_config()
    if own.vocab_size < vocab_size:
        raise MismatchedArtifacts(
            f"{folder}: knows {own.vocab_size:,} token ids, the workspace has {vocab_size:,} with the end of a document",
            "train it with an embedding for each of them",
        )
    if context is not None and _context_of(own) < context:
        raise BadSetting(
            f"{folder}: reads at most {_context_of(own):,} tokens, and {context:,} are evaluated, the context of the model",
            "compare a model with a context as long, or train this one with a smaller --context",
        )


@torch.inference_mode()
def _try_out(folder: Path, inner: Any) -> int:
    """Read two tokens; the bytes that the cache keeps of one.

    Raises:
        BadData: it sees the token that it predicts, as BERT does, or says other things when it reads with a cache.
    """
    main, cache, pairs = HfMain(inner), HfCache(inner), torch.tensor([[0, 1], [0, 2]])
    whole = main(pairs).float()
    main(pairs[:1, :1], cache)
    differs = (main(pairs[:1, 1:], cache)[0, 0] - whole[0, 1]).abs().max()
    is_kept = differs <= 0.05 * whole.abs().max()  # rounding of bfloat16 is below that
    if not is_kept or not torch.allclose(whole[0, 0], whole[1, 0], rtol=1e-3, atol=1e-3):
        problem = f"{folder}: {type(inner).__name__} does not predict from left to right with a cache"
        raise BadData(problem, "name a causal language model")
    return cache.nbytes // 2


def _context_of(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or _UNBOUNDED)


def _config_of(inner: Any, context: int | None, kv_bytes: int) -> HfConfig:
    own = inner.config.get_text_config()
    heads = getattr(own, "num_attention_heads", None) or 0  # none in a model without attention
    return HfConfig(
        kind=HUGGING_FACE,
        vocab_size=own.vocab_size,
        dim=own.hidden_size,
        layers=own.num_hidden_layers,
        heads=heads,
        fgram_layers=0,
        max_n=1,
        tied_head=bool(getattr(own, "tie_word_embeddings", False)),
        context=context or _context_of(own),
        head_dim=getattr(own, "head_dim", None) or (own.hidden_size // heads if heads else 0),
        kv_bytes=kv_bytes,
        parameters=sum(each.numel() for each in inner.parameters()),
        parameter_bytes=sum(each.nbytes for each in inner.parameters()),
        block_weights=_block_weights(inner, own),
        output_size=own.vocab_size,
    )


def _block_weights(inner: Any, config: Any) -> int:
    """Weights of the matrices that multiply each token, without embedding and head; experts are stacked in [E, ., .]."""
    blocks = inner.get_decoder()
    embedded = {id(each.weight) for each in blocks.modules() if isinstance(each, nn.Embedding)}
    visited = getattr(config, "num_experts_per_tok", None)
    matrices = [each for each in blocks.parameters() if each.dim() > 1 and id(each) not in embedded]
    return sum(
        each.numel() // len(each) * visited if visited and each.dim() == 3 else each.numel() for each in matrices
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing to the terminal, inside of `with`; what is wrong is told by an error."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy, and an extra

    before, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # The bar of a GGUF file is not transformers' own.
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
        if has_bars:
            logging.enable_progress_bar()
