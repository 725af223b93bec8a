"""Ray as this project uses it: what it reads when it is imported, and a session that is this run's own or a cluster's.

Other modules take Ray from here, so that none of them imports it before its settings are made.
"""

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

# Ray reads these when it is imported or started: no usage statistics, no table of its own on the terminal, no handler
# of its own for Ctrl-C, no memory monitor, which would abort every trial when it kills one, and no niceness: beside
# anything else that computes, a trial of lower priority stands still, and its seconds say nothing.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Whatever its name: a Ray that is not to be a cluster keeps every port on the loopback interface. There, only who has
# the run's own secret is let in.
if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") == "0":
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)

import ray
from ray import tune

__all__ = ["available_cpus", "loopback_interface", "ray", "session", "tune"]

_LONGEST_FOLDER_FOR_SOCKETS = 40


@contextmanager
def session(num_cpus: int, address: str | None, scratch: Path) -> Iterator[None]:
    """Start Ray on this machine without a dashboard, reachable by this run alone, and stop it; or join a cluster."""
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    env = {"TOKENIZERS_PARALLELISM": "false", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if address is None:
        # The processes of a trial listen where Ray does.
        env["GLOO_SOCKET_IFNAME"] = env["NCCL_SOCKET_IFNAME"] = loopback_interface()
    common["runtime_env"] = {"env_vars": env}
    if address is not None:
        ray.init(address=address, **common)
    else:
        # "local": never somebody else's Ray that an environment variable or a file points to.
        short = len(str(scratch)) < _LONGEST_FOLDER_FOR_SOCKETS
        place: dict[str, Any] = {"_temp_dir": str(scratch / "ray")} if short else {}
        ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **place, **common)
    try:
        yield
    finally:
        ray.shutdown()


def available_cpus() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loopback_interface() -> str:
    """Return the name of the network interface that only this machine reaches."""
    found = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.address == "127.0.0.1" for each in addresses)
    ]
    return str(found[0])
