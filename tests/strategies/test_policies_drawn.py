"""Positions drawn in proportion to scores: what the estimates estimate, how fast, and what each option means."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pair
from torch import Tensor

from harness.config import Strategy
from harness.config.expand import presets
from harness.data.tokens import Batch
from harness.distill.step import accumulate
from strategies.base import StepContext
from strategies.noise import streams, uniform
from strategies.registry import POLICIES

LENGTH, BUDGET = 23, 0.3
OPTIONS: list[dict[str, Any]] = [
    {},
    {"smoothing": 2.0},
    {"smoothing": 0.5},
    {"coverage": 0.4},
    {"coverage": 0.99},
    {"skip_first": 3},
    {"smoothing": 3.0, "coverage": 0.5, "skip_first": 2},
]


def sequence() -> tuple[Tensor, Tensor, Tensor]:
    """Return one sequence's scores and mask, and eight vectors of losses; float64."""
    draws = np.random.RandomState(0)
    scores = torch.from_numpy(draws.exponential(size=LENGTH) + 0.05)
    valid = torch.from_numpy(draws.random_sample(LENGTH) < 0.75)
    losses = torch.from_numpy(draws.exponential(size=(8, LENGTH))) * (1 + scores)
    return scores, valid, losses


def estimates(name: str, num: int, *, budget: float = BUDGET, base: int = 0, **options: Any) -> Tensor:
    """Return the loss of one sequence under `num` independent selections, for every vector of losses."""
    scores, valid, losses = sequence()
    context = StepContext(budget=budget, progress=0.0, keys=streams(base, torch.arange(num)))
    policy = POLICIES[name].build(**options)
    selection, _ = policy.select(scores.expand(num, -1), valid.expand(num, -1), context, None)
    return (selection.weight / selection.denom[:, None]) @ losses.T


def z_scores(found: Tensor, wanted: Tensor) -> Tensor:
    return (found.mean(0) - wanted) / (found.std(0) / math.sqrt(len(found)))


def reference(**options: Any) -> dict[str, Any]:
    """Return by loops who is covered, who may be drawn with which probability, and how often."""
    scores, valid, _ = sequence()
    places = [t for t in range(LENGTH) if valid[t]]
    eligible = places[options.get("skip_first", 0) :]
    budget = min(math.ceil(BUDGET * len(places) - 1e-6), len(eligible))
    num_covered = math.floor(budget * options.get("coverage", 0.0) + 1e-6)
    covered = sorted(eligible, key=lambda t: -float(scores[t]))[:num_covered]
    mass = {t: float(scores[t]) ** (1 / options.get("smoothing", 1.0)) for t in eligible if t not in covered}
    total = sum(mass.values())
    return {
        "eligible": eligible,
        "covered": covered,
        "budget": budget,
        "r": {t: each / total for t, each in mass.items()},
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_pos_rs_estimates_kd_weighted_by_its_probabilities(options: dict[str, Any]) -> None:
    losses, plain = sequence()[2], reference(**options)
    num_draws = plain["budget"] - len(plain["covered"])
    expected = {t: num_draws * r for t, r in plain["r"].items()} | dict.fromkeys(plain["covered"], 1.0)
    wanted = sum(weight * losses[:, t] for t, weight in expected.items()) / plain["budget"]
    assert float(z_scores(estimates("pos_rs", 40_000, **options), wanted).abs().max()) < 4


def test_pos_rs_estimates_entropy_weighted_kd_and_not_full_kd() -> None:
    scores, valid, losses = sequence()
    found = estimates("pos_rs", 40_000)
    weighted = losses[:, valid] @ scores[valid] / scores[valid].sum()
    assert float(z_scores(found, weighted).abs().max()) < 4
    assert float(z_scores(found, losses[:, valid].mean(-1)).abs().max()) > 20, "the test could not tell them apart"


@pytest.mark.parametrize("options", OPTIONS)
def test_pos_rs_corrected_estimates_full_kd(options: dict[str, Any]) -> None:
    losses, eligible = sequence()[2], reference(**options)["eligible"]
    found = estimates("pos_rs_corrected", 40_000, **options)
    assert float(z_scores(found, losses[:, eligible].mean(-1)).abs().max()) < 4


def test_a_self_normalised_correction_would_be_noticed() -> None:
    scores, valid, losses = sequence()
    context = StepContext(budget=BUDGET, progress=0.0, keys=streams(0, torch.arange(40_000)))
    policy = POLICIES["pos_rs_corrected"].build()
    selection, _ = policy.select(scores.expand(40_000, -1), valid.expand(40_000, -1), context, None)
    found = (selection.weight / selection.weight.sum(-1, keepdim=True)) @ losses.T
    assert float(z_scores(found, losses[:, valid].mean(-1)).abs().max()) > 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pos_rs", "pos_rs_corrected"])
def test_the_error_falls_as_one_over_the_root_of_the_draws(name: str) -> None:
    scores, valid, losses = sequence()
    target = losses[:, valid].mean(-1)
    if name == "pos_rs":
        target = losses[:, valid] @ scores[valid] / scores[valid].sum()
    sizes = [4, 16, 64, 256, 1024]
    found = estimates(name, 200 * sizes[-1])
    errors = [float((found.view(-1, size, 8).mean(1) - target).square().mean().sqrt()) for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    assert slope == pytest.approx(-0.5, abs=0.03)
    num_valid, spread = int(valid.sum()), []
    for k in (1, 4, 16):
        within = estimates(name, 40_000, budget=k / num_valid, base=k)
        spread.append(float((within - target).square().mean().sqrt()) * math.sqrt(k))
    assert spread == pytest.approx([spread[0]] * 3, rel=0.03), "draws within a sequence count like any others"


# ---- through the core


def groups(
    strategy: Strategy, pair: Pair, batch: Batch, make_core: Any, *, num: int, copies: int
) -> tuple[Tensor, Tensor]:
    """Return gradients and losses of `num` steps over a batch repeated `copies` times, each copy drawn on its own."""
    many = {name: torch.cat([getattr(batch, name)] * copies) for name in ("index", "input_ids", "targets", "valid")}
    core, grads, losses = make_core(strategy, pair, chunk=100_000), [], []
    for step in range(num):
        core.student.zero_grad(set_to_none=True)
        losses.append(accumulate(core, [Batch.of(**many)], None, step=step, num_steps=num).loss)
        grads.append(torch.cat([each.grad.flatten() for each in core.student.parameters() if each.grad is not None]))
    core.student.zero_grad(set_to_none=True)
    return torch.stack(grads), torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "target", "other"),
    [("pos_rs", "weighted_kd", "full_kd"), ("pos_rs_corrected", "full_kd", "weighted_kd")],
)
def test_the_mean_gradient_is_the_dense_methods(
    name: str, target: str, other: str, make_pair: Callable[..., Pair], make_batch: Callable[..., Batch], make_core: Any
) -> None:
    pair, batch = make_pair(torch.float64), make_batch(6, 13)
    with torch.no_grad():
        pair.student.model.norm.weight.mul_(4)  # entropies that differ from position to position
    num, copies = 40, 40
    found, losses = groups(presets()[name], pair, batch, make_core, num=num, copies=copies)
    (wanted,), wanted_loss = groups(presets()[target], pair, batch, make_core, num=1, copies=1)
    (wrong,), _ = groups(presets()[other], pair, batch, make_core, num=1, copies=1)
    directions = torch.from_numpy(np.random.RandomState(0).standard_normal((found.shape[1], 8)))
    directions[:, 0] = wrong - wanted  # where a confusion would show most
    assert float(z_scores(found @ directions, wanted @ directions).abs().max()) < 4.5
    assert float(z_scores(found @ directions, wrong @ directions).abs().max()) > 8
    assert abs(float(z_scores(losses[:, None], wanted_loss))) < 4.5
    one = float((found - wanted).norm(dim=-1).square().mean().sqrt())
    assert float((found.mean(0) - wanted).norm()) == pytest.approx(one / math.sqrt(num), rel=0.35)


# ---- what is drawn


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["pos_rs", "pos_rs_corrected"])
def test_weights_equal_a_plain_loop_over_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    scores, valid, _ = sequence()
    context = StepContext(budget=BUDGET, progress=0.0, keys=streams(3, torch.arange(50)))
    selection, _ = POLICIES[name].build(**options).select(scores.expand(50, -1), valid.expand(50, -1), context, None)
    plain = reference(**options)
    num_draws, num = plain["budget"] - len(plain["covered"]), len(plain["eligible"])
    wanted = np.zeros((50, LENGTH))
    for row, numbers in enumerate(context.uniform(LENGTH, stream=1).double().numpy()):
        for t in plain["covered"]:
            wanted[row, t] += 1.0 if name == "pos_rs" else plain["budget"] / num
        for number in numbers[:num_draws]:
            t = next(t for t in plain["r"] if number < sum(r for s, r in plain["r"].items() if s <= t))
            wanted[row, t] += 1.0 if name == "pos_rs" else plain["budget"] / (num_draws * num * plain["r"][t])
    np.testing.assert_allclose(selection.weight.numpy(), wanted, rtol=1e-9)
    assert selection.denom.tolist() == [plain["budget"]] * 50


@pytest.mark.parametrize("coverage", [0.0, 0.3, 0.5, 0.9])
def test_coverage_keeps_the_top_scores_and_draws_never_fall_on_them(coverage: float) -> None:
    draws = np.random.RandomState(1)
    scores, valid = torch.from_numpy(draws.exponential(size=(300, 40))), torch.ones((300, 40), dtype=torch.bool)
    context = StepContext(budget=0.25, progress=0.0, keys=streams(0, torch.arange(300)))
    weight = POLICIES["pos_rs"].build(coverage=coverage).select(scores, valid, context, None)[0].weight
    num_covered = math.floor(10 * coverage + 1e-6)
    top = scores.argsort(dim=-1, descending=True)[:, :num_covered]
    assert bool((weight.gather(-1, top) == 1).all())
    assert weight.sum(-1).tolist() == [10.0] * 300


def test_more_smoothing_spreads_the_draws() -> None:
    scores, valid, _ = sequence()
    context = StepContext(budget=1.0, progress=0.0, keys=streams(0, torch.arange(4000)))

    def counts(smoothing: float) -> Tensor:
        policy = POLICIES["pos_rs"].build(smoothing=smoothing)
        return policy.select(scores.expand(4000, -1), valid.expand(4000, -1), context, None)[0].weight.sum(0)[valid]

    shares = [counts(tau) / counts(tau).sum() for tau in (0.01, 0.5, 1.0, 4.0, 1e6)]
    largest = [float(each.max()) for each in shares]
    assert largest == sorted(largest, reverse=True)
    assert largest[0] == pytest.approx(1.0, abs=0.02), "little smoothing is an argmax"
    torch.testing.assert_close(shares[-1], torch.full_like(shares[-1], 1 / len(shares[-1])), rtol=0.08, atol=0)


@pytest.mark.parametrize("name", ["pos_rs", "pos_rs_corrected"])
def test_skipped_positions_are_the_first_valid_ones(name: str) -> None:
    scores, valid, _ = sequence()
    rows = torch.stack([valid, torch.zeros_like(valid), torch.arange(LENGTH) < 2])
    context = StepContext(budget=1.0, progress=0.0, keys=streams(0, torch.arange(3)))
    selection, _ = POLICIES[name].build(skip_first=4).select(scores.expand(3, -1), rows, context, None)
    skipped = valid.nonzero()[:4, 0]
    assert not selection.weight[0, skipped].any()
    assert selection.denom.tolist() == [float(valid.sum()) - 4, 0.0, 0.0]
    assert not selection.weight[1:].any()


@pytest.mark.parametrize("name", ["pos_rs", "pos_rs_corrected"])
def test_scores_without_mass_are_drawn_uniformly(name: str) -> None:
    valid = sequence()[1].expand(20_000, -1)
    context = StepContext(budget=BUDGET, progress=0.0, keys=streams(0, torch.arange(20_000)))
    for score in (0.0, -2.0):
        scores = torch.full(valid.shape, score)
        selection, _ = POLICIES[name].build().select(scores, valid, context, None)
        share = (selection.weight / selection.denom[:, None]).mean(0)[valid[0]]
        torch.testing.assert_close(share, torch.full_like(share, 1 / len(share)), rtol=0.05, atol=0)


def test_positions_without_mass_are_never_drawn() -> None:
    scores = torch.zeros((2000, 9))
    scores[:, [2, 5]] = torch.tensor([1.0, 3.0])
    context = StepContext(budget=1.0, progress=0.0, keys=streams(0, torch.arange(2000)))
    weight = (
        POLICIES["pos_rs"].build().select(scores, torch.ones_like(scores, dtype=torch.bool), context, None)[0].weight
    )
    drawn = weight.sum(0)
    assert drawn.nonzero()[:, 0].tolist() == [2, 5]
    assert float(drawn[5] / drawn.sum()) == pytest.approx(0.75, abs=0.02)


def test_draws_are_unrelated_to_the_noise_that_scores_may_be_made_of() -> None:
    # The control signal `random` is stream 0: drawn with the same numbers, the estimate would be biased.
    num, losses = 40_000, torch.arange(LENGTH, dtype=torch.float64)
    context = StepContext(budget=BUDGET, progress=0.0, keys=streams(0, torch.arange(num)))
    noise = uniform(context.keys, LENGTH).double()
    valid = torch.ones((num, LENGTH), dtype=torch.bool)
    selection, _ = POLICIES["pos_rs_corrected"].build().select(noise, valid, context, None)
    found = ((selection.weight / selection.denom[:, None]) @ losses)[:, None]
    bulk = found[found < found.quantile(0.999)][:, None]
    assert float(found.mean()) == pytest.approx(float(losses.mean()), rel=0.05)
    assert len(bulk) > 0
    seen = np.corrcoef(context.uniform(LENGTH, stream=1).flatten().numpy(), noise.flatten().numpy())[0, 1]
    assert abs(float(seen)) < 4 / math.sqrt(num * LENGTH)
    assert torch.equal(context.uniform(LENGTH), uniform(context.keys, LENGTH))
    assert not torch.equal(context.uniform(LENGTH, stream=1), context.uniform(LENGTH, stream=2))
    assert replace(context, budget=1.0).uniform(3, stream=1).equal(context.uniform(LENGTH, stream=1)[:, :3])
