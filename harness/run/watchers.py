"""What is told of trials while they run: the terminal, and TensorBoard's event files."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from harness.records.layout import Results
from harness.records.store import read_record
from harness.trial.trial import Trial

# Where there is no terminal to show bars on.
SECONDS_BETWEEN_LINES = 60.0


def time_left(seconds: float) -> str:
    """Say how long something will go on, to be added to a line; nothing if it is done."""
    return (
        f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left" if seconds else ""
    )


class Watcher:
    """Told what happens to trials while they run; by itself it does nothing."""

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """The trial took more steps."""

    def ended(self, trial: Trial, error: str | None) -> None:
        """The trial finished, or failed with an error in one line."""

    def retried(self, trial: Trial, error: str) -> None:
        """A trial that failed with this error is tried once more, as it stands here."""

    def message(self, text: str) -> None:
        """Something that a person should read."""


class Watchers(Watcher):
    """Several watchers, told in turn."""

    def __init__(self, *each: Watcher) -> None:
        for event in ("started", "advanced", "ended", "retried", "message"):
            setattr(self, event, partial(self._tell, [getattr(watcher, event) for watcher in each]))

    @staticmethod
    def _tell(told: Sequence[Callable[..., None]], *arguments: object) -> None:
        for tell in told:
            tell(*arguments)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a trial failed: for the code, and for people in one line."""

    reason: str
    line: str


@dataclass(frozen=True, kw_only=True)
class Endings:
    """How scheduling ended, by trial id.

    Attributes:
        finished: trials with a finished record.
        failed: trials that raised or lost their worker, with the error in one line.
        pending: trials that an interruption kept from ending.
        interrupted: the exit code that an interruption asks for, if there was one.
    """

    finished: tuple[str, ...]
    failed: Mapping[str, str]
    pending: tuple[str, ...]
    interrupted: int | None = None


@dataclass(kw_only=True)
class _Running:
    since: float
    done: int = 0
    total: int = 0
    loss_nats: float | None = None
    first: tuple[float, int] | None = None
    said: float = 0.0


@dataclass(kw_only=True)
class TerminalWatcher(Watcher):
    """Counts trials as they end and shows those that run; where nobody watches, by a line a minute for each.

    Attributes:
        console: where to write.
        total: trials to run.
    """

    console: Console
    total: int
    _live: Live | None = None
    _running: dict[str, _Running] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _finished: int = 0
    _failed: int = 0
    _began: float = field(default_factory=time.monotonic)

    def started(self, trial: Trial) -> None:
        """Show a trial as running."""
        self._names[trial.id] = trial.name
        self._running.setdefault(trial.id, _Running(since=time.monotonic()))
        self._refresh()

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """Update a running trial's steps and loss."""
        running = self._running.get(trial.id)
        if running is not None:
            running.done, running.total, running.loss_nats = done, total, loss_nats
            self._say(trial, running)
        self._refresh()

    def ended(self, trial: Trial, error: str | None) -> None:
        """Print how a trial ended."""
        running = self._running.pop(trial.id, None)
        seconds = time.monotonic() - running.since if running else 0.0
        self._finished += error is None
        self._failed += error is not None
        number = f"[{self._finished + self._failed}/{self.total}]"
        if error is None:
            loss = f", last loss {running.loss_nats:.4f}" if running and running.loss_nats is not None else ""
            self._print(Text(f"{number} {trial.name}: {seconds:.0f} s{loss}{self._eta()}"))
        else:
            self._print(Text(f"{number} {trial.name}: FAILED after {seconds:.0f} s: {error}", style="bold red"))
        self._refresh()

    def retried(self, trial: Trial, error: str) -> None:
        """Say that a failed trial is tried once more, and with what."""
        self._failed -= 1
        size = trial.workload.optimisation.micro_batch_size
        self._print(Text(f"{trial.name}: once more, after {error} (micro-batches of {size})"))

    def message(self, text: str) -> None:
        """Print a sentence."""
        self._print(Text(text))

    @contextmanager
    def shown(self) -> Iterator["TerminalWatcher"]:
        """Keep the live table on screen for the length of a block."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(self._render(), console=self.console, refresh_per_second=1, transient=True) as live:
            self._live = live
            yield self
            self._live = None

    def _say(self, trial: Trial, running: _Running) -> None:
        now = time.monotonic()
        if running.first is None:
            running.first = (now, running.done)
        began, before = running.first
        steps_per_s = (running.done - before) / (now - began) if now > began else 0.0
        if (
            self.console.is_terminal
            or not steps_per_s
            or now - max(running.since, running.said) < SECONDS_BETWEEN_LINES
        ):
            return
        running.said = now
        workload = trial.workload
        tokens_per_s = steps_per_s * workload.optimisation.batch_size * workload.data.sequence_length
        step, left = f"step {running.done} of {running.total}", (running.total - running.done) / steps_per_s
        self._print(
            Text(f"{trial.name}: {step}, loss {running.loss_nats:.4f}, {tokens_per_s:,.0f} tokens/s{time_left(left)}")
        )

    def _eta(self) -> str:
        ended = self._finished + self._failed
        return time_left((time.monotonic() - self._began) / ended * (self.total - ended))

    def _print(self, text: Text) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._render())

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False)
        for trial_id, running in self._running.items():
            share = f"{100 * running.done / running.total:3.0f}%" if running.total else "loading"
            loss = f"loss {running.loss_nats:.4f}" if running.loss_nats is not None else ""
            table.add_row(self._names[trial_id], share, loss, f"{time.monotonic() - running.since:.0f} s")
        summary = f"{self._finished} finished, {len(self._running)} running, {self._failed} failed, of {self.total}"
        return Group(Text(summary, style="bold"), table)


class Board(Watcher):
    """Writes TensorBoard's event files while trials run: the loss by step, and at the end every metric.

    All files of a trial that goes on from a checkpoint are one run to TensorBoard.
    Written at once and without a thread, so that a full disk is an error here: it ends the writing, not the run.
    """

    def __init__(self, folder: Path, results: Results, message: Callable[[str], None]) -> None:
        """Write under a folder, one folder for each trial.

        Args:
            folder: of this grid.
            results: where finished trials' records are.
            message: told if writing fails.
        """
        self._folder, self._results, self._message = folder, results, message
        self._writers: dict[str, EventsWriter] = {}
        self._steps: dict[str, int] = {}
        self._broken = False

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
            self._message(f"No more event files for TensorBoard: {self._folder}: {error.strerror or error}.")


def _slug(trial: Trial) -> str:
    """Return a folder's name that a person recognises; the id makes it one trial's."""
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', trial.name).strip('-')[:60]}-{trial.id[:8]}"
