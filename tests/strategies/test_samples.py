"""Sample policies: the contract over every one there is, and what each of them keeps."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.config import Strategy
from harness.config.errors import UserError
from harness.config.seeds import derive
from harness.config.strategy import read_strategy
from harness.distill import probe as probe_module
from harness.distill.probe import probe
from strategies.base import SamplePolicy, sample_count
from strategies.noise import streams, uniform
from strategies.registry import SAMPLES, Component

OPTIONS: dict[str, dict[str, Any]] = {"stratified": {"bins": 4}}
NAMES = list(SAMPLES)


def policy(name: str, **options: Any) -> SamplePolicy:
    made = SAMPLES[name].build(**(options or OPTIONS.get(name, {})))
    assert isinstance(made, SamplePolicy)
    return made


def noise_of(num: int, seed: int = 0) -> Tensor:
    return uniform(streams(derive(seed, "samples"), torch.arange(num)), 1)[:, 0]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3).map(float) | st.floats(-1e30, 1e30), min_size=1, max_size=80),
    budget=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**40),
)
def test_every_policy_keeps_exactly_its_budget(name: str, scores: list[float], budget: float, seed: int) -> None:
    given_scores = torch.tensor(scores, dtype=torch.float64)
    noise = noise_of(len(scores), seed)
    kept = policy(name).choose(given_scores, budget, noise)
    assert kept.dtype == torch.int64
    assert len(kept) == max(1, round(budget * len(scores)))
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert 0 <= int(kept[0]) <= int(kept[-1]) < len(scores)
    assert torch.equal(kept, policy(name).choose(given_scores.clone(), budget, noise.clone()))


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_of_one_keeps_everything(name: str) -> None:
    kept = policy(name).choose(torch.randn(37), 1.0, noise_of(37))
    assert torch.equal(kept, torch.arange(37))


@pytest.mark.parametrize(("num", "budget", "count"), [(100, 0.07, 7), (3, 0.01, 1), (10, 0.26, 3), (2400, 0.2, 480)])
def test_the_count_is_the_rounded_share(num: int, budget: float, count: int) -> None:
    assert sample_count(num, budget) == count


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.integers(0, 4).map(float), min_size=1, max_size=40), budget=st.floats(0.01, 1.0))
def test_top_and_bottom_break_ties_by_index(scores: list[float], budget: float) -> None:
    count = sample_count(len(scores), budget)
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    worst = sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count]
    noise = noise_of(len(scores))
    assert policy("top").choose(torch.tensor(scores), budget, noise).tolist() == sorted(best)
    assert policy("bottom").choose(torch.tensor(scores), budget, noise).tolist() == sorted(worst)


@pytest.mark.parametrize("name", ["top", "bottom"])
def test_ranking_policies_ignore_the_noise(name: str) -> None:
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        policy(name).choose(scores, 0.3, noise_of(50, 1)), policy(name).choose(scores, 0.3, noise_of(50, 2))
    )


def test_random_ignores_the_scores_and_is_nested_in_its_budget() -> None:
    noise = noise_of(200, 3)
    few, many = (policy("random").choose(torch.randn(200), budget, noise) for budget in (0.1, 0.4))
    assert set(few.tolist()) < set(many.tolist())
    assert torch.equal(few, policy("random").choose(torch.zeros(200), 0.1, noise))


def _frequencies(name: str, scores: Tensor, budget: float, num_draws: int, **options: Any) -> Tensor:
    made, counts = policy(name, **options), torch.zeros(len(scores))
    for seed in range(num_draws):
        counts[made.choose(scores, budget, noise_of(len(scores), seed))] += 1
    return counts / num_draws


@pytest.mark.parametrize("name", ["random", "stratified"])
def test_drawn_sequences_are_drawn_uniformly(name: str) -> None:
    """Chi-squared of the inclusion counts, with the hypergeometric variance; 40 sequences, 2000 draws, 1 in 4."""
    frequencies = _frequencies(name, torch.randn(40, generator=torch.Generator().manual_seed(1)), 0.25, 2000)
    z = (frequencies - 0.25) / (0.25 * 0.75 / 2000) ** 0.5
    assert float(z.abs().max()) < 4.0
    assert float(z.square().mean()) < 1.7


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.integers(0, 9).map(float), min_size=1, max_size=60),
    budget=st.floats(0.01, 1.0),
    bins=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_stratified_covers_each_bin_in_proportion(scores: list[float], budget: float, bins: int, seed: int) -> None:
    num = len(scores)
    kept = set(policy("stratified", bins=bins).choose(torch.tensor(scores), budget, noise_of(num, seed)).tolist())
    ranked = sorted(range(num), key=lambda i: (scores[i], i))
    count = sample_count(num, budget)
    edges = [b * num // bins for b in range(bins + 1)]
    for low, high in itertools.pairwise(edges):
        found = len(kept & set(ranked[low:high]))
        assert abs(found - count * (high - low) / num) < 1
        assert abs((high - low) - num / bins) < 1


def test_stratified_with_one_bin_is_random() -> None:
    scores, noise = torch.randn(60), noise_of(60, 5)
    assert torch.equal(
        policy("stratified", bins=1).choose(scores, 0.3, noise), policy("random").choose(scores, 0.3, noise)
    )


def test_stratified_favours_no_bin_when_fewer_are_kept_than_there_are_bins() -> None:
    frequencies = _frequencies("stratified", torch.arange(20, dtype=torch.float64), 0.1, 2000, bins=5).view(5, 4).sum(1)
    assert float((frequencies - 0.4).abs().max()) < 4 * (0.4 * 0.6 / 2000) ** 0.5


def test_the_draw_of_a_sequence_does_not_depend_on_how_many_there_are() -> None:
    assert torch.equal(noise_of(50, 9), noise_of(500, 9)[:50])
    assert not torch.equal(noise_of(50, 9), noise_of(50, 10))


# ---- the dry run


def _strategy(**samples: Any) -> Strategy:
    return read_strategy(
        {"label": "probed", "position": {"policy": "all"}, "criterion": "forward_kl", "samples": samples}
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_dry_run_passes_every_policy(name: str) -> None:
    scored = {"signal": "kl"} if SAMPLES[name].traits["scored"] else {}
    probe(_strategy(policy={"name": name, **OPTIONS.get(name, {})}, budget=0.3, **scored))


@pytest.mark.parametrize(
    "returned",
    [
        lambda: torch.tensor([0, 1]),
        lambda: torch.tensor([1, 0, 2]),
        lambda: torch.tensor([0, 1, 1]),
        lambda: torch.tensor([0, 1, 10]),
        lambda: torch.tensor([0.0, 1.0, 2.0]),
        lambda: [0, 1, 2],
    ],
)
def test_the_dry_run_refuses_what_a_policy_must_not_return(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SAMPLES["top"]
    broken = type("Broken", (), {"choose": lambda self, *_: returned()})
    component = Component(
        kind=known.kind, name="top", build=broken, source="a test", inputs=(), options={}, traits=known.traits
    )
    monkeypatch.setitem(SAMPLES._components, "top", component)
    with pytest.raises(UserError, match="sample policy 'top' must return 3 indices of 10 sequences"):
        probe(_strategy(signal="kl", policy="top", budget=0.3))


def test_the_dry_run_names_what_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom(name: str, ranked_by: object) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(probe_module, "signal_function", boom)
    with pytest.raises(UserError, match=r"signal 'kl' fails on a trial input: RuntimeError: out of luck"):
        probe(_strategy(signal="kl", policy="top", budget=0.3))
