"""Progress on the terminal: a live table where there is a terminal, one line per event where there is none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.trial.trial import Trial


@dataclass(kw_only=True)
class _Running:
    since: float
    done: int = 0
    total: int = 0
    loss_nats: float | None = None


@dataclass(kw_only=True)
class Progress:
    """Counts trials as they end and shows those that run.

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

    def said(self, text: str) -> None:
        """Print a sentence."""
        self._print(Text(text))

    @contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Keep the live table on screen for the length of a block."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(self._render(), console=self.console, refresh_per_second=4, transient=True) as live:
            self._live = live
            yield self
            self._live = None

    def _eta(self) -> str:
        ended = self._finished + self._failed
        left = (time.monotonic() - self._began) / ended * (self.total - ended)
        return f"; about {left / 60:.0f} min left" if left >= 90 else (f"; about {left:.0f} s left" if left else "")

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
