"""Checkpoints: what is saved is loaded, whole or not at all, the newest are kept."""

from __future__ import annotations

import re

import pytest
import torch
from messages import names, wording
from safetensors.torch import load_file, save_file

from scone_cli.training import checkpoints
from scone_cli.training.checkpoints import Checkpoints, Position


def save(folder, step: int, keep: int = 2) -> None:
    parts = {"model": {"a.b": torch.full((2,), float(step))}, "optimizer": {"a.b/step": torch.tensor(step)}}
    Checkpoints(folder, keep).save(Position(step, 4 * step), parts)


def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path):
    store = Checkpoints(tmp_path, 2)
    assert store.newest() == ""
    save(tmp_path, 7)
    assert store.newest() == "step-00000007.safetensors"
    at, parts = store.load(store.newest())
    assert at == Position(7, 28)
    assert parts["model"]["a.b"].tolist() == [7, 7]
    assert parts["optimizer"]["a.b/step"].item() == 7
    assert parts["optimizer"]["a.b/step"].dtype == torch.int64
    assert load_file(tmp_path / store.newest()).keys() == {"model/a.b", "optimizer/a.b/step"}  # as documented


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep)
    assert files_in(tmp_path) == [f"step-{step:08d}.safetensors" for step in (5, 10, 15, 20)[-keep:]]


def test_a_crash_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def cut_off(tensors, path, metadata):
        save_file(tensors, path, metadata)
        path.write_bytes(path.read_bytes()[:-3])
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 10)
    assert Checkpoints(tmp_path, 2).newest() == "step-00000005.safetensors"
    for step in (11, 12):
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, step)
    assert len(files_in(tmp_path)) == 2  # not the remains of every crash
    monkeypatch.undo()
    save(tmp_path, 10)
    assert files_in(tmp_path) == ["step-00000005.safetensors", "step-00000010.safetensors"]


def test_a_damaged_one_takes_no_place_of_those_that_are_kept(tmp_path):
    save(tmp_path, 10, keep=1)
    (tmp_path / "step-00000010.safetensors").write_bytes(b"")
    save(tmp_path, 5, keep=1)
    assert files_in(tmp_path) == ["step-00000005.safetensors"]


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", None])
def test_what_is_not_whole_is_passed_over(tmp_path, content):
    save(tmp_path, 5)
    save(tmp_path, 10)
    newest = tmp_path / "step-00000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] if content is None else content)
    store = Checkpoints(tmp_path, 2)
    assert store.newest() == "step-00000005.safetensors"
    assert names(store.last_before(12), str(tmp_path / "step-00000005.safetensors"), "step 5")


def test_the_last_one_before_a_step(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 1000)
    store = Checkpoints(tmp_path, 2)
    oldest, newest = (tmp_path / f"step-0000{step}.safetensors" for step in ("0005", "1000"))
    good, same = store.last_before(1000), store.last_before(999)
    assert names(good, str(newest), "step 1,000")
    assert names(same, str(oldest), "step 5")
    assert wording(good, str(newest)) == wording(same, str(oldest))
    too_young = store.last_before(4)
    assert names(too_young, str(oldest), "step 5", "step 4")
    assert wording(too_young, str(oldest)) != wording(same, str(oldest)), "it is none to go back to"
    oldest.write_bytes(b"")
    assert names(store.last_before(4), str(newest), "step 1,000", "step 4")
    newest.unlink()
    assert names(store.last_before(4), "checkpoint")
    assert not re.search(r"\d", store.last_before(4))
