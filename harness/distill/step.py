"""One optimiser step's worth of loss and gradients: trunk, scores, selection, chunked loss, for every micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harness.config.annotations import PreTrainedModel
from harness.data.tokens import Batch
from harness.distill.compare import ClassCount, row_losses
from harness.distill.feature import feature_loss
from harness.distill.group import ALONE, Group
from harness.distill.loss import Compared, HeadGradient, RowLosses, add_gradients, dense_loss
from harness.distill.objective import Objective
from harness.distill.observe import Observer, Seen
from harness.distill.shards import own
from harness.distill.supervise import (
    Forward,
    Signals,
    at,
    context_of,
    denominator,
    lay_out,
    row_scores,
    select,
    supervise,
)
from harness.distill.tally import Tally
from harness.models import Head, States, head_of, trunk, trunk_layers
from harness.teacher.interface import Targets, Teacher
from strategies.base import Selection, StepContext

# B = sequences, L = positions, N = valid positions, M = supervised positions, D = hidden size


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step computed; gradients lie on the parameters.

    Attributes:
        loss: the objective's value, nats, float64; where it was computed, so that only a reader waits for it.
        state: the policy's state after the step.
        tally: what was counted.
    """

    loss: Float[Tensor, ""]
    state: Any
    tally: Tally


@dataclass(frozen=True, kw_only=True)
class Core:
    """What stays the same from step to step.

    Attributes:
        student: the model in training.
        teacher: None for an objective that reads none.
        objective: what is minimised.
        vocab_size: tokens of the tokenizer.
        chunk: rows of logits that exist at a time.
        seed: the trial's seed, for selection noise.
        targets: returns ready-made sparse targets, so that the loss reads no teacher; None to make them chunk by chunk.
        scorer: the student as it was before training, where positions are scored by that; None for the one in training.
        projection: maps the student's hidden states to the teacher's size; None for an objective without that branch.
        losses: `row_losses`, or `compiled_losses()` of this trial.
        group: the processes that share every global batch, and the student where they are `sharded`.
    """

    student: PreTrainedModel
    teacher: Teacher | None
    objective: Objective
    vocab_size: int
    chunk: int
    seed: int
    targets: Targets | None = None
    scorer: PreTrainedModel | None = None
    projection: torch.nn.ModuleList | None = None
    losses: RowLosses = row_losses
    group: Group = ALONE

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that is trained: the student, and what the objective adds to it for as long as training lasts."""
        modules = [self.student] if self.projection is None else [self.student, self.projection]
        return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]

    @property
    def teacher_head(self) -> Head | None:
        """The teacher's head, if there is a teacher."""
        return self.teacher.head if self.teacher else None

    @property
    def loss_reads_teacher(self) -> bool:
        """Whether the teacher's head is applied at the selected positions."""
        return self.objective.loss_reads_teacher and self.targets is None


def accumulate(
    core: Core,
    micro_batches: Sequence[Batch],
    state: Any,
    *,
    step: int,
    num_steps: int,
    last_loss: Tensor | float | None = None,
    observer: Observer | None = None,
) -> StepResult:
    """Add one global batch's gradients to the parameters, divided by the global denominator.

    The result does not depend on how the batch is split, nor on how many processes share it: losses are summed
    undivided, and gradients divided once. Gradients are expected to be zero (or None) at the start. Of a group, each
    process computes its block of the micro-batches and returns the whole. Steps are numbered from 0; `last_loss` is the
    previous one's. The observer is shown every micro-batch after its gradients are computed.
    """
    contexts = _contexts(core, micro_batches, step, num_steps, last_loss)
    tally = Tally()
    prepared: list[tuple[Selection, Signals]] = []
    if core.objective.batch_scope and len(micro_batches) > 1:
        prepared, state = _select_globally(core, micro_batches, contexts, state, tally)
    device = core.student.device
    numerator, divisor = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    for number in core.group.block(len(micro_batches)):
        batch, context = micro_batches[number], contexts[number]
        student, teacher = _student_states(core, batch), _teacher_states(core, batch, tally)
        forward = _forward(core, batch, context, student, teacher)
        if prepared:
            selection, signals = prepared[number]
        else:
            apart = None if core.scorer is None else _scored_apart(core, batch, context, teacher, tally)
            signals = lay_out(core.objective, row_scores(apart or forward, tally), batch, context)
            del apart
            selection, state = select(core.objective, signals, batch, context, state)
        compared = supervise(forward, selection, signals)
        branch = _feature_loss(core, student, teacher, compared[0], signals, tally)
        numerator += _add_gradients(core, compared, branch, tally)
        if signals.preference is not None:
            numerator += signals.preference.offset.sum()
        divisor += denominator(core.objective, selection, batch)
        tally.sequences += len(batch.input_ids)
        tally.valid += len(batch.places)
        tally.supervised = tally.supervised + (selection.weight != 0).sum()
        if observer is not None:
            observer.see(Seen(step=step, forward=forward, selection=selection))
        # Else they would be kept through the next one's trunk and scores, where most is alive.
        del student, teacher, forward, compared, branch
    numerator, divisor, tally = core.group.add_up(numerator, divisor, tally)
    core.group.add_gradients(core.parameters)
    divisor = divisor.where(divisor > 0, 1.0)
    grads = [own(parameter.grad) for parameter in core.parameters if parameter.grad is not None]
    torch._foreach_div_(grads, divisor)
    return StepResult(loss=numerator / divisor, state=state, tally=tally)


def _contexts(
    core: Core, micro_batches: Sequence[Batch], step: int, num_steps: int, last_loss: Tensor | float | None
) -> list[StepContext]:
    """Give each sequence its noise stream, numbered by its place in the global batch."""
    first, contexts = 0, []
    for batch in micro_batches:
        rows = torch.arange(first, first + len(batch.input_ids), device=batch.input_ids.device)
        contexts.append(
            context_of(core.objective, rows, seed=core.seed, step=step, num_steps=num_steps, last_loss=last_loss)
        )
        first += len(batch.input_ids)
    return contexts


def _student_states(core: Core, batch: Batch) -> States:
    pairs = core.objective.layer_pairs
    if pairs:
        return trunk_layers(core.student, batch.input_ids, [ours for ours, _ in pairs])
    return States(final=trunk(core.student, batch.input_ids))


def _teacher_states(core: Core, batch: Batch, tally: Tally) -> States | None:
    objective = core.objective
    if not (objective.scores_read_teacher or core.loss_reads_teacher or objective.feature is not None):
        return None
    assert core.teacher is not None, "the objective reads the teacher"
    if core.teacher.online:
        tally.teacher_passes += len(batch.input_ids)
    with torch.no_grad():
        if objective.layer_pairs:
            assert core.teacher.layers is not None, "legality asks for teacher: online"
            return core.teacher.layers(batch, [theirs for _, theirs in objective.layer_pairs])
        return States(final=core.teacher.hidden(batch))


def _forward(core: Core, batch: Batch, context: StepContext, student: States, teacher: States | None) -> Forward:
    return Forward(
        objective=core.objective,
        batch=batch,
        context=context,
        student=student.final,
        student_head=head_of(core.student, core.vocab_size),
        teacher=None if teacher is None else teacher.final,
        teacher_head=core.teacher_head,
        chunk=core.chunk,
        stored=None if core.teacher is None else core.teacher.scores,
        targets=core.targets,
    )


@torch.no_grad()
def _scored_apart(core: Core, batch: Batch, context: StepContext, teacher: States | None, tally: Tally) -> Forward:
    """Pass a micro-batch through a trunk for its scores alone: the frozen student's, if there is one."""
    model = core.student if core.scorer is None else core.scorer
    tally.trunk_passes += len(batch.input_ids)
    forward = _forward(core, batch, context, States(final=trunk(model, batch.input_ids)), teacher)
    return forward if core.scorer is None else replace(forward, student_head=head_of(model, core.vocab_size))


def _select_globally(
    core: Core, micro_batches: Sequence[Batch], contexts: Sequence[StepContext], state: Any, tally: Tally
) -> tuple[list[tuple[Selection, Signals]], Any]:
    """Score every micro-batch first and select on the whole global batch, at the cost of a second trunk pass.

    Only for signals and policies whose outcome for one sequence depends on the others.
    """
    pieces: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for number in core.group.block(len(micro_batches)):
            batch = micro_batches[number]
            teacher = _teacher_states(core, batch, tally)
            pieces[number] = row_scores(_scored_apart(core, batch, contexts[number], teacher, tally), tally)
    whole = Batch.joined(micro_batches)
    num_valid = [len(batch.places) for batch in micro_batches]
    context = replace(contexts[0], keys=torch.cat([each.keys for each in contexts]))
    rows = {
        name: core.group.gather({number: piece[name] for number, piece in pieces.items()}, num_valid)
        for name in next(iter(pieces.values()))
    }
    signals = lay_out(core.objective, rows, whole, context)
    selection, state = select(core.objective, signals, whole, context, state)
    sizes = [len(batch.input_ids) for batch in micro_batches]
    parts = zip(selection.weight.split(sizes), selection.denom.split(sizes), signals.split(sizes), strict=True)
    return [(Selection(weight=weight, denom=denom), each) for weight, denom, each in parts], state


def _add_gradients(core: Core, compared: Sequence[Compared], branch: Tensor | None, tally: Tally) -> Tensor:
    """Return the undivided loss of a micro-batch, of all its parts, and add its gradients to the student's."""
    counted = ClassCount()
    compared = [replace(part, losses=core.losses, on_target=counted.add) for part in compared]
    tally.student_trained += sum(len(part.rows) for part in compared)
    tally.teacher_rows += sum(len(part.rows) for part in compared if part.rows.teacher is not None)
    if core.objective.strategy.flow == "dense":
        loss = dense_loss(compared[0])
        (loss if branch is None else loss + branch).backward()
    else:
        single = len(compared) == 1 and len(compared[0].rows) <= core.chunk
        grad_head = HeadGradient(core.student, core.vocab_size, single=single)
        add_to_head = grad_head.add if grad_head.wanted else None
        roots = [] if branch is None else [(branch, torch.ones_like(branch))]
        loss = torch.zeros((), device=core.student.device)
        for part in compared:
            student = part.rows.student
            grad_hidden = torch.zeros_like(student) if student.requires_grad else None
            loss = loss + add_gradients(part, grad_hidden=grad_hidden, add_to_head=add_to_head)
            roots += [] if grad_hidden is None else [(student, grad_hidden)]
        grad_head.narrow()
        if roots:
            # One pass through the trunk for all.
            torch.autograd.backward([root for root, _ in roots], [grad for _, grad in roots])
        grad_head.finish()
    tally.classes = tally.classes + counted.total
    return loss.detach() if branch is None else loss.detach() + branch.detach()


def _feature_loss(
    core: Core, student: States, teacher: States | None, compared: Compared, signals: Signals, tally: Tally
) -> Tensor | None:
    """Return the loss of the branch on hidden states as a graph, None without that branch."""
    feature, rows = core.objective.strategy.feature, compared.rows
    if feature is None:
        return None
    assert core.projection is not None, "an objective with the branch has projections"
    assert teacher is not None, "an objective with the branch reads the teacher"
    assert rows.coefficient is not None, "supervised rows are weighed"
    ours, theirs = ([each.flatten(0, 1) for each in states.layers or (states.final,)] for states in (student, teacher))
    tally.projected += len(rows)
    score = None if feature.signal is None else at(signals.scores[feature.signal].flatten(), rows.places)
    return feature_loss(core.objective, core.projection, ours, theirs, rows.places, rows.coefficient, score)
