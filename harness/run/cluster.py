"""Ray as this project uses it: its settings, a session, a trial's other processes, caches built by many processes.

Only this module and `schedule` import Ray, so that nothing imports it before its settings are made.
"""

import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console

from harness.config import Workload, arithmetic
from harness.config.errors import UserError, first_line
from harness.distill.group import ALONE, Group, RankLostError, joined
from harness.records.layout import Results
from harness.run.attempt import help_run
from harness.run.guard import deaf, guarded, lives
from harness.run.limits import available_cpus
from harness.run.options import Options
from harness.teacher.inputs import JointBuild, build_part
from harness.teacher.provide import Spread
from harness.trial.trial import Trial, from_config

# Ray reads these when it is imported or started: no usage statistics, no table of its own on the terminal, no handler
# of its own for Ctrl-C, no memory monitor, which would abort every trial when it kills one, no state of the experiment
# saved every ten seconds, which nobody restores, and no niceness: beside anything else that computes, a trial of lower
# priority stands still, and its seconds say nothing.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Whatever its name: a Ray that is not to be a cluster keeps every port on the loopback interface. There, only who has
# the run's own secret is let in.
if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") == "0":
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)

import ray
from ray import tune
from ray.experimental import internal_kv

__all__ = ["ray", "tune"]  # and what is defined here

_LONGEST_FOLDER_FOR_SOCKETS = 40
_SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_SIGNS_OF_LIFE = 1.0, 0.1
_NODE = ("raylet", "gcs_server")
_NODE_LOST = (
    "harness: Ray's node on this machine is gone (killed?); what was saved is kept: the same command goes on from there"
)
# A lost process is noticed by those that wait for its sums; on some devices they would wait for half an hour.
_SECONDS_TO_NOTICE = 60.0
# A lost builder of a cache is started once more elsewhere before its share is left to the one that waits.
_RETRIES = 1


@contextmanager
def session(num_cpus: int, address: str | None, scratch: Path) -> Iterator[None]:
    """Start Ray on this machine without a dashboard, reachable by this run alone, and stop it; or join a cluster."""
    if not logging.getLogger("harness").isEnabledFor(logging.DEBUG):
        # Twenty lines of traceback for a trial that fails; they are in its record, and its watcher says which one.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    env = {"TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | arithmetic.environment()
    # Chunks of logits differ in size, and blocks of fixed sizes would not be used again.
    env["PYTORCH_ALLOC_CONF"] = os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    if address is None:
        # The processes of a trial listen where Ray does.
        env["GLOO_SOCKET_IFNAME"] = env["NCCL_SOCKET_IFNAME"] = loopback_interface()
    common["runtime_env"] = {"env_vars": env}
    over = threading.Event()
    if address is not None:
        ray.init(address=address, **common)
    else:
        # "local": never somebody else's Ray that an environment variable or a file points to.
        short = len(str(scratch)) < _LONGEST_FOLDER_FOR_SOCKETS
        place: dict[str, Any] = {"_temp_dir": str(scratch / "ray")} if short else {}
        before = set(psutil.Process().children())
        with deaf():
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **place, **common)
        own = set(psutil.Process().children()) - before
        threading.Thread(target=_look_after, args=(own, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        ray.shutdown()


def _look_after(processes: Collection[psutil.Process], over: threading.Event) -> None:
    """End with Ray's own processes: this one if one of them is killed, and they once this one has let go of them.

    Without a node every call of Ray waits, or fails in its own way. Deaf as they are, Ray would wait a second for each.
    """
    needed = [process for process in processes if process.name() in _NODE]
    while not over.wait(_SECONDS_BETWEEN_SIGNS_OF_LIFE):
        if not all(map(lives, needed)) and not over.is_set():
            terminal = Console(stderr=True)
            terminal.show_cursor()
            terminal.print(_NODE_LOST, highlight=False, markup=False, soft_wrap=True)
            os._exit(1)
    while ray.is_initialized():
        time.sleep(_SECONDS_BETWEEN_SIGNS_OF_LIFE)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def loopback_interface() -> str:
    """Return the name of the network interface that only this machine reaches."""
    interfaces = psutil.net_if_addrs().items()
    return str(next(name for name, addresses in interfaces if any(each.address == "127.0.0.1" for each in addresses)))


def make_loggers(trackers: Sequence[str], name: str) -> list[tune.Callback]:
    """Make Ray's callbacks for W&B and MLflow, whose own settings (keys, addresses, offline) are theirs to read.

    Args:
        trackers: any of `harness.run.options.TRACKERS`.
        name: of the project or experiment.
    """
    loggers: list[tune.Callback] = []
    if "wandb" in trackers:
        from ray.air.integrations.wandb import WandbLoggerCallback

        loggers.append(WandbLoggerCallback(project=name))
    if "mlflow" in trackers:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        loggers.append(MLflowLoggerCallback(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"), experiment_name=name))
    return loggers


# ---- the end that comes from outside: told to workers on every node, and noticed by one whose node is taken away


def tell_all(run: str) -> None:
    """Have `told` say so on every node of the cluster."""
    internal_kv._internal_kv_put(run, b"stop")


def told(run: str) -> bool:
    """Tell whether the driver of a run wants its trials saved and stopped."""
    return bool(internal_kv._internal_kv_exists(run))


def leaving() -> bool:
    """Tell whether this worker's node is being taken away: Ray drains it, and waits a while before it ends."""
    return ray.get_runtime_context().get_node_id() in ray._private.state.state.get_draining_nodes()


# ---- a trial's other processes: started where the first one asks for them, and ended with it


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
        threading.Thread(target=_watch, args=(others, done), daemon=True).start()
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


def _watch(others: Sequence[ray.ObjectRef[None]], done: threading.Event) -> None:
    """End this process if it has not noticed for a minute that another one is gone: Ray then knows that it is lost."""
    while not done.wait(_SECONDS_BETWEEN_LOOKS):
        if _failures(others, timeout_s=0.0) and not done.wait(_SECONDS_TO_NOTICE):
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
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return MemoryError(f"another process of the trial: {error}")
        if not isinstance(error, RankLostError):
            return RankLostError(f"{lost}; one of them: {type(error).__name__}: {first_line(error)}")
    return lost


# ---- a teacher cache built by all GPUs of a machine or a cluster: each process makes some of its shards


def spreading(
    workload: Workload, results: Results, *, address: str | None, message: Callable[[str], None]
) -> Callable[[JointBuild], Spread] | None:
    """Return what spreads the building of a cache; None where this process builds as fast alone.

    Args:
        workload: the workload.
        results: the results folder, which every process sees.
        address: of a running Ray cluster; a Ray of this machine alone if None.
        message: told what becomes of the processes.
    """
    alone = address is None and (workload.resources.gpus == 0 or torch.cuda.device_count() < 2)
    # Machines that only share a mirror have folders of their own.
    apart = address is not None and results.mirror is not None
    if alone or apart or workload.teacher is None:
        return None

    def of(part: JointBuild) -> Spread:
        def spread(numbers: Sequence[int], waiting: Callable[[], None]) -> None:
            scratch = Path(tempfile.mkdtemp(prefix="harness-"))
            with guarded(scratch), session(available_cpus(), address, scratch):
                build_together(part, numbers, waiting, results=results.resolved(), message=message)

        return spread

    return of


def build_together(
    part: JointBuild,
    numbers: Sequence[int],
    waiting: Callable[[], None],
    *,
    results: Results,
    message: Callable[[str], None],
) -> None:
    """Have the processes that a session's cluster holds make shards; what a lost one leaves is not made.

    Args:
        part: the cache.
        numbers: the shards.
        waiting: called every second.
        results: where it is, for every process.
        message: told of processes that are lost.

    Raises:
        UserError: one of them met bad input.
    """
    resources, there = part.workload.resources, ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if resources.gpus > 0 else 0
    each_gpus = max(resources.teacher_gpus, 1) if gpus else 0
    num = min(gpus // each_gpus if gpus else int(there.get("CPU", 0)) // resources.cpus, len(numbers))
    if num < 2:
        return
    message(f"{num} processes build the teacher's cache.")
    build = _build.options(num_cpus=resources.cpus, num_gpus=each_gpus, scheduling_strategy="SPREAD")
    left = [build.remote(part, numbers[rank::num], results) for rank in range(num)]
    try:
        while left:
            done, left = ray.wait(left, num_returns=len(left), timeout=_SECONDS_BETWEEN_LOOKS)
            waiting()
            for each in done:
                try:
                    ray.get(each)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, UserError) else error from None
                except ray.exceptions.RayError as error:
                    message(f"A process that built the teacher's cache was lost ({type(error).__name__}).")
    finally:
        for each in left:
            ray.cancel(each, force=True)


# A process ends with its one call: where GPUs are asked for by `.options`, Ray keeps it, and what it holds on them.
@ray.remote(max_retries=_RETRIES, max_calls=1)
def _build(part: JointBuild, numbers: Sequence[int], results: Results) -> None:
    torch.set_num_threads(part.workload.resources.cpus)
    build_part(part, numbers, results=results)
