"""Where a model is trained: the device, the precision of its arithmetic, and the memory that this takes."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from scone_cli.errors import BadSetting, SconeError
from scone_cli.settings import DEVICES

# Resident bytes that a CUDA build of torch takes beside those of a CPU build, measured; a GPU is not needed for that.
CUDA_LIBRARIES = 0 if torch.version.cuda is None else 280 << 20

_CPU_TOKENS = 4096  # in a forward pass: what a CPU's cache holds of it is read again fast


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """The device asked for; `auto` is a CUDA device if there is one, else the CPU. Each rank has a device of its own.

    Raises:
        BadSetting: this machine, or this build of torch, has no such device.
    """
    if name not in DEVICES:
        raise BadSetting(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if local_rank >= count:
            raise BadSetting(
                f"--device cuda: found {count} CUDA devices, expected {local_rank + 1} or more (torch {torch.__version__})",
                "use --device cpu, or fewer processes, or install a build of torch for your GPU",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if name == "mps" and not torch.backends.mps.is_available():
        raise BadSetting(f"--device mps: this machine has none (torch {torch.__version__})", "use --device cpu")
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The context in which matrices are multiplied in the precision asked for; weights and their gradients stay float32.

    It caches no rounded weights. Before torch 2.11, what it cached where nothing records gradients it gave out where something
    does: A_f-gram, run a second time for its gradients, had none.
    """
    in_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=in_half, cache_enabled=False)


@contextlib.contextmanager
def torch_failures() -> Iterator[None]:
    """What fails in torch because of the machine: memory of a GPU; its compiler, as there is no other to do its work."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SconeError(str(error).split("\n", 1)[0], "lower --micro-batch, or --batch") from error
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        what = " ".join(str(error).split("\n")[:2])
        raise SconeError(f"--compile: {what}", "install a C++ compiler, or leave --compile out") from error


def micro_batch(device: torch.device, sequences: int, context: int) -> int:
    """How many of the `sequences` of a step go through the model at once, if nobody says so: on a GPU all of them."""
    return max(1, min(sequences, _CPU_TOKENS // context)) if device.type == "cpu" else sequences


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 of a device that uses the memory of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_memory(device: torch.device) -> int:
    """The most bytes that the work has held at once: on the GPU, or in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
