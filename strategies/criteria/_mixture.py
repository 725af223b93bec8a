"""KL to a mixture of teacher and student: finite wherever one of them has mass, which plain KL is not."""

import torch
from jaxtyping import Float
from torch import Tensor

from strategies.base import expectation

# N = supervised positions, V = vocabulary


def mixture_gain(logprobs: Float[Tensor, "N V"], other: Float[Tensor, "N V"], share: float) -> Float[Tensor, "N V"]:
    """Return log(m / a) with m = share * b + (1 - share) * a; 0 where a is 0, and exactly 0 where a and b are equal.

    Args:
        logprobs: log a.
        other: log b.
        share: of b in the mixture, in (0, 1).
    """
    # A class that both leave out must not become inf - inf, whose gradient would reach all others. Above the clamp a is
    # less than e^-80 of b, too little to count in a mean under a, and exp would overflow.
    gap = (other - logprobs).masked_fill(logprobs == -torch.inf, 0.0).clamp(max=80.0)
    return torch.log1p(share * torch.expm1(gap))


def kl_to_mixture(logprobs: Float[Tensor, "N V"], other: Float[Tensor, "N V"], share: float) -> Float[Tensor, " N"]:
    """Return KL(a || share * b + (1 - share) * a), nats, in [0, -log(1 - share)]."""
    return -expectation(logprobs, mixture_gain(logprobs, other, share))


def check_share(name: str, value: float) -> None:
    """Refuse a share that leaves no mixture.

    Raises:
        ValueError: the value is outside (0, 1).
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must be in (0, 1), it is {value:g}")
