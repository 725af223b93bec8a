"""Trackers: event files that TensorBoard reads, errors of the disk contained, others only when asked for."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from harness.config.errors import UnknownNameError, UserError
from harness.records.layout import Results
from harness.records.store import write_record
from harness.run.cluster import make_loggers
from harness.run.options import parse_trackers
from harness.run.plan import make_plan
from harness.run.watchers import Board
from harness.trial.execute import run_trial
from harness.trial.trial import Trial


def events(path: Path) -> list[Event]:
    """Read an event file: records of length, checksum, bytes, checksum."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


@pytest.fixture
def trial(write_grid: Callable[..., Path], workload_file: Path, tmp_path: Path) -> Trial:
    return make_plan(
        write_grid(["full_kd"], workload=str(workload_file), seeds=[1]), Results(tmp_path / "results")
    ).todo[0]


def test_losses_and_metrics_are_written_as_they_come(trial: Trial, tmp_path: Path) -> None:
    said: list[str] = []
    board = Board(tmp_path / "board", Results(tmp_path / "results"), said.append)
    outcome = run_trial(trial, results=Results(tmp_path))
    write_record(Results(tmp_path / "results"), outcome.record, outcome.tables)
    board.started(trial)
    board.advanced(trial, 1, 3, 2.5)
    (path,) = tmp_path.glob("board/Full-KD-seed-1-*/events*")
    assert [value.simple_value for event in events(path) for value in event.summary.value] == [2.5]
    board.advanced(trial, 3, 3, 1.25)
    board.ended(trial, None)
    written = [(event.step, value.tag, value.simple_value) for event in events(path) for value in event.summary.value]
    assert written[:2] == [(1, "train/loss_nats", 2.5), (3, "train/loss_nats", 1.25)]
    final = {tag: value for step, tag, value in written[2:] if step == 3}
    assert final == {
        f"final/{name}": pytest.approx(metric.value, rel=1e-6) for name, metric in outcome.record.metrics.items()
    }
    assert said == []


def test_a_disk_that_cannot_be_written_ends_the_writing_only(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "board").write_text("a file where a folder should be")
    said: list[str] = []
    board = Board(tmp_path / "board", Results(tmp_path / "results"), said.append)
    board.advanced(trial, 1, 3, 2.5)
    board.advanced(trial, 2, 3, 2.5)
    board.ended(trial, "failed")
    assert len(said) == 1
    assert str(tmp_path / "board") in said[0]


def test_trackers_are_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_trackers(["none"]) == ()
    assert parse_trackers(["tensorboard", "tensorboard"]) == ("tensorboard",)
    with pytest.raises(UserError, match="goes with no other"):
        parse_trackers(["none", "wandb"])
    with pytest.raises(UnknownNameError, match="tensorboard"):
        parse_trackers(["tensorbord"])
    monkeypatch.setattr("harness.run.options.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        parse_trackers(["wandb"])


def test_nothing_reports_to_anybody_unasked() -> None:
    assert make_loggers(("tensorboard",), "grid") == []
