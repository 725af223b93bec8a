"""The alpha-beta divergence of two rows, in a form that is exactly 0 where they are equal."""

import torch
from jaxtyping import Float
from torch import Tensor

# N = supervised positions, V = vocabulary


def gap_below(
    logprobs: Float[Tensor, "N V"], other: Float[Tensor, "N V"]
) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
    """Return the greater of two log-probabilities and how far the other is below it, as a number of at most 0."""
    # A class that both leave out must not become inf - inf, whose gradient would reach all others.
    absent = (logprobs == -torch.inf) & (other == -torch.inf)
    top = torch.maximum(logprobs, other)
    return top, (torch.minimum(logprobs, other) - top).masked_fill(absent, 0.0)


def alpha_beta(
    logprobs: Float[Tensor, "N V"], other: Float[Tensor, "N V"], *, alpha: float, beta: float
) -> Float[Tensor, " N"]:
    """Return 1 / (alpha beta) sum (alpha a^s + beta b^s) / s - a^alpha b^beta, with s = alpha + beta.

    Args:
        logprobs: log a.
        other: log b.
        alpha: above 0; with beta 1 - alpha, 1 is the limit KL(a || b).
        beta: above 0.

    Raises:
        ValueError: one of the two is not above 0.
    """
    if not (alpha > 0.0 and beta > 0.0):
        raise ValueError(f"alpha and beta must be above 0, they are {alpha:g} and {beta:g}")
    top, gap = gap_below(logprobs, other)
    total = alpha + beta
    # Everything in units of the greater one's power; the exponent that counts is that of the smaller. Chosen among
    # numbers, not multiplied by a row of exponents, which would be kept for the gradient.
    first = logprobs > other
    whole = torch.expm1(total * gap)
    lesser = torch.expm1(torch.where(first, beta * gap, alpha * gap))
    part = torch.where(first, beta / total * whole, alpha / total * whole) - lesser
    return ((total * top).exp() * part).sum(dim=-1) / (alpha * beta)
