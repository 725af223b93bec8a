"""A workload's teacher: the model itself, on one device or on several, or what is stored of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from harness import models
from harness.config import Workload
from harness.config.annotations import PreTrainedModel
from harness.data.tokens import Batch
from harness.models.devices import chunk_of, device_of, spread_layers, teacher_devices
from harness.records.layout import Results
from harness.teacher.interface import StoredScores, Teacher
from harness.teacher.kind import Kind, Read
from harness.teacher.kinds.hidden import HiddenStates, TeacherHead
from harness.teacher.kinds.rows import RowTeacher, Trunk
from harness.teacher.kinds.scores import PositionScores
from harness.teacher.provide import Progress, Spread, Stored, open_stored, provide
from harness.teacher.source import Source

# B = sequences of a batch, L = positions, D = the teacher's hidden size


@dataclass(frozen=True, kw_only=True)
class StoredTeacher:
    """A teacher on disk.

    Attributes:
        states: its final hidden states over a data set.
        head: its head, shared by all data sets.
    """

    states: Stored[Trunk]
    head: Stored[Callable[[], models.Head]]

    @property
    def num_bytes(self) -> int:
        """Size on disk, head included."""
        return self.states.num_bytes + self.head.num_bytes

    @property
    def build_s(self) -> float:
        """Seconds that building the states took."""
        return self.states.build_s


def provide_teacher(
    workload: Workload,
    source: Source,
    *,
    results: Results,
    on_progress: Progress | None = None,
    spread: Spread | None = None,
) -> StoredTeacher:
    """Map a teacher's states over a data set, and its head; it runs if they are missing. The rest as in `provide`."""
    states = provide(
        HiddenStates(),
        source,
        partial(run_teacher, workload),
        results=results,
        batch_size=workload.optimisation.micro_batch_size,
        on_progress=on_progress,
        spread=spread,
    )
    return StoredTeacher(states=states, head=_provide_head(workload, source, results))


def provide_rows(
    kind: Kind[RowTeacher, Read],
    workload: Workload,
    source: Source,
    *,
    results: Results,
    on_progress: Progress | None = None,
    spread: Spread | None = None,
) -> Stored[Read]:
    """Map what is stored of a teacher's distributions; where it is missing its stored states serve, or it runs.

    The rest as in `provide`.
    """
    return provide(
        kind,
        source,
        partial(row_teacher, workload, source, results.resolved()),
        results=results,
        batch_size=workload.optimisation.micro_batch_size,
        on_progress=on_progress,
        spread=spread,
    )


def row_teacher(workload: Workload, source: Source, results: Results) -> RowTeacher:
    """Return a teacher that gives distributions: from its stored states if they are there, else by running it."""
    states = open_stored(HiddenStates(), source, results)
    if states is None:
        return run_teacher(workload)
    head = _provide_head(workload, source, results).read()
    return _row_teacher(workload, states.read, models.Head(weight=head.weight.to(device_of(workload))))


def run_teacher(workload: Workload) -> RowTeacher:
    """Load the teacher, no student beside it; its trunk takes batches from any device."""
    devices = teacher_devices(workload, alone=True)
    teacher, first = _load(workload, devices), devices[0]
    head = models.head_of(teacher, len(models.load_tokenizer(workload.student, workload.folder)))
    weight = head.weight.detach().to(first)

    def trunk(batch: Batch) -> Float[Tensor, "B L D"]:
        return models.trunk(teacher, batch.to(first).input_ids).to(first)

    return _row_teacher(workload, trunk, models.Head(weight=weight))


def _row_teacher(workload: Workload, trunk: Trunk, head: models.Head) -> RowTeacher:
    return RowTeacher(
        trunk=trunk,
        head=head,
        batch_size=workload.optimisation.micro_batch_size,
        chunk=chunk_of(workload, len(head.weight)),
    )


def _provide_head(workload: Workload, source: Source, results: Results) -> Stored[Callable[[], models.Head]]:
    """Map the head; it is read from the model's files alone, as other processes may run the trunk."""

    def read() -> models.Head:
        assert workload.teacher is not None, "checked before anything runs"
        vocab_size = len(models.load_tokenizer(workload.student, workload.folder))
        dtype = models.DTYPES[workload.resources.dtype]
        return models.load_head(workload.teacher, workload.folder, vocab_size, dtype=dtype)

    about = {name: said for name, said in source.about.items() if name == "teacher"}
    whole = replace(source, only=None, about=about)
    return provide(TeacherHead(), whole, read, results=results, batch_size=1)


def cached_teacher(
    cache: StoredTeacher, device: str, scores: Mapping[str, Stored[PositionScores]] | None = None
) -> Teacher:
    """Return a teacher whose states come from disk, and its scores where they are stored; no model is loaded."""
    return Teacher(
        hidden=cache.states.read,
        head=models.Head(weight=cache.head.read().weight.to(device)),
        online=False,
        scores=stored_scores(scores) if scores else None,
    )


def stored_scores(scores: Mapping[str, Stored[PositionScores]]) -> StoredScores:
    """Return what reads a batch's scores by several signals."""
    return lambda batch: {signal: each.read(batch) for signal, each in scores.items()}


def online_teacher(workload: Workload, vocab_size: int, device: str) -> Teacher:
    """Load the teacher as one whose trunk runs each time it is asked; states and head are on the student's `device`."""
    devices = teacher_devices(workload, alone=False)
    model, first = _load(workload, devices), devices[0]

    def hidden(batch: Batch) -> Float[Tensor, "B L D"]:
        return models.trunk(model, batch.input_ids.to(first)).to(device)

    def layers(batch: Batch, numbers: Sequence[int]) -> models.States:
        states = models.trunk_layers(model, batch.input_ids.to(first), numbers)
        return models.States(final=states.final.to(device), layers=tuple(each.to(device) for each in states.layers))

    head = models.Head(weight=models.head_of(model, vocab_size).weight.detach().to(device))
    return Teacher(hidden=hidden, head=head, online=True, layers=layers)


def _load(workload: Workload, devices: Sequence[str]) -> PreTrainedModel:
    assert workload.teacher is not None, "checked before anything runs"
    dtype = models.DTYPES[workload.resources.dtype]
    if len(devices) == 1:
        return models.load_model(workload.teacher, workload.folder, dtype=dtype, device=devices[0])
    layout = spread_layers(workload.teacher, workload.folder, devices, dtype=dtype)
    return models.load_model(workload.teacher, workload.folder, dtype=dtype, layout=layout)
