"""Devices: the one asked for or a clear error, the precision, how much goes through the model at once."""

from __future__ import annotations

import pytest
import torch
from messages import refusal

from scone_cli.errors import BadSetting, SconeError
from scone_cli.model.devices import autocast, find_device, micro_batch, peak_memory, torch_failures
from scone_cli.runtime.process_group import _losses

CPU = torch.device("cpu")


def test_auto_is_a_gpu_if_there_is_one(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert find_device("auto", local_rank=1) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    assert find_device("cpu") == CPU
    with refusal(BadSetting, "--device cuda", "2", "CUDA", "3"):
        find_device("cuda", local_rank=2)


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with refusal(BadSetting, f"--device {name}") as caught:
        find_device(name)
    assert "--device cpu" in caught.value.hint


def test_the_precision_of_matrix_products():
    one = torch.ones(2, 2)
    expected = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
    for precision, dtype in expected.items():
        with autocast(CPU, precision):
            assert (one @ one).dtype == dtype
            assert not torch.is_autocast_cache_enabled()


def test_a_cpu_takes_what_its_cache_holds_a_gpu_takes_all():
    assert [micro_batch(CPU, 64, context) for context in (16, 256, 1024, 8192)] == [64, 16, 4, 1]
    assert micro_batch(torch.device("cuda"), 64, 8192) == 64


def test_a_compiler_that_is_not_there_is_said_in_one_line():
    from torch._dynamo.exc import BackendCompilerFailed  # noqa: PLC0415 - two seconds

    with refusal(SconeError, "--compile", "no such backend", hint=("C++ compiler",)), torch_failures():
        raise BackendCompilerFailed(len, RuntimeError("no such backend\nmore"), None)
    with pytest.raises(RuntimeError, match="ours"), torch_failures():
        raise RuntimeError("ours")


def test_a_gpu_without_room_is_said_in_one_line():
    with pytest.raises(SconeError, match=r"^CUDA out of memory$") as caught, torch_failures(), _losses():
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")
    assert "--micro-batch" in caught.value.hint


def test_the_memory_of_this_process():
    assert 1 << 25 < peak_memory(CPU) < 1 << 35  # in bytes: with torch in it at least 32 MiB, and no test takes 32 GiB
