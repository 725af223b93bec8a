"""What the scheduler tells about trials: while they run, and how they ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from harness.trial.trial import Trial


class Watcher(Protocol):
    """Told what happens to trials while they run."""

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """The trial took more steps."""

    def ended(self, trial: Trial, error: str | None) -> None:
        """The trial finished, or failed with an error in one line."""

    def retried(self, trial: Trial, error: str) -> None:
        """A trial that failed is tried once more, as it is given."""

    def said(self, text: str) -> None:
        """Something a person should read."""


@dataclass(frozen=True)
class Watchers:
    """Several watchers, told in turn."""

    each: tuple[Watcher, ...]

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""
        for watcher in self.each:
            watcher.started(trial)

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """The trial took more steps."""
        for watcher in self.each:
            watcher.advanced(trial, done, total, loss_nats)

    def ended(self, trial: Trial, error: str | None) -> None:
        """The trial finished, or failed."""
        for watcher in self.each:
            watcher.ended(trial, error)

    def retried(self, trial: Trial, error: str) -> None:
        """A trial that failed is tried once more."""
        for watcher in self.each:
            watcher.retried(trial, error)

    def said(self, text: str) -> None:
        """Something a person should read."""
        for watcher in self.each:
            watcher.said(text)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a trial failed: for the code, and for people in one line."""

    reason: str
    line: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How scheduling ended, by trial id.

    Attributes:
        finished: trials with a finished record.
        failed: trials that raised or lost their worker, with the error in one line.
        pending: trials that an interruption kept from ending.
    """

    finished: tuple[str, ...]
    failed: Mapping[str, str]
    pending: tuple[str, ...]
