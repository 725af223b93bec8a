"""SE-KD as one would write it first: whole logits, everything left to autograd, with or without selective heads.

The paper's rows between its default flow and its selective heads. `harness.distill` computes the same numbers a chunk
at a time; a test compares them.
"""

from collections.abc import Set

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.config.seeds import derive
from harness.cost.variants import Owner
from harness.data.tokens import Batch
from harness.distill.score import Rows, score_rows
from harness.distill.step import Core
from harness.models import head_of, trunk
from strategies.base import Selection, StepContext, log_probs
from strategies.noise import streams

# B = sequences, L = positions, N = B * L, M = selected positions, V = vocabulary


def plain_step(core: Core, batch: Batch, *, heads: Set[Owner], streamed: bool, num_selected: int) -> Float[Tensor, ""]:
    """Accumulate one batch's gradients, and return its loss: the mean over sequences of each one's mean.

    The strategy must rank by a signal that reads the student alone and compare whole rows at temperature 1, as SE-KD
    does. The scores are read off the logits that the loss reads too, or, streamed, take a pass of their own, a chunk at
    a time and without gradient, as they must where the student's head is applied to the selected rows only.

    Args:
        core: models and strategy, the teacher online or cached.
        batch: the sequences.
        heads: models whose head is applied to the selected rows only.
        streamed: whether scores take a pass of their own.
        num_selected: positions that the policy selects; stated, so that shapes alone suffice to run.
    """
    assert core.teacher is not None, "SE-KD reads a teacher"
    hidden = trunk(core.student, batch.input_ids).flatten(0, 1)
    with torch.no_grad():
        teacher_hidden = core.teacher.hidden(batch).flatten(0, 1)
    head = head_of(core.student, core.vocab_size)
    logits = None if streamed else hidden @ head.weight.T
    scores = _scores(core, batch, hidden, logits)
    selection = _select(core, batch, scores)
    chosen = _indices(selection, num_selected)
    if "student" in heads:
        student_rows = hidden[chosen] @ head.weight.T
    else:
        student_rows = (hidden @ head.weight.T if logits is None else logits)[chosen]
    with torch.no_grad():
        if "teacher" in heads:
            teacher_rows = teacher_hidden[chosen] @ core.teacher.head.weight.T
        else:
            teacher_logits = teacher_hidden @ core.teacher.head.weight.T
            teacher_rows = teacher_logits[chosen]
        teacher_logprobs = log_probs(teacher_rows)
    losses = core.objective.compare({"teacher_logprobs": teacher_logprobs, "student_logprobs": log_probs(student_rows)})
    share = selection.weight / selection.denom[:, None].clamp(min=1.0) / len(batch.input_ids)
    loss = (losses * share.flatten()[chosen]).sum()
    loss.backward()
    return loss.detach()


@torch.no_grad()
def _scores(core: Core, batch: Batch, hidden: Tensor, logits: Tensor | None) -> Float[Tensor, "B L"]:
    signal = core.objective.signal
    assert signal is not None, "SE-KD ranks by a signal"
    function = core.objective.signal_function
    if logits is not None:
        found = function(signal)(student_logprobs=log_probs(logits))
    else:
        rows = Rows(student=hidden.detach(), teacher=None, targets=batch.targets.flatten())
        head = head_of(core.student, core.vocab_size)
        found = score_rows((signal,), function, rows, head, None, chunk=core.chunk)[signal]
    assert isinstance(found, Tensor)
    return found.view(batch.valid.shape)


def _select(core: Core, batch: Batch, scores: Float[Tensor, "B L"]) -> Selection:
    places = torch.arange(len(batch.input_ids), device=scores.device)
    keys = streams(derive(core.seed, "selection", 0), places)
    context = StepContext(budget=core.objective.strategy.budget, progress=0.0, keys=keys)
    return core.objective.policy.select(scores, batch.valid, context, None)[0]


def _indices(selection: Selection, num_selected: int) -> Int[Tensor, " M"]:
    """Return the selected positions in order, without asking the device how many they are."""
    chosen = (selection.weight > 0).flatten()
    return (~chosen).to(torch.uint8).argsort(stable=True)[:num_selected]
