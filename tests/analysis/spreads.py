"""Spreads by hand."""

import numpy as np

from harness.analysis.inference import Spread, Values


def spread_of(
    seeds: Values | float, seed_df: float, items: float, item_df: float, *, single: Values | float = 0.0
) -> Spread:
    """Return a spread whose parts are numbers, or arrays of one shape."""
    parts = np.broadcast_arrays(np.atleast_1d(seeds), seed_df, items, item_df, single)
    return Spread(*(np.array(part, dtype=np.float64) for part in parts))
