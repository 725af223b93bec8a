"""A look at the machine: versions, devices, space, and whether the model hub answers."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants
from rich.console import Console
from rich.table import Table

from harness.config import arithmetic
from harness.config.errors import UserError
from harness.config.workloads import load_workload
from harness.records.layout import Results
from harness.trial.itself import distil_into_itself

PACKAGES = ("torch", "transformers", "datasets", "lm_eval", "ray", "accelerate", "numpy", "pandas", "pydantic")

_HUB_TIMEOUT_S = 5.0


def examine(console: Console) -> None:
    """Print what a bug report needs to say; asks the hub one question and changes nothing."""
    table = Table(show_header=False)
    table.add_row("python", platform.python_version())
    for name in PACKAGES:
        table.add_row(name, _version(name))
    table.add_row("system", f"{platform.system()} {platform.machine()}")
    for name, value in arithmetic.conditions("cpu").items():
        table.add_row(name.replace("_", " "), value)
    table.add_row("cores", str(os.cpu_count()))
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            table.add_row(f"gpu {number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        table.add_row("gpu", "none that torch can use")
    table.add_row("free disk here", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB")
    table.add_row("hub", _hub())
    console.print(table)


def check_workload(console: Console, name: str, results: Path) -> None:
    """Distil a workload's teacher into itself, and print what was found in one line.

    Raises:
        UserError: there is something to learn; or the workload or its teacher cannot be read.
    """
    steps = distil_into_itself(load_workload(name, Results(results).models))
    told = "; ".join(
        f"{step.label} loss {step.loss_nats:.1e} nats (at most {step.tolerance:g}), gradient {step.gradient:.1e}"
        for step in steps
    )
    if not all(step.holds for step in steps):
        raise UserError(f"workload {name!r}: its teacher distilled into itself must have loss 0, it has: {told}")
    console.print(f"{name}: its teacher distilled into itself has nothing to learn: {told}", soft_wrap=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hub() -> str:
    if constants.HF_HUB_OFFLINE:
        return "switched off by HF_HUB_OFFLINE"
    try:
        HfApi().model_info("Qwen/Qwen3-1.7B", timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # whatever goes wrong on a network is the answer here
        return f"not reachable ({type(error).__name__}); local folders and the tiny workload work without it"
    return "reachable"
