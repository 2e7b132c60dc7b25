"""Communication between the ranks of one training run, and the end of the run when a rank is lost.

Each rank computes the gradients of its slice of the batch, then the gradients are averaged. All ranks take the same step
from the same weights, so weights are never sent. This is data parallelism as in torch's DistributedDataParallel, which cannot
be used here: it expects one backward pass a step, and sends each gradient as soon as that pass has computed it. Here a step has
one backward pass for each micro-batch and a last one for A_f-gram, started by hand from what the others gathered (see
`gradients`), and the token embeddings receive gradients in all of them. So the gradients are sent after the last pass, in one
all-reduce of one flat buffer, which also holds the few other numbers to be summed.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined] # public, but for mypy
from torch.distributed.rendezvous import rendezvous

from scone_cli.errors import BadSetting, LostRank, SconeError
from scone_cli.runtime.signals import is_stop_noted
from scone_cli.runtime.torchrun import Launch
from scone_cli.runtime.watch import Watch, end_with_torchrun

_PATIENCE = timedelta(hours=1)  # the others wait while rank 0 evaluates the held-out text and writes checkpoints
_AGAIN = "give the same command again, on every machine: it continues from what is finished"
_POLL = 0.0002  # seconds between two checks of a transfer; signals are handled only in between
_LOOK = 0.5  # seconds between two looks for lost ranks during a transfer
_GRACE = 20.0  # seconds; torchrun kills a process 30 seconds after asking it to stop


class Ranks:
    """A `torchrun.Team` of several processes, through torch.distributed."""

    def __init__(self, launch: Launch, store: Store, watch: Watch) -> None:
        self.launch = launch
        self._store, self._watch = store, watch
        self._flat = torch.empty(0)

    def first(self, name: str, make: Callable[[], str]) -> str:
        """The result of `make` on rank 0; the other ranks poll for it, so that a signal can end the wait."""
        key = f"scone/{name}"
        if self.launch.rank == 0:
            made = make()
            self._store.set(key, made)
            return made
        with _losses(self._watch):
            self._until(lambda: bool(self._store.check([key])))
            return str(self._store.get(key).decode())

    def meet(self, name: str) -> None:
        """Wait until every rank has called this."""
        key = f"scone/{name}"
        with _losses(self._watch):
            self._store.add(key, 1)
            self._until(lambda: bool(self._store.add(key, 0) >= self.launch.size))

    def gather(self, name: str, value: str) -> list[str]:
        """The values of all ranks, in their order."""
        keys = [f"scone/{name}/{rank}" for rank in range(self.launch.size)]
        with _losses(self._watch):
            self._store.set(keys[self.launch.rank], value)
            self._until(lambda: bool(self._store.check(keys)))
            return [str(self._store.get(key).decode()) for key in keys]

    def _until(self, is_there: Callable[[], bool]) -> None:
        """Poll until `is_there`, or until a rank has ended; it may have ended because all is there."""
        while not is_there():
            try:
                self._watch.check()
            except RuntimeError:
                if is_there():
                    return
                raise
            time.sleep(0.02)

    def combine(
        self, dense: Sequence[nn.Parameter], sparse: Sequence[nn.Parameter], numbers: Sequence[float]
    ) -> list[float]:
        """Average all gradients over the ranks, and return the sums of `numbers`.

        A missing gradient (no f-gram matched) counts as zeros, and stays missing if no rank has one.
        """
        size, device, dtype = self.launch.size, dense[0].device, dense[0].dtype
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in dense]
        there = [float(p.grad is not None) for p in dense]
        pieces.append(torch.tensor([*there, *numbers], dtype=dtype, device=device))
        total = sum(piece.numel() for piece in pieces)
        if self._flat.numel() != total:
            self._flat = torch.empty(total, dtype=dtype, device=device)
        torch.cat(pieces, out=self._flat)
        with _losses(self._watch):
            self._wait(dist.all_reduce(self._flat, async_op=True))
            for parameter in sparse:
                self._average_rows(parameter)
        *averages, tail = torch.split(self._flat, [piece.numel() for piece in pieces])
        sums: list[float] = tail.tolist()
        for parameter, average, present in zip(dense, averages, sums, strict=False):
            parameter.grad = average.div_(size).view_as(parameter) if present else None
        return sums[len(dense) :]

    def _average_rows(self, parameter: nn.Parameter) -> None:
        """Average a sparse gradient: every rank receives the rows of all ranks, padded to the longest list."""
        size = self.launch.size
        rows, values = (
            torch.empty(0, dtype=torch.int64, device=parameter.device),
            parameter.new_empty(0, *parameter.shape[1:]),
        )
        if parameter.grad is not None:
            grad = parameter.grad.coalesce()
            rows, values = grad.indices()[0], grad.values()
        counts = torch.cat(self._gather(torch.tensor([len(rows)], device=parameter.device))).tolist()
        padding = max(counts) - len(rows)
        all_rows = self._gather(torch.cat([rows, rows.new_zeros(padding)]))
        all_values = self._gather(torch.cat([values, values.new_zeros(padding, *values.shape[1:])]))
        rows = torch.cat([rows[:count] for rows, count in zip(all_rows, counts, strict=True)])
        values = torch.cat([values[:count] for values, count in zip(all_values, counts, strict=True)])
        parameter.grad = torch.sparse_coo_tensor(
            rows[None], values / size, parameter.shape, check_invariants=False
        ).coalesce()

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.launch.size)]
        self._wait(dist.all_gather(gathered, tensor, async_op=True))
        return gathered

    def _wait(self, work: dist.Work | None) -> None:
        """Wait for a transfer by polling, because Python handles no signals while it waits inside of torch.

        With NCCL a transfer to a lost process never ends; but `Watch` notices the loss, and on the same machine torchrun
        asks this process to stop.
        """
        assert work is not None
        asked, look = math.inf, time.monotonic() + _LOOK
        while not work.is_completed():
            time.sleep(_POLL)
            if time.monotonic() > look:
                self._watch.check()
                look = time.monotonic() + _LOOK
            if is_stop_noted():
                asked = min(asked, time.monotonic())
                if time.monotonic() - asked > _GRACE:
                    raise RuntimeError("asked to stop while others did not come")
        work.wait()

    def tells(self) -> bool:
        """Whether this rank prints the error: the first rank of its machine that asks, because any other may be gone."""
        try:
            return bool(self._store.add(f"scone/told/{self.launch.node}", 1) == 1)
        except RuntimeError:  # the process that keeps the store, on the first machine, is gone too
            return self.launch.node == 0 or self.launch.local_rank == 0


@contextlib.contextmanager
def join(launch: Launch, device: str) -> Iterator[Ranks]:
    """Connect to the other ranks, and disconnect at the end of `with`. An error is printed once on each machine.

    Raises:
        BadSetting: some ranks have a GPU and others have none.
        LostRank: a process ended before all were connected.
    """
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    end_with_torchrun()
    with _losses():
        store, _, _ = next(iter(rendezvous("env://")))
        try:
            watch = Watch(launch, store, os.environ["MASTER_ADDR"])
        except OSError as error:
            raise LostRank(
                f"rank {launch.rank} on {socket.gethostname()} cannot connect to rank 0 ({os.environ['MASTER_ADDR']}): {error}",
                "let the machines reach one another on every port, and give the same command again on each of them",
            ) from error
    ranks, in_order = Ranks(launch, store, watch), False
    try:
        _check_devices(ranks.gather("device", "GPU" if on_gpu else "CPU"))
        with _losses(watch):
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=PrefixStore("torch", store),
                rank=launch.rank,
                world_size=launch.size,
                timeout=_PATIENCE,
            )
        yield ranks
        in_order = True
    except SconeError as error:
        error.told = not ranks.tells()
        raise
    finally:
        watch.close(in_order)
    dist.destroy_process_group()


def _check_devices(found: list[str]) -> None:
    """Ranks on GPUs and ranks on CPUs have no transfer in common."""
    other = next((rank for rank, device in enumerate(found) if device != found[0]), None)
    if other is not None:
        raise BadSetting(
            f"rank 0 would use a {found[0]} and rank {other} a {found[other]}: all processes need the same kind of device",
            "give --device cpu on every machine, or start only machines with GPUs",
        )


@contextlib.contextmanager
def _losses(watch: Watch | None = None) -> Iterator[None]:
    """Turn torch's RuntimeError for a broken connection into LostRank."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError too, but no lost process
        raise
    except RuntimeError as error:
        who = (watch.lost() if watch else "") or "another process of this run"
        raise LostRank(f"{who} has ended, and the run cannot go on without it", _AGAIN) from error
