"""The fewest classes that hold a share of the teacher's mass: many where it is undecided, few where it is sure."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import SparseTarget
from strategies.cumulative import cumulate, preceding
from strategies.registry import classes

# N = flattened positions, V = vocabulary


@classes(
    "top_p",
    source="arXiv:1904.09751 (nucleus), as a target",
    budget="mass",
    criteria=("forward_kl",),
    because="the student's mass on the classes left out goes unseen, and other divergences would drive it there",
)
def top_p(*, teacher_logprobs: Float[Tensor, "N V"], mass: float) -> SparseTarget:
    """Keep the smallest prefix of the classes, most likely first, whose probabilities reach `mass`.

    Weights are the probabilities as they are. As with `top_k`, the truncated sum is not a divergence: it can be
    negative and inflates the kept classes; `top_k_tail` does neither. Rows are sorted whole, which makes this the
    slowest class policy; ties go to the lowest class.

    Args:
        teacher_logprobs: log p.
        mass: share of the row's mass, in (0, 1]; 1 keeps every class above 2^-43 of the likeliest one.

    Provenance:
        Code: none: a rule for decoding, used as a target here
        Deviation: probabilities are not renormalised, as they are where tokens are sampled
        Test: tests/strategies/test_classes.py::test_top_p_keeps_the_smallest_prefix_that_reaches_the_mass
    """
    log_weight, ids = teacher_logprobs.sort(dim=-1, descending=True, stable=True)
    # Relative to the likeliest class, as only shares matter.
    reached = cumulate((log_weight - log_weight[:, :1]).double().exp_())
    # What a class and those behind it hold: of mass 1 nothing may be left.
    left = reached[:, -1:] - preceding(reached)
    kept = left > (1.0 - mass) * reached[:, -1:].double()
    width = int(kept.sum(dim=-1).max()) if len(kept) else 0
    log_weight = log_weight[:, :width].masked_fill(~kept[:, :width], -torch.inf)
    return SparseTarget(ids=ids[:, :width], weight=log_weight.exp(), log_weight=log_weight)
