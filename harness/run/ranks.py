"""A trial's other processes: started where the first one asks for them, one actor of Ray's each, and ended with it."""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.config.errors import first_line
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.records.layout import Results
from harness.run.attempt import help_run, reason_of, record_lost
from harness.run.cluster import ray
from harness.run.options import Options
from harness.trial.trial import Trial, from_config

_SECONDS_BETWEEN_LOOKS = 1.0
# A lost process is noticed by those that wait for its sums; on some devices they would wait for half an hour.
_SECONDS_TO_NOTICE = 10.0


@contextmanager
def gathered(
    trial: Trial, payload: Mapping[str, Any], results: Results, options: Options, resources: Mapping[str, float]
) -> Iterator[Group]:
    """Start the other processes of a trial, meet them, and end them with the trial.

    Args:
        trial: what they train together.
        payload: the trial as plain data.
        results: the results folder, which all of them see.
        options: where and how.
        resources: what each of them occupies, by Ray's names.

    Raises:
        UserError: one of them refuses the trial, as its plug-ins are not this one's.
        RankLostError: one of them ended before it was done; says why, where that is known.
        MemoryError: one of them ran out of memory.
    """
    size = trial.workload.resources.data_parallel
    if size == 1 or not trial.strategy.train:
        yield ALONE
        return
    folder = results.checkpoints(trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{secrets.token_hex(8)}"
    start = _remote.options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    helpers, done = [start.remote() for _ in range(1, size)], threading.Event()
    others: list[ray.ObjectRef[None]] = []
    try:
        _introduce(helpers, payload)
        others += [each.help.remote(results, options, rank + 1, str(meeting)) for rank, each in enumerate(helpers)]
        threading.Thread(target=_watch, args=(trial, results, others, done), daemon=True).start()
        with joined(0, size, meeting, sharded=trial.workload.resources.shard_student) as group:
            yield group
    except RankLostError as lost:
        raise _explained(lost, others) from None
    finally:
        done.set()
        for each in helpers:
            ray.kill(each)
        meeting.unlink(missing_ok=True)


class _Helper:
    """Another process of a trial."""

    def load(self, payload: Mapping[str, Any]) -> None:
        """Read the trial, which may not be possible here."""
        self.trial = from_config(payload)

    def help(self, results: Results, options: Options, rank: int, meeting: str) -> None:
        """Train with the others."""
        help_run(self.trial, results, options=options, rank=rank, meeting=Path(meeting))


_remote: Any = ray.remote(_Helper)


def _introduce(helpers: Sequence[Any], payload: Mapping[str, Any]) -> None:
    """Have every other process read the trial before it is waited for at the meeting."""
    try:
        ray.get([each.load.remote(payload) for each in helpers])
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    except ray.exceptions.RayError as error:
        raise RankLostError(f"a process of the trial ended before it began: {error}") from None


def _watch(trial: Trial, results: Results, others: Sequence[ray.ObjectRef[None]], done: threading.Event) -> None:
    """Where this process does not notice that another one is gone, record why that was, and end it.

    It waits on its device for the other's part of a sum, and can be told nothing; the driver reads the record.
    """
    while not done.wait(_SECONDS_BETWEEN_LOOKS):
        if _failures(others, timeout_s=0.0) and not done.wait(_SECONDS_TO_NOTICE):
            error = _explained(RankLostError("another process of the trial is gone"), others)
            try:
                record_lost(trial, results, reason_of(error), error)
            finally:
                os._exit(1)


def _failures(others: Sequence[ray.ObjectRef[None]], *, timeout_s: float) -> list[Exception]:
    """Return what the processes that have ended raised."""
    errors: list[Exception] = []
    for other in ray.wait(list(others), num_returns=len(others), timeout=timeout_s)[0]:
        try:
            ray.get(other)
        except ray.exceptions.RayTaskError as error:
            errors.append(error.cause or error)
        except ray.exceptions.RayError as error:
            errors.append(error)
    return errors


def _explained(lost: RankLostError, others: Sequence[ray.ObjectRef[None]]) -> Exception:
    """Return what the first process should raise: why another one ended, if it could say so."""
    for error in _failures(others, timeout_s=5.0):
        if reason_of(error) == "memory":
            return MemoryError(f"another process of the trial: {error}")
        if not isinstance(error, RankLostError):
            return RankLostError(f"{lost}; one of them: {type(error).__name__}: {first_line(error)}")
    return lost
