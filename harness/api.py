"""Selective distillation in a training loop of one's own: hidden states in, loss and selection out.

With transformers' Trainer, SE-KD is five statements. `self.teacher` is the teacher in evaluation mode, `self.kd` begins
as None:

    class SelectiveTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            with torch.no_grad():
                theirs = self.teacher.base_model(ids, attention_mask=mask).last_hidden_state
            done = distil(
                "se_kd",
                targets=next_tokens(inputs["labels"]),
                student_hidden=model.base_model(ids, attention_mask=mask).last_hidden_state,
                student_head=model.lm_head,
                teacher_hidden=theirs,
                teacher_head=self.teacher.lm_head,
                state=self.kd,
                step=self.state.global_step,
                num_steps=self.state.max_steps,
            )
            self.kd = done.state
            return (done.loss, {}) if return_outputs else done.loss

TRL's trainers are Trainers and take the same method. The strategies of `harness list presets` go by their names, any
other as the mapping that a grid would hold. A signal or policy of one's own needs its decorator to have run, no more.

Three things differ from the harness's own loop:

- A call sees one micro-batch, and the loss is divided by what that micro-batch has. With gradient accumulation every
  micro-batch then weighs the same; `Distilled.total` and `Distilled.denominator` allow it exactly. Trainer leaves the
  division by their number to models that take `num_items_in_batch`, as most do: divide by
  `self.args.gradient_accumulation_steps`.
- A policy, signal or temperature that looks at the whole batch looks at that micro-batch.
- A wrapped model (DistributedDataParallel) must be called through its wrapper, whose hooks the lines above go round:
  there, take the last hidden states of `model(ids, output_hidden_states=True, logits_to_keep=1)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.config import Method, Strategy
from harness.config.errors import UserError
from harness.config.expand import expand
from harness.config.legality import check_single_step, check_strategy
from harness.data.tokens import Batch
from harness.distill.loss import weighted_loss
from harness.distill.objective import Objective, compile_strategy
from harness.distill.supervise import Forward, context_of, denominator, lay_out, row_scores, select, supervise
from harness.distill.tally import Tally
from harness.models import GivenLogits, Head
from harness.models.devices import chunk_rows
from strategies.base import Selection

# B = sequences, L = positions, D = a model's hidden size, V = vocabulary

IGNORED = -100
_LOGIT_MEMORY_MIB = 256


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What a step is to descend, and how it came about.

    Attributes:
        loss: nats, total / denominator; differentiable in the student's states and head, or in its logits.
        selection: what the policy decided: a weight per position, and each sequence's divisor.
        scores: what it ranked by, (B, L), 0 where not valid; None for a policy that reads no scores.
        state: the policy's, for the next step.
        total: the undivided sum, differentiable.
        denominator: what the sum is divided by; sums of both over micro-batches give the loss of the whole batch.
    """

    loss: Float[Tensor, ""]
    selection: Selection
    scores: Float[Tensor, "B L"] | None
    state: Any
    total: Float[Tensor, ""]
    denominator: Float[Tensor, ""]


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A model's rows and what turns them into logits."""

    states: Tensor
    head: Head
    vocab_size: int


def next_tokens(labels: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Shift labels as transformers has them (aligned with the tokens, -100 to ignore) to each position's next one."""
    return torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], dim=1)


def distil(
    strategy: str | Mapping[str, Any] | Strategy,
    *,
    targets: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"] | None = None,
    student_hidden: Float[Tensor, "B L D"] | None = None,
    student_head: Tensor | torch.nn.Module | None = None,
    student_logits: Float[Tensor, "B L V"] | None = None,
    teacher_hidden: Tensor | None = None,
    teacher_head: Tensor | torch.nn.Module | None = None,
    teacher_logits: Tensor | None = None,
    vocab_size: int | None = None,
    state: Any = None,
    step: int = 0,
    num_steps: int = 1,
    last_loss: Tensor | float | None = None,
    seed: int = 0,
    first: int = 0,
    index: Int[Tensor, " B"] | None = None,
    chunk: int | None = None,
) -> Distilled:
    """Select positions and return the loss on them, by the harness's own core.

    Give each model as hidden states and head, and no logits exist for more than a chunk of positions; or as logits.

    Args:
        strategy: a preset's name, a mapping as in a grid file, or a checked strategy.
        targets: the next token of each position, -100 where there is none; see `next_tokens`.
        valid: positions that count, of those with a target; all of those if left out.
        student_hidden: what the student's head reads, after the last norm.
        student_head: its weight (V, D), or a Linear without bias.
        student_logits: instead of both, raw logits.
        teacher_hidden: as the student's, of any size. No gradient flows into the teacher.
        teacher_head: as the student's.
        teacher_logits: instead of both.
        vocab_size: tokens of the tokenizer; rows of a head beyond are padding. All rows if left out.
        state: the policy's: None at first, then what the previous call returned.
        step: number of the optimiser step, from 0; one past the end counts as the last.
        num_steps: steps of the whole run; policies and temperatures with a schedule read step / num_steps.
        last_loss: the previous step's loss, for policies that follow it.
        seed: of the selection's noise.
        first: the place of this call's first sequence in the global batch, so that micro-batches draw differently.
        index: the sequences' numbers in the data set, for class policies that draw: the same position, the same draws.
        chunk: rows of logits that exist at a time; as many as fit 256 MiB if left out.

    Raises:
        UserError: tensors that do not fit each other, a strategy that needs what is not given, or one that a single
            step cannot serve.
        UnknownNameError: an unknown preset or component.
    """
    objective = compile_strategy(_resolve(strategy))
    if index is None and objective.draws_classes:
        raise UserError(
            f"strategy {objective.strategy.label!r} draws classes for each position of the data: give index"
        )
    if step < 0 or num_steps < 1:
        raise UserError(f"step is {step} of num_steps {num_steps}: step counts from 0, and num_steps is at least 1")
    student = _side("student", student_hidden, student_head, student_logits, vocab_size, targets)
    teacher = _side("teacher", teacher_hidden, teacher_head, teacher_logits, vocab_size, targets)
    student = _fitting(objective, student, teacher)
    context = context_of(
        objective,
        torch.arange(first, first + len(targets), device=targets.device),
        seed=seed,
        step=min(step, num_steps - 1),
        num_steps=num_steps,
        last_loss=last_loss,
    )
    forward = Forward(
        objective=objective,
        batch=_batch(targets, valid, index),
        context=context,
        student=student.states,
        student_head=student.head,
        teacher=None if teacher is None else teacher.states.detach(),
        teacher_head=None if teacher is None else teacher.head,
        chunk=chunk or chunk_rows(student.vocab_size, _LOGIT_MEMORY_MIB, student.states.element_size()),
    )
    return _distilled(forward, state)


def _fitting(objective: Objective, student: _Side | None, teacher: _Side | None) -> _Side:
    """Return the student, refusing models that are not given or do not fit each other."""
    if student is None:
        raise UserError("give student_hidden and student_head, or student_logits")
    if teacher is None and objective.reads_teacher:
        raise UserError(
            f"strategy {objective.strategy.label!r} reads the teacher: give teacher_hidden and teacher_head, or "
            "teacher_logits"
        )
    if teacher is not None and teacher.vocab_size != student.vocab_size:
        raise UserError(
            f"the student has {student.vocab_size} classes and the teacher {teacher.vocab_size}: if those beyond the "
            "tokenizer's are padding, give vocab_size"
        )
    return student


def _batch(targets: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"] | None, index: Int[Tensor, " B"] | None) -> Batch:
    """Return the call's batch; past the trunks the core reads targets, not tokens."""
    counted = (targets != IGNORED) if valid is None else valid & (targets != IGNORED)
    return Batch.of(
        index=torch.arange(len(targets), device=targets.device) if index is None else index,
        input_ids=targets,
        targets=targets.where(counted, 0),
        valid=counted,
    )


def _distilled(forward: Forward, state: Any) -> Distilled:
    """Score, select and compare one micro-batch."""
    objective, batch, context = forward.objective, forward.batch, forward.context
    with torch.no_grad():
        signals = lay_out(objective, row_scores(forward, Tally()), batch, context)
        selection, state = select(objective, signals, batch, context, state)
    total = torch.stack([weighted_loss(part) for part in supervise(forward, selection, signals)]).sum()
    divisor = denominator(objective, selection, batch)
    divisor = divisor.where(divisor > 0, 1.0)
    return Distilled(
        loss=total / divisor.to(total.dtype),
        selection=selection,
        scores=None if objective.signal is None else signals.scores[objective.signal],
        state=state,
        total=total,
        denominator=divisor,
    )


def _resolve(given: str | Mapping[str, Any] | Strategy) -> Method:
    """Return the strategy, refusing what one step on ready-made tensors cannot serve."""
    strategy: Strategy
    if isinstance(given, Strategy):
        check_strategy(given)
        strategy = given
    else:
        found = list(expand(given if isinstance(given, str) else dict(given), where="strategy"))
        if len(found) != 1:
            raise UserError(f"strategy: its sweep stands for {len(found)} strategies; give one")
        strategy, overrides = found[0]
        if overrides:
            raise UserError(
                "strategy: workload changes how a grid's row is trained, and this is one step: leave it out"
            )
    if not isinstance(strategy, Method):
        raise UserError(f"strategy {strategy.label!r} trains nothing")
    check_single_step(strategy)
    return strategy


def _side(
    model: str,
    hidden: Tensor | None,
    head: Tensor | torch.nn.Module | None,
    logits: Tensor | None,
    vocab_size: int | None,
    targets: Tensor,
) -> _Side | None:
    """Check one model's tensors; None where nothing of it is given."""
    if hidden is None and head is None and logits is None:
        return None
    if (hidden is None) != (head is None) or (hidden is None) == (logits is None):
        raise UserError(f"give either {model}_hidden and {model}_head, or {model}_logits")
    kind, states = ("hidden", hidden) if hidden is not None else ("logits", logits)
    assert states is not None, "one of both"
    if states.dim() != 3 or states.shape[:2] != targets.shape:
        raise UserError(
            f"{model}_{kind} is {tuple(states.shape)}, targets {tuple(targets.shape)}: (B, L, .) and (B, L)"
        )
    weight = None if head is None else _weight(model, head)
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != states.shape[2]):
        raise UserError(
            f"{model}_head is {tuple(weight.shape)}, {model}_hidden {tuple(states.shape)}: "
            "they must be (V, D) and (B, L, D)"
        )
    num = states.shape[2] if weight is None else len(weight)
    if vocab_size is not None and vocab_size > num:
        raise UserError(f"vocab_size is {vocab_size}, and the {model} has {num} classes")
    num = num if vocab_size is None else vocab_size
    if weight is None:
        return _Side(states=states[..., :num], head=GivenLogits(weight=states.new_empty(0, 0)), vocab_size=num)
    return _Side(states=states, head=Head(weight=weight[:num]), vocab_size=num)


def _weight(model: str, head: Tensor | torch.nn.Module) -> Tensor:
    if isinstance(head, Tensor):
        return head
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or getattr(head, "bias", None) is not None:
        raise UserError(f"{model}_head must be a weight (V, D) or a Linear without bias, it is {head}")
    return weight
