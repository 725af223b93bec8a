"""What a trial computes, before it is run: the very operations that its record will state."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.config import Strategy
from harness.data.tokens import Tokens
from harness.distill.objective import Objective, compile_strategy
from harness.distill.tally import Tally
from harness.distill.train import count_steps, data_order
from harness.models.shapes import num_tokens
from harness.teacher.scored import scored_flops
from harness.teacher.targets import stored_flops
from harness.trial.meter import Shape, count_flops, shape_of
from harness.trial.rollouts import predict_rollouts, rollout_flops
from harness.trial.samples import prepass_flops
from harness.trial.trial import Trial
from strategies.base import budget_size, sample_count
from strategies.registry import POLICIES, SIGNALS, STUDENT_INPUTS, raw_inputs

Exactness = Literal["exact", "at most", "about"]


def predict_flops(trial: Trial, tokens: Tokens | None = None) -> dict[str, float]:
    """Predict a trial's floating-point operations by part, from shapes.

    Args:
        trial: the trial.
        tokens: the packed training text. Without it every position but the last of a sequence is taken as valid, so
            separators make the prediction a slight overestimate (see `exactness`).
    """
    if not trial.strategy.train:
        return {}
    workload = trial.workload
    objective = compile_strategy(trial.strategy)
    length, size = workload.data.sequence_length, workload.optimisation.batch_size
    num_samples = workload.data.train_tokens // length
    num_steps = count_steps(kept_samples(trial.strategy, num_samples), workload.optimisation)
    rollout = trial.strategy.rollout
    pairs = 2 if rollout is not None and rollout.preference is not None else 1
    sequences = num_steps * size * pairs
    position = trial.strategy.position
    budget = position.budget if position is not None and position.budget is not None else 1.0
    each = _valid_positions(num_samples, length, tokens)
    # What the student will write itself is unknown, and so are the sequences that stand in its place.
    met = _met(trial, each, sequences) if rollout is None else np.full(sequences, length - 1, dtype=np.int64)
    valid = int(met.sum())
    sizes, counts = np.unique(met, return_counts=True)
    supervised = sum(int(num) * budget_size(int(size), budget) for size, num in zip(sizes, counts, strict=True))
    if trial.strategy.flow == "dense":
        supervised = sequences * length
    reads_student = any(raw_inputs(SIGNALS[name]) & STUDENT_INPUTS for name in objective.scored)
    twice = objective.batch_scope and size * pairs > workload.optimisation.micro_batch_size
    tally = Tally(
        sequences=sequences,
        valid=valid,
        supervised=supervised,
        student_scored=valid if reads_student else 0,
        student_trained=supervised,
        teacher_rows=valid * (objective.scores_read_teacher and not objective.stored_scores)
        + supervised * (objective.loss_reads_teacher and not trial.strategy.stored),
        trunk_passes=sequences if twice else 0,
        projected=supervised if objective.feature is not None else 0,
        teacher_passes=sequences * (1 + twice) * (objective.reads_teacher and trial.strategy.teacher == "online"),
    )
    vocab = num_tokens(workload.student, workload.folder)
    student = shape_of(workload.student, workload.folder, length, workload.lora)
    teacher = shape_of(workload.teacher, workload.folder, length) if workload.teacher else None
    prepass = prepass_flops(
        trial.strategy,
        workload,
        num_sequences=num_samples,
        num_positions=int(each.sum()),
        vocab_size=vocab,
    )
    stored: dict[str, float] = {}
    kept = kept_samples(trial.strategy, num_samples)
    positions = int(each.sum()) if kept == num_samples else kept * (length - 1)
    scored = scored_flops(workload, objective.stored_scores, num_positions=positions, vocab_size=vocab)
    if trial.strategy.stored:
        stored = stored_flops(workload, num_sequences=kept, num_positions=positions, vocab_size=vocab)
    return (
        prepass
        | stored
        | scored
        | rollout_flops(predict_rollouts(trial.strategy, workload, num_steps), workload, vocab)
        | count_flops(
            tally,
            student_trunk=student.trunk_flops,
            student_backward=student.backward_flops,
            head_trained=student.head_trained,
            teacher_trunk=teacher.trunk_flops if teacher is not None else 0.0,
            student_head=vocab * student.hidden_size,
            teacher_head=vocab * teacher.hidden_size if teacher is not None else 0,
            projection=_projection_size(objective, student, teacher),
            recomputed=workload.resources.checkpoint_activations,
        )
    )


def _projection_size(objective: Objective, student: Shape, teacher: Shape | None) -> int:
    if objective.feature is None or teacher is None:
        return 0
    return max(len(objective.layer_pairs), 1) * student.hidden_size * teacher.hidden_size


def exactness(trial: Trial, tokens: Tokens | None = None) -> Exactness:
    """Say what a prediction is worth.

    Exact, if the policy keeps a known number of positions and the valid ones are known: the text is packed, or every
    token is a target. At most what is predicted, if only the separators are unknown, or what the student will write.
    About it, if the policy's number depends on the scores, or if which sequences the sample axis keeps does.
    """
    strategy, data = trial.strategy, trial.workload.data
    position = strategy.position
    if position is not None and POLICIES[position.policy.name].traits["keeps"] == "varies":
        return "about"
    if strategy.rollout is not None:
        return "at most"
    if data.cross_document_targets:
        return "exact"
    if tokens is None:
        return "at most"
    return "exact" if strategy.samples is None else "about"


def kept_samples(strategy: Strategy, num_samples: int) -> int:
    """Return how many training sequences a strategy learns from."""
    return num_samples if strategy.samples is None else sample_count(num_samples, strategy.samples.budget)


def _valid_positions(num_samples: int, length: int, tokens: Tokens | None) -> npt.NDArray[np.int64]:
    """Return how many positions of each training sequence have a target."""
    found = np.full(num_samples, length - 1, dtype=np.int64)
    if tokens is None or tokens.cross_document_targets:
        return found
    if tokens.spans is not None:
        starts, ends = np.asarray(tokens.spans, dtype=np.int64).T
        return np.asarray(ends - np.maximum(starts, 1))
    separators: npt.NDArray[np.int64] = (np.asarray(tokens.ids[:, :-1]) == tokens.separator).sum(axis=1)
    return found - separators


def _met(trial: Trial, each: npt.NDArray[np.int64], sequences: int) -> npt.NDArray[np.int64]:
    """Return the valid positions of the sequences that training meets; of typical ones, where the choice is unknown."""
    if trial.strategy.samples is not None:
        return np.full(sequences, round(each.mean()), dtype=np.int64)
    order = data_order(len(each), trial.workload.optimisation.epochs, trial.seed or 0)
    return np.asarray(each[order[:sequences].numpy()])
