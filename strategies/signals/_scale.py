"""Clip to percentiles of a batch and scale to 0..1: how TIP and TA-OPD make signals of different units comparable."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# B = sequences, L = positions


def clip_and_scale(
    values: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, low: float = 0.0, high: float = 1.0
) -> Float[Tensor, "B L"]:
    """Return values clipped to two percentiles of the valid ones, then moved and scaled to [0, 1].

    Args:
        values: any finite numbers; meaningless where not valid.
        valid: the positions that the percentiles are taken over.
        low: lower percentile as a share.
        high: upper percentile.

    Returns:
        0 where not valid, and everywhere if all valid values are alike.
    """
    known = values[valid]
    if not len(known):
        return torch.zeros_like(values)
    least, most = torch.quantile(known, low), torch.quantile(known, high)
    spread = most - least
    scaled = (values.clamp(least, most) - least) / spread
    return scaled.where(valid & (spread > 0), 0.0)
