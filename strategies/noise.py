"""Stateless uniform noise: a number is a function of (key, counter), so no draw depends on another.

Selection noise must not change when a batch is split, padded, sharded over ranks or resumed. A generator's state would
make it; a counter hashed with SplitMix64 cannot. The same integers come out on every device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# B = sequences, N = flattened positions


def uniform(keys: Int[Tensor, " B"], num: int) -> Float[Tensor, "B num"]:
    """Return `num` numbers in [0, 1) for each key; the first n of them do not depend on `num`.

    Args:
        keys: one int64 stream key per sequence.
        num: how many numbers each stream gives.

    Returns:
        float32, multiples of 2^-24.
    """
    counter = torch.arange(1, num + 1, device=keys.device)
    return (_shift_right(mix(keys[:, None] + counter * _GOLDEN_GAMMA), 40)).float() * 2.0**-24


def streams(base: int, rows: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Return one stream key per row, unrelated to the keys of other rows and other bases.

    Args:
        base: a seed in [0, 2^63).
        rows: non-negative numbers that identify the sequences, e.g. their places in the global batch.
    """
    return mix(mix(torch.full_like(rows, base)) + (rows + 1) * _GOLDEN_GAMMA)


def cells(sequences: Int[Tensor, " N"], positions: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Return one key per position of the training text, whatever batch, step or trial it is met in.

    For draws that belong to the data, so that a cache built once holds them. `streams(seed, cells(...))` gives another
    set of draws.

    Args:
        sequences: numbers of the sequences in the training text.
        positions: places within them, from 0.
    """
    return mix(streams(0, sequences) + (positions + 1) * _GOLDEN_GAMMA)


def mix(value: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scramble int64 values (SplitMix64's finaliser, Steele et al. 2014); multiplication wraps by design."""
    value = (value ^ _shift_right(value, 30)) * _MULTIPLIER_1
    value = (value ^ _shift_right(value, 27)) * _MULTIPLIER_2
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask drops the copied sign bits.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN_GAMMA = _signed(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)
