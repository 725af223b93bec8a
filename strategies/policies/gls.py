"""Global-level selection: keep what exceeds a quantile of the scores seen lately, whichever batch they came from."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions

State = dict[str, Tensor]


@policy("gls", source="arXiv:2105.12967 (Wang et al.), global-level selection", scope="batch")
@dataclass(frozen=True, kw_only=True)
class Gls:
    """Keep scores that reach the (1 - budget) quantile of a first-in, first-out queue, weight 1 each.

    The share it keeps is the budget only where scores are stationary; the realised one is in the trial's curve.

    Attributes:
        capacity: scores that the queue holds; 30 000 in the paper.

    Provenance:
        Code: Selective-KD fairseq/criterions/label_smoothed_cross_entropy.py:55-63; Selective-KD
            fairseq/criterions/label_smoothed_cross_entropy.py:207-209; SE-KD3x sekd/distill/_mixins/gls.py:38-49;
            SE-KD3x sekd/distill/trainer.py:1188-1242
        Deviation: the threshold is read before the batch is pushed, as in SE-KD's code (the original pushes first), is
            a score that occurred (SE-KD's interpolates), and is read once for the global batch, where both codes read
            it for each micro-batch
        Test: tests/strategies/test_policies_stateful.py::test_gls_equals_a_plain_queue
    """

    capacity: int

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity is a number of scores, at least 1; it is {self.capacity}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: State | None
    ) -> tuple[Selection, State]:
        """Compare with the queue as the last batch left it, then push this batch; while it is empty, keep the top k.

        The state is `{"queue": scores, oldest first}`.
        """
        queue = state["queue"] if state is not None else scores.new_zeros(0)
        if len(queue):
            # "lower" returns a score that occurred, so infinite scores cannot make a nan between them.
            threshold = torch.quantile(queue, 1.0 - ctx.budget, interpolation="lower")
            weight = ((scores >= threshold) & valid).float()
            selection = Selection(weight=weight, denom=weight.sum(dim=-1))
        else:
            selection = keep_first(rank_scores(scores, valid), valid, budget_count(valid, ctx.budget))
        return selection, {"queue": torch.cat([queue, scores[valid]])[-self.capacity :].clone()}
