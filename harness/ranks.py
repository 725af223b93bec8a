"""A trial's other processes, through Ray: started where the first one asks for them, and ended with it."""

import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.attempt import Options, checkpoint_folder, help_run
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.session import ray
from harness.trial import Trial, from_config

_SECONDS_BETWEEN_LOOKS = 1.0
# A lost process is noticed by those that wait for its sums; on some devices they would wait for half an hour.
_SECONDS_TO_NOTICE = 60.0


@contextmanager
def gathered(
    trial: Trial, payload: Mapping[str, Any], results: Path, options: Options, resources: Mapping[str, float]
) -> Iterator[Group]:
    """Start the other processes of a trial, meet them, and end them with the trial.

    Args:
        trial: what they train together.
        payload: the trial as plain data.
        results: the results root, which all of them see.
        options: where and how.
        resources: what each of them occupies, by Ray's names.

    Raises:
        RankLostError: one of them ended before it was done; says why, where that is known.
        MemoryError: one of them ran out of memory.
    """
    size = trial.workload.resources.data_parallel
    if size == 1 or not trial.strategy.train:
        yield ALONE
        return
    folder = checkpoint_folder(results, trial.id)
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{secrets.token_hex(8)}"
    start = _help.options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    others = [start.remote(payload, str(results), options, rank, str(meeting)) for rank in range(1, size)]
    done = threading.Event()
    threading.Thread(target=_watch, args=(others, done), daemon=True).start()
    try:
        with joined(0, size, meeting) as group:
            yield group
    except RankLostError as lost:
        raise _explained(lost, others) from None
    finally:
        done.set()
        for other in others:
            ray.cancel(other, force=True)
        meeting.unlink(missing_ok=True)


@ray.remote(max_retries=0)
def _help(payload: Mapping[str, Any], results: str, options: Options, rank: int, meeting: str) -> None:
    help_run(from_config(payload), Path(results), options=options, rank=rank, meeting=Path(meeting))


def _watch(others: Sequence[ray.ObjectRef[None]], done: threading.Event) -> None:
    """End this process if it has not noticed for a minute that another one is gone: Ray then knows that it is lost."""
    while not done.wait(_SECONDS_BETWEEN_LOOKS):
        if _failures(others, timeout_s=0.0) and not done.wait(_SECONDS_TO_NOTICE):
            os._exit(1)


def _failures(others: Sequence[ray.ObjectRef[None]], *, timeout_s: float) -> list[Exception]:
    """Return what the processes that have ended raised."""
    found: list[Exception] = []
    for other in ray.wait(list(others), num_returns=len(others), timeout=timeout_s)[0]:
        try:
            ray.get(other)
        except ray.exceptions.RayTaskError as error:
            found.append(error.cause or error)
        except ray.exceptions.RayError as error:
            found.append(error)
    return found


def _explained(lost: RankLostError, others: Sequence[ray.ObjectRef[None]]) -> Exception:
    """Return what the first process should raise: why another one ended, if it could say so."""
    for error in _failures(others, timeout_s=5.0):
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return MemoryError(f"another process of the trial: {error}")
        if not isinstance(error, RankLostError):
            return RankLostError(f"{lost}; one of them: {type(error).__name__}: {str(error).splitlines()[0]}")
    return lost
