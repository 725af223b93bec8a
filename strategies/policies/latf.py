"""Loss-driven adaptive focusing: the share of positions shrinks while the loss falls and grows while it rises."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from strategies.base import Selection, StepContext, budget_count, keep_first, rank_scores
from strategies.registry import policy

# B = sequences, L = positions

State = dict[str, float]


@policy("latf", source="arXiv:2510.11615 (AdaKD), loss-driven adaptive token focusing", budgeted=False)
@dataclass(frozen=True, kw_only=True)
class Latf:
    """Keep the ceil(r * valid positions) highest scores of each sequence, where r follows the loss.

    An average of the loss that leaves [1 - tolerance, 1 + tolerance] times its reference makes r a factor of
    1 - step smaller or 1 + step larger, and becomes the next reference; the first is the average after warm-up.

    Attributes:
        decay: of the exponential average of the loss, in [0, 1); 0.99 in the paper.
        tolerance: epsilon, in [0, 1); 0.05.
        step: delta, in (0, 1); 0.05.
        floor: least r, in (0, 1]; 0.1.
        warmup: share of training at r = 1; 0.05.

    Provenance:
        Code: AdaKD distillation.py:288-304; AdaKD loss/losses.py:493-500
        Deviation: the rule is the code's; r applies to each sequence, with ceil, where the code applies it to a
            micro-batch, with floor. Values are the paper's: the code's defaults are 0.1 for tolerance and step, 0.01
            for warm-up
        Test: tests/strategies/test_policies_stateful.py::test_latf_shrinks_when_the_loss_falls_and_grows_when_it_rises
    """

    decay: float
    tolerance: float
    step: float
    floor: float
    warmup: float

    def __post_init__(self) -> None:
        for name, value in (("decay", self.decay), ("tolerance", self.tolerance), ("warmup", self.warmup)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1); it is {value}")
        if not 0.0 < self.step < 1.0 or not 0.0 < self.floor <= 1.0:
            raise ValueError(f"step must be in (0, 1) and floor in (0, 1]; they are {self.step} and {self.floor}")

    def select(
        self, scores: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], ctx: StepContext, state: State | None
    ) -> tuple[Selection, State]:
        """Select with the r of this step; the state is `{"fraction", "progress"}`, later also the two averages."""
        # Micro-batches of one step share its progress: r moves once per step, however the batch is split.
        if state is None or state["progress"] != ctx.progress:
            state = self._next({"fraction": 1.0} if state is None else state, ctx)
        count = budget_count(valid, state["fraction"])
        return keep_first(rank_scores(scores, valid), valid, count), state

    def _next(self, state: State, ctx: StepContext) -> State:
        moved = {**state, "progress": ctx.progress}
        if ctx.last_loss is None:
            return moved
        loss = float(ctx.last_loss)
        average = self.decay * state.get("average", loss) + (1.0 - self.decay) * loss
        moved["average"] = average
        if ctx.progress < self.warmup:
            return moved
        reference = moved.setdefault("reference", average)
        if abs(average - reference) > self.tolerance * abs(reference):
            factor = 1.0 - self.step if average < reference else 1.0 + self.step
            moved["fraction"] = min(max(state["fraction"] * factor, self.floor), 1.0)
            moved["reference"] = average
        return moved
