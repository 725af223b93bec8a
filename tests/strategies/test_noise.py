"""Counter-based noise: known integers, streams that do not depend on one another, and a uniform distribution."""

import pytest
import torch

from strategies.noise import mix, streams, uniform

_MASK = (1 << 64) - 1


def split_mix_64(key: int, counter: int) -> int:
    """Steele et al. 2014, in Python's unbounded integers."""
    value = (key + counter * 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def test_split_mix_of_seed_zero_gives_its_published_first_numbers() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [split_mix_64(0, counter) for counter in (1, 2, 3)] == published
    counters = torch.tensor([signed((n * 0x9E3779B97F4A7C15) & _MASK) for n in (1, 2, 3)])
    assert mix(counters).tolist() == [signed(value) for value in published]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), 123456789])
def test_uniform_equals_the_reference(key: int) -> None:
    wanted = [(split_mix_64(key & _MASK, counter) >> 40) / 2**24 for counter in range(1, 50)]
    assert uniform(torch.tensor([key]), 49)[0].tolist() == wanted


def test_numbers_do_not_depend_on_how_many_are_asked_for_or_on_neighbours() -> None:
    keys = streams(5, torch.arange(4))
    many = uniform(keys, 20)
    assert torch.equal(uniform(keys, 7), many[:, :7])
    assert torch.equal(uniform(keys[2:3], 20), many[2:3])


def test_streams_differ_by_row_and_by_base() -> None:
    keys = torch.cat([streams(base, torch.arange(1000)) for base in (0, 1, 2, 2**62)])
    assert len(set(keys.tolist())) == 4000
    assert torch.equal(streams(3, torch.tensor([41, 7])), streams(3, torch.arange(50))[torch.tensor([41, 7])])


def test_neighbouring_streams_share_no_numbers_at_an_offset() -> None:
    # Keys a multiple of the increment apart would give the same sequence, shifted.
    first, second = uniform(streams(0, torch.arange(2)), 2000).tolist()
    for offset in range(1, 20):
        equal = sum(a == b for a, b in zip(first[offset:], second, strict=False))
        assert equal < 5


def test_uniform_is_uniform_and_uncorrelated() -> None:
    numbers = uniform(streams(0, torch.arange(1000)), 100).double()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    statistic = float(((counts - 5000).square() / 5000).sum())
    assert statistic < 43.8  # the 99.9th percentile of chi-square with 19 degrees of freedom
    centred = numbers - 0.5
    for pair in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(float(pair.mean()) * 12) < 0.015


def test_no_numbers_at_all() -> None:
    assert uniform(streams(0, torch.arange(3)), 0).shape == (3, 0)
