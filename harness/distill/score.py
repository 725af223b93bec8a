"""Streaming scores: signals at every valid position, a chunk of logits at a time, without gradients."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.config import Choice
from harness.models import Head
from harness.models.devices import PIECES
from strategies.base import SparseTarget, log_probs
from strategies.registry import SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS

# N = flattened positions, T = positions of a batch, D = a model's hidden size, V = vocabulary, B = sequences,
# L = positions


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Positions of a batch, with what is known of each.

    Attributes:
        student: the student's final hidden states, of more positions than these where `places` says which.
        teacher: the teacher's, None where nothing reads it.
        places: where in `student` and `teacher` the positions are, ascending; None if they are all there is.
        targets: next tokens.
        noise: a uniform number per position, None where nothing reads it.
        keys: a noise key per position of the training text, None where no classes are drawn.
        target: what the student is compared with, where it comes ready-made and no teacher's row is needed.
        temperature: a temperature per position, None where it is the same for all.
        coefficient: weight of each position's loss, its normaliser included; None where no loss is computed.
        signals: row signals that are known already, by name.
    """

    student: Float[Tensor, "T D"]
    teacher: Tensor | None
    targets: Int[Tensor, " N"]
    places: Int[Tensor, " N"] | None = None
    noise: Float[Tensor, " N"] | None = None
    keys: Int[Tensor, " N"] | None = None
    target: SparseTarget | None = None
    temperature: Float[Tensor, " N"] | None = None
    coefficient: Float[Tensor, " N"] | None = None
    signals: Mapping[str, Float[Tensor, " N"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, rows: slice) -> "Rows":
        """Return some of the rows; their states are views, or copies where the rows lie scattered."""
        return Rows(
            student=self._states(self.student.detach(), rows),
            teacher=None if self.teacher is None else self._states(self.teacher, rows),
            targets=self.targets[rows],
            noise=None if self.noise is None else self.noise[rows],
            keys=None if self.keys is None else self.keys[rows],
            target=None if self.target is None else self.target.part(rows),
            temperature=None if self.temperature is None else self.temperature[rows],
            coefficient=None if self.coefficient is None else self.coefficient[rows],
            signals={name: scores[rows] for name, scores in self.signals.items()},
        )

    def put(self, target: Float[Tensor, "T D"], rows: slice, values: Float[Tensor, "C D"]) -> None:
        """Write values of some of the rows where those have their states."""
        if self.places is None:
            target[rows] = values
        else:
            target.index_copy_(0, self.places[rows], values)

    def _states(self, states: Float[Tensor, "T D"], rows: slice) -> Float[Tensor, "C D"]:
        return states[rows] if self.places is None else states.index_select(0, self.places[rows])


def slices(num: int, size: int) -> Iterator[slice]:
    """Cut `num` rows into slices of `size`, the last one shorter."""
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def pieces(num: int, chunk: int) -> Iterator[slice]:
    """Cut the rows of a chunk into the parts that are compared at a time."""
    return slices(num, -(-chunk // PIECES))


@torch.no_grad()
def score_rows(
    names: tuple[str, ...],
    function: Callable[[str], Any],
    rows: Rows,
    student_head: Head,
    teacher_head: Head | None,
    *,
    chunk: int,
) -> dict[str, Float[Tensor, " N"]]:
    """Compute row signals, each named after its inputs, with `chunk` rows of logits at a time.

    Returns:
        One score per row and name, float32 (float64 for float64 models).
    """
    wanted = tuple(name for name in names if name not in rows.signals)
    kept: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for block in slices(len(rows) if wanted else 0, chunk):
        # A function of its own, so that nothing of one chunk is alive in the next.
        for name, scores in _score_chunk(wanted, function, rows.part(block), student_head, teacher_head, chunk):
            kept[name].append(scores)
    empty = rows.student.new_zeros(0, dtype=torch.promote_types(rows.student.dtype, torch.float32))
    computed = {name: torch.cat(pieces) if pieces else empty for name, pieces in kept.items()}
    return {name: computed[name] if name in computed else rows.signals[name] for name in names}


def score_batch(
    names: tuple[str, ...],
    function: Callable[[str], Any],
    row_scores: dict[str, Float[Tensor, " N"]],
    valid: Bool[Tensor, "B L"],
    places: Int[Tensor, " N"],
) -> dict[str, Float[Tensor, "B L"]]:
    """Lay row scores out on their positions, in row-major order, and compute the batch signals from them.

    Returns:
        Every named signal, 0 where not valid.
    """
    laid = {name: torch.zeros(valid.shape, dtype=row.dtype, device=row.device) for name, row in row_scores.items()}
    for name, row in row_scores.items():
        laid[name].view(-1).index_copy_(0, places, row)
    for name in names:
        if name not in laid:
            inputs = {key: valid if key == "valid" else laid[key] for key in SIGNALS[name].inputs}
            laid[name] = function(name)(**inputs)
    return laid


def _score_chunk(
    names: tuple[str, ...],
    function: Callable[[str], Any],
    rows: Rows,
    student_head: Head,
    teacher_head: Head | None,
    chunk: int,
) -> list[tuple[str, Tensor]]:
    """Return the signals of a chunk, piece after piece."""
    needed = {keyword for name in names for keyword in SIGNALS[name].inputs}
    logits: dict[str, Tensor] = {}
    if needed & STUDENT_INPUTS:
        logits["student_logits"] = student_head.logits(rows.student)
    if needed & TEACHER_INPUTS:
        assert rows.teacher is not None
        assert teacher_head is not None
        logits["teacher_logits"] = teacher_head.logits(rows.teacher)
    scored = []
    for piece in pieces(len(rows), chunk):
        values = _raw_values(needed, rows, logits, piece)
        for name in names:
            values[name] = function(name)(**{key: values[key] for key in SIGNALS[name].inputs})
            scored.append((name, values[name]))
        values.clear()
    return scored


def _raw_values(needed: set[str], rows: Rows, logits: dict[str, Tensor], piece: slice) -> dict[str, Tensor]:
    values = {name: rows_of[piece] for name, rows_of in logits.items()}
    values |= {name: scores[piece] for name, scores in rows.signals.items()}
    values["targets"] = rows.targets[piece]
    if rows.noise is not None:
        values["noise"] = rows.noise[piece]
    for model in ("student", "teacher"):
        if f"{model}_logprobs" in needed:
            values[f"{model}_logprobs"] = log_probs(values[f"{model}_logits"])
    return values


def signal_function(name: str, ranked_by: Choice | None = None) -> Any:
    """Return a signal's function; options are set on the signal that is ranked by alone, not on its parts."""
    build = SIGNALS[name].build
    return build if ranked_by is None or ranked_by.name != name else partial(build, **ranked_by.options)
