"""Ranks within a batch, on a scale from 0 to 1: how signals without a common unit are compared."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# B = sequences, L = positions


def rank_in_batch(values: Float[Tensor, "B L"], valid: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Return the share of the other valid positions that rank below each, ties in the order of positions.

    Returns:
        0 for the least value and 1 for the greatest; 0 where not valid, and for a single position.
    """
    known = values[valid]
    order = known.argsort(stable=True)
    places = torch.arange(len(known), device=values.device, dtype=values.dtype)
    ranks = torch.empty_like(known).index_copy_(0, order, places / max(len(known) - 1, 1))
    return torch.zeros_like(values).masked_scatter_(valid, ranks)
