"""Where a trial computes, and how much of it at a time."""

import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.config import ModelSource, Workload
from harness.config.legality import check_gpus
from harness.models.head import layer_classes
from harness.models.load import DTYPES, locate, read_config

# A chunk's logits are made at once, because a matrix product of few rows is slow; what is computed from them is wider
# and takes more room, and is made for a part of the chunk at a time.
PIECES = 16

# Numbers of float32 per class and row of a piece, at most, over all registered signals and criteria; a test counts.
_LIVE_COPIES = 14


def device_of(workload: Workload) -> str:
    """Return where a trial computes: a GPU if the workload asks for one and there is one."""
    return "cuda" if workload.resources.gpus > 0 and torch.cuda.is_available() else "cpu"


def release_memory() -> None:
    """Give back what models that are no longer used held, so that other processes find a GPU as they expect it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def chunk_rows(vocab_size: int, logit_memory_mib: int, itemsize: int = 4) -> int:
    """Return how many rows of logits fit a memory budget, at least one.

    Args:
        vocab_size: columns of a row.
        logit_memory_mib: MiB that a chunk of both models' logits and what is computed from it may occupy.
        itemsize: bytes per number of the models' dtype.
    """
    per_class = 2 * itemsize + max(itemsize, 4) * _LIVE_COPIES / PIECES
    return max(1, int((logit_memory_mib << 20) / (vocab_size * per_class)))


def chunk_of(workload: Workload, vocab_size: int) -> int:
    """Return how many rows of logits a trial holds at a time."""
    itemsize = DTYPES[workload.resources.dtype].itemsize
    return chunk_rows(vocab_size, workload.resources.logit_memory_mib, itemsize)


def teacher_devices(workload: Workload, *, alone: bool) -> tuple[str, ...]:
    """Return where a teacher that runs has its layers, in order.

    Args:
        workload: the workload.
        alone: whether no student is in this process, as where a cache is made; else the first GPU is the student's.

    Raises:
        UserError: fewer GPUs are there than it takes.
    """
    device, num = device_of(workload), workload.resources.teacher_gpus
    if device == "cpu" or num == 0:
        return (device,)
    check_gpus(workload, torch.cuda.device_count(), alone=alone)
    first = 0 if alone else 1
    return tuple(f"cuda:{number}" for number in range(first, first + num))


def spread_layers(source: ModelSource, folder: Path, devices: Sequence[str], *, dtype: torch.dtype) -> dict[str, str]:
    """Lay a model's layers out over several devices, in order and in about equal shares of its bytes.

    Returns:
        The device of each module, by name; layers are not split.
    """
    from accelerate import infer_auto_device_map
    from accelerate.utils import compute_module_sizes
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        config = read_config(source, locate(source, folder))
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=source.trust_remote_code)
    model.tie_weights()
    sizes = compute_module_sizes(model, dtype=dtype)
    whole = layer_classes(model)
    largest = max(sizes[name] for name, module in model.named_modules() if type(module).__name__ in whole)
    # A share is filled layer by layer, and the last device takes what is left.
    room: dict[int | str, int] = {number: sizes[""] // len(devices) + largest for number in range(len(devices) - 1)}
    room[len(devices) - 1] = sizes[""] + largest
    found = infer_auto_device_map(model, max_memory=room, no_split_module_classes=whole, dtype=dtype)
    return {name: devices[int(number)] for name, number in found.items()}
