"""Draws from the teacher's rows: what `rs` makes its target of, and what a cache of draws stores."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from strategies.base import SparseTarget
from strategies.cumulative import cumulate, locate
from strategies.noise import uniform

# N = flattened positions, V = vocabulary, U = draws


def draw(
    teacher_logprobs: Float[Tensor, "N V"], keys: Int[Tensor, " N"], *, draws: int, proposal: float = 1.0
) -> tuple[Int[Tensor, "N U"], Int[Tensor, "N U"]]:
    """Draw classes with replacement; the outcome depends on a row and its key only.

    Args:
        teacher_logprobs: log p at temperature 1.
        keys: one noise stream per row, the seed of the draws included: `streams(seed, cells(sequences, positions))`.
        draws: draws per row.
        proposal: exponent of the distribution drawn from.

    Returns:
        The distinct classes in ascending order and how often each was drawn, both of width `draws`; unused places
        come last, with class 0 and count 0. Counts of a row sum to `draws`.

    Raises:
        ValueError: fewer than one draw, or an exponent that is not a positive number.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, it is {draws}")
    if not 0.0 < proposal < math.inf:
        raise ValueError(f"proposal must be a positive number, it is {proposal}")
    logs = teacher_logprobs * proposal
    # Relative to the likeliest class, or a large exponent would leave no mass at all. In place and in float64: float32
    # cannot tell the last classes of a large vocabulary from nothing.
    cumulative = cumulate((logs - logs.amax(dim=-1, keepdim=True)).double().exp_())
    # 48 random bits: 24 would round the probabilities of rare classes.
    bits = uniform(keys, 2 * draws).double()
    drawn = locate(cumulative, bits[:, 0::2] + bits[:, 1::2] * 2.0**-24).sort(dim=-1).values
    place = (drawn != drawn.roll(1, dims=-1)).long()
    place[:, 0] = 0
    place = place.cumsum(dim=-1)
    ids = torch.zeros_like(drawn).scatter_(-1, place, drawn)
    return ids, torch.zeros_like(drawn).scatter_add_(-1, place, torch.ones_like(drawn))


def from_counts(
    ids: Int[Tensor, "N U"], counts: Int[Tensor, "N U"], *, draws: int, dtype: torch.dtype = torch.float32
) -> SparseTarget:
    """Make the target of counts drawn with proposal 1: each class weighs its share of the draws."""
    return SparseTarget(ids=ids, weight=counts.to(dtype) / draws)
