"""Trials through Ray Tune: resources, warm workers, contained failures. The only module that imports Ray."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# Ray reads these when it is imported or started: no usage statistics, no table of its own on the terminal, and no
# memory monitor, which would abort every trial when it kills one.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune

from harness.config import Resources
from harness.errors import UserError
from harness.execute import failed_record, run_and_write
from harness.results import finished, write_record
from harness.trial import Trial, as_config, from_config

_SECONDS_BETWEEN_REPORTS = 2.0


class Watcher(Protocol):
    """Told what happens to trials while they run."""

    def started(self, trial: Trial) -> None:
        """A worker took the trial."""

    def advanced(self, trial: Trial, done: int, total: int, loss_nats: float) -> None:
        """The trial took more steps."""

    def ended(self, trial: Trial, error: str | None) -> None:
        """The trial finished, or failed with an error in one line."""


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


def run_trials(trials: Sequence[Trial], results: Path, watcher: Watcher) -> Outcome:
    """Run trials side by side, as many as the machine holds; one that fails does not stop the others.

    Args:
        trials: what to run; all of one workload.
        results: the results root; each trial leaves its record there.
        watcher: told of every event.

    Raises:
        UserError: a trial asks for more than the machine has.
    """
    if not trials:
        return Outcome(finished=(), failed={}, pending=())
    resources = trials[0].workload.resources
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if resources.cpus > num_cpus:
        raise UserError(
            f"resources.cpus is {resources.cpus}, and this machine has {num_cpus}: lower it in the workload"
        )
    by_id = {trial.id: trial for trial in trials}
    failed: dict[str, str] = {}
    with _ray(num_cpus), _scratch() as scratch:
        _fit(by_id, results, resources, _Relay(by_id, results, watcher, failed), scratch)
    done = tuple(trial_id for trial_id in by_id if trial_id not in failed and finished(results, trial_id))
    pending = tuple(trial_id for trial_id in by_id if trial_id not in failed and trial_id not in done)
    return Outcome(finished=done, failed=failed, pending=pending)


def _fit(by_id: Mapping[str, Trial], results: Path, resources: Resources, relay: "_Relay", scratch: Path) -> None:
    payloads = {trial_id: as_config(trial) for trial_id, trial in by_id.items()}
    trainable = tune.with_parameters(_trainable, payloads=payloads, results=str(results.resolve()))
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(resources)),
        param_space={"trial_id": tune.grid_search(list(by_id))},
        tune_config=tune.TuneConfig(
            # A warm worker is handed the next trial: a ten-second trial does not pay ten seconds of imports.
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial_id"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial_id"]),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            callbacks=[relay],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()


def _resources(resources: Resources) -> dict[str, float]:
    # A GPU that is asked for where there is none leaves trials pending for ever, without a word.
    gpus = resources.gpus if ray.cluster_resources().get("GPU", 0) >= min(resources.gpus, 1) else 0
    return {"cpu": float(resources.cpus)} | ({"gpu": float(gpus)} if gpus else {})


def _trainable(config: dict[str, Any], *, payloads: dict[str, Any], results: str) -> None:
    """Run one trial in a worker, telling the driver about it every few seconds."""
    trial = from_config(payloads[config["trial_id"]])
    last = time.monotonic()

    def on_step(done: int, total: int, loss_nats: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            # Not "done": Tune takes that word as the order to end the trial.
            tune.report({"steps": done, "total": total, "loss_nats": loss_nats})

    run_and_write(trial, Path(results), on_step=on_step)
    tune.report({"steps": 1, "total": 1, "loss_nats": float("nan")})


class _Relay(tune.Callback):
    """Passes Tune's events on, and records trials whose worker died before it could."""

    def __init__(self, by_id: Mapping[str, Trial], results: Path, watcher: Watcher, failed: dict[str, str]) -> None:
        self._by_id = by_id
        self._results = results
        self._watcher = watcher
        self._failed = failed

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out of the experiment state that Tune saves: this run is never restored from it."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.started(self._by_id[trial.config["trial_id"]])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("loss_nats") == result.get("loss_nats"):  # the closing report carries no loss (nan)
            ours = self._by_id[trial.config["trial_id"]]
            self._watcher.advanced(ours, result["steps"], result["total"], result["loss_nats"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.ended(self._by_id[trial.config["trial_id"]], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = self._by_id[trial.config["trial_id"]]
        error = trial.get_error()
        cause = getattr(error, "cause", None) or error
        line = f"{type(cause).__name__}: {str(cause).strip().splitlines()[0] if str(cause).strip() else 'no message'}"
        self._failed[ours.id] = line
        if not (self._results / "trials" / ours.id / "record.json").exists():
            record = failed_record(ours, "", type(cause).__name__, str(cause), str(error))
            write_record(self._results, record, items=None, curve=None)
        self._watcher.ended(ours, line)


@contextmanager
def _ray(num_cpus: int) -> Iterator[None]:
    """Start Ray on this machine, without a dashboard, and stop it again."""
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"}},
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give Tune a folder for its own bookkeeping; what counts is in the records."""
    folder = Path(tempfile.mkdtemp(prefix="harness-tune-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
