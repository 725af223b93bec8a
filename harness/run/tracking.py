"""Trackers of experiments: TensorBoard's event files are written here, W&B and MLflow are reached through Ray."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from harness.config.errors import UserError, unknown
from harness.records.layout import Results
from harness.records.store import read_record
from harness.trial.trial import Trial

if TYPE_CHECKING:
    from ray import tune

TRACKERS = ("tensorboard", "wandb", "mlflow")


def parse_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the trackers that are asked for, each once; `none` for none.

    Raises:
        UserError: `none` beside others, or a tracker whose package is not installed.
        UnknownNameError: not a tracker.
    """
    if "none" in names:
        if len(set(names)) > 1:
            raise UserError(f"--track none goes with no other tracker; it is given with {', '.join(names)}")
        return ()
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, (*TRACKERS, "none"))
        if name != "tensorboard" and find_spec(name) is None:
            raise UserError(f"--track {name} needs the package {name}: pip install {name}")
    return tuple(dict.fromkeys(names))


def make_loggers(trackers: Sequence[str], name: str) -> "list[tune.Callback]":
    """Make Ray's callbacks for W&B and MLflow, whose own settings (keys, addresses, offline) are theirs to read.

    Args:
        trackers: any of `harness.run.tracking.TRACKERS`.
        name: of the project or experiment.
    """
    found: "list[tune.Callback]" = []
    if "wandb" in trackers:
        from ray.air.integrations.wandb import WandbLoggerCallback

        found.append(WandbLoggerCallback(project=name))
    if "mlflow" in trackers:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        found.append(MLflowLoggerCallback(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"), experiment_name=name))
    return found


class Board:
    """Writes TensorBoard's event files while trials run: the loss by step, and at the end every metric.

    Written at once and without a thread, so that a full disk is an error here: it ends the writing, not the run.
    """

    def __init__(self, folder: Path, results: Results, said: Callable[[str], None]) -> None:
        """Write under a folder, one folder for each trial.

        Args:
            folder: of this grid.
            results: where finished trials' records are.
            said: told if writing fails.
        """
        self._folder, self._results, self._said = folder, results, said
        self._writers: dict[str, EventsWriter] = {}
        self._steps: dict[str, int] = {}
        self._broken = False

    def started(self, trial: Trial) -> None:
        """Write nothing yet; of a trial that goes on, TensorBoard shows all files as one run."""

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """Write the loss."""
        self._steps[trial.id] = done
        self._write(trial, done, {"train/loss_nats": loss_nats})

    def ended(self, trial: Trial, error: str | None) -> None:
        """Write a finished trial's metrics, and close its file."""
        if error is None:
            record = read_record(self._results.record(trial.id))
            metrics = {f"final/{name}": metric.value for name, metric in record.metrics.items()}
            self._write(trial, self._steps.get(trial.id, 0), metrics)
        writer = self._writers.pop(trial.id, None)
        if writer is not None:
            try:
                writer.close()
            except OSError as broken:
                self._stop(broken)

    def retried(self, trial: Trial, error: str) -> None:
        """Write nothing."""

    def said(self, text: str) -> None:
        """Write nothing."""

    def _write(self, trial: Trial, step: int, values: Mapping[str, float]) -> None:
        if self._broken:
            return
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        try:
            if trial.id not in self._writers:
                place = self._folder / _slug(trial)
                place.mkdir(parents=True, exist_ok=True)
                self._writers[trial.id] = EventsWriter(str(place / "events"))
            self._writers[trial.id].write_event(Event(wall_time=time.time(), step=step, summary=summary))
            self._writers[trial.id].flush()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            self._said(f"No more event files for TensorBoard: {self._folder}: {error.strerror or error}.")


def _slug(trial: Trial) -> str:
    """Return a folder's name that a person recognises; the id makes it one trial's."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', trial.name).strip('-')[:60]}-{trial.id[:8]}"
