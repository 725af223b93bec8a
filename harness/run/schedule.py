"""Trials through Ray Tune: resources, warm workers, contained failures."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.config.errors import UserError, first_line
from harness.records.layout import Results
from harness.records.record import Failure
from harness.records.store import finished, read_record
from harness.run.attempt import Reason, record_lost, run_and_write
from harness.run.cluster import leaving, make_loggers, ray, session, tell_all, told, tune
from harness.run.guard import guarded, interruptible
from harness.run.limits import available_cpus, count_oom_kills, memory_share
from harness.run.needs import gpus_of
from harness.run.options import Options
from harness.run.plan import Plan
from harness.run.ranks import gathered
from harness.run.watchers import Endings, Failed, Watcher
from harness.trial.checkpoint import Stopped
from harness.trial.trial import Trial, as_config, from_config

_SECONDS_BETWEEN_REPORTS = 2.0
# A second attempt helps where the first met something outside the trial.
_WORTH_A_RETRY = ("memory", "lost")


def run_trials(plan: Plan, results: Results, watcher: Watcher, options: Options) -> Endings:
    """Run a plan's missing trials side by side, as many as the machine holds; one that fails does not stop the others.

    A trial whose worker was lost, or that ran out of memory, is tried once more after the others.

    Raises:
        UserError: a trial asks for more than the machine has.
    """
    trials, resources, num_cpus = plan.todo, plan.workload.resources, available_cpus()
    if options.address is None and resources.cpus * resources.data_parallel > num_cpus:
        raise UserError(
            f"a trial takes {resources.data_parallel} processes (resources.data_parallel) of {resources.cpus} threads "
            f"(resources.cpus), and this machine has {num_cpus}: lower one in the workload"
        )
    if options.address is None and options.memory_bytes is None:
        options = replace(options, memory_bytes=memory_share(num_cpus // resources.cpus))
    scratch, failed = Path(tempfile.mkdtemp(prefix="harness-")), dict[str, Failed]()
    stop = scratch / "stop"
    with (
        guarded(scratch),
        session(num_cpus, options.address, scratch),
        interruptible(stop, watcher.message) as interruption,
    ):
        _check_gpus(trials)
        loggers = partial(make_loggers, options.trackers, plan.grid.name)
        _fit(_Relay(trials, results, watcher, failed, stop), options, scratch / "first", loggers())
        again = [smaller for trial in trials if (smaller := second_attempt(trial, failed)) is not None]
        if again and not stop.exists():
            for trial in again:
                watcher.retried(trial, failed.pop(trial.id).line)
            _fit(_Relay(again, results, watcher, failed, stop), options, scratch / "second", loggers())
    ended = tuple(trial.id for trial in trials if trial.id not in failed and finished(results, trial.id))
    pending = tuple(trial.id for trial in trials if trial.id not in failed and trial.id not in ended)
    lines = {key: each.line for key, each in failed.items()}
    return Endings(finished=ended, failed=lines, pending=pending, interrupted=interruption.code)


def second_attempt(trial: Trial, failed: Mapping[str, Failed]) -> Trial | None:
    """Return what a second attempt at a trial runs, if it failed; None if none would help."""
    if trial.id not in failed or failed[trial.id].reason not in _WORTH_A_RETRY:
        return None
    if failed[trial.id].reason == "lost":
        return trial
    # The global batch stays what it is, so only the order of sums changes, and with it the last bits.
    settings, resources = trial.workload.optimisation, trial.workload.resources
    # The processes of a sharded student need as many micro-batches each.
    multiple = resources.data_parallel if resources.shard_student else 1
    halved = range(1, settings.micro_batch_size // 2 + 1)
    sizes = [size for size in halved if settings.batch_size % (size * multiple) == 0]
    evaluation = trial.workload.evaluation
    if not sizes and evaluation.batch_size == 1:
        return None
    # Which of the two ran out is not known, and neither changes what is computed.
    changes = {
        "optimisation": settings.model_copy(
            update={"micro_batch_size": sizes[-1] if sizes else settings.micro_batch_size}
        ),
        "evaluation": evaluation.model_copy(update={"batch_size": max(evaluation.batch_size // 2, 1)}),
    }
    return replace(trial, workload=trial.workload.model_copy(update=changes))


def _fit(relay: "_Relay", options: Options, storage: Path, loggers: Sequence[tune.Callback]) -> None:
    trials = tuple(relay.trials.values())
    each = _resources(trials)
    trainable = tune.with_parameters(
        _trainable,
        payloads={trial.id: as_config(trial) for trial in trials},
        results=relay.results.resolved(),
        options=options,
        stop=str(relay.stop),
        each=each,
    )
    num_processes = trials[0].workload.resources.data_parallel
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([dict(each)] * num_processes)),
        # Trackers show a trial's configuration, so it says who the trial is.
        param_space={"trial": tune.grid_search([_who(trial) for trial in trials])},
        tune_config=tune.TuneConfig(
            # A warm worker is handed the next trial: a ten-second trial does not pay ten seconds of imports.
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["trial"]["id"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]["id"]),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(storage),
            callbacks=[relay, *loggers],
            stop=_Stopper(relay),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()


def _who(trial: Trial) -> dict[str, Any]:
    return {"id": trial.id, "label": trial.strategy.label, "seed": trial.seed, "workload": trial.workload.name}


def _resources(trials: Sequence[Trial]) -> dict[str, float]:
    """Return what each process of a trial occupies: enough for any of them."""
    gpus = gpus_of(trials)
    return {"CPU": float(trials[0].workload.resources.cpus)} | ({"GPU": float(gpus)} if gpus else {})


def _check_gpus(trials: Sequence[Trial]) -> None:
    """Refuse a trial that would wait for ever for GPUs.

    Raises:
        UserError: there are too few.
    """
    resources, each = trials[0].workload.resources, gpus_of(trials)
    there = ray.cluster_resources().get("GPU", 0)
    if there < each * resources.data_parallel:
        raise UserError(
            f"a trial takes {resources.data_parallel} processes (resources.data_parallel) of {each:g} GPUs "
            f"(resources.gpus, resources.teacher_gpus), and there are {there:g}: lower one in the workload, or "
            "give --cpu"
        )


def _trainable(
    config: dict[str, Any],
    *,
    payloads: dict[str, Any],
    results: Results,
    options: Options,
    stop: str,
    each: dict[str, float],
) -> None:
    """Run one trial in a worker, telling the driver about it every few seconds."""
    payload = payloads[config["trial"]["id"]]
    results.note_mirror()  # where this worker runs, the folder may be another one
    try:
        trial = from_config(payload)
    except UserError as error:  # a plugin that is another one where this worker runs
        tune.report({"refused": str(error)})
        return
    last = time.monotonic()

    def on_step(done: int, total: int, loss_nats: float) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            # Not "done": Tune takes that word as the order to end the trial.
            tune.report({"steps": done, "total": total, "loss_nats": loss_nats})

    looked, ordered, left = time.monotonic(), False, False

    def stopping() -> bool:
        nonlocal looked, ordered, left
        ordered = ordered or os.path.exists(stop)
        # The file is on the driver's machine.
        if options.address is not None and time.monotonic() - looked >= _SECONDS_BETWEEN_REPORTS:
            looked, ordered, left = time.monotonic(), ordered or told(stop), left or leaving()
        return ordered or left

    final: dict[str, float] = {}
    try:
        if not stopping():
            record = run_and_write(
                trial,
                results,
                options=options,
                on_step=on_step,
                on_wait=lambda holder: tune.report({"waits_for": holder}),
                stop=stopping,
                gather=lambda: gathered(trial, payload, results, options, each),
            )
            final = {name: metric.value for name, metric in record.metrics.items()}
    except Stopped as stopped:
        tune.report({"stopped" if ordered else "left": str(stopped)})
        if not ordered:
            raise  # Tune gives the next trial to a worker that has merely ended one
    else:
        tune.report({"ended": True, "final": final})


class _Relay(tune.Callback):
    """Passes Tune's events on, and records trials whose worker died before it could."""

    def __init__(
        self, trials: Sequence[Trial], results: Results, watcher: Watcher, failed: dict[str, Failed], stop: Path
    ) -> None:
        self.trials, self.results, self.stop, self.active = (
            {each.id: each for each in trials},
            results,
            stop,
            set[str](),
        )
        self._watcher, self._failed = watcher, failed
        self._oom_kills = count_oom_kills()
        self._before: dict[str, int | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out of the experiment state that Tune saves: this run is never restored from it."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = self._ours(trial)
        self.active.add(ours.id)
        self._before[ours.id] = self._stamp(ours)
        if not self.stop.exists():
            self._watcher.started(ours)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        ours = self._ours(trial)
        if "steps" in result:
            self._watcher.advanced(ours, result["steps"], result["total"], result["loss_nats"])
        elif "waits_for" in result:
            self._watcher.message(f"{ours.name} is {result['waits_for']}: waiting for it.")
        elif "stopped" in result:
            self._watcher.message(f"{ours.name}: {result['stopped']}.")
        elif "left" in result:
            gone = WorkerLostError(f"its machine is being taken away: {result['left']}")
            self._fail(ours, self._record(ours, "lost", gone))
        elif "refused" in result:
            self._fail(ours, self._record(ours, "input", UserError(result["refused"])))
        if not result.keys().isdisjoint({"stopped", "ended"}):
            self.active.discard(ours.id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        ours = self._ours(trial)
        self.active.discard(ours.id)
        self._fetch(ours)
        if finished(self.results, ours.id):
            self._watcher.ended(ours, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune has not stored the error yet when it calls this: what the worker recorded says more, where it could.
        ours = self._ours(trial)
        if ours.id in self._failed:
            return
        self._fetch(ours)
        failure = self._recorded_failure(ours)
        if failure is None:
            kills, self._oom_kills = self._oom_kills, count_oom_kills()
            reason: Reason = "memory" if self._oom_kills > kills else "lost"
            cause = "the worker was killed from outside" if reason == "lost" else "the system killed it"
            failure = self._record(ours, reason, WorkerLostError(cause))
        self._fail(ours, failure)

    def _fetch(self, trial: Trial) -> None:
        """Fetch what a worker elsewhere has left on the mirror."""
        self.results.fetch(self.results.trial(trial.id), changed=True)

    def _fail(self, trial: Trial, failure: Failure) -> None:
        self.active.discard(trial.id)
        line = first_line(f"{failure.kind}: {failure.message}")
        self._failed[trial.id] = Failed(reason=failure.reason, line=line)
        self._watcher.ended(trial, line)

    def _ours(self, trial: Any) -> Trial:
        return self.trials[trial.config["trial"]["id"]]

    def _stamp(self, trial: Trial) -> int | None:
        """Return when a trial's record was written, None if there is none."""
        path = self.results.record(trial.id)
        return path.stat().st_mtime_ns if path.exists() else None

    def _recorded_failure(self, trial: Trial) -> Failure | None:
        """Return what the worker has recorded of this attempt; nothing if it was killed, or the disk is full."""
        if self._stamp(trial) == self._before.get(trial.id):
            return None
        try:
            return read_record(self.results.record(trial.id)).failure
        except UserError:
            return None

    def _record(self, trial: Trial, reason: Reason, error: Exception) -> Failure:
        """Record what the worker could not, and return it."""
        try:
            record_lost(trial, self.results, reason, error)
        except UserError as full:
            error = type(error)(f"{error}; {full}")
        return Failure(kind=type(error).__name__, message=str(error), traceback="", reason=reason)


class WorkerLostError(RuntimeError):
    """A worker ended without a word."""


class _Stopper(tune.Stopper):
    """Ends the experiment once an interruption has come through to every running trial."""

    def __init__(self, relay: _Relay) -> None:
        self._relay, self._told = relay, False

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out of the state that Tune saves."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if not self._relay.stop.exists():
            return False
        if not self._told:
            tell_all(str(self._relay.stop))
            self._told = True
        return not self._relay.active
