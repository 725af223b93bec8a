"""Uniform noise: the control that any signal has to beat."""

from jaxtyping import Float
from torch import Tensor

from strategies.registry import signal

# N = flattened positions, V = vocabulary


@signal("random", source="arXiv:2602.01395 (SE-KD), Section 4")
def random(*, noise: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Score each position by noise from the trial's own stream.

    Returns:
        A number in [0, 1), new at every step, the same however the batch is split.

    Provenance:
        Place: Section 5, RandomPos
        Code: SE-KD3x sekd/distill/trainer.py:1622-1626
        Deviation: none known
        Test: tests/strategies/test_signals.py::test_random_is_the_noise_it_is_given
    """
    return noise
