"""Where the teacher's states and rows come from: the model itself, on one device or on several, or its cache."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from harness import models
from harness.config import Workload
from harness.data.tokens import Batch
from harness.models.devices import chunk_of, device_of, spread_layers, teacher_devices
from harness.teacher.hidden import HiddenCache, open_hidden
from harness.teacher.interface import StoredScores, Teacher
from harness.teacher.rows import RowTeacher
from harness.teacher.source import Source, Trunk

# B = sequences of a batch, L = positions, D = the teacher's hidden size


def row_teacher(workload: Workload, source: Source, cache: Path) -> RowTeacher:
    """Return a teacher that gives distributions: from a `hidden` cache if one holds its states, else by running it."""
    hidden = open_hidden(cache, source) or open_hidden(cache, replace(source, only=None))
    trunk, head = run_teacher(workload) if hidden is None else _read_teacher(hidden, device_of(workload))
    return RowTeacher(
        trunk=trunk,
        head=head,
        batch_size=workload.optimisation.micro_batch_size,
        chunk=chunk_of(workload, len(head.weight)),
    )


def _read_teacher(hidden: HiddenCache, device: str) -> tuple[Trunk, models.Head]:
    return hidden.hidden, models.Head(weight=hidden.head.weight.to(device))


def run_teacher(workload: Workload) -> tuple[Trunk, models.Head]:
    """Load the teacher, no student beside it; its trunk takes batches from any device."""
    devices = teacher_devices(workload, alone=True)
    teacher, first = _load(workload, devices), devices[0]
    head = models.head_of(teacher, len(models.load_tokenizer(workload.student, workload.folder)))
    weight = head.weight.detach().to(first)
    return lambda batch: models.trunk(teacher, batch.to(first).input_ids).to(first), models.Head(weight=weight)


def read_head(workload: Workload) -> models.Head:
    """Read the teacher's head alone: other processes run its trunk."""
    assert workload.teacher is not None
    vocab_size = len(models.load_tokenizer(workload.student, workload.folder))
    dtype = models.DTYPES[workload.resources.dtype]
    return models.load_head(workload.teacher, workload.folder, vocab_size, dtype=dtype)


def cached_teacher(cache: HiddenCache, device: str, scores: StoredScores | None = None) -> Teacher:
    """Return a teacher whose states come from a cache, and its scores where they are stored; no model is loaded."""
    head = models.Head(weight=cache.head.weight.to(device))
    return Teacher(hidden=cache.hidden, head=head, online=False, scores=scores)


def online_teacher(workload: Workload, vocab_size: int, device: str) -> Teacher:
    """Load the teacher and return it as one whose trunk runs each time it is asked.

    Args:
        workload: the workload; it says which devices the teacher has.
        vocab_size: tokens of the tokenizer.
        device: the student's, where batches come from and states go to; the teacher's head is there too.
    """
    devices = teacher_devices(workload, alone=False)
    model, first = _load(workload, devices), devices[0]

    def hidden(batch: Batch) -> Float[Tensor, "B L D"]:
        return models.trunk(model, batch.input_ids.to(first)).to(device)

    def layers(batch: Batch, numbers: Sequence[int]) -> models.States:
        found = models.trunk_layers(model, batch.input_ids.to(first), numbers)
        return models.States(final=found.final.to(device), layers=tuple(each.to(device) for each in found.layers))

    head = models.Head(weight=models.head_of(model, vocab_size).weight.detach().to(device))
    return Teacher(hidden=hidden, head=head, online=True, layers=layers)


def _load(workload: Workload, devices: Sequence[str]) -> PreTrainedModel:
    assert workload.teacher is not None, "checked before anything runs"
    dtype = models.DTYPES[workload.resources.dtype]
    if len(devices) == 1:
        return models.load_model(workload.teacher, workload.folder, dtype=dtype, device=devices[0])
    layout = spread_layers(workload.teacher, workload.folder, devices, dtype=dtype)
    return models.load_model(workload.teacher, workload.folder, dtype=dtype, layout=layout)
