"""Streaming scores: signals at every valid position, a chunk of logits at a time, without gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.models import Head
from strategies.base import SparseTarget, log_probs
from strategies.registry import SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS

# N = flattened positions, D = a model's hidden size, V = vocabulary, B = sequences, L = positions

# Logits, their log-probabilities and about four temporaries of the same size live at once in a chunk.
_LIVE_COPIES = 6


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Positions flattened out of a batch, with what is known of each.

    Attributes:
        student: the student's final hidden states.
        teacher: the teacher's, None where nothing reads it.
        targets: next tokens.
        noise: a uniform number per position, None where nothing reads it.
        keys: a noise key per position of the training text, None where no classes are drawn.
        target: what the student is compared with, where it comes ready-made and no teacher's row is needed.
    """

    student: Float[Tensor, "N D"]
    teacher: Tensor | None
    targets: Int[Tensor, " N"]
    noise: Float[Tensor, " N"] | None = None
    keys: Int[Tensor, " N"] | None = None
    target: SparseTarget | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, rows: slice) -> "Rows":
        """Return some of the rows, as views."""
        return Rows(
            student=self.student[rows],
            teacher=None if self.teacher is None else self.teacher[rows],
            targets=self.targets[rows],
            noise=None if self.noise is None else self.noise[rows],
            keys=None if self.keys is None else self.keys[rows],
            target=None if self.target is None else self.target.part(rows),
        )


def chunk_rows(vocab_size: int, logit_memory_mib: int, itemsize: int = 4) -> int:
    """Return how many rows of logits fit a memory budget, at least one.

    Args:
        vocab_size: columns of a row.
        logit_memory_mib: MiB that a chunk and its temporaries may occupy.
        itemsize: bytes per number.
    """
    return max(1, (logit_memory_mib << 20) // (vocab_size * itemsize * _LIVE_COPIES))


def slices(num: int, size: int) -> Iterator[slice]:
    """Cut `num` rows into slices of `size`, the last one shorter."""
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


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
    """Compute row signals.

    Args:
        names: row signals, each after its inputs.
        function: returns a signal's function.
        rows: the positions to score.
        student_head: the student's head.
        teacher_head: the teacher's head, None where no signal reads it.
        chunk: rows of logits that exist at a time.

    Returns:
        One score per row and name, float32 (float64 for float64 models).
    """
    needed = {keyword for name in names for keyword in SIGNALS[name].inputs}
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for piece in slices(len(rows), chunk):
        values = _raw_values(needed, rows.part(piece), student_head, teacher_head)
        for name in names:
            values[name] = function(name)(**{key: values[key] for key in SIGNALS[name].inputs})
            kept[name].append(values[name])
    empty = rows.student.new_zeros(0, dtype=torch.promote_types(rows.student.dtype, torch.float32))
    return {name: torch.cat(pieces) if pieces else empty for name, pieces in kept.items()}


def score_batch(
    names: tuple[str, ...],
    function: Callable[[str], Any],
    row_scores: dict[str, Float[Tensor, " N"]],
    valid: Bool[Tensor, "B L"],
) -> dict[str, Float[Tensor, "B L"]]:
    """Lay row scores out on their positions and compute the batch signals from them.

    Args:
        names: row and batch signals, each after its inputs.
        function: returns a signal's function.
        row_scores: scores of the valid positions, in row-major order.
        valid: the valid positions.

    Returns:
        Every named signal, 0 where not valid.
    """
    laid = {name: torch.zeros(valid.shape, dtype=row.dtype, device=row.device) for name, row in row_scores.items()}
    for name, row in row_scores.items():
        laid[name][valid] = row
    for name in names:
        if name not in laid:
            inputs = {key: valid if key == "valid" else laid[key] for key in SIGNALS[name].inputs}
            laid[name] = function(name)(**inputs)
    return laid


def _raw_values(needed: set[str], rows: Rows, student_head: Head, teacher_head: Head | None) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {"targets": rows.targets}
    if rows.noise is not None:
        values["noise"] = rows.noise
    if needed & STUDENT_INPUTS:
        values["student_logits"] = rows.student @ student_head.weight.T
    if needed & TEACHER_INPUTS:
        assert rows.teacher is not None
        assert teacher_head is not None
        values["teacher_logits"] = rows.teacher @ teacher_head.weight.T
    for model in ("student", "teacher"):
        if f"{model}_logprobs" in needed:
            values[f"{model}_logprobs"] = log_probs(values[f"{model}_logits"])
    return values
