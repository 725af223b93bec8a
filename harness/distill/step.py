"""One optimiser step's worth of loss and gradients: trunk, scores, selection, chunked loss, for every micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from harness.data.tokens import Batch
from harness.distill.dense import dense_loss
from harness.distill.loss import weighted_loss
from harness.distill.objective import Objective
from harness.distill.score import Rows, score_batch, score_rows
from harness.distill.sparse import ClassCount, row_keys
from harness.distill.teacher import Targets, Teacher
from harness.models import Head, head_of, trunk
from harness.seeds import derive
from strategies.base import Selection, StepContext
from strategies.noise import streams, uniform
from strategies.registry import SIGNALS

# B = sequences, L = positions, M = supervised positions, D = hidden size

Scores = dict[str, Float[Tensor, "B L"]]


@dataclass(kw_only=True)
class Tally:
    """Counts of one step or of many: what was supervised and how many rows each head saw.

    Attributes:
        sequences: sequences seen.
        valid: positions with a target.
        supervised: positions with a non-zero weight.
        classes: classes with a weight, over all rows that were compared with a sparse target.
        student_scored: rows through the student's head without gradient.
        student_trained: rows through it with gradient.
        teacher_rows: rows through the teacher's head.
        trunk_passes: forward passes of the student's trunk without gradient, in sequences.
        teacher_passes: forward passes of the teacher's trunk, in sequences.
    """

    sequences: int = 0
    valid: int = 0
    supervised: int = 0
    classes: int = 0
    student_scored: int = 0
    student_trained: int = 0
    teacher_rows: int = 0
    trunk_passes: int = 0
    teacher_passes: int = 0

    def add(self, other: "Tally") -> None:
        """Add another tally's counts to this one."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step computed; gradients lie on the parameters.

    Attributes:
        loss: the objective's value, nats.
        state: the policy's state after the step.
        tally: what was counted.
    """

    loss: float
    state: Any
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class Core:
    """The models and settings that stay the same from step to step.

    Attributes:
        student: the model in training.
        teacher: None for an objective that reads none.
        objective: what is minimised.
        vocab_size: tokens of the tokenizer.
        chunk: rows of logits that exist at a time.
        seed: the trial's seed, for selection noise.
        targets: returns ready-made sparse targets, so that the loss reads no teacher; None to make them chunk by chunk.
    """

    student: PreTrainedModel
    teacher: Teacher | None
    objective: Objective
    vocab_size: int
    chunk: int
    seed: int
    targets: Targets | None = None

    @property
    def teacher_head(self) -> Head | None:
        """The teacher's head, if there is a teacher."""
        return self.teacher.head if self.teacher else None

    @property
    def loss_reads_teacher(self) -> bool:
        """Whether the teacher's head is applied at the selected positions."""
        return self.objective.loss_reads_teacher and self.targets is None


def accumulate(core: Core, micro_batches: Sequence[Batch], state: Any, *, step: int, num_steps: int) -> StepResult:
    """Add one global batch's gradients to the parameters, divided by the global denominator.

    The result does not depend on how the batch is split: losses are summed undivided, and gradients divided once.
    Gradients are expected to be zero (or None) at the start.

    Args:
        core: models and settings.
        micro_batches: the global batch, in order.
        state: the policy's state.
        step: number of the step, from 0.
        num_steps: steps of the whole run.
    """
    contexts = _contexts(core, micro_batches, step, num_steps)
    tally = Tally()
    prepared: list[tuple[Selection, Scores]] = []
    if core.objective.batch_scope and len(micro_batches) > 1:
        prepared, state = _select_globally(core, micro_batches, contexts, state, tally)
    numerator, denominator = 0.0, 0.0
    for number, (batch, context) in enumerate(zip(micro_batches, contexts, strict=True)):
        hidden = trunk(core.student, batch.input_ids)
        teacher_hidden = _teacher_hidden(core, batch, tally)
        if prepared:
            selection, scores = prepared[number]
        else:
            row_scores = _row_scores(core, batch, hidden.detach(), teacher_hidden, tally, context)
            scores = score_batch(core.objective.scored, core.objective.signal_function, row_scores, batch.valid)
            selection, state = _select(core, scores, batch, context, state)
        loss = _loss(core, batch, hidden, teacher_hidden, selection, scores, tally)
        loss.backward()
        numerator += float(loss.detach())
        denominator += _denominator(core, selection)
        tally.sequences += len(batch.input_ids)
        tally.valid += int(batch.valid.sum())
        tally.supervised += int((selection.weight > 0).sum())
    denominator = denominator or 1.0
    grads = [parameter.grad for parameter in core.student.parameters() if parameter.grad is not None]
    torch._foreach_div_(grads, denominator)
    return StepResult(loss=numerator / denominator, state=state, tally=tally)


def _contexts(core: Core, micro_batches: Sequence[Batch], step: int, num_steps: int) -> list[StepContext]:
    """Give each sequence its noise stream, numbered by its place in the global batch."""
    position = core.objective.strategy.position
    base, first, contexts = derive(core.seed, "selection", step), 0, []
    for batch in micro_batches:
        rows = torch.arange(first, first + len(batch.input_ids), device=batch.input_ids.device)
        budget = position.budget if position is not None and position.budget is not None else 1.0
        contexts.append(StepContext(budget=budget, progress=step / num_steps, keys=streams(base, rows)))
        first += len(batch.input_ids)
    return contexts


def _teacher_hidden(core: Core, batch: Batch, tally: Tally) -> Tensor | None:
    if not (core.objective.scores_read_teacher or core.loss_reads_teacher):
        return None
    assert core.teacher is not None, "the objective reads the teacher"
    if core.teacher.online:
        tally.teacher_passes += len(batch.input_ids)
    with torch.no_grad():
        return core.teacher.hidden(batch)


def _row_scores(
    core: Core,
    batch: Batch,
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    tally: Tally,
    context: StepContext,
) -> dict[str, Tensor]:
    """Compute the row signals at the valid positions of a batch."""
    objective = core.objective
    names = tuple(name for name in objective.scored if SIGNALS[name].traits["scope"] == "row")
    if not names:
        return {}
    noise = uniform(context.keys, batch.valid.shape[1])[batch.valid] if _reads(names, "noise") else None
    rows = Rows(
        student=hidden[batch.valid],
        teacher=teacher_hidden[batch.valid] if teacher_hidden is not None and objective.scores_read_teacher else None,
        targets=batch.targets[batch.valid],
        noise=noise,
    )
    tally.student_scored += len(rows) if _reads(names, "student_logits", "student_logprobs") else 0
    tally.teacher_rows += len(rows) if objective.scores_read_teacher else 0
    student_head = head_of(core.student, core.vocab_size)
    return score_rows(names, objective.signal_function, rows, student_head, core.teacher_head, chunk=core.chunk)


def _reads(names: Sequence[str], *inputs: str) -> bool:
    return any(keyword in SIGNALS[name].inputs for name in names for keyword in inputs)


def _select(core: Core, scores: Scores, batch: Batch, context: StepContext, state: Any) -> tuple[Selection, Any]:
    signal = core.objective.signal
    ranked = scores[signal] if signal is not None else torch.zeros(batch.valid.shape, device=batch.valid.device)
    return core.objective.policy.select(ranked, batch.valid, context, state)


def _select_globally(
    core: Core, micro_batches: Sequence[Batch], contexts: Sequence[StepContext], state: Any, tally: Tally
) -> tuple[list[tuple[Selection, Scores]], Any]:
    """Score every micro-batch first and select on the whole global batch, at the cost of a second trunk pass.

    Only for signals and policies whose outcome for one sequence depends on the others.
    """
    pieces: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for batch, context in zip(micro_batches, contexts, strict=True):
            hidden = trunk(core.student, batch.input_ids)
            tally.trunk_passes += len(batch.input_ids)
            teacher_hidden = _teacher_hidden(core, batch, tally)
            pieces.append(_row_scores(core, batch, hidden, teacher_hidden, tally, context))
    whole = Batch(
        index=torch.cat([batch.index for batch in micro_batches]),
        input_ids=torch.cat([batch.input_ids for batch in micro_batches]),
        targets=torch.cat([batch.targets for batch in micro_batches]),
        valid=torch.cat([batch.valid for batch in micro_batches]),
    )
    context = StepContext(
        budget=contexts[0].budget, progress=contexts[0].progress, keys=torch.cat([each.keys for each in contexts])
    )
    rows = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    scores = score_batch(core.objective.scored, core.objective.signal_function, rows, whole.valid)
    selection, state = _select(core, scores, whole, context, state)
    sizes = [len(batch.input_ids) for batch in micro_batches]
    weights, denoms = selection.weight.split(sizes), selection.denom.split(sizes)
    parted = {name: laid.split(sizes) for name, laid in scores.items()}
    return [
        (Selection(weight=weights[i], denom=denoms[i]), {name: parts[i] for name, parts in parted.items()})
        for i in range(len(sizes))
    ], state


def _loss(
    core: Core,
    batch: Batch,
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    selection: Selection,
    scores: Scores,
    tally: Tally,
) -> Tensor:
    """Return the undivided loss of a micro-batch, differentiable in the student."""
    objective = core.objective
    dense = objective.strategy.flow == "dense"
    chosen = torch.ones_like(batch.valid) if dense else selection.weight > 0
    coefficient = (selection.weight / _divisor(core, selection, batch)[:, None])[chosen]
    rows = Rows(
        student=hidden[chosen],
        teacher=teacher_hidden[chosen] if teacher_hidden is not None and core.loss_reads_teacher else None,
        targets=batch.targets[chosen],
        keys=row_keys(batch, chosen) if objective.draws_classes and core.targets is None else None,
        target=core.targets(batch, chosen) if objective.classes is not None and core.targets is not None else None,
    )
    signals = {name: scores[name][chosen] for name in objective.criterion_signals}
    tally.student_trained += len(rows)
    tally.teacher_rows += len(rows) if rows.teacher is not None else 0
    student_head = head_of(core.student, core.vocab_size)
    coefficient = coefficient.to(torch.promote_types(hidden.dtype, torch.float32))
    counted = ClassCount()
    given = (objective, rows, signals, coefficient, student_head, core.teacher_head)
    if dense:
        loss = dense_loss(*given, on_target=counted.add)
    else:
        loss = weighted_loss(*given, chunk=core.chunk, on_target=counted.add)
    tally.classes += int(counted.total)
    return loss


def _divisor(core: Core, selection: Selection, batch: Batch) -> Tensor:
    """What each sequence's losses are divided by on their own; 1 where that happens to the batch as a whole."""
    normaliser = core.objective.strategy.normaliser
    if normaliser == "sequence_mean":
        divisor = selection.denom
    elif normaliser == "all_positions":
        divisor = batch.valid.sum(dim=-1)
    else:
        divisor = torch.ones_like(selection.denom)
    # A sequence without valid positions has no losses; any divisor but 0 will do.
    return divisor.double().clamp(min=torch.finfo(torch.float32).tiny)


def _denominator(core: Core, selection: Selection) -> float:
    """What a micro-batch adds to the divisor of the whole batch."""
    normaliser = core.objective.strategy.normaliser
    if normaliser == "batch_mean":
        return float(selection.denom.sum())
    if normaliser == "sum":
        return 0.0
    return float((selection.denom > 0).sum())
