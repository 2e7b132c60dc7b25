"""Measures how fast the arms are: tokens per second in prefill and decode, microseconds per look-up, and peak memory.

    sections = measure_speed(arms, {"table": Path("scone-work/table")}, tokens, progress)

1, 8 and 64 streams, each with another part of the text, read a prompt of up to half a context at once (prefill), and then as
many tokens one by one (decode). The timed work is that of serving: matching, fetching rows, the model, its likeliest token. A
table is read from RAM, and mapped; the page cache holds what these tokens need of the mapped one. Arms take turns in a random
order and medians count, because other processes use the machine too. A turn is a whole prompt and what follows it: with a turn
per token, an arm that shares its model with the one before would find its weights in the processor's cache. All of it takes
about `SECONDS`: a slow model repeats less and reads shorter prompts.
Shapes: B streams, C tokens of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scone_cli.arrays import U32
from scone_cli.evaluation.result_types import Latency, Lookup, Results, Speed
from scone_cli.evaluation.run_arms import Arm
from scone_cli.formatting import bytes_text
from scone_cli.model.devices import peak_memory
from scone_cli.model.hf_model import HfModel
from scone_cli.model.model import SconeModel
from scone_cli.progress import Progress
from scone_cli.runtime.resources import available_memory
from scone_cli.serving.embedding import embedding_of
from scone_cli.serving.generate import Embed
from scone_cli.table.table import Table
from scone_cli.vocab.index import FgramIndex
from scone_cli.vocab.trie import FgramTrie

SECONDS = 20.0
STREAMS = (1, 8, 64)
LOOKUP_BATCHES = (1, 16, 4096)  # tokens
LEAST_SAMPLES = 100  # for a 99th percentile
LONGER = 3.0  # a single stream may be timed so many times longer than several, for its percentiles
_PROBE = 64  # tokens of a first run, from which it is worked out how many there is time for


def measure_speed(arms: Sequence[Arm], tables: Mapping[str, Path], tokens: U32, progress: Progress) -> Results:
    """The sections `speed`, `latency`, `lookup` and `peak_memory_bytes` of `results.json`.

    tables: the folders of the tables, by arm; look-ups are measured on the first. tokens: of any text. The first time of each
    measurement does not count. The memory is the peak of this process until now, before tables are read into RAM for this.
    """
    peak = peak_memory(arms[0].model.device)
    tokens = tokens if tokens.size else np.zeros(1, np.uint32)
    contenders = [each for arm in arms for each in _contenders(arm, tables.get(arm.name), progress)]
    with_tables = [each for each in contenders if each.table is not None]
    first = [each for each in with_tables if each.arm == with_tables[0].arm]
    seconds = SECONDS / (len(STREAMS) + 1)  # look-ups get as much time as one number of streams
    speed, latency, lookup = list[Speed](), list[Latency](), list[Lookup]()
    pieces = len(STREAMS) + len(first) * len(LOOKUP_BATCHES)
    with torch.inference_mode():
        rate = _slowest(contenders, tokens)
        for number, streams in enumerate(STREAMS):
            progress("measuring speed", number, pieces, "measurements")
            times = _times(contenders, streams, tokens, rate, seconds)
            speed += _rates(contenders, streams, times)
            if streams == 1:
                latency = _latency(contenders, times)
    for each in first:
        for batch in LOOKUP_BATCHES:
            progress("measuring speed", len(STREAMS) + len(lookup), pieces, "measurements")
            assert each.table is not None
            median, p99 = lookup_microseconds(each.table, tokens, batch, seconds / len(first) / len(LOOKUP_BATCHES))
            lookup.append({"placement": each.placement, "batch": batch, "median_us": median, "p99_us": p99})
    progress("measuring speed", pieces, pieces, "measurements")
    return {"speed": speed, "latency": latency, "lookup": lookup, "peak_memory_bytes": peak}


# ---- who takes part ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """An arm that is timed, with its table in one place: in RAM, or mapped."""

    arm: str
    placement: str | None
    model: SconeModel | HfModel
    table: Table | None = None
    trie: FgramTrie | None = None
    index: FgramIndex | None = None

    def server(self, streams: int, room: int) -> Server:
        """A server for so many streams of at most `room` tokens each."""
        return Server(self.model, embedding_of(self.model, self.table, self.trie, self.index, streams), streams, room)


def _contenders(arm: Arm, folder: Path | None, progress: Progress) -> Iterator[Contender]:
    """The arm once; with a table once for each placement for which there is memory."""
    if arm.table is None:
        yield Contender(arm.name, None, arm.model, None, arm.trie, arm.index)
        return
    yield Contender(arm.name, "mmap", arm.model, arm.table)
    needed = arm.table.num_rows * arm.table.row_bytes + arm.table.index.nbytes
    if folder is None or needed > available_memory() // 2:
        why = f"the table takes {bytes_text(needed)} of RAM, which is not free" if folder else "its folder is not known"
        progress(f"measuring speed of {arm.name} in RAM", 0, 0, "", f"left out, {why}")
        return
    yield Contender(arm.name, "ram", arm.model, Table.open(folder, "ram"))


class Server:
    """A model that serves B streams of equal length, with its embeddings and its key-value cache."""

    def __init__(self, model: SconeModel | HfModel, embed: Embed, streams: int, room: int) -> None:
        self._main, self._embed = model.main, embed
        self._cache = model.cache(streams, room)

    def read(self, tokens_BC: Tensor) -> list[int]:
        """Read the next tokens of each stream; the likeliest to follow [B]."""
        hidden = self._main(self._embed(tokens_BC), self._cache)
        likeliest: list[int] = self._main.logits(hidden[:, -1]).argmax(-1).tolist()
        return likeliest

    def timed(self, tokens_BC: Tensor) -> tuple[float, float]:
        """Seconds that this takes: of the clock, and of the processor."""
        wall, processor = time.perf_counter(), time.process_time()
        self.read(tokens_BC)
        return time.perf_counter() - wall, time.process_time() - processor


# ---- prefill and decode ------------------------------------------------------------------------------------------


def _slowest(contenders: Sequence[Contender], tokens: U32) -> float:
    """Tokens per second of the slowest contender when it reads a short prompt for the second time."""
    length = min(_PROBE, *(each.model.config.context for each in contenders))
    prompt = _lines(contenders, tokens, 1, length)
    return length / max([each.server(1, length).timed(prompt)[0] for each in contenders for _ in range(2)][1::2])


def _lines(contenders: Sequence[Contender], tokens: U32, streams: int, length: int) -> Tensor:
    """Consecutive parts of the text, one per stream; a short text is repeated [B, C]."""
    lines = torch.from_numpy(np.resize(tokens, (streams, length)).astype(np.int64))
    return lines.to(contenders[0].model.device)


@dataclass(frozen=True)
class Times:
    """Seconds of each contender, a list of repeats: to read a prompt of `length` tokens, and for each token after it."""

    length: int
    prefill: list[list[float]]
    decode: list[list[float]]


def _times(contenders: Sequence[Contender], streams: int, tokens: U32, rate: float, seconds: float) -> Times:
    """Time both phases with so many streams. `rate` limits the prompts, so that there is time for two rounds at least.

    A single stream is timed longer if needed, because its percentiles take 100 measurements.
    """
    affordable = int(rate * seconds / 6 / len(contenders) / streams)
    shortest = min(each.model.config.context for each in contenders)
    length = max(1, min(shortest // 2, affordable))
    lines = _lines(contenders, tokens, streams, 2 * length)
    prefill, decode = ([list[float]() for _ in contenders] for _ in range(2))
    random, begun = np.random.default_rng(0), time.perf_counter()

    def goes_on() -> bool:
        taken, is_rare = time.perf_counter() - begun, min(map(len, decode)) <= LEAST_SAMPLES
        return len(prefill[0]) < 2 or taken < seconds or (streams == 1 and is_rare and taken < LONGER * seconds)

    while goes_on():
        for number in random.permutation(len(contenders)).tolist():
            each = contenders[number]
            each.server(streams, 1).read(lines[:, :1])  # loads its weights into the processor's cache
            server = each.server(streams, 2 * length)
            prefill[number].append(server.timed(lines[:, :length])[0])
            enough = (
                time.perf_counter() + prefill[number][-1]
            )  # decode for as long as prefill, so that both are timed often
            for step in range(length, 2 * length):
                decode[number].append(server.timed(lines[:, step : step + 1])[0])
                if time.perf_counter() > enough and step > length:
                    break
    return Times(length, prefill, decode)


def _rates(contenders: Sequence[Contender], streams: int, times: Times) -> list[Speed]:
    """The section `speed`: all streams together, the first time left out."""
    return [
        {
            "arm": each.arm,
            "placement": each.placement,
            "phase": phase,
            "batch": streams,
            "tokens_a_second": streams * read / float(np.median(seconds_taken[1:])),
            "repeats": len(seconds_taken) - 1,
            "length": times.length,
        }
        for phase, read, taken in (("prefill", times.length, times.prefill), ("decode", 1, times.decode))
        for each, seconds_taken in zip(contenders, taken, strict=True)
    ]


def _latency(contenders: Sequence[Contender], times: Times) -> list[Latency]:
    """The section `latency`, of one stream that generates: milliseconds to its first token, and for each after that."""
    return [
        {
            "arm": each.arm,
            "placement": each.placement,
            "prompt_tokens": times.length,
            "first_token_ms": 1e3 * float(np.median(prefill[1:])),
            "first_token_p99_ms": _p99_ms(prefill[1:]),
            "prompts": len(prefill) - 1,
            "latency_ms": 1e3 * float(np.median(decode[1:])),
            "latency_p99_ms": _p99_ms(decode[1:]),
            "tokens": len(decode) - 1,
        }
        for each, prefill, decode in zip(contenders, times.prefill, times.decode, strict=True)
    ]


def _p99_ms(seconds: Sequence[float]) -> float | None:
    """The 99th percentile in milliseconds; None for fewer than 100 samples, where it would be the largest, by chance."""
    return 1e3 * float(np.percentile(seconds, 99)) if len(seconds) >= LEAST_SAMPLES else None


# ---- look-ups ----------------------------------------------------------------------------------------------------


def lookup_microseconds(table: Table, tokens: U32, batch: int, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of a look-up (match the next `batch` tokens, fetch their rows), in microseconds per token."""
    matcher, times = table.matcher(), list[float]()
    deadline, at = time.perf_counter() + seconds, 0
    while (begin := time.perf_counter()) < deadline or not times:
        table.rows(matcher.match(tokens[at : at + batch]))
        times.append(time.perf_counter() - begin)
        at = at + batch if at + 2 * batch <= tokens.size else 0
    used = np.array(times[min(len(times) - 1, 5) :]) * 1e6 / min(batch, tokens.size)
    return float(np.median(used)), float(np.percentile(used, 99))
