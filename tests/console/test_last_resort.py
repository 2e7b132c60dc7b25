"""What is raised where nobody expected it, and is no bug: no memory, no end of nesting, a file that the system refuses."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest
import torch
from messages import error_of

from scone_cli.errors import NotEnoughMemory
from scone_cli.runtime.resources import memory_shortage
from scone_cli.stages import select_vocab

CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
SHORTAGES = {
    "torch": (RuntimeError(CPU + "4000000000000 bytes. Error code 12 (Cannot allocate memory)"), "3.6 TiB"),
    "torch on a GPU": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
        "20.00 GiB",
    ),
    "numpy": (MemoryError("Unable to allocate 8.00 TiB for an array with shape (1,) and data type int64"), "8.00 TiB"),
    "pyarrow": (pa.ArrowMemoryError("malloc of size 64 failed"), "memory"),
    "python": (MemoryError(), "memory"),
    "the system": (OSError(12, os.strerror(12)), "memory"),
    "C++": (RuntimeError("std::bad_alloc"), "memory"),
}


@pytest.fixture
def failing(scone, monkeypatch):
    """Run a stage that fails with an error: (exit code, stderr)."""

    def run(error: Exception) -> tuple[int, str]:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(select_vocab, "run", fail)
        code, out, err = scone("--quiet", "select-vocab")
        assert out == ""
        return code, err

    return run


@pytest.mark.parametrize("name", SHORTAGES)
def test_no_memory_is_one_sentence_with_what_was_asked_for(failing, name):
    error, fact = SHORTAGES[name]
    code, err = failing(error)
    assert code == NotEnoughMemory.exit_code == 1
    error_of(err, "not enough memory", fact, hint=("--dim", "--memory"))


def test_real_allocators_are_understood():
    for ask in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50), lambda: pa.allocate_buffer(1 << 50)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            ask()
        assert memory_shortage(caught.value)
    for other in (RuntimeError("a bug"), ValueError("allocate memory"), OSError(2, "none")):
        assert memory_shortage(other) is None


def test_nesting_without_end_is_bad_data(failing):
    code, err = failing(RecursionError("maximum recursion depth exceeded"))
    assert code == 65
    error_of(err, "nested")


def test_a_bug_shows_its_traceback(failing):
    with pytest.raises(RuntimeError, match="a bug"):
        failing(RuntimeError("a bug"))


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize("artifact", ["tokens", "model"])
def test_manifests_nested_too_deep(scone, tmp_path, artifact):
    (tmp_path / artifact).mkdir()
    (tmp_path / artifact / "manifest.json").write_text(DEEP)
    code, _, err = scone("inspect", tmp_path / artifact)
    assert code == 65
    error_of(err, "manifest.json")


def test_recipes_tokenizers_and_records_nested_too_deep(scone, tmp_path):
    (tmp_path / "r.toml").write_text("a = " + DEEP)
    code, _, err = scone("--config", tmp_path / "r.toml", "verify", tmp_path)
    assert code == 2
    error_of(err, "r.toml")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a text"}) + f'\n{{"text": {DEEP}}}\n')
    code, _, err = scone("--quiet", "count-ngrams", tmp_path / "a.jsonl")
    assert code == 65
    error_of(err, "a.jsonl", "line 2")
    (tmp_path / "t.json").write_text(DEEP)
    code, _, err = scone("--quiet", "count-ngrams", tmp_path / "r.toml", "--tokenizer", tmp_path / "t.json")
    assert code == 65
    error_of(err, "t.json")
