"""Answers the requests of tasks with one arm: the likelihood of a continuation or a whole text, and generated text.

A request is one document: the end of the document before it, then its tokens, as in training, `eval` and `generate`. F-grams
are matched in the whole of it, whatever part of it a window shows. A window holds at most the context length of the model: a
longer context is cut on the left, as in lm-evaluation-harness, and such requests are counted. A whole text is cut into windows
side by side, and the last window is moved to the left until it is full: every token is predicted once. Requests are read in
batches; padding on the right does not change the result. Texts are generated one by one.
Shapes: R requests, N tokens of all, B windows of a batch, C its width, M tokens that it predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from scone_cli.arrays import I64, U32
from scone_cli.corpus.token_stream import TokenStream
from scone_cli.corpus.tokenizer import Tokenizer
from scone_cli.errors import BadData, BadSetting
from scone_cli.evaluation.run_arms import BATCH_TOKENS, Arm, inputs_of, matches_of
from scone_cli.progress import Progress, silent
from scone_cli.serving.embedding import embedding_of
from scone_cli.serving.generate import Sampling, Spelling, go_on
from scone_cli.vocab.index import NONE

MAX_TOKENS = 256  # to generate where a task does not say
_NAMES_OF_MAX_TOKENS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # the first that is given counts
_CHUNK = 512  # rows of logits alive at once

Pair = tuple[U32, U32]  # tokens of a context, and of its continuation


class Likelihood(NamedTuple):
    """ln p of a continuation, and whether each of its tokens is the likeliest one."""

    log_probability: float
    is_greedy: bool


class Wish(NamedTuple):
    """How to generate a text: the strings that end it, the most tokens, and the sampling."""

    stops: list[str]
    max_tokens: int
    sampling: Sampling


class Scorer:
    """Answers requests with one arm.

    Attributes:
        cut: indices of the last requests whose context was cut on the left.
    """

    def __init__(
        self, arm: Arm, tokenizer: Tokenizer, end_of_document: int, progress: Progress = silent, what: str = "tasks"
    ) -> None:
        """Progress is reported under the name `what`."""
        self.arm, self.cut = arm, set[int]()
        self._tokenizer, self._end, self._progress, self._what = tokenizer, end_of_document, progress, what

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """How likely each continuation is after its context, which may be empty."""
        return self.of_tokens(encode_pairs(self._tokenizer, pairs))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The ln p of each text, as a document of its own."""
        nothing = np.zeros(0, np.uint32)
        pairs = [(nothing, tokens) for tokens in self._tokenizer.encode_batch(list(texts))]
        return [found.log_probability for found in self.of_tokens(pairs)]

    def of_tokens(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """How likely the tokens of each continuation are after those of its context."""
        stream, context = _stream_of(pairs), self.arm.model.config.context
        firsts = stream.starts[:-1] + np.array([len(before) for before, _ in pairs], np.int64)
        requests = zip(stream.starts.tolist(), firsts.tolist(), stream.starts[1:].tolist(), strict=False)
        windows = [windows_of_request(*request, context) for request in requests]
        self.cut = {i for i, each in enumerate(windows) if each and each[0][0] > stream.starts[i]}
        losses, is_likeliest = self._run(stream, np.array([w for each in windows for w in each], np.int64))
        return [
            Likelihood(-float(losses[first:last].sum(dtype=np.float64)), bool(is_likeliest[first:last].all()))
            for first, last in zip(firsts.tolist(), stream.starts[1:].tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _run(self, stream: TokenStream, windows: I64) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """-ln p [N] of the tokens that windows predict, and whether these are the likeliest [N]."""
        arm, main = self.arm, self.arm.model.main
        inputs, (ids, _) = inputs_of(stream, self._end), matches_of(stream, arm.index)
        losses, is_likeliest = np.zeros(stream.tokens.size, np.float32), np.ones(stream.tokens.size, np.bool_)
        device, done = main.device, 0
        for batch in _batches(windows.reshape(-1, 3), min(BATCH_TOKENS, arm.most_tokens)):
            starts, firsts, lasts = batch[:, :1], batch[:, 1:2], batch[:, 2:]
            places = starts + np.arange(int((lasts - starts).max()))
            inside, is_asked = places < lasts, (places >= firsts) & (places < lasts)
            at = np.where(inside, places, 0)
            earlier = np.maximum(starts + np.arange(-arm.model.history, 0), 0)
            tokens = inputs[np.concatenate([earlier, at], axis=1)]
            rows = arm.rows(tokens, np.where(inside, ids[at], np.uint32(NONE)))
            read = torch.from_numpy(tokens[:, arm.model.history :].astype(np.int64)).to(device)
            hidden_MD = main(main.embed(read, *rows))[torch.from_numpy(is_asked).to(device)]
            asked = at[is_asked]
            losses[asked], is_likeliest[asked] = judge(hidden_MD, main.logits, stream.tokens[asked])
            done += len(batch)
            self._progress(self._what, done, len(windows), "windows")
        return losses, is_likeliest

    # ---- generating ------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The text that the arm generates after each prompt, up to the first of the strings `until`.

        Greedy, unless a request asks to sample. The end of a document, `max_gen_toks` and a full context end a text too.
        """
        written, self.cut = list[str](), set()
        for number, (prompt, how) in enumerate(requests):
            written.append(self._write(prompt, how, number))
            self._progress(self._what, number + 1, len(requests), "texts")
        return written

    def _write(self, prompt: str, how: Mapping[str, Any], number: int) -> str:
        model, (stops, max_tokens, sampling) = self.arm.model, wish_of(how, number)
        embed = embedding_of(model, self.arm.table, self.arm.trie, self.arm.index)
        tokens = self._tokenizer.encode_batch([prompt])[0].tolist()
        read = [self._end, *tokens]
        # The harness leaves room for all that may be written; where that is more than there is, half for each.
        room = max(model.config.context - max_tokens, model.config.context // 2, 1)
        if len(read) > room:
            self.cut.add(number)
            embed(
                torch.tensor([read[:-room]], device=model.device)
            )  # f-grams that begin there are matched all the same
        spelling, text = Spelling(self._tokenizer, tokens), ""
        for token in go_on(model, embed, read[-room:], sampling, max_tokens, self._end):
            text += spelling(token) if token != self._end else ""
            if any(stop in text for stop in stops):
                break
        text += spelling.rest()
        return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


def wish_of(how: Mapping[str, Any], seed: int) -> Wish:
    """Read the `generation_kwargs` of a task. Text is sampled if they give a temperature, unless `do_sample` is false.

    Raises:
        BadData: they cannot be understood.
    """
    try:
        until, temperature = how.get("until") or [], float(how.get("temperature") or 0.0)
        stops = [str(stop) for stop in ([until] if isinstance(until, str) else until) if stop]
        max_tokens = next((int(how[name]) for name in _NAMES_OF_MAX_TOKENS if how.get(name) is not None), MAX_TOKENS)
        is_greedy = how.get("do_sample") is False
        sampling = Sampling(0.0 if is_greedy else temperature, how.get("top_k") or None, how.get("top_p"), seed)
        sampling.check()
    except (TypeError, ValueError, OverflowError, BadSetting) as error:
        raise BadData(f"generation_kwargs {dict(how)}: {error}", "correct the task") from error
    if max_tokens < 0:
        raise BadData(f"generation_kwargs {dict(how)}: {max_tokens} tokens, expected 0 or more", "correct the task")
    return Wish(stops, max_tokens, sampling)


# ---- requests as tokens and windows ------------------------------------------------------------------------------


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
    """Context and continuation as they are encoded together; blanks at a context's end belong to the continuation.

    Where a token of the whole lies across the border, each is encoded by itself, so that no part of either is lost.
    """
    moved = [(before.rstrip(), before[len(before.rstrip()) :] + after) for before, after in pairs]
    contexts = tokenizer.encode_batch([before for before, _ in moved])
    wholes = tokenizer.encode_batch([before + after for before, after in moved])
    alone = tokenizer.encode_batch([after for _, after in moved])
    return [
        (before, whole[len(before) :] if np.array_equal(whole[: len(before)], before) else after)
        for before, whole, after in zip(contexts, wholes, alone, strict=True)
    ]


def windows_of_request(start: int, first: int, last: int, context: int) -> list[tuple[int, int, int]]:
    """Windows that predict the tokens [first, last) of a document that begins at `start`, each of them once.

    (from where on it reads what predicts them, the first that it predicts, where it ends): each as long as it can be.
    """
    windows = []
    while first < last:
        end = min(first + context, last)
        windows.append((max(start, end - context), first, end))
        first = end
    return windows


def _stream_of(pairs: Sequence[Pair]) -> TokenStream:
    documents = [np.concatenate(pair) for pair in pairs]
    lengths = np.array([document.size for document in documents], np.int64)
    tokens = np.concatenate([np.zeros(0, np.uint32), *documents])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return TokenStream(tokens, starts, [""] * len(documents), np.zeros(len(documents), np.int64))


def _batches(windows_W3: I64, most_tokens: int) -> Iterator[I64]:
    """Windows in batches of about equal width, the widest first."""
    windows = windows_W3[np.argsort(windows_W3[:, 0] - windows_W3[:, 2], kind="stable")]
    start = 0
    while start < len(windows):
        width = int(windows[start, 2] - windows[start, 0])
        yield windows[start : (start := start + max(1, most_tokens // width))]


def judge(
    hidden_MD: Tensor, logits_of: Callable[[Tensor], Tensor], targets_M: U32
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """-ln p of each target, and whether it is the likeliest token; of equally likely ones the first is."""
    losses, is_likeliest = np.empty(len(targets_M), np.float32), np.empty(len(targets_M), np.bool_)
    targets = torch.from_numpy(targets_M.astype(np.int64)).to(hidden_MD.device)
    for i in range(0, len(targets), _CHUNK):
        logits, wanted = logits_of(hidden_MD[i : i + _CHUNK]).float(), targets[i : i + _CHUNK]
        losses[i : i + _CHUNK] = F.cross_entropy(logits, wanted, reduction="none").cpu().numpy()
        is_likeliest[i : i + _CHUNK] = (logits.argmax(-1) == wanted).cpu().numpy()
    return losses, is_likeliest
