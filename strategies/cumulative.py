"""Running sums of masses in fixed point, and draws by them: exact, and so the same on every device and in every order.

A sum of floats depends on the order in which it is taken, which a GPU's parallel scan chooses: torch has no
deterministic one. Integers have no such order.

A unit is 2^-42. A row's masses are at most 1, so the sum of 2^20 of them fits int64. Each is off by half a unit at
most: over a vocabulary of 151,669 classes all of them together by less than 2e-8 of the likeliest one's mass, and a
class below 2^-43 of that is never drawn.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# N = rows, C = columns, U = draws

UNIT = 2.0**-42
_WIDEST = 2**20


def cumulate(mass: Float[Tensor, "N C"]) -> Int[Tensor, "N C"]:
    """Return each row's running sums, in units.

    Args:
        mass: in [0, 1]. Where only proportions matter, relative to the row's greatest, so that nothing rounds away.

    Raises:
        ValueError: rows of more than 2^20 columns, whose sums might not fit.
    """
    if mass.shape[-1] > _WIDEST:
        raise ValueError(f"running sums are of at most {_WIDEST} columns, not {mass.shape[-1]}")
    return mass.div(UNIT).round_().long().cumsum_(dim=-1)


def preceding(cumulative: Int[Tensor, "N C"]) -> Int[Tensor, "N C"]:
    """Return what stands before each column, in units: 0 for the first one."""
    return torch.nn.functional.pad(cumulative[:, :-1], (1, 0))


def locate(cumulative: Int[Tensor, "N C"], level: Float[Tensor, "N U"]) -> Int[Tensor, "N U"]:
    """Return the column in whose share of its row's mass each level falls: inverse transform sampling.

    Args:
        cumulative: running sums of masses.
        level: in [0, 1 - 2^-48]: below 1 by more than the total's rounding to float64.

    Returns:
        A column that has mass; C in a row without any.
    """
    return torch.searchsorted(cumulative, (level.double() * cumulative[:, -1:]).long(), right=True)
