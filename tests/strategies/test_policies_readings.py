"""The released code's ways of drawing positions, and one the paper names untested, against loops in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies.base import StepContext
from strategies.noise import mix, streams, uniform
from strategies.registry import POLICIES

NUM, LENGTH, BUDGET = 5, 23, 0.3
CASES: list[tuple[str, dict[str, Any]]] = [
    ("pos_rs_softmax", {"estimate": "weighted"}),
    ("pos_rs_softmax", {"estimate": "mean"}),
    ("pos_rs_softmax", {"estimate": "sum"}),
    ("pos_rs_softmax", {"estimate": "sum", "sharpness": 3.0, "floor": 0.02}),
    ("pos_rs_clipped", {"top": 0.2}),
    ("pos_rs_clipped", {"top": 0.5, "corrected": True}),
    ("pos_rs_clipped", {"top": 1.0}),
]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def example() -> tuple[Tensor, Tensor]:
    draws = np.random.RandomState(0)
    scores = torch.from_numpy(draws.exponential(size=(NUM, LENGTH)) * 2)
    return scores, torch.from_numpy(draws.random_sample((NUM, LENGTH)) < 0.75)


def probabilities(name: str, scores: list[float], options: dict[str, Any]) -> list[float]:
    if name == "pos_rs_softmax":
        powers = [math.exp(options.get("sharpness", 1.0) * score) for score in scores]
        mass = [max(power / sum(powers), options.get("floor", 1e-6)) for power in powers]
    else:
        ceiling = sorted(scores, reverse=True)[math.ceil(options["top"] * len(scores) - 1e-6) - 1]
        mass = [min(score, ceiling) for score in scores]
    return [each / sum(mass) for each in mass]


@every_case
def test_weights_equal_a_loop_over_draws(name: str, options: dict[str, Any]) -> None:
    scores, valid = example()
    keys = streams(3, torch.arange(NUM))
    numbers = uniform(mix(keys + 1), LENGTH).double()
    ctx = StepContext(budget=BUDGET, progress=0.0, keys=keys)
    found, _ = POLICIES[name].build(**options).select(scores, valid, ctx, None)
    wanted = torch.zeros_like(scores)
    for row in range(NUM):
        places = valid[row].nonzero()[:, 0].tolist()
        r = probabilities(name, scores[row, places].tolist(), options)
        count = math.ceil(BUDGET * len(places) - 1e-6)
        assert found.denom[row] == count
        for number in numbers[row, :count].tolist():
            drawn = next(place for place in range(len(r)) if number < sum(r[: place + 1]))
            unbiased = 1 / (len(places) * r[drawn])
            weigh = options.get("estimate", "mean" if options.get("corrected") else "weighted")
            wanted[row, places[drawn]] += {"weighted": 1.0, "mean": unbiased, "sum": unbiased * len(places)}[weigh]
    torch.testing.assert_close(found.weight, wanted, rtol=1e-12, atol=0)


@every_case
def test_the_estimate_is_of_what_it_says(name: str, options: dict[str, Any]) -> None:
    scores, valid = (each[:1] for each in example())
    losses = torch.linspace(0.2, 3.0, LENGTH, dtype=torch.float64)[valid[0]]
    num = 40_000
    ctx = StepContext(budget=BUDGET, progress=0.0, keys=streams(0, torch.arange(num)))
    found, _ = POLICIES[name].build(**options).select(scores.expand(num, -1), valid.expand(num, -1), ctx, None)
    estimates = (found.weight / found.denom[:, None])[:, valid[0]] @ losses
    r = torch.tensor(probabilities(name, scores[valid].tolist(), options), dtype=torch.float64)
    weigh = options.get("estimate", "mean" if options.get("corrected") else "weighted")
    wanted = {"weighted": (r * losses).sum(), "mean": losses.mean(), "sum": losses.sum()}[weigh]
    assert abs(float((estimates.mean() - wanted) / (estimates.std() / math.sqrt(num)))) < 4


def test_a_softmax_holds_more_of_its_mass_at_the_top_than_the_scores_do() -> None:
    scores = sorted(example()[0][0].tolist())
    top = {
        name: sum(probabilities(name, scores, {"top": 1 / LENGTH})[-5:])
        for name in ("pos_rs_softmax", "pos_rs_clipped")
    }
    assert top["pos_rs_softmax"] > top["pos_rs_clipped"] + 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pos_rs_softmax", {"estimate": "median"}, "estimate must be weighted, mean or sum; it is 'median'"),
        ("pos_rs_softmax", {"estimate": "sum", "sharpness": 0.0}, "sharpness must be above 0; it is 0.0"),
        ("pos_rs_softmax", {"estimate": "sum", "floor": 1.0}, r"floor is a probability, in \[0, 1\); it is 1.0"),
        ("pos_rs_clipped", {"top": 0.0}, r"top is a share of positions, in \(0, 1\]; it is 0.0"),
    ],
)
def test_an_option_out_of_its_range_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        POLICIES[name].build(**options)
