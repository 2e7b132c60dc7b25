"""Generating text: one forward pass reads the prompt, then each new token is computed alone, with a key-value cache.

Left out: several texts at once (`SconeEmbedding` has streams for that). Generation ends where the context is full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING

from scone_cli.errors import BadSetting
from scone_cli.settings import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scone_cli.corpus.tokenizer import Tokenizer
    from scone_cli.model.hf_model import HfModel
    from scone_cli.model.model import SconeModel

# Maps the next tokens [1, C] of a text to the input of the first block [1, C, D].
Embed = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Sampling:
    """Settings for choosing the next token: temperature, top-k, top-p and the random seed."""

    temperature: float = setting(0.8, "0: always the most likely token; 1: sample the model's own probabilities.")
    top_k: int | None = setting(None, "Sample only from this number of most likely tokens.")
    top_p: float | None = setting(None, "Sample only from the most likely tokens that together have this probability.")
    seed: int = setting(0, "Seed of the random choices: the same seed gives the same text.")

    def check(self) -> None:
        """Raise BadSetting if a value is not a number, or out of range."""
        for name, kind in (("temperature", Real), ("top_k", Integral), ("top_p", Real), ("seed", Integral)):
            value = getattr(self, name)
            if isinstance(value, bool) or (
                not isinstance(value, kind) and (value is not None or not name.startswith("top"))
            ):
                what = "a whole number" if kind is Integral else "a number"
                raise BadSetting(f"--{name.replace('_', '-')} {value!r}: expected {what}")
        for name, is_right, expected in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top-k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top-p", self.top_p is None or 0 < self.top_p <= 1, "more than 0, and at most 1"),
            ("seed", 0 <= self.seed < 2**63, "0 or more, below 2**63"),
        ):
            if not is_right:
                raise BadSetting(f"--{name} {getattr(self, name.replace('-', '_'))}: expected {expected}")

    def choose(self, logits_V: Tensor, random: torch.Generator) -> int:
        """Choose one token id; at temperature 0 the most likely one, and the first of several equal ones."""
        import torch  # heavy, and `scone generate --help` does not need it

        if self.temperature == 0:
            return int(logits_V.argmax())
        weights, ids = logits_V.double().cpu(), None
        if self.top_k is not None or self.top_p is not None:
            weights, ids = weights.topk(min(self.top_k or len(weights), len(weights)))
        weights = ((weights - weights.max()) / self.temperature).softmax(0)
        if self.top_p is not None:
            weights = weights[weights.cumsum(0) - weights < self.top_p]  # keep while the sum before it is too small
        place = torch.multinomial(weights, 1, generator=random)
        return int(place if ids is None else ids[place])


def generate(
    model: SconeModel | HfModel, embed: Embed, prompt: Sequence[int], sampling: Sampling, max_tokens: int, end: int
) -> Iterator[int]:
    """Generate token ids after the end-of-document token `end` and the `prompt`; yields each as it is chosen.

    It stops after `end`, after `max_tokens`, or when the context is full: the last token is chosen but not read any more.

    Raises:
        BadSetting: the prompt is longer than the context.
    """
    context = model.config.context
    if len(prompt) >= context:
        raise BadSetting(
            f"a prompt of {len(prompt):,} tokens, expected at most {context - 1:,}: the model's context, less one",
            "give a shorter prompt, or train with a larger --context",
        )
    yield from go_on(model, embed, [end, *prompt], sampling, max_tokens, end)


def go_on(
    model: SconeModel | HfModel, embed: Embed, read: Sequence[int], sampling: Sampling, max_tokens: int, end: int
) -> Iterator[int]:
    """Generate token ids after the tokens `read`, at most one context in all; `embed` may have seen earlier tokens."""
    import torch

    main, context = model.main, model.config.context
    device = main.device
    cache = model.cache(1, min(context, len(read) + max_tokens))
    random = torch.Generator().manual_seed(sampling.seed)
    with torch.inference_mode():
        for _ in range(min(max_tokens, context + 1 - len(read))):
            hidden = main(embed(torch.tensor([read], device=device)), cache)
            token = sampling.choose(main.logits(hidden[0, -1]), random)
            yield token
            if token == end:
                return
            read = [token]


class Spelling:
    """Decodes tokens to text one by one; a character is returned once its last byte is there."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        """Begin after the tokens `before`: some tokenizers decode a first token differently."""
        self._tokenizer = tokenizer
        self._ids = list(before[-4:])
        self._told = self._decoded()

    def __call__(self, token: int) -> str:
        """Return the text that this token adds; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._decoded()
        if text.endswith("\ufffd"):
            return ""
        added = text[len(self._told) :]
        if added:
            self._ids = [token]
            self._told = self._decoded()
        return added

    def rest(self) -> str:
        """Return the rest after the last token: bytes of an incomplete character."""
        return self._decoded()[len(self._told) :]

    def _decoded(self) -> str:
        return self._tokenizer.decode(self._ids)


# ---- opening a model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaker:
    """A model opened for generation: the network, its embedding, its tokenizer, and the end-of-document token."""

    model: SconeModel | HfModel
    embed: Embed
    tokenizer: Tokenizer
    end: int


def open_speaker(workspace: Path, folder: Path | None, table: Path | None, live: bool, device: str) -> Speaker:
    """Open the model in `folder` with its table or, if `live`, with A_f-gram; None: model or table of the workspace.

    The folder may hold a model of Hugging Face, whose tokenizer must be the workspace's.

    Raises:
        BadSetting: `table` or `live` for a model without f-grams; the device does not exist.
        MismatchedArtifacts: table, model, vocabulary and tokenizer do not belong together.
        InputMissing: an artifact is missing, or there is no tokenizer.
    """
    from scone_cli.model.hf_folder import is_hf_folder  # heavy
    from scone_cli.serving.loaded_model import open_hf_model, open_model

    if folder is not None and is_hf_folder(folder):
        if table or live:
            raise BadSetting(f"{folder}: a model of Hugging Face, it has no f-grams", "leave out --table and --live")
        model, tokenizer, end = open_hf_model(folder, workspace, device)
        return Speaker(model, model.main.embed_tokens, tokenizer, end)
    loaded = open_model(folder or workspace / "model", workspace, table, live, "mmap", device, needs_text=True)
    assert loaded.tokenizer is not None
    return Speaker(loaded.network, loaded.embedding(), loaded.tokenizer, loaded.end_of_document)
