"""Benchmark of an exported model in transformers: against the same model without its table, and against scone's own code.

    python benchmarks/bench_hf.py --workspace demo/scone-work

Arms: `none` (the exported model with its table switched off), `ram` and `mmap` (with it), `scone` (`load_model`, the same
table in RAM). Load: `from_pretrained` or `load_model` in a new process, after the imports. First token: the prompt is read,
one token is chosen. Decode: tokens per second of greedy `generate`, one text. Memory: the proportional set size (PSS) of one
process and of four, in which shared pages count once, after every row has been read.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from measuring import arguments, finish, side_by_side

ARMS = ("none", "ram", "mmap", "scone")
PROCESSES = (1, 4)


def main() -> None:
    chosen = arguments(__doc__, needs="table", repeats=7, tokens=128, prompt=64)
    from scone_cli.stages.export_hf import export_hf  # noqa: PLC0415 - heavy: not for --help

    with tempfile.TemporaryDirectory(dir=chosen.workspace) as beside:
        folder = Path(beside) / "exported"
        export_hf(chosen.workspace, None, None, folder, lambda *_, **__: None)
        loads = {arm: [measured(arm, folder, chosen.workspace, 1)[0] for _ in range(chosen.repeats)] for arm in ARMS}
        figures: dict[str, Any] = {
            "load_ms": {arm: 1e3 * statistics.median(load for load, _ in each) for arm, each in loads.items()}
        }
        figures |= speeds(folder, chosen)
        for count in PROCESSES:
            figures[f"pss_mib_of_{count}"] = {
                arm: sum(pss for _, pss in measured(arm, folder, chosen.workspace, count)) / 2**20 for arm in ARMS
            }
    finish("what does a table cost in transformers, and transformers against scone?", chosen.workspace, **figures)


def speeds(folder: Path, chosen: Any) -> dict[str, Any]:
    """Median milliseconds to the first token, and tokens per second after it, of every arm."""
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    models = {arm: opened(arm, folder, chosen.workspace) for arm in ARMS}
    text = (Path(__file__).parents[1] / "README.md").read_text()
    tokens = models["scone"].encode(text)[: chosen.prompt]
    calls = {count: {arm: call(arm, models[arm], tokens, count) for arm in ARMS} for count in (1, 1 + chosen.tokens)}
    first = side_by_side(calls[1], chosen.repeats)
    whole = side_by_side(calls[1 + chosen.tokens], chosen.repeats)
    return {
        "first_token_ms": {arm: 1e3 * seconds for arm, seconds in first.items()},
        "tokens_per_second": {arm: chosen.tokens / (whole[arm] - first[arm]) for arm in ARMS},
    }


def call(arm: str, model: Any, tokens: list[int], count: int) -> Callable[[], object]:
    """A call that generates `count` tokens greedily, and does not end before."""
    import torch  # noqa: PLC0415

    if arm == "scone":
        # The context ends before the text does, as no token is this end of a document.
        return lambda: sum(1 for _ in model.generate_tokens(tokens, count, temperature=0))
    ids = torch.tensor([[model.config.bos_token_id, *tokens]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return lambda: model.generate(**inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count)


# ---- in processes of their own -----------------------------------------------------------------------------------


def measured(arm: str, folder: Path, workspace: Path, count: int) -> list[tuple[float, int]]:
    """Seconds to load and PSS in bytes of `count` processes that hold a model at the same time."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(arm, folder, workspace, there))
        process.start()
        ends.append((process, here))
    loads = [here.recv() for _, here in ends]  # all have loaded
    for _, here in ends:
        here.send("measure")
    sizes = [here.recv() for _, here in ends]  # all have measured
    for process, here in ends:
        here.send("end")
        process.join()
    return list(zip(loads, sizes, strict=True))


def hold(arm: str, folder: Path, workspace: Path, owner: Connection) -> None:
    """Load a model, read every row, and tell seconds and PSS when asked."""
    import scone_cli.serving.hf  # noqa: F401, PLC0415 - before the clock starts

    started = time.perf_counter()
    model = opened(arm, folder, workspace)
    owner.send(time.perf_counter() - started)
    table = None if arm == "none" else model.table if arm == "scone" else model.model.table
    if table is not None:
        for first in range(0, len(table), 1 << 16):
            table.rows(np.arange(first, min(first + (1 << 16), len(table)), dtype=np.uint32))
    owner.recv()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    owner.send(next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")))
    owner.recv()


def opened(arm: str, folder: Path, workspace: Path) -> Any:
    """The model of an arm."""
    from scone_cli.serving import load_model  # noqa: PLC0415
    from scone_cli.serving.hf import SconeConfig, SconeForCausalLM  # noqa: PLC0415

    if arm == "scone":
        return load_model(workspace, placement="ram", device="cpu")
    config = SconeConfig.from_pretrained(folder)
    if arm == "none":
        config.fgram_max_n = 0
        return SconeForCausalLM.from_pretrained(folder, config=config)
    return SconeForCausalLM.from_pretrained(folder, config=config, placement=arm)


if __name__ == "__main__":
    main()
