"""The log for TensorBoard: real event files, purged where a run continues; and a clear error without the extra."""

from __future__ import annotations

import sys
import warnings

import pytest

from scone_cli.errors import BadSetting
from scone_cli.training.log import TensorBoard

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it imports
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def write(folder, steps, loss: float) -> None:
    with TensorBoard(folder) as track:
        for step in steps:
            track({"step": step, "loss": loss + step, "held_out_loss": None if step % 2 else 1.5})


def test_event_files_of_a_run_and_of_its_continuation(tmp_path):
    write(tmp_path / "runs" / "model", range(1, 5), 0.0)
    write(tmp_path / "runs" / "model", range(3, 7), 10.0)  # from the checkpoint of step 2
    events = EventAccumulator(str(tmp_path / "runs" / "model"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["held_out_loss", "loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *[(1, 1.0), (2, 2.0)],
        *[(step, 10.0 + step) for step in range(3, 7)],
    ]
    assert [event.step for event in events.Scalars("held_out_loss")] == [2, 4, 6]


def test_nothing_is_written_without_a_row(tmp_path):
    with TensorBoard(tmp_path / "runs"):
        pass
    assert not (tmp_path / "runs").exists()


def test_without_the_extra(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BadSetting, match="--tracker tensorboard: it is not installed") as caught:
        TensorBoard(tmp_path)
    assert caught.value.hint == "run: pip install 'scone-cli[tracking]'"
