"""EGAD's temperature: it moves with the rank of the teacher's entropy, in either direction."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import temperature

# B = sequences, L = positions


@temperature("egad", source="arXiv:2605.01732 (EGAD); reconstructed from the abstract")
def egad(*, teacher_entropy_rank: Float[Tensor, "B L"], low: float, high: float, hot: str) -> Float[Tensor, "B L"]:
    """Give a position a temperature between `low` and `high` by its rank u: low + (high - low) u, or with 1 - u.

    The abstract says that the temperature follows the entropy, neither how nor in which direction.

    Args:
        teacher_entropy_rank: u, in [0, 1].
        low: the least temperature, above 0.
        high: the greatest.
        hot: which positions get the high temperatures: `hard`, where the teacher is undecided, or `easy`.

    Provenance:
        Code: none: no public code
        Deviation: range, shape and both directions are ours: the abstract says only that the temperature follows the
            entropy
        Test: tests/distill/test_temperatures.py::test_egads_directions_mirror_each_other
    """
    if not 0.0 < low <= high:
        raise ValueError(f"egad needs 0 < low <= high, they are {low:g} and {high:g}")
    if hot not in ("hard", "easy"):
        raise ValueError(f"hot of egad must be hard or easy, not {hot!r}")
    return low + (high - low) * (teacher_entropy_rank if hot == "hard" else 1.0 - teacher_entropy_rank)
