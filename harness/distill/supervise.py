"""From hidden states to supervised rows: scores, selection, and what a micro-batch is divided by.

What the training loop and `harness.api` share. A head may be anything with `logits`; nothing here runs a trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.seeds import derive
from harness.data.tokens import Batch
from harness.distill.objective import Objective
from harness.distill.preference import OFFSET, WEIGHT, prefer
from harness.distill.score import Rows, score_batch, score_rows
from harness.distill.sparse import row_keys
from harness.distill.tally import Tally
from harness.models import Head
from harness.teacher.interface import Targets
from strategies.base import Selection, StepContext, budget_size
from strategies.noise import streams, uniform
from strategies.registry import POLICIES, SIGNALS

# B = sequences, L = positions, N = valid positions, M = supervised positions, D = hidden size

Scores = dict[str, Float[Tensor, "B L"]]

# Every position's temperature among the scores, where it is not a number; no signal can be called that.
_TEMPERATURE = "<temperature>"


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """The supervised rows of a micro-batch.

    Attributes:
        rows: their hidden states and targets.
        places: where they are in the flattened batch; None for every position.
        signals: values of the signals that the criterion reads.
        coefficient: weight of every row, its sequence's divisor included.
    """

    rows: Rows
    places: Int[Tensor, " M"] | None
    signals: dict[str, Float[Tensor, " M"]]
    coefficient: Float[Tensor, " M"]


def context_of(
    objective: Objective,
    rows: Int[Tensor, " B"],
    *,
    seed: int,
    step: int,
    num_steps: int,
    last_loss: Tensor | float | None,
) -> StepContext:
    """Return what a policy may know, with a noise stream for each sequence.

    Args:
        objective: names the budget.
        rows: each sequence's place in the global batch.
        seed: the trial's.
        step: number of the step, from 0.
        num_steps: steps of the whole run.
        last_loss: the previous step's loss, None at the first.
    """
    position = objective.strategy.position
    budget = position.budget if position is not None and position.budget is not None else 1.0
    keys = streams(derive(seed, "selection", step), rows)
    return StepContext(budget=budget, progress=step / num_steps, keys=keys, last_loss=last_loss)


def row_scores(
    objective: Objective,
    batch: Batch,
    student: Float[Tensor, "B L D"],
    teacher: Tensor | None,
    student_head: Head,
    teacher_head: Head | None,
    context: StepContext,
    *,
    chunk: int,
    tally: Tally,
    known: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compute the row signals at the valid positions of a batch; `known` are all those that read the teacher's head."""
    names = tuple(name for name in objective.scored if SIGNALS[name].traits["scope"] == "row")
    if not names:
        return {}
    noise = uniform(context.keys, batch.valid.shape[1]).flatten()[batch.places] if _reads(names, "noise") else None
    reads_teacher = objective.scores_read_teacher and known is None
    rows = Rows(
        student=student.flatten(0, 1),
        teacher=teacher.flatten(0, 1) if teacher is not None and reads_teacher else None,
        targets=batch.targets.flatten()[batch.places],
        places=batch.places,
        noise=noise,
        known=known or {},
    )
    tally.student_scored += len(rows) if _reads(names, "student_logits", "student_logprobs") else 0
    tally.teacher_rows += len(rows) if reads_teacher else 0
    return score_rows(names, objective.signal_function, rows, student_head, teacher_head, chunk=chunk)


def lay_out(objective: Objective, rows: dict[str, Tensor], batch: Batch, context: StepContext) -> Scores:
    """Lay row signals out, and add the batch signals, temperatures and preferences that are made of them."""
    scores = score_batch(objective.scored, objective.signal_function, rows, batch.valid, batch.places)
    if objective.temperature is not None:
        scores[_TEMPERATURE] = objective.heat(scores, batch.valid, context.progress)
    if objective.preference is not None:
        scores |= prefer(scores["excess_loss"], scores["student_ce"], batch.valid, beta=objective.preference)
    return scores


def _reads(names: Sequence[str], *inputs: str) -> bool:
    return any(keyword in SIGNALS[name].inputs for name in names for keyword in inputs)


def select(
    objective: Objective, scores: Scores, batch: Batch, context: StepContext, state: Any
) -> tuple[Selection, Any]:
    """Let the policy turn scores into weights."""
    signal = objective.signal
    ranked = scores[signal] if signal is not None else torch.zeros(batch.valid.shape, device=batch.valid.device)
    selection, state = objective.policy.select(ranked, batch.valid, context, state)
    if objective.preference is not None:
        selection = Selection(weight=selection.weight * scores[WEIGHT], denom=selection.denom)
    return selection, state


def loss_offset(scores: Scores) -> Float[Tensor, ""] | float:
    """Return what a micro-batch's loss has besides the losses of its rows."""
    return scores[OFFSET].sum() if OFFSET in scores else 0.0


def supervise(
    objective: Objective,
    batch: Batch,
    student: Float[Tensor, "B L D"],
    teacher: Tensor | None,
    selection: Selection,
    scores: Scores,
    *,
    targets: Targets | None = None,
) -> Supervised:
    """Gather what the loss needs of the selected positions, or of all where the flow is dense.

    Args:
        objective: what is compared and how.
        batch: targets and valid positions.
        student: the student's hidden states.
        teacher: the teacher's, None where the loss reads none.
        selection: what the policy decided.
        scores: the signals, laid out.
        targets: returns ready-made sparse targets, None to make them chunk by chunk.
    """
    places = None if objective.strategy.flow == "dense" else _places(objective, selection, batch)
    coefficient = (selection.weight / _divisor(objective, selection, batch)[:, None]).flatten()
    coefficient = at(coefficient, places).to(torch.promote_types(student.dtype, torch.float32))
    every = torch.arange(batch.valid.numel(), device=student.device) if places is None else places
    rows = Rows(
        student=student.flatten(0, 1),
        teacher=None if teacher is None else teacher.flatten(0, 1),
        places=places,
        targets=at(batch.targets.flatten(), places),
        keys=row_keys(batch, every) if objective.draws_classes and targets is None else None,
        target=targets(batch, every) if objective.classes is not None and targets is not None else None,
        temperature=at(scores[_TEMPERATURE].flatten(), places) if objective.temperature is not None else None,
    )
    signals = {name: at(scores[name].flatten(), places) for name in objective.criterion_signals}
    return Supervised(rows=rows, places=places, signals=signals, coefficient=coefficient)


def _places(objective: Objective, selection: Selection, batch: Batch) -> Int[Tensor, " M"]:
    """Return where the supervised positions are in the flattened batch, ascending.

    Their number is known beforehand for most policies; a GPU would have to be waited for to learn it.
    """
    position = objective.strategy.position
    assert position is not None, "only trained strategies are supervised"
    keeps = POLICIES[position.policy.name].traits["keeps"]
    if keeps == "valid":
        return batch.places
    selected = (selection.weight > 0).flatten()
    if keeps == "varies":
        return selected.nonzero()[:, 0]
    assert position.budget is not None, "a policy that keeps its budget has one"
    num = sum(budget_size(num_valid, position.budget) for num_valid in batch.num_valid)
    return selected.to(torch.uint8).argsort(descending=True, stable=True)[:num]


def at(values: Tensor, places: Tensor | None) -> Tensor:
    """Return the values at the supervised places, or all."""
    return values if places is None else values[places]


def _divisor(objective: Objective, selection: Selection, batch: Batch) -> Tensor:
    """What each sequence's losses are divided by on their own; 1 where that happens to the batch as a whole."""
    normaliser = objective.strategy.normaliser
    if normaliser == "sequence_mean":
        divisor = selection.denom
    elif normaliser == "all_positions":
        divisor = batch.valid.sum(dim=-1)
    else:
        divisor = torch.ones_like(selection.denom)
    # A sequence without valid positions has no losses; any divisor but 0 will do.
    return divisor.double().clamp(min=torch.finfo(torch.float32).tiny)


def denominator(objective: Objective, selection: Selection, batch: Batch) -> Tensor:
    """What a micro-batch adds to the divisor of the whole batch."""
    normaliser = objective.strategy.normaliser
    if normaliser == "batch_mean":
        return selection.denom.double().sum()
    if normaliser == "sum":
        return torch.zeros((), dtype=torch.float64, device=selection.denom.device)
    # A sequence of which nothing is selected has no mean of its own, but a mean of 0 over its valid positions.
    counted = batch.valid.any(dim=-1) if normaliser == "all_positions" else selection.denom > 0
    return counted.sum().double()
