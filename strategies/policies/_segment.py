"""A contiguous part of each sequence's valid positions: what the policies that read no model share."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from strategies.base import Selection

# B = sequences, L = positions


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A number of positions in place of a share.

    Attributes:
        num: positions per sequence, at least 1; all of a sequence that has fewer.
    """

    num: int

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"num is a number of positions, at least 1; it is {self.num}")

    def count(self, valid: Bool[Tensor, "B L"]) -> Int[Tensor, " B"]:
        """Return how many positions are kept of each sequence."""
        return valid.sum(dim=-1).clamp(max=self.num)


def keep_segment(valid: Bool[Tensor, "B L"], count: Int[Tensor, " B"], where: float | Float[Tensor, " B"]) -> Selection:
    """Select `count` valid positions of each sequence in a row, weight 1 each.

    Only valid positions are counted, so that padding, prompts and separators take no place.

    Args:
        valid: positions that have a target.
        count: how many of each sequence.
        where: 0 for the first ones, 1 for the last, a uniform number in [0, 1) for every place being equally likely.
    """
    slack = valid.sum(dim=-1) - count
    start = ((slack + 1).double() * where).floor().long().minimum(slack)
    place = (valid.cumsum(dim=-1) - 1 - start[:, None]).where(valid, -1)
    return Selection(weight=((place >= 0) & (place < count[:, None])).float(), denom=count.float())
