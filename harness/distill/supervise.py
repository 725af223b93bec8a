"""From hidden states to supervised rows: scores, selection, and what a micro-batch is divided by.

What the training loop and `harness.api` share. A head may be anything with `logits`; nothing here runs a trunk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.seeds import derive
from harness.data.tokens import Batch
from harness.distill.compare import row_keys
from harness.distill.loss import Compared
from harness.distill.objective import Objective
from harness.distill.preference import Preference, prefer
from harness.distill.score import Rows, score_batch, score_rows
from harness.distill.tally import Tally
from harness.models import Head
from harness.teacher.interface import StoredScores, Targets
from strategies.base import Selection, StepContext, budget_size
from strategies.noise import streams, uniform
from strategies.registry import POLICIES, SIGNALS

# B = sequences, L = positions, N = valid positions, M = supervised positions, D = hidden size


@dataclass(frozen=True, kw_only=True)
class Forward:
    """A micro-batch behind the trunks: what scoring, selection and loss work on.

    Attributes:
        objective: what is compared and how.
        batch: targets and valid positions.
        context: what the policy may know.
        student: the student's final hidden states.
        student_head: its head.
        teacher: the teacher's, None where nothing reads them.
        teacher_head: None without a teacher.
        chunk: rows of logits that exist at a time.
        stored: returns the scores that read the teacher, where they are stored and not computed.
        targets: returns ready-made sparse targets, so that the loss reads no teacher; None to make them chunk by chunk.
    """

    objective: Objective
    batch: Batch
    context: StepContext
    student: Float[Tensor, "B L D"]
    student_head: Head
    teacher: Tensor | None
    teacher_head: Head | None
    chunk: int
    stored: StoredScores | None = None
    targets: Targets | None = None


@dataclass(frozen=True, kw_only=True)
class Signals:
    """What is known of every position before any is selected, 0 where not valid.

    Attributes:
        scores: signals by name.
        temperature: of each position, None where it is the same for all.
        preference: what a preference makes of the scores, None without.
    """

    scores: Mapping[str, Float[Tensor, "B L"]]
    temperature: Float[Tensor, "B L"] | None = None
    preference: Preference | None = None

    def split(self, sizes: list[int]) -> list["Signals"]:
        """Cut a global batch's into those of its micro-batches."""
        scores = {name: laid.split(sizes) for name, laid in self.scores.items()}
        without = [None] * len(sizes)
        heats = without if self.temperature is None else self.temperature.split(sizes)
        preferences = without if self.preference is None else self.preference.split(sizes)
        return [
            Signals(scores={name: parts[number] for name, parts in scores.items()}, temperature=heat, preference=each)
            for number, (heat, each) in enumerate(zip(heats, preferences, strict=True))
        ]


def context_of(
    objective: Objective,
    rows: Int[Tensor, " B"],
    *,
    seed: int,
    step: int,
    num_steps: int,
    last_loss: Tensor | float | None,
) -> StepContext:
    """Return what a policy may know, with a noise stream for each sequence by its place in the global batch."""
    keys = streams(derive(seed, "selection", step), rows)
    return StepContext(budget=objective.strategy.budget, progress=step / num_steps, keys=keys, last_loss=last_loss)


def row_scores(forward: Forward, tally: Tally) -> dict[str, Tensor]:
    """Compute the row signals at the valid positions of a micro-batch."""
    objective, batch = forward.objective, forward.batch
    names = tuple(name for name in objective.scored if SIGNALS[name].traits["scope"] == "row")
    if not names:
        return {}
    noise = None
    if _reads(names, "noise"):
        noise = uniform(forward.context.keys, batch.valid.shape[1]).flatten()[batch.places]
    reads_teacher = objective.scores_read_teacher and forward.stored is None
    rows = Rows(
        student=forward.student.detach().flatten(0, 1),
        teacher=forward.teacher.flatten(0, 1) if forward.teacher is not None and reads_teacher else None,
        targets=batch.targets.flatten()[batch.places],
        places=batch.places,
        noise=noise,
        signals={} if forward.stored is None else forward.stored(batch),
    )
    tally.student_scored += len(rows) if _reads(names, "student_logits", "student_logprobs") else 0
    tally.teacher_rows += len(rows) if reads_teacher else 0
    heads = forward.student_head, forward.teacher_head
    return score_rows(names, objective.signal_function, rows, *heads, chunk=forward.chunk)


def _reads(names: Sequence[str], *inputs: str) -> bool:
    return any(keyword in SIGNALS[name].inputs for name in names for keyword in inputs)


def lay_out(objective: Objective, rows: dict[str, Tensor], batch: Batch, context: StepContext) -> Signals:
    """Lay row signals out, and add the batch signals, temperatures and preferences that are made of them."""
    scores = score_batch(objective.scored, objective.signal_function, rows, batch.valid, batch.places)
    temperature = preference = None
    if objective.temperature is not None:
        temperature = objective.heat(scores, batch.valid, context.progress)
    if objective.preference is not None:
        preference = prefer(scores["excess_loss"], scores["student_ce"], batch.valid, beta=objective.preference)
    return Signals(scores=scores, temperature=temperature, preference=preference)


def select(
    objective: Objective, signals: Signals, batch: Batch, context: StepContext, state: Any
) -> tuple[Selection, Any]:
    """Let the policy turn scores into weights."""
    signal = objective.signal
    unscored = torch.zeros(batch.valid.shape, device=batch.valid.device)
    ranked = signals.scores[signal] if signal is not None else unscored
    selection, state = objective.policy.select(ranked, batch.valid, context, state)
    if signals.preference is not None:
        selection = Selection(weight=selection.weight * signals.preference.weight, denom=selection.denom)
    return selection, state


def supervise(forward: Forward, selection: Selection, signals: Signals) -> list[Compared]:
    """Gather what the loss needs: of the selected positions, or of all; then of the cross-entropy, if that is apart."""
    parts, everywhere = [_gather(forward, selection, signals)], forward.objective.everywhere
    if everywhere is not None:
        weight = forward.batch.valid.double()
        every = Selection(weight=weight * (1.0 - forward.objective.strategy.kd_weight), denom=weight.sum(dim=-1))
        parts.append(_gather(replace(forward, objective=everywhere, targets=None), every, Signals(scores={})))
    return parts


def _gather(forward: Forward, selection: Selection, signals: Signals) -> Compared:
    """Gather what the loss needs of the selected positions, or of all where the flow is dense."""
    objective, batch, student = forward.objective, forward.batch, forward.student
    places = None if objective.strategy.flow == "dense" else _places(objective, selection, batch)
    coefficient = (selection.weight / _divisor(objective, selection, batch)[:, None]).flatten()
    every = torch.arange(batch.valid.numel(), device=student.device) if places is None else places
    targets = forward.targets if objective.classes is not None else None
    teacher = forward.teacher if objective.loss_reads_teacher and forward.targets is None else None
    rows = Rows(
        student=student.flatten(0, 1),
        teacher=None if teacher is None else teacher.flatten(0, 1),
        places=places,
        targets=at(batch.targets.flatten(), places),
        keys=row_keys(batch, every) if objective.draws_classes and forward.targets is None else None,
        target=None if targets is None else targets(batch, every),
        temperature=None if signals.temperature is None else at(signals.temperature.flatten(), places),
        coefficient=at(coefficient, places).to(torch.promote_types(student.dtype, torch.float32)),
        signals={name: at(signals.scores[name].flatten(), places) for name in objective.criterion_signals},
    )
    return Compared(
        objective=objective,
        rows=rows,
        student_head=forward.student_head,
        teacher_head=forward.teacher_head,
        chunk=forward.chunk,
    )


def _places(objective: Objective, selection: Selection, batch: Batch) -> Int[Tensor, " M"]:
    """Return where the supervised positions are in the flattened batch, ascending.

    Their number is known beforehand for most policies; a GPU would have to be waited for to learn it.
    """
    position = objective.strategy.position
    keeps = POLICIES[position.policy.name].traits["keeps"]
    if keeps == "valid":
        return batch.places
    selected = (selection.weight > 0).flatten()
    if keeps == "varies":
        return selected.nonzero()[:, 0]
    num = sum(budget_size(num_valid, objective.strategy.budget) for num_valid in batch.num_valid)
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
    every = normaliser == "all_positions" or objective.everywhere is not None
    counted = batch.valid.any(dim=-1) if every else selection.denom > 0
    return counted.sum().double()
