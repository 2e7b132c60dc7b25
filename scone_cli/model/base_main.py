"""A pretrained causal language model to which rows are added: what stands in the place of `MainModel` in a retrofit.

The model keeps its own `forward`, embedding and head. One module is put around its input embedding, and adds rows to what
comes out of it: how the embedding is scaled, how attention works, how the cache counts is all left to the model. Rows are
trained in units of the embedding's root mean square, so one learning rate suits models of any scale.
Shapes: B sequences, C tokens of each, R rows, D = width of the base, V tokens of the base.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scone_cli.errors import BadData
from scone_cli.model.cpu_kernels import EPSILON
from scone_cli.model.hf_model import HfCache, HfMain

_SAMPLE = 4096  # tokens at a time, when the scale of an embedding is measured


@dataclass(frozen=True)
class Embedded:
    """Token ids [B, C] for a base, and what is added to the output of its embedding [B, C, D]; None: nothing."""

    tokens: Tensor
    added: Tensor | None = None


_ADDED: ContextVar[Tensor | None] = ContextVar("rows of this call", default=None)  # threads may share a model


class RowAdder(nn.Module):
    """Stands around the input embedding of a base: token ids pass as ever, the rows of this call are added to what comes out.

    Without rows the output is that of the embedding, to the bit.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> Tensor:
        """The embedding's matrix [V, D], which a tied head reads here."""
        weight: Tensor = self.inner.weight  # type: ignore[assignment]
        return weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids [B, C, D], with the rows of this call."""
        x: Tensor = self.inner(tokens)
        added = _ADDED.get()
        return x if added is None else x + added.to(x.dtype)


class BaseMain(HfMain):
    """A model of transformers with rows at its input; has what training, tables and evaluation ask of a `MainModel`."""

    adds = True

    def __init__(self, inner: Any, scale: float | None = None) -> None:
        """Put a `RowAdder` around the input embedding of `inner`. `scale`: its RMS, if it has been measured.

        Raises:
            BadData: the model has no input embedding, or does not read it.
        """
        super().__init__(inner)
        embedding = inner.get_input_embeddings()
        if not isinstance(getattr(embedding, "weight", None), Tensor):
            raise BadData(
                f"{type(inner).__name__}: has no input embedding", "name a causal language model of transformers"
            )
        self.scale = _root_mean_square(embedding) if scale is None else scale
        inner.set_input_embeddings(RowAdder(embedding))
        _check_is_read(self)

    def checkpoint_gradients(self, is_wanted: bool) -> None:
        """Compute the base's layers again in the backward pass, if that is wanted."""
        if is_wanted:
            is_new = hasattr(self.inner, "activation_checkpointing_enable")
            name = "activation_checkpointing_enable" if is_new else "gradient_checkpointing_enable"
            getattr(self.inner, name)({"use_reentrant": False})
            self.inner.train()  # else transformers keeps all activations

    def take_out(self) -> Any:
        """The base without the module around its embedding; this object is used up."""
        self.inner.set_input_embeddings(self._adder.inner)
        return self.inner

    @property
    def _adder(self) -> RowAdder:
        found: RowAdder = self.inner.get_input_embeddings()
        return found

    @property
    def token_embedding(self) -> Any:
        """The base's own embedding, without rows."""
        return self._adder.inner

    def for_fgrams(self, tokens: Tensor) -> Tensor:
        """What A_f-gram reads of token ids [...]: their embeddings by the base, each divided by its root mean square."""
        embedding: Any = self._adder.inner
        x: Tensor = embedding(tokens).float()
        return F.rms_norm(x, (x.shape[-1],), eps=EPSILON)

    def row(self, last_tokens_R: Tensor, outputs_RD: Tensor, learned_RD: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Make the rows of the table [R, D], which are added to the base's embedding of their f-grams' last tokens."""
        return (outputs_RD if learned_RD is None else outputs_RD + learned_RD) * self.scale

    def embed_tokens(self, tokens_BC: Tensor) -> Embedded:  # type: ignore[override]
        """Token ids without rows: the base as it is."""
        return Embedded(tokens_BC)

    def embed(self, tokens_BC: Tensor, slots: Tensor | None = None, rows_RD: Tensor | None = None) -> Embedded:  # type: ignore[override]
        """Token ids, and the rows that are added: see `MainModel.embed`. Hashed rows (slots [B, C, K - 1]) are summed here."""
        if slots is None or rows_RD is None or not len(rows_RD):
            return Embedded(tokens_BC)
        picked = rows_RD.index_select(0, slots.clamp(min=0).flatten()).view(*slots.shape, -1)
        picked = torch.where(slots[..., None] >= 0, picked, 0.0)
        return Embedded(tokens_BC, picked.sum(-2) * self.scale if slots.dim() == 3 else picked)

    def forward(self, x: Embedded | Tensor, cache: HfCache | None = None) -> Tensor:
        """Logits of token ids and the rows added to them: see `HfMain.forward`."""
        if isinstance(x, Tensor):
            return super().forward(x, cache)
        token = _ADDED.set(x.added)
        try:
            return super().forward(x.tokens, cache)
        finally:
            _ADDED.reset(token)

    def cache(self) -> HfCache:
        """An empty cache of the base."""
        return HfCache(self.inner)

    def loss(self, logits_BCV: Tensor, targets_BC: Tensor) -> Tensor:
        """Sum of -ln p(target) over all positions, in nats."""
        return F.cross_entropy(logits_BCV.flatten(0, 1).float(), targets_BC.flatten(), reduction="sum")


@torch.no_grad()
def _root_mean_square(embedding: nn.Module) -> float:
    """Of what an embedding gives for all of its tokens; some scale what their matrix holds."""
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    every = torch.arange(len(weight), device=weight.device)
    squares = [embedding(some).double().square().mean(-1) for some in every.split(_SAMPLE)]
    return float(torch.cat(squares).mean().sqrt())


@torch.inference_mode()
def _check_is_read(main: BaseMain) -> None:
    """Refuse a model whose logits do not change with the rows that are added to its input embedding."""
    tokens = torch.tensor([[0, 1]], device=main.device)
    rows = torch.full((1, 2, main.token_embedding.weight.shape[1]), main.scale, device=main.device)
    if torch.equal(main(Embedded(tokens)), main(Embedded(tokens, rows))):
        raise BadData(
            f"{type(main.inner).__name__}: does not read its input embedding, so rows cannot be added to it",
            "name a model that calls the module of get_input_embeddings()",
        )
