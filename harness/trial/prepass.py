"""The prepass of the sample axis: every training sequence scored once by the student as it is before training."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.config import Choice
from harness.config.annotations import PreTrainedModel
from harness.config.base import Scalar
from harness.config.seeds import derive
from harness.data.tokens import Batch
from harness.distill import NUMERICS
from harness.distill.score import Rows, score_rows, signal_function
from harness.models import head_of, trunk
from harness.teacher.files import Indices
from harness.teacher.kinds.rows import RowTeacher
from harness.teacher.source import Source
from harness.teacher.store import Store
from strategies.noise import streams, uniform
from strategies.registry import SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS, order_signals, raw_inputs

# S = training sequences, B = sequences of a batch, L = positions, N = flattened positions, V = vocabulary


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """The models a prepass reads.

    Attributes:
        student: the student before its first step.
        teacher: None for a signal that reads none.
        vocab_size: tokens of the tokenizer.
        batch_size: sequences per forward pass.
        chunk: rows of logits that exist at a time.
        device: where the models are.
    """

    student: PreTrainedModel
    teacher: RowTeacher | None
    vocab_size: int
    batch_size: int
    chunk: int
    device: str


def reads_student(signal: Choice) -> bool:
    """Whether a prepass by this signal runs the student."""
    return bool(raw_inputs(SIGNALS[signal.name]) & STUDENT_INPUTS)


def reads_teacher(signal: Choice) -> bool:
    """Whether a prepass by this signal reads the teacher."""
    return bool(raw_inputs(SIGNALS[signal.name]) & TEACHER_INPUTS)


@dataclass(frozen=True, kw_only=True)
class SampleScores:
    """The kind of a prepass: the score of every training sequence under the frozen student.

    Attributes:
        signal: a row signal and its options.
        student: the student's fingerprint.
        seed: the trial's seed; it counts only where the signal reads noise.
    """

    name: ClassVar[str] = "prepass"
    shard_size: ClassVar[int] = 1024
    serves_part: ClassVar[bool] = False

    signal: Choice
    student: str
    seed: int

    @property
    def title(self) -> str:
        """What is made, as a progress bar calls it."""
        return f"samples by {self.signal.name}"

    def ingredients(self, source: Source) -> dict[str, Scalar]:
        """Return everything that the scores depend on; the teacher only where the signal reads it."""
        names = order_signals([self.signal.name])
        return {
            "numerics": NUMERICS,
            "signal": self.signal.name,
            "options": json.dumps(self.signal.options, sort_keys=True),
            **{f"digest of {name}": SIGNALS[name].digest for name in names},
            "tokens": source.tokens.key,
            "cross_document_targets": source.tokens.cross_document_targets,
            "student": self.student,
            "dtype": source.dtype,
            **({"teacher": source.teacher} if reads_teacher(self.signal) else {}),
            **({"seed": self.seed} if "noise" in raw_inputs(SIGNALS[self.signal.name]) else {}),
        }

    def make(
        self, source: Source, asked: Scorer, sequences: Indices, on_batch: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Score some sequences by the mean over their valid positions, in float64; 0 for a sequence without any.

        Depends on batch and chunk size by rounding only.

        Raises:
            FloatingPointError: a sequence's score is not finite; names the signal and the sequence.
        """
        scores = torch.zeros(len(sequences), dtype=torch.float64)
        for start in range(0, len(sequences), asked.batch_size):
            index = torch.from_numpy(sequences[start : start + asked.batch_size])
            batch = source.tokens.batch(index).to(asked.device)
            laid = torch.zeros(batch.valid.shape, dtype=torch.float64)
            laid[batch.valid.cpu()] = _position_scores(self.signal, batch, asked, self.seed).double().cpu()
            scores[start : start + len(index)] = laid.sum(dim=-1) / batch.valid.sum(dim=-1).cpu().clamp(min=1)
            on_batch(start + len(index))
        broken = (~torch.isfinite(scores)).nonzero().flatten()
        if len(broken):
            first = int(broken[0])
            raise FloatingPointError(
                f"signal {self.signal.name!r} scores {len(broken)} of {len(sequences)} training sequences as not "
                f"finite, the first is sequence {sequences[first]} with {float(scores[first])}"
            )
        return {"scores": scores}

    def reader(self, store: Store) -> Callable[[], Float[Tensor, " S"]]:
        """Return what gives the scores of all sequences."""
        return lambda: torch.from_numpy(store.read("scores", np.arange(store.meta.num_sequences)))


def _position_scores(signal: Choice, batch: Batch, scorer: Scorer, seed: int) -> Float[Tensor, " N"]:
    """Score the valid positions of a batch; a model that the signal does not read is not run."""
    names = order_signals([signal.name])
    student_head, teacher_hidden = head_of(scorer.student, scorer.vocab_size), None
    if reads_student(signal):
        hidden = trunk(scorer.student, batch.input_ids).flatten(0, 1)
    else:
        hidden = student_head.weight.new_zeros((batch.valid.numel(), 0))
    if reads_teacher(signal):
        assert scorer.teacher is not None, "the signal reads the teacher"
        teacher_hidden = scorer.teacher.trunk(batch).flatten(0, 1)
    noise = None
    if "noise" in raw_inputs(SIGNALS[signal.name]):
        keys = streams(derive(seed, "samples", "signal"), batch.index.to(batch.valid.device))
        noise = uniform(keys, batch.valid.shape[1]).flatten()[batch.places]
    rows = Rows(
        student=hidden,
        teacher=teacher_hidden,
        places=batch.places,
        targets=batch.targets.flatten()[batch.places],
        noise=noise,
    )
    teacher_head = scorer.teacher.head if teacher_hidden is not None and scorer.teacher is not None else None
    function = partial(signal_function, ranked_by=signal)
    return score_rows(names, function, rows, student_head, teacher_head, chunk=scorer.chunk)[signal.name]
