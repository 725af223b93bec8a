"""What a trial computes: its work, counted by training or predicted from shapes, and what it comes to in operations."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.config import Strategy, Workload
from harness.config.legality import kept_samples
from harness.data.tokens import Tokens
from harness.distill.tally import Tally
from harness.distill.train import data_order, expected_steps
from harness.models.operations import Shape, shape_of
from harness.models.vocabulary import num_tokens
from harness.trial.trial import Trial
from strategies.base import budget_size
from strategies.registry import POLICIES, SIGNALS, STUDENT_INPUTS, TEACHER_INPUTS, raw_inputs

Exactness = Literal["exact", "at most", "about"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Training sequences that a model reads without learning from them.

    Attributes:
        sequences: through its trunk.
        rows: positions through its head.
    """

    sequences: int = 0
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a trial does, counted. What it finds stored is counted as if it had made it.

    Attributes:
        tally: what training does, the student's own writing included.
        prepass: what student and teacher read to score the training sequences; None without a prepass.
        stored: what the teacher reads for stored targets and scores.
    """

    tally: Tally
    prepass: tuple[Reading, Reading] | None = None
    stored: Reading = Reading()


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What the models of a trial look like.

    Attributes:
        student: the student.
        teacher: None in a workload without one.
        vocab_size: rows of both heads.
        projections: maps from the student's hidden states to the teacher's.
        recomputed: whether the student's trunk runs forward once more while its backward pass runs; an upper bound, as
            torch stops each layer before the last product.
        written_position: operations of a position that the student's trunk reads to write, looking at nothing.
        written_pair: of each position that it can look at.
    """

    student: Shape
    teacher: Shape | None = None
    vocab_size: int
    projections: int = 0
    recomputed: bool = False
    written_position: float = 0.0
    written_pair: float = 0.0


def price(work: Work, shapes: Shapes) -> dict[str, float]:
    """Return the floating-point operations of some work by part, matrix products only.

    A multiply-add counts two. A backward pass costs twice its forward pass, one product for the input's gradient, one
    for the weight's, where all weights are trained.
    """
    tally, student, teacher = work.tally, shapes.student, shapes.teacher
    head = shapes.vocab_size * student.hidden_size
    teacher_head = shapes.vocab_size * teacher.hidden_size if teacher is not None else 0
    teacher_trunk = teacher.trunk_flops if teacher is not None else 0.0
    backward = 2.0 * student.trunk_flops if student.backward_flops is None else student.backward_flops
    passes = (1 + shapes.recomputed) * tally.sequences + tally.trunk_passes
    parts = {
        "student_trunk": student.trunk_flops * passes + backward * tally.sequences,
        "student_head_scoring": 2.0 * head * tally.student_scored,
        "student_head_training": (6.0 if student.head_trained else 4.0) * head * tally.student_trained,
        "teacher_trunk": teacher_trunk * tally.teacher_passes,
        "teacher_head": 2.0 * teacher_head * tally.teacher_rows,
    }
    if shapes.projections and teacher is not None:
        size = shapes.projections * student.hidden_size * teacher.hidden_size
        parts["feature_projection"] = 6.0 * size * tally.projected
    if tally.rollout_positions:
        read, seen = tally.rollout_positions, tally.rollout_attended
        parts["rollout_trunk"] = shapes.written_position * read + shapes.written_pair * seen
        parts["rollout_head"] = 2.0 * head * tally.rollout_rows
    if work.prepass is not None:
        ours, theirs = work.prepass
        parts["prepass_student_trunk"] = student.trunk_flops * ours.sequences
        parts["prepass_student_head"] = 2.0 * head * ours.rows
        parts["prepass_teacher_trunk"] = teacher_trunk * theirs.sequences
        parts["prepass_teacher_head"] = 2.0 * teacher_head * theirs.rows
    if work.stored.sequences:
        parts["cache_teacher_trunk"] = teacher_trunk * work.stored.sequences
    if work.stored.rows:
        parts["cache_teacher_head"] = 2.0 * teacher_head * work.stored.rows
    return parts


def shapes_of(trial: Trial, vocab_size: int) -> Shapes:
    """Count the models of a trained trial.

    A trunk's operations are a part that grows with the positions and one that grows with the pairs of a position and
    one it can look at; passes over one and over two positions tell them apart.
    """
    workload, objective = trial.workload, trial.objective
    length, folder = workload.data.sequence_length, workload.folder
    per_position = per_pair = 0.0
    if trial.strategy.rollout is not None:
        one, two = (shape_of(workload.student, folder, positions, workload.lora) for positions in (1, 2))
        per_pair = (two.trunk_flops - 2 * one.trunk_flops) / 2
        per_position = one.trunk_flops - per_pair
    return Shapes(
        student=shape_of(workload.student, folder, length, workload.lora),
        teacher=shape_of(workload.teacher, folder, length) if workload.teacher is not None else None,
        vocab_size=vocab_size,
        projections=max(len(objective.layer_pairs), 1) if objective.feature is not None else 0,
        recomputed=workload.resources.checkpoint_activations,
        written_position=per_position,
        written_pair=per_pair,
    )


def work_of(trial: Trial, tally: Tally, *, every: Reading, kept: Reading) -> Work:
    """Add to what training does what is read before it, of `every` training sequence or of those `kept`."""
    strategy, num_scores = trial.method, len(trial.objective.stored_scores)
    stored = kept if strategy.stored else Reading(rows=num_scores * kept.rows)
    signal = strategy.samples.signal if strategy.samples is not None else None
    if signal is None:
        return Work(tally=tally, stored=stored)
    inputs = raw_inputs(SIGNALS[signal.name])
    ours = every if inputs & STUDENT_INPUTS else Reading()
    theirs = every if inputs & TEACHER_INPUTS else Reading()
    if strategy.teacher != "online":
        theirs = Reading(rows=theirs.rows)
    return Work(tally=tally, prepass=(ours, theirs), stored=stored)


def predict_flops(trial: Trial, tokens: Tokens | None = None) -> dict[str, float]:
    """Predict a trial's floating-point operations by part: the very ones that its record will state.

    Args:
        trial: the trial.
        tokens: the packed training text. Without it every position but the last of a sequence is taken as valid, so
            separators make the prediction a slight overestimate (see `exactness`).
    """
    if not trial.strategy.train:
        return {}
    workload = trial.workload
    length = workload.data.sequence_length
    num_samples = workload.data.train_tokens // length
    num_valid = np.full(num_samples, length - 1, dtype=np.int64) if tokens is None else tokens.num_valid
    every = Reading(sequences=num_samples, rows=int(num_valid.sum()))
    num_kept = kept_samples(trial.strategy, num_samples)
    # Which sequences a sample policy keeps is unknown, and so are their separators.
    kept = every if num_kept == num_samples else Reading(sequences=num_kept, rows=num_kept * (length - 1))
    work = work_of(trial, _predict_training(trial, num_valid), every=every, kept=kept)
    return price(work, shapes_of(trial, num_tokens(workload.student, workload.folder)))


def exactness(trial: Trial, tokens: Tokens | None = None) -> Exactness:
    """Say what a prediction is worth.

    Exact, if the policy keeps a known number of positions and the valid ones are known: the text is packed, or every
    token is a target. At most what is predicted, if only the separators are unknown, or what the student will write.
    About it, if the policy's number depends on the scores, or if which sequences the sample axis keeps does.
    """
    strategy, data = trial.strategy, trial.workload.data
    if strategy.train and POLICIES[strategy.position.policy.name].traits["keeps"] == "varies":
        return "about"
    if strategy.rollout is not None:
        return "at most"
    if data.cross_document_targets:
        return "exact"
    if tokens is None:
        return "at most"
    return "exact" if strategy.samples is None else "about"


def _predict_training(trial: Trial, num_valid: npt.NDArray[np.int64]) -> Tally:
    """Return what training will count, from the valid positions of every training sequence."""
    workload, strategy, objective = trial.workload, trial.method, trial.objective
    length, size = workload.data.sequence_length, workload.optimisation.batch_size
    num_kept, filtered = kept_samples(strategy, len(num_valid)), strategy.filtered
    num_steps = expected_steps(len(num_valid), num_kept, workload.optimisation, filtered)
    pairs = 2 if objective.preference is not None else 1
    sequences = (num_kept * workload.optimisation.epochs if filtered else num_steps * size) * pairs
    # What the student will write itself is unknown, and so are the sequences that stand in its place.
    met = _met(trial, num_valid, sequences) if strategy.rollout is None else np.full(sequences, length - 1)
    valid = int(met.sum())
    sizes, counts = np.unique(met, return_counts=True)
    met_by = zip(sizes, counts, strict=True)
    supervised = sum(int(num) * budget_size(int(each), strategy.budget) for each, num in met_by)
    if strategy.flow == "dense":
        supervised = sequences * length
    reads_student = any(raw_inputs(SIGNALS[name]) & STUDENT_INPUTS for name in objective.scored)
    twice = objective.batch_scope and size * pairs > workload.optimisation.micro_batch_size
    tally = _predict_rollouts(strategy, workload, num_steps)
    tally.add(
        Tally(
            sequences=sequences,
            valid=valid,
            supervised=supervised,
            student_scored=valid if reads_student else 0,
            student_trained=supervised + (valid if strategy.cross_entropy is not None else 0),
            teacher_rows=valid * (objective.scores_read_teacher and not objective.stored_scores)
            + supervised * (objective.loss_reads_teacher and not strategy.stored),
            trunk_passes=sequences if twice or strategy.position.frozen else 0,
            projected=supervised if objective.feature is not None else 0,
            teacher_passes=sequences * (1 + twice) * (objective.reads_teacher and strategy.teacher == "online"),
        )
    )
    return tally


def _met(trial: Trial, num_valid: npt.NDArray[np.int64], sequences: int) -> npt.NDArray[np.int64]:
    """Return the valid positions of the sequences that training meets; of typical ones, where the choice is unknown."""
    if trial.strategy.samples is not None:
        return np.full(sequences, round(num_valid.mean()), dtype=np.int64)
    order = data_order(len(num_valid), trial.workload.optimisation.epochs, trial.seed or 0)
    return np.asarray(num_valid[order[:sequences].numpy()])


def _predict_rollouts(strategy: Strategy, workload: Workload, num_steps: int) -> Tally:
    """Return what writing would count if every rollout used all its room: an overestimate."""
    rollout, length = strategy.rollout, workload.data.sequence_length
    if rollout is None:
        return Tally()
    new = min(rollout.max_new_tokens or length, length - 1)
    prompt = rollout.prompt_tokens or max(length - new, 1)
    new = min(new, length - prompt)
    rows = round(num_steps * workload.optimisation.batch_size * rollout.share)
    # The last new token is not read again.
    attended = prompt * prompt + sum(prompt + number for number in range(1, new))
    return Tally(
        rollouts=rows,
        generated=rows * new,
        rollout_positions=rows * (prompt + new - 1),
        rollout_attended=rows * attended,
        rollout_rows=rows * new,
    )
