"""Whether what a grid's trials need is there: disk, a device and its memory; asked before anything is fetched."""

import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.config import Method, Workload
from harness.config.errors import UserError
from harness.cost.accounting import GIB
from harness.cost.forecast.disk import caches, size_of
from harness.cost.forecast.memory import checkpoint_size, footprint, fullest
from harness.models import DTYPES
from harness.records.layout import Results
from harness.run.limits import available_cpus, memory_share
from harness.run.options import Options
from harness.teacher.manage import entries
from harness.trial.checkpoint import Interval
from harness.trial.flops import predict_flops
from harness.trial.trial import Trial

# What the memory of each GPU is, in bytes.
_ASKS = "import torch.cuda as c; print(*(c.get_device_properties(n).total_memory for n in range(c.device_count())))"
# A checkpoint is replaced by one that is whole.
_CHECKPOINTS = 2
# Rows and columns of the matrices by which a CPU is measured, and how often they are multiplied.
_SIZE, _ROUNDS = 1024, 3


def check_needs(trials: Sequence[Trial], results: Results, options: Options) -> None:
    """Refuse trials that could not end, by the same forecast that `harness plan` prints.

    Args:
        trials: what is to run, of one workload, in whose optimisation and adapters they may differ.
        results: where caches and checkpoints go.
        options: where and how they run. Of a cluster, only the disk is asked: its workers have the devices.

    Raises:
        UserError: the disk is too small, GPUs are asked for that are not there, or a trial is larger than the memory of
            the device; names what is needed and what is there.
    """
    if not trials:
        return
    workload, trained = trials[0].workload, [trial for trial in trials if trial.strategy.train]
    _check_disk(trials, results, options)
    if options.address is not None:
        return
    wanted, there = math.ceil(gpus_of(trials) * workload.resources.data_parallel), torch.cuda.device_count()
    if wanted > there:
        raise UserError(
            f"a trial of {workload.name} takes {wanted} GPU{'s' * (wanted > 1)} (resources.gpus), and torch "
            f"{torch.__version__} finds {there or 'none'} here; --cpu trains on the CPU, and says how long that takes"
        )
    if trained and (wanted or options.cpu):
        _check_memory(trained)


def gpus_of(trials: Sequence[Trial]) -> float:
    """Return the GPUs of each process of a trial, a teacher's own among them if one of the trials runs it."""
    resources = trials[0].workload.resources
    runs = any(trial.strategy.train and trial.strategy.teacher == "online" for trial in trials)
    return resources.gpus + (resources.teacher_gpus if runs else 0)


def hours_on_cpu(trials: Sequence[Trial]) -> str:
    """Say how long trials would train on this machine's CPU, as fast as it multiplies matrices of their dtype."""
    dtype = DTYPES[trials[0].workload.resources.dtype]
    square = torch.ones((_SIZE, _SIZE), dtype=dtype)
    square @ square
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        square @ square
    rate = 2 * _SIZE**3 * _ROUNDS / (time.perf_counter() - started)
    flops = sum(sum(predict_flops(trial).values()) for trial in trials if trial.strategy.train)
    hours = flops / rate / 3600
    taken = f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
    return (
        f"On the CPU {flops / 1e9:,.0f} GFLOP of training take {taken} at least, at the {rate / 1e9:,.0f} GFLOP/s that "
        f"products of matrices reach here in {trials[0].workload.resources.dtype}."
    )


def _check_disk(trials: Sequence[Trial], results: Results, options: Options) -> None:
    workload, trained = trials[0].workload, [trial for trial in trials if trial.strategy.train]
    strategies = {trial.strategy.model_dump_json(exclude={"label", "source"}): trial.strategy for trial in trials}
    stored = {f"{each.kind} {each.what}": each for one in strategies.values() for each in caches(one, workload)}
    needed = Counter[str]()
    for each in stored.values():
        # Held-out text has its states in a cache of the same kind.
        needed["hidden states" if each.kind in ("hidden", "heldout states") else each.kind] += each.num_bytes
    there = _stored_already(workload, results)
    what = {kind: num_bytes - there[kind] for kind, num_bytes in needed.items() if num_bytes > there[kind]}
    checkpoints, at_once = 0, _at_once(trials)
    if trained and options.checkpoint_every != Interval():
        each_bytes = max(map(checkpoint_size, _workloads(trained)))
        checkpoints = max(_CHECKPOINTS * each_bytes * at_once - there["checkpoints"], 0)
    root = results.root.absolute()
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if sum(what.values()) + checkpoints <= free:
        return
    largest = sorted(what.items(), key=lambda part: -part[1])
    parts = [f"{kind} {size_of(num_bytes)}" for kind, num_bytes in largest]
    if checkpoints:
        parts.append(f"checkpoints {size_of(checkpoints)} (two of {size_of(each_bytes)} for each trial at once)")
    runs_teacher = any(one.train and one.teacher == "cached" for one in strategies.values())
    way = "--teacher online, which stores no hidden states of the training text and runs the teacher in every trial"
    raise UserError(
        f"{results.root} needs {size_of(sum(what.values()) + checkpoints)} more of disk ({', '.join(parts)}), and "
        f"{size_of(free)} are free: give --results on a larger disk"
        + (f", or {way}" if runs_teacher else ", or a workload of less text or a smaller student")
    )


def _stored_already(workload: Workload, results: Results) -> Counter[str]:
    """Count the bytes of a workload's caches, whole or not, of packed text and of checkpoints, by kind."""
    there = Counter[str]()
    teacher = "" if workload.teacher is None else workload.teacher.path
    for entry in entries(results):
        about = {} if entry.meta is None else entry.meta.about
        # A head serves every workload that has its teacher.
        if about.get("workload", workload.name) == workload.name and teacher in about.get("teacher", "").split(" and "):
            there["hidden states" if entry.kind == "hidden" else entry.kind] += entry.num_bytes
    there["tokens"] = _bytes_below(results.cache, "tokens-*")
    there["checkpoints"] = _bytes_below(results.root, "checkpoints")
    return there


def _bytes_below(folder: Path, pattern: str) -> int:
    files = (file for place in folder.glob(pattern) for file in (place, *place.rglob("*")) if file.is_file())
    return sum(file.stat().st_size for file in files)


def _at_once(trials: Sequence[Trial]) -> int:
    """Return how many trials run side by side on this machine, or may be taken to on a cluster: at least one."""
    resources = trials[0].workload.resources
    room = available_cpus() / (resources.cpus * resources.data_parallel)
    gpus = gpus_of(trials) * resources.data_parallel
    if gpus:
        room = min(room, torch.cuda.device_count() / gpus)
    return max(1, min(int(room), sum(trial.strategy.train for trial in trials)))


def _workloads(trials: Sequence[Trial]) -> list[Workload]:
    """Return the different workloads of trials."""
    return list({trial.workload.model_dump_json(): trial.workload for trial in trials}.values())


def _check_memory(trials: Sequence[Trial]) -> None:
    """Refuse what all of the smallest GPU's memory could not hold, or all that a trial on the CPU may take."""
    room = min(_gpu_memory()) if trials[0].workload.resources.gpus else memory_share(1)
    # Of rows that have their teacher and their logits in the same way, those of most positions take the most.
    heaviest: dict[tuple[object, ...], Trial] = {}
    for trial in trials:
        one = trial.method
        key = (one.teacher, one.flow, one.feature is None, one.rollout is None, trial.workload.model_dump_json())
        if key not in heaviest or _budget(one) > _budget(heaviest[key].method):
            heaviest[key] = trial
    for trial in heaviest.values():
        one, workload = trial.method, trial.workload
        taken = fullest(footprint(one, workload), one, workload)
        if taken > room:
            raise UserError(
                f"a trial of {one.label} takes {taken / GIB:.1f} GiB at its peak, and the device has "
                f"{room / GIB:.1f}: `harness plan --gpu NAME` on the same grid and workload says what to change"
            )


def _gpu_memory() -> list[int]:
    """Return the bytes of each GPU, asked by a process that ends: whoever asks for them keeps a part of each."""
    asked = subprocess.run([sys.executable, "-c", _ASKS], capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return [int(each) for each in asked.stdout.split()]


def _budget(strategy: Method) -> float:
    return strategy.position.budget or 1.0
