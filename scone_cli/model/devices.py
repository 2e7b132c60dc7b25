"""Choosing a device and a precision for a model, and measuring the memory that the work takes."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from scone_cli.errors import BadSetting, SconeError
from scone_cli.settings import DEVICES

# Resident bytes that a CUDA build of torch takes more than a CPU build, measured; it takes them without a GPU too.
CUDA_LIBRARIES = 0 if torch.version.cuda is None else 280 << 20

_CPU_TOKENS = 4096  # per forward pass on a CPU: activations of so many tokens mostly stay in its cache


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """Find the device with this name; `auto` is CUDA if available, else the CPU. Each local rank gets its own GPU.

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
    """Context in which matrix products use the given precision; weights and their gradients stay float32.

    It does not cache rounded weights. Before torch 2.11, a weight cached under `no_grad` was reused where gradients were
    recorded: A_f-gram, which runs a second time for its gradients, got none.
    """
    in_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=in_half, cache_enabled=False)


@contextlib.contextmanager
def torch_failures() -> Iterator[None]:
    """Turn torch's failures that come from the machine into SconeError: too little GPU memory, no C++ compiler."""
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
    """Default number of sequences per forward pass: about 4,096 tokens on a CPU, all `sequences` of the step on a GPU."""
    return max(1, min(sequences, _CPU_TOKENS // context)) if device.type == "cpu" else sequences


def free_memory(device: torch.device) -> int:
    """Free bytes on a GPU; 0 for a device that uses the machine's own memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: allocated on the GPU, or the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
