"""The log of a run: a line a step that can be followed, cut back on resumption; and losses that explode."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
from messages import refusal

from scone_cli.artifacts.schemas import LOG
from scone_cli.errors import BadSetting
from scone_cli.training.log import RECENT, Course, TensorBoard, TrainingLog


def row(step: int, loss: float = 2.5) -> dict:
    values = dict.fromkeys(LOG.names, 1.5) | {
        "step": step,
        "tokens": 32 * step,
        "trie_nodes": 7,
        "fgrams": 5,
        "held_out_loss": None,
    }
    return values | {"loss": loss}


def test_a_line_is_there_as_soon_as_it_is_added(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    for step in (1, 2):
        log.add(row(step, 0.1 + step))
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [row(each, 0.1 + each) for each in range(1, step + 1)]
    log.sync()
    log.close()
    table = log.table()
    assert table.schema == LOG
    assert table.to_pylist() == log.rows


def test_the_last_row_is_amended(tmp_path):
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path, 0)
    log.add(row(1))
    log.add(row(2))
    assert log.amend(held_out_loss=1.25) == row(2) | {"held_out_loss": 1.25}
    log.add(row(3))
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == log.rows
    assert [each["held_out_loss"] for each in log.rows] == [None, 1.25, None]


@pytest.mark.parametrize("end", ["", '{"step": 5, "lo', "[1]\n", "{}\n"])
def test_it_is_cut_back_to_the_step_from_which_a_run_continues(tmp_path, end):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, 5)) + end)
    log = TrainingLog(path, 3)
    assert [each["step"] for each in log.rows] == [1, 2, 3]
    log.add(row(4, 9.0))
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row(1), row(2), row(3), row(4, 9.0)]


def test_who_does_not_write_only_reads(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, 5)))
    before = path.read_bytes()
    log = TrainingLog(path, 3, writes=False)
    log.add(row(4))
    log.sync()
    log.close()
    assert [each["step"] for each in log.rows] == [1, 2, 3, 4]
    assert path.read_bytes() == before
    TrainingLog(tmp_path / "other", 3, writes=False)
    assert not (tmp_path / "other").exists()


def course_of(losses: list[float]) -> Course:
    course = Course()
    for step, loss in enumerate(losses, 1):
        course.add(step, loss)
    return course


def test_a_loss_explodes_when_it_has_given_back_more_than_half_of_what_was_learned():
    learned = [9.0, *[5.0] * 40]
    assert not course_of(learned).has_exploded
    assert not course_of([*learned, *[6.9] * RECENT]).has_exploded
    exploded = course_of([*learned, *[7.1] * RECENT])
    assert exploded.has_exploded
    assert (exploded.lowest, exploded.lowest_step, exploded.mean) == (5.0, 41, pytest.approx(7.1))


def test_noise_is_no_explosion():
    assert not course_of([9.0, 8.9, *[9.3] * 60]).has_exploded  # nothing learned, less than half a nat
    assert course_of([9.0, 8.9, *[9.6] * 60]).has_exploded
    few = course_of([2.0, *[500.0] * (RECENT - 2)])
    assert not few.has_exploded, "too few to say"
    assert few.has_ended_badly
    assert not course_of([2.0, 2.3, 2.6]).has_ended_badly
    assert not course_of([3.0, *[1.0, 2.0] * 60]).has_exploded


# ---- The log for TensorBoard: real event files, purged where a run continues; and a clear error without the extra ----


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
    with refusal(BadSetting, "--tracker tensorboard", hint=("pip install 'scone-cli[tracking]'",)):
        TensorBoard(tmp_path)
