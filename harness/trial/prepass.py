"""The prepass of the sample axis: every training sequence scored once by the student as it is before training."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from harness.config import Choice
from harness.config.seeds import derive
from harness.data.tokens import Batch, Tokens
from harness.distill import NUMERICS
from harness.distill.score import Rows, score_rows
from harness.models import head_of, trunk
from harness.teacher.interface import Teacher
from harness.teacher.prepass import Prepass, store_prepass
from strategies.noise import streams, uniform
from strategies.registry import SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS, order_signals, raw_inputs

# S = training sequences, B = sequences of a batch, L = positions, N = flattened positions, V = vocabulary


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A position signal and the models it reads.

    Attributes:
        signal: a row signal and its options.
        student: the student before its first step.
        teacher: None for a signal that reads none.
        vocab_size: tokens of the tokenizer.
        batch_size: sequences per forward pass.
        chunk: rows of logits that exist at a time.
        device: where the models are.
        seed: the trial's seed, for a signal that reads noise.
    """

    signal: Choice
    student: PreTrainedModel
    teacher: Teacher | None
    vocab_size: int
    batch_size: int
    chunk: int
    device: str
    seed: int


def reads_student(signal: Choice) -> bool:
    """Whether a prepass by this signal runs the student."""
    return bool(raw_inputs(SIGNALS[signal.name]) & STUDENT_INPUTS)


def reads_teacher(signal: Choice) -> bool:
    """Whether a prepass by this signal reads the teacher."""
    return bool(raw_inputs(SIGNALS[signal.name]) & TEACHER_INPUTS)


def signal_functions(signal: Choice) -> Callable[[str], Any]:
    """Return what maps a signal's name to its function; the options are those of `signal` itself, not of its parts."""

    def function(name: str) -> Any:
        build = SIGNALS[name].build
        return partial(build, **signal.options) if name == signal.name else build

    return function


def describe_prepass(
    signal: Choice, tokens: Tokens, *, student: str, teacher: str | None, dtype: str, seed: int
) -> dict[str, Any]:
    """Return everything that a prepass's scores depend on.

    Args:
        signal: the signal and its options.
        tokens: the training sequences.
        student: the student's fingerprint.
        teacher: the teacher's; it counts only where the signal reads the teacher.
        dtype: name of the dtype the models compute in.
        seed: the trial's seed; it counts only where the signal reads noise.
    """
    parts = order_signals([signal.name])
    return {
        "numerics": NUMERICS,
        "signal": signal.model_dump(),
        "sources": {name: SIGNALS[name].digest for name in parts},
        "tokens": tokens.key,
        "cross_document_targets": tokens.cross_document_targets,
        "student": student,
        "dtype": dtype,
        **({"teacher": teacher} if reads_teacher(signal) else {}),
        **({"seed": seed} if "noise" in raw_inputs(SIGNALS[signal.name]) else {}),
    }


def prepass_key(about: dict[str, Any]) -> str:
    """Return the name of a prepass: a hash of `describe_prepass`."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def build_prepass(
    folder: Path,
    about: dict[str, Any],
    tokens: Tokens,
    scorer: Scorer,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepass:
    """Score every training sequence and store the scores.

    Args:
        folder: where caches live.
        about: see `describe_prepass`.
        tokens: the training sequences.
        scorer: the signal and the models.
        on_progress: called with sequences done and in all.

    Raises:
        FloatingPointError: a sequence's score is not finite; names the signal and the sequence.
    """
    started = time.perf_counter()
    scores, num_positions = score_sequences(tokens, scorer, on_progress=on_progress)
    build_s = time.perf_counter() - started
    return store_prepass(
        folder, prepass_key(about), scores, num_positions=num_positions, build_s=build_s, about={"key": about}
    )


@torch.no_grad()
def score_sequences(
    tokens: Tokens, scorer: Scorer, *, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Float[Tensor, " S"], int]:
    """Return the mean of a signal over each sequence's valid positions, float64, and the number of valid positions.

    A sequence without valid positions scores 0. The result depends on batch and chunk size by rounding only.

    Raises:
        FloatingPointError: a sequence's score is not finite; names the signal and the sequence.
    """
    scores = torch.zeros(len(tokens), dtype=torch.float64)
    num_positions = 0
    for start in range(0, len(tokens), scorer.batch_size):
        index = torch.arange(start, min(start + scorer.batch_size, len(tokens)))
        batch = tokens.batch(index).to(scorer.device)
        laid = torch.zeros(batch.valid.shape, dtype=torch.float64)
        laid[batch.valid.cpu()] = _position_scores(batch, scorer).double().cpu()
        num_valid = batch.valid.sum(dim=-1).cpu()
        scores[index] = laid.sum(dim=-1) / num_valid.clamp(min=1)
        num_positions += int(num_valid.sum())
        if on_progress is not None:
            on_progress(start + len(index), len(tokens))
    broken = (~torch.isfinite(scores)).nonzero().flatten()
    if len(broken):
        first = int(broken[0])
        raise FloatingPointError(
            f"signal {scorer.signal.name!r} scores {len(broken)} of {len(tokens)} training sequences as not finite, "
            f"the first is sequence {first} with {float(scores[first])}"
        )
    return scores, num_positions


def _position_scores(batch: Batch, scorer: Scorer) -> Float[Tensor, " N"]:
    """Score the valid positions of a batch; a model that the signal does not read is not run."""
    names = order_signals([scorer.signal.name])
    student_head, teacher_hidden = head_of(scorer.student, scorer.vocab_size), None
    if reads_student(scorer.signal):
        hidden = trunk(scorer.student, batch.input_ids).flatten(0, 1)
    else:
        hidden = student_head.weight.new_zeros((batch.valid.numel(), 0))
    if reads_teacher(scorer.signal):
        assert scorer.teacher is not None, "the signal reads the teacher"
        teacher_hidden = scorer.teacher.hidden(batch).flatten(0, 1)
    noise = None
    if "noise" in raw_inputs(SIGNALS[scorer.signal.name]):
        keys = streams(derive(scorer.seed, "samples", "signal"), batch.index.to(batch.valid.device))
        noise = uniform(keys, batch.valid.shape[1]).flatten()[batch.places]
    rows = Rows(
        student=hidden,
        teacher=teacher_hidden,
        places=batch.places,
        targets=batch.targets.flatten()[batch.places],
        noise=noise,
    )
    teacher_head = scorer.teacher.head if teacher_hidden is not None and scorer.teacher is not None else None
    found = score_rows(names, signal_functions(scorer.signal), rows, student_head, teacher_head, chunk=scorer.chunk)
    return found[scorer.signal.name]
