"""Ray as this project uses it: its settings, a session, trackers, and word of the end to workers on every node.

Only this module imports Ray, so that nothing does before its settings are made.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from harness.config import arithmetic
from harness.run.guard import deaf, lives

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
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 0.1
_NODE = ("raylet", "gcs_server")
_NODE_LOST = (
    "harness: Ray's node on this machine is gone (killed?); what was saved is kept: the same command goes on from there"
)


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
