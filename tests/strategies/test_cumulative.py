"""Running sums in fixed point: equal to fractions, in whatever order they are taken, and draws by them unbiased."""

import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pair, split_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.expand import presets
from harness.config.strategy import read_strategy
from harness.data.tokens import Batch
from harness.distill.rollout import pick_tokens
from harness.distill.shadow import top_mass
from harness.distill.step import accumulate
from harness.models import head_of
from strategies.cumulative import UNIT, cumulate, locate, preceding
from strategies.digest import modules_of
from strategies.noise import cells, streams, uniform
from strategies.registry import REGISTRIES

LARGEST_VOCABULARY = 151_669  # of Qwen3
TRAINED = {name: preset for name, preset in presets().items() if preset.train}
FULL_KD = presets()["full_kd"].model_dump()
TRAINED["top_p"] = read_strategy({**FULL_KD, "classes": {"name": "top_p", "mass": 0.9}})
# Of floats, their kernels on a GPU add in no fixed order and have no deterministic stand-in.
UNORDERED = ("cumsum", "cumsum_", "logcumsumexp", "_logcumsumexp", "cumprod", "histc", "bincount", "put_", "kthvalue")


def rows(num: int, width: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return masses over many orders of magnitude, the greatest of each row 1."""
    draws = np.random.RandomState(seed)
    mass = torch.from_numpy(np.exp(-((draws.standard_normal((num, width)) * 4) ** 2))).to(dtype)
    return mass / mass.amax(dim=-1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sums_are_those_of_fractions_to_half_a_unit_each(dtype: torch.dtype) -> None:
    mass = rows(3, 200, dtype=dtype)
    found = cumulate(mass)
    assert found.dtype == torch.int64
    for row, sums in zip(mass.tolist(), found.tolist(), strict=True):
        units = [Fraction(each) / Fraction(UNIT) for each in row]
        for place in range(len(row)):
            assert sums[place] == sum(round(each) for each in units[: place + 1])
            assert abs(sums[place] - sum(units[: place + 1])) <= Fraction(place + 1, 2)


def test_sums_are_float64s_to_its_own_precision() -> None:
    mass = rows(4, LARGEST_VOCABULARY)
    found, wanted = cumulate(mass).double() * UNIT, mass.cumsum(dim=-1)
    assert float((found - wanted).abs().max()) < 2e-8
    # What is said of shares: far below what 48 random bits and any number of draws could show.
    shares, exact = found.diff(dim=-1) / found[:, -1:], mass[:, 1:] / mass.sum(dim=-1, keepdim=True)
    assert float((shares - exact).abs().max()) < 1e-12
    assert float((shares - exact).abs().sum(dim=-1).max()) < 1e-8


def test_the_order_of_a_sum_changes_nothing() -> None:
    mass, order = rows(2, 4096), torch.from_numpy(np.random.RandomState(1).permutation(4096))
    assert torch.equal(cumulate(mass)[:, -1], cumulate(mass[:, order])[:, -1])
    # A scan by blocks, as a GPU's, whose blocks' sums are added in any order.
    blocks = cumulate(mass.view(-1, 64))
    before = preceding(blocks[:, -1].view(2, 64).cumsum(dim=-1))
    assert torch.equal((blocks.view(2, 64, 64) + before[:, :, None]).view(2, -1), cumulate(mass))


def test_the_order_of_a_float_sum_would_be_noticed() -> None:
    mass, order = rows(2, 4096), torch.from_numpy(np.random.RandomState(1).permutation(4096))
    assert not torch.equal(mass.cumsum(dim=-1)[:, -1], mass[:, order].cumsum(dim=-1)[:, -1])


def test_zeros_behind_a_row_change_nothing() -> None:
    mass, level = rows(5, 60), torch.rand((5, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    padded = torch.cat([mass, torch.zeros(5, 17)], dim=-1)
    assert torch.equal(locate(cumulate(mass), level), locate(cumulate(padded), level))


def test_the_widest_rows_fit_and_wider_ones_are_refused() -> None:
    ones = torch.ones((1, 2**20), dtype=torch.float32)
    assert int(cumulate(ones)[0, -1]) == 2**62
    highest = torch.tensor([[1 - 2.0**-48]], dtype=torch.float64)
    assert int(locate(cumulate(ones), highest)) == 2**20 - 1
    with pytest.raises(ValueError, match="at most 1048576 columns, not 1048577"):
        cumulate(torch.ones((1, 2**20 + 1)))


def test_columns_without_mass_are_never_found() -> None:
    mass = torch.tensor([[0.0, 0.3, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, UNIT]])
    level = torch.linspace(0, 1 - 2.0**-48, 1001, dtype=torch.float64).expand(3, -1)
    found = locate(cumulate(mass), level)
    assert [set(row.tolist()) for row in found] == [{1, 3}, {5}, {4}]


def test_draws_follow_the_masses() -> None:
    num, width = 200_000, 40
    mass = rows(1, width, seed=3).clamp(min=0.01)
    found = locate(cumulate(mass), uniform(streams(5, torch.arange(1)), num).double())
    seen, expected = found[0].bincount(minlength=width), num * mass[0] / mass.sum()
    # The 99.9th percentile of chi-square with 39 degrees of freedom.
    assert float(((seen - expected).square() / expected).sum()) < 72.1


def test_draws_are_those_of_float64_sums_but_where_a_level_meets_a_boundary() -> None:
    logits = torch.from_numpy(np.random.RandomState(2).standard_normal((64, 5000)) * 3)
    level = uniform(cells(torch.arange(64), torch.zeros(64, dtype=torch.long)), 1)[:, 0].double()
    sums = logits.softmax(dim=-1).cumsum(dim=-1)
    wanted = torch.searchsorted(sums, level[:, None] * sums[:, -1:], right=True)[:, 0]
    assert torch.equal(pick_tokens(logits, level, temperature=1.0, top_p=1.0), wanted)


class NoFloatSums(TorchDispatchMode):
    """Fails on a float operation that no GPU does in a fixed order."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.name().removeprefix("aten::").split(".")[0] in UNORDERED and args[0].is_floating_point():
            raise AssertionError(f"{func.name()} of {args[0].dtype}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_sums_no_floats_in_an_order_of_the_devices(
    name: str, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    core, parts = make_core(TRAINED[name], make_pair()), split_batch(make_batch(6, 13), [4, 2])
    with NoFloatSums():
        accumulate(core, parts, None, step=3, num_steps=10)


def test_neither_does_generation_nor_a_diagnostic(make_pair: Callable[..., Pair]) -> None:
    logits, level = torch.linspace(-3, 3, 60).view(3, 20), torch.tensor([0.0, 0.5, 0.9], dtype=torch.float64)
    with NoFloatSums():
        assert pick_tokens(logits, level, temperature=1.0, top_p=0.7).shape == (3,)
        top_mass(torch.ones(5, 24), head_of(make_pair(torch.float32).teacher, 97), (1, 4), chunk=3)


def test_such_a_sum_would_be_noticed() -> None:
    with NoFloatSums():
        torch.ones(3, dtype=torch.long).cumsum(0)
        with pytest.raises(AssertionError, match=r"cumsum of torch\.float32"):
            torch.ones(3).cumsum(0)


@pytest.mark.parametrize("name", ["pos_rs", "pos_rs_corrected", "rs", "top_p", "akl"])
def test_what_sums_is_identified_by_how_it_sums(name: str) -> None:
    (component,) = (registry[name] for registry in REGISTRIES if name in registry)
    module = inspect.getmodule(component.build)
    assert module is not None
    assert "strategies.cumulative" in modules_of(module.__name__)
