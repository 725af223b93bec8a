"""Contract of every policy: exact counts, exact zeros, and no dependence on padding or on the batch's split."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.config.errors import UserError
from harness.config.legality import check_strategy
from harness.config.strategy import read_strategy
from strategies.base import Selection, StepContext, budget_count, rank_scores
from strategies.noise import streams
from strategies.registry import POLICIES

NAMES = list(POLICIES)
ROW_NAMES = [name for name in NAMES if POLICIES[name].traits["scope"] == "row"]
# Those that keep ceil(budget * valid) positions of each sequence with weight 1.
COUNTING = ["bottom_k", "curriculum", "first", "last", "random", "sampled", "top_k", "window"]
MAY_SKIP = {"batch_top_k", "bucket", "raw_weights"}  # those that may select nothing of a sequence
OPTIONS: dict[str, dict[str, Any]] = {
    "batch_top_k_each": {"least": 1},
    "bucket": {"lo": 0.2, "hi": 0.6},
    "curriculum": {"ramp": 0.41, "power": 1.0},
    "first_n": {"num": 3},
    "last_n": {"num": 3},
    "window_n": {"num": 3},
    "gls": {"capacity": 100},
    "past_weights": {"gain": 0.5},
    "pos_rs_clipped": {"top": 0.1},
    "pos_rs_softmax": {"estimate": "weighted"},
    "position_weights": {"floor": 0.25, "centre": 0.3, "width": 0.1},
    "latf": {"decay": 0.99, "tolerance": 0.05, "step": 0.05, "floor": 0.1, "warmup": 0.05},
}
# In its first steps latf keeps everything.
STATES: dict[str, Any] = {"latf": {"fraction": 0.4, "progress": 0.25}}


def policy(name: str, **options: Any) -> Any:
    given = {**OPTIONS.get(name, {}), **options}
    required = [option for option, needed in POLICIES[name].options.items() if needed.required]
    assert set(required) <= set(given), f"give {name} its options {required} here"
    return POLICIES[name].build(**given)


def context(num: int, budget: float = 0.3, *, base: int = 5, first: int = 0) -> StepContext:
    return StepContext(budget=budget, progress=0.25, keys=streams(base, torch.arange(first, first + num)))


def select(name: str, scores: Tensor, valid: Tensor, ctx: StepContext) -> Selection:
    selection, _ = policy(name).select(scores, valid, ctx, STATES.get(name))
    assert isinstance(selection, Selection)
    return selection


def example(seed: int = 0, num: int = 7, length: int = 19) -> tuple[Tensor, Tensor]:
    draws = np.random.RandomState(seed)
    scores = torch.from_numpy(draws.exponential(size=(num, length))).float()
    valid = torch.from_numpy(draws.random_sample((num, length)) < 0.7)
    valid[0] = True
    valid[1] = False
    valid[2] = False
    valid[2, 4] = True
    return scores, valid


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_denominators_are_well_formed(name: str) -> None:
    scores, valid = example()
    selection = select(name, scores, valid, context(7))
    assert selection.weight.shape == valid.shape
    assert selection.denom.shape == (7,)
    assert bool((selection.weight >= 0).all())
    assert bool(selection.weight.isfinite().all())
    assert not selection.weight[~valid].any()
    has_targets = valid.any(-1)
    selected = selection.weight.sum(-1) > 0
    assert torch.equal(selection.denom > 0, selected)
    assert bool((selected <= has_targets).all())
    if name not in MAY_SKIP:
        assert torch.equal(selected, has_targets)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filler", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_scores_at_invalid_positions_mean_nothing(name: str, filler: float) -> None:
    scores, valid = example()
    wanted = select(name, scores, valid, context(7))
    found = select(name, scores.masked_fill(~valid, filler), valid, context(7))
    assert torch.equal(found.weight, wanted.weight)
    assert torch.equal(found.denom, wanted.denom)


@pytest.mark.parametrize("name", NAMES)
def test_padding_to_the_right_does_not_matter(name: str) -> None:
    scores, valid = example()
    wanted = select(name, scores, valid, context(7))
    padded = torch.cat([scores, torch.full((7, 6), 1e6)], dim=1)
    found = select(name, padded, torch.cat([valid, torch.zeros((7, 6), dtype=torch.bool)], dim=1), context(7))
    torch.testing.assert_close(found.weight[:, :19], wanted.weight, rtol=1e-6, atol=0)
    assert not found.weight[:, 19:].any()
    assert torch.equal(found.denom, wanted.denom)


@pytest.mark.parametrize("name", ROW_NAMES)
@pytest.mark.parametrize("sizes", [[3, 4], [1] * 7, [6, 1]])
def test_splitting_the_batch_does_not_matter(name: str, sizes: list[int]) -> None:
    scores, valid = example()
    whole, first, weights = select(name, scores, valid, context(7)), 0, []
    for size in sizes:
        part = slice(first, first + size)
        weights.append(select(name, scores[part], valid[part], context(size, first=first)).weight)
        first += size
    assert torch.equal(torch.cat(weights), whole.weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_context_selects_the_same(name: str) -> None:
    scores, valid = example()
    first, second = (select(name, scores, valid, context(7)) for _ in range(2))
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("name", [name for name in NAMES if not POLICIES[name].traits["scored"]])
def test_a_policy_that_declares_no_scores_reads_none(name: str) -> None:
    scores, valid = example()
    found = select(name, torch.zeros_like(scores), valid, context(7))
    assert torch.equal(found.weight, select(name, scores, valid, context(7)).weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_declares_whether_it_reads_scores_and_budget(name: str) -> None:
    scores, valid = example()
    base = select(name, scores, valid, context(7)).weight
    other_scores = select(name, scores.flip(-1), valid, context(7)).weight
    other_budget = select(name, scores, valid, context(7, 0.8)).weight
    assert POLICIES[name].traits["scored"] == (not torch.equal(base, other_scores))
    assert POLICIES[name].traits["budgeted"] == (not torch.equal(base, other_budget))


# ---- counts


@pytest.mark.parametrize(
    ("num", "budget", "count"),
    [(100, 0.07, 7), (100, 0.2, 20), (10, 0.25, 3), (3, 0.01, 1), (1, 1.0, 1), (127, 0.2, 26), (0, 0.5, 0)],
)
def test_budget_count_of_known_cases(num: int, budget: float, count: int) -> None:
    assert budget_count(torch.arange(200)[None] < num, budget).tolist() == [count]


@settings(deadline=None, max_examples=200)
@given(num=st.integers(1, 400), percent=st.integers(1, 100))
def test_whole_percentages_are_rounded_exactly(num: int, percent: int) -> None:
    wanted = -(-num * percent // 100)
    assert budget_count(torch.arange(400)[None] < num, percent / 100).tolist() == [wanted]


@pytest.mark.parametrize("name", COUNTING)
@settings(deadline=None, max_examples=60)
@given(
    num=st.integers(0, 60),
    budget=st.one_of(st.floats(1e-4, 1.0), st.sampled_from([0.07, 0.1, 0.2, 0.29, 0.57, 0.58, 1.0])),
    seed=st.integers(0, 1000),
)
def test_exactly_so_many_positions_are_kept(name: str, num: int, budget: float, seed: int) -> None:
    draws = np.random.RandomState(seed)
    valid = torch.zeros((1, 60), dtype=torch.bool)
    valid[0, draws.permutation(60)[:num]] = True
    scores = torch.from_numpy(draws.randint(0, 4, size=(1, 60))).float()
    selection = select(name, scores, valid, context(1, budget))
    wanted = min(num, max(1, math.ceil(num * budget - 1e-6)))
    assert float(selection.weight.sum()) == wanted
    assert set(selection.weight.unique().tolist()) <= {0.0, 1.0}
    assert selection.denom.tolist() == [wanted]


# ---- what each selects


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_top_k_keeps_the_highest_and_breaks_ties_earliest_first(seed: int, budget: float) -> None:
    draws = np.random.RandomState(seed)
    scores = torch.from_numpy(draws.randint(-2, 3, size=(3, 23))).float()
    valid = torch.from_numpy(draws.random_sample((3, 23)) < 0.8)
    selection = select("top_k", scores, valid, context(3, budget))
    for row in range(3):
        places = sorted((t for t in range(23) if valid[row, t]), key=lambda t: (-float(scores[row, t]), t))
        kept = set(places[: math.ceil(len(places) * budget - 1e-6)])
        assert {t for t in range(23) if selection.weight[row, t] > 0} == kept


def test_top_k_ranks_infinite_scores_and_never_padding() -> None:
    scores = torch.tensor([[-torch.inf, torch.inf, -torch.inf, 0.0]])
    valid = torch.tensor([[True, False, True, True]])
    assert select("top_k", scores, valid, context(1, 0.6)).weight.tolist() == [[1.0, 0.0, 0.0, 1.0]]
    assert select("top_k", scores, valid, context(1, 1.0)).weight.tolist() == [[1.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize("name", COUNTING)
def test_budget_one_is_all(name: str) -> None:
    scores, valid = example()
    found, wanted = select(name, scores, valid, context(7, 1.0)), select("all", scores, valid, context(7))
    assert torch.equal(found.weight, wanted.weight)
    assert torch.equal(found.denom, wanted.denom)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_bottom_k_keeps_the_lowest_and_breaks_ties_earliest_first(seed: int, budget: float) -> None:
    draws = np.random.RandomState(seed)
    scores = torch.from_numpy(draws.randint(-2, 3, size=(3, 23))).float()
    valid = torch.from_numpy(draws.random_sample((3, 23)) < 0.8)
    selection = select("bottom_k", scores, valid, context(3, budget))
    for row in range(3):
        places = sorted((t for t in range(23) if valid[row, t]), key=lambda t: (float(scores[row, t]), t))
        kept = set(places[: math.ceil(len(places) * budget - 1e-6)])
        assert {t for t in range(23) if selection.weight[row, t] > 0} == kept


@pytest.mark.parametrize("budget", [0.01, 0.2, 0.5, 1.0])
def test_batch_top_k_keeps_the_highest_of_the_whole_batch(budget: float) -> None:
    draws = np.random.RandomState(4)
    scores, valid = torch.from_numpy(draws.randint(0, 6, size=(5, 11))).float(), example(1, 5, 11)[1]
    scores[3] += 10  # most of what is kept lies in one sequence
    selection = select("batch_top_k", scores, valid, context(5, budget))
    places = sorted(valid.nonzero().tolist(), key=lambda place: (-float(scores[*place]), place))
    kept = places[: math.ceil(len(places) * budget - 1e-6)]
    wanted = torch.zeros_like(scores)
    for row, t in kept:
        wanted[row, t] = 1.0
    assert torch.equal(selection.weight, wanted)
    assert torch.equal(selection.denom, wanted.sum(-1))


# ---- curriculum


def at(progress: float, num: int = 7, budget: float = 0.3) -> StepContext:
    return StepContext(budget=budget, progress=progress, keys=streams(5, torch.arange(num)))


@pytest.mark.parametrize("progress", [0.41, 0.6, 0.999])
@pytest.mark.parametrize("tied", [False, True])
def test_a_curriculum_that_has_ended_is_top_k(progress: float, tied: bool) -> None:
    scores, valid = example()
    scores = scores.round() if tied else scores
    found, _ = policy("curriculum").select(scores, valid, at(progress), None)
    wanted = select("top_k", scores, valid, context(7))
    assert torch.equal(found.weight, wanted.weight)
    assert torch.equal(found.denom, wanted.denom)


def test_a_curriculum_begins_as_bottom_k() -> None:
    scores, valid = example()
    found, _ = policy("curriculum").select(scores, valid, at(0.0), None)
    assert torch.equal(found.weight, select("bottom_k", scores, valid, context(7)).weight)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("step", [0, 1, 7, 40, 41, 80])
def test_a_curriculums_window_stands_where_the_formula_puts_it(power: float, step: int) -> None:
    scores, valid = example()
    found, _ = policy("curriculum", ramp=0.41, power=power).select(scores, valid, at(step / 100), None)
    for row in range(7):
        ascending = sorted((t for t in range(19) if valid[row, t]), key=lambda t: float(scores[row, t]))
        count = math.ceil(0.3 * len(ascending) - 1e-6)
        start = math.floor((len(ascending) - count) * min(1.0, step / 41) ** power + 1e-9)
        kept = set(ascending[start : start + count])
        assert {t for t in range(19) if found.weight[row, t] > 0} == kept


# ---- buckets


@pytest.mark.parametrize("num", [2, 3, 5, 7, 10])
@pytest.mark.parametrize("tied", [False, True])
def test_buckets_partition_the_positions(num: int, tied: bool) -> None:
    scores, valid = example()
    scores = scores.round() if tied else scores
    weights = torch.zeros(valid.shape)
    for place in range(num):
        bucket = policy("bucket", lo=place / num, hi=(place + 1) / num)
        weights += bucket.select(scores, valid, context(7), None)[0].weight
    assert torch.equal(weights, valid.float())


def test_a_bucket_holds_the_percentiles_it_names() -> None:
    scores, valid = torch.arange(100.0)[None].flip(-1), torch.ones((1, 100), dtype=torch.bool)
    selection, _ = policy("bucket", lo=0.29, hi=0.58).select(scores, valid, context(1), None)
    assert sorted(scores[selection.weight > 0].tolist()) == list(range(29, 58))
    assert selection.denom.tolist() == [29.0]
    top, _ = policy("bucket", lo=0.8, hi=1.0).select(scores, valid, context(1), None)
    assert torch.equal(top.weight, select("top_k", scores, valid, context(1, 0.2)).weight)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("batch_top_k_each", {"least": -1}),
        ("bucket", {"lo": 0.5, "hi": 0.5}),
        ("bucket", {"lo": -0.1, "hi": 0.5}),
        ("bucket", {"lo": 0.5, "hi": 20.0}),
        ("curriculum", {"ramp": 0.0}),
        ("curriculum", {"ramp": 4000.0}),
        ("curriculum", {"power": 0.0}),
        ("first_n", {"num": 0}),
        ("gls", {"capacity": 0}),
        ("latf", {"decay": 1.0}),
        ("latf", {"step": 0.0}),
        ("latf", {"floor": 0.0}),
        ("past_weights", {"gain": -0.5}),
        ("position_weights", {"floor": 1.5}),
        ("position_weights", {"width": 0.0}),
        ("pos_rs", {"smoothing": 0.0}),
        ("pos_rs", {"coverage": 1.0}),
        ("pos_rs_corrected", {"skip_first": -1}),
    ],
)
def test_options_out_of_range_are_refused_before_anything_runs(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        policy(name, **options)
    position: dict[str, Any] = {"policy": {"name": name, **OPTIONS.get(name, {}), **options}}
    if POLICIES[name].traits["scored"]:
        position["signal"] = "student_ce"
    if POLICIES[name].traits["budgeted"]:
        position["budget"] = 0.2
    fields = {"label": "x", "position": position, "criterion": "forward_kl"}
    with pytest.raises(UserError, match=f"strategy: policy '{name}': .*{next(iter(options))}"):
        check_strategy(read_strategy(fields))


# ---- segments: no model is read


SEGMENTS = ["first", "last", "window", "first_n", "last_n", "window_n"]


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize(("num", "budget"), [(1, 1e-4), (3, 0.3), (100, 1.0)])
def test_a_segment_is_where_it_says(name: str, num: int, budget: float) -> None:
    scores, valid = example()
    options = {"num": num} if POLICIES[name].options else {}
    found, _ = policy(name, **options).select(scores, valid, context(7, budget), None)
    for row in range(7):
        places = [t for t in range(19) if valid[row, t]]
        share = max(math.ceil(budget * len(places) - 1e-6), 1)
        count = min(num if options else share, len(places))
        kept = [t for t in range(19) if found.weight[row, t] == 1.0]
        starts = {"first": [0], "last": [len(places) - count]}.get(name.removesuffix("_n"), range(len(places) or 1))
        assert any(kept == places[start : start + count] for start in starts)
        assert len(kept) == found.denom[row] == count


@pytest.mark.parametrize("name", ["window", "window_n"])
def test_a_window_stands_everywhere_equally_often_and_anew_in_every_step(name: str) -> None:
    num, length, kept = 9000, 10, 2
    valid = torch.ones((num, length), dtype=torch.bool)
    options = {"num": kept} if name == "window_n" else {}
    found, again = (
        policy(name, **options).select(torch.zeros((num, length)), valid, context(num, kept / length, base=base), None)
        for base in (5, 6)
    )
    starts = found[0].weight.argmax(-1)
    expected = num / (length - kept + 1)
    statistic = float((starts.bincount(minlength=9).double() - expected).square().sum()) / expected
    assert statistic < 26.1  # the 99.9th percentile of chi-square with 8 degrees of freedom
    assert float((starts == again[0].weight.argmax(-1)).double().mean()) == pytest.approx(1 / 9, abs=0.02)


@pytest.mark.parametrize(("budget", "each"), [(1e-4, 1), (0.3, 2), (0.5, 3), (1.0, 5)])
def test_ends_are_the_highest_and_the_lowest(budget: float, each: int) -> None:
    scores = torch.tensor([[3.0, 9.0, 1.0, 1.0, 5.0, 7.0, 9.0, 2.0, 8.0, 4.0, 99.0]])
    valid = torch.tensor([[True] * 10 + [False]])
    found, _ = policy("ends").select(scores, valid, context(1, budget), None)
    order = sorted(range(10), key=lambda t: (-float(scores[0, t]), t))
    kept = set(order[:each] + order[-each:])
    assert {t for t in range(11) if found.weight[0, t] == 1.0} == kept
    assert found.denom.tolist() == [len(kept)]


def test_a_batchs_top_k_leaves_no_sequence_out() -> None:
    scores, valid = example()
    scores[3] += 10  # most of the batch's budget lies in one sequence
    best = select("batch_top_k", scores, valid, context(7, 0.1)).weight
    assert not bool(best[4:].any())
    for least in (0, 1, 2):
        found, _ = policy("batch_top_k_each", least=least).select(scores, valid, context(7, 0.1), None)
        for row in range(7):
            places = sorted((t for t in range(19) if valid[row, t]), key=lambda t: -float(scores[row, t]))
            count = max(int(best[row].sum()), min(least, len(places)))
            assert {t for t in range(19) if found.weight[row, t] == 1.0} == set(places[:count])
            assert found.denom[row] == count


# ---- weights in place of a selection


def test_raw_weights_are_the_scores() -> None:
    scores, valid = example()
    scores[3] = -1.0
    found = select("raw_weights", scores, valid, context(7))
    assert torch.equal(found.weight, scores.clamp(min=0).masked_fill(~valid, 0.0))
    wanted = valid.sum(-1)
    wanted[3] = 0
    assert torch.equal(found.denom, wanted.float())


def test_position_weights_rise_as_the_formula_says() -> None:
    scores, valid = example()
    found, _ = policy("position_weights", floor=0.25, centre=0.3, width=0.1).select(scores, valid, context(7), None)
    for row in range(7):
        places = [t for t in range(19) if valid[row, t]]
        for number, t in enumerate(places):
            share = (number + 0.5) / len(places)
            wanted = 0.25 + 0.75 / (1 + math.exp(-(share - 0.3) / 0.1))
            assert float(found.weight[row, t]) == pytest.approx(wanted, rel=1e-12)
    assert torch.equal(found.denom, valid.sum(-1).double())


def test_past_weights_fall_with_what_came_before() -> None:
    scores, valid = example()
    scores = scores.double() * torch.tensor([1.0, -1.0] * 9 + [1.0])  # log-ratios have either sign
    found, _ = policy("past_weights", gain=0.5).select(scores, valid, context(7), None)
    for row in range(7):
        places = [t for t in range(19) if valid[row, t]]
        total = sum(abs(float(scores[row, t])) for t in places)
        for number, t in enumerate(places):
            before = sum(abs(float(scores[row, each])) for each in places[:number])
            assert float(found.weight[row, t]) == pytest.approx(1 + 0.5 * (1 - before / total), rel=1e-10)
    assert torch.equal(found.denom, valid.sum(-1).double())
    agreed, _ = policy("past_weights", gain=0.5).select(torch.zeros_like(scores), valid, context(7), None)
    assert torch.equal(agreed.weight, valid * 1.5)


def test_sampled_draws_one_after_the_other_by_its_scores() -> None:
    num, weights = 40_000, [1.0, 2.0, 3.0, 4.0, 0.0]
    scores, valid = torch.tensor(weights).expand(num, -1), torch.ones((num, 5), dtype=torch.bool)
    found = select("sampled", scores, valid, context(num, 0.4)).weight
    total = sum(weights)
    for first in range(5):
        for second in range(first):
            a, b = weights[first], weights[second]
            share = a / total * b / (total - a) + b / total * a / (total - b)
            together = float((found[:, first] * found[:, second]).mean())
            assert together == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / num))
    whole = select("sampled", scores, valid, context(num, 1.0)).weight
    assert bool(whole.all()), "what has no score comes last, not never"


def test_all_keeps_every_valid_position() -> None:
    scores, valid = example()
    selection = select("all", scores, valid, context(7))
    assert torch.equal(selection.weight, valid.float())
    assert torch.equal(selection.denom, valid.sum(-1).float())


def test_random_draws_every_position_and_every_pair_equally_often() -> None:
    num, length, kept = 8000, 10, 3
    valid = torch.ones((num, length), dtype=torch.bool)
    weight = select("random", torch.zeros((num, length)), valid, context(num, kept / length)).weight.double()
    expected = num * kept / length
    # Counts of draws without replacement vary less than independent ones, by (1 - 1/length) / (1 - kept/length).
    statistic = float(((weight.sum(0) - expected).square() / (expected * (1 - kept / length))).sum()) * (1 - 1 / length)
    assert statistic < 27.9  # the 99.9th percentile of chi-square with 9 degrees of freedom
    together = (weight.T @ weight)[~torch.eye(length, dtype=torch.bool)]
    share = kept * (kept - 1) / (length * (length - 1))
    deviation = math.sqrt(num * share * (1 - share))
    assert float((together - num * share).abs().max()) < 4.5 * deviation


def test_random_draws_anew_in_every_step_and_sequence() -> None:
    valid = torch.ones((50, 40), dtype=torch.bool)
    scores = torch.zeros((50, 40))
    first, second = (select("random", scores, valid, context(50, base=base)).weight for base in (1, 2))
    assert not bool((first == second).all(-1).any())
    assert len({tuple(row) for row in first.tolist()}) == 50


def test_weighted_is_proportional_with_mean_one() -> None:
    scores, valid = example()
    scores[3] -= 0.5  # some negative: they count as zero
    selection = select("weighted", scores, valid, context(7))
    for row in range(7):
        kept = scores[row][valid[row]].clamp(min=0).double()
        if not len(kept):
            continue
        torch.testing.assert_close(selection.weight[row][valid[row]].double(), kept / kept.mean(), rtol=1e-5, atol=1e-7)
        assert float(selection.weight[row].sum()) / len(kept) == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(selection.denom, valid.sum(-1).float())


@pytest.mark.parametrize("score", [0.0, -3.0])
def test_weighted_without_any_mass_is_uniform(score: float) -> None:
    _, valid = example()
    selection = select("weighted", torch.full(valid.shape, score), valid, context(7))
    assert torch.equal(selection.weight, valid.float())


def test_weighted_keeps_the_precision_of_its_scores() -> None:
    scores, valid = example()
    scores = scores.double() + 1e-10
    weight = select("weighted", scores, valid, context(7)).weight
    row = scores[0] / scores[0].mean()
    torch.testing.assert_close(weight[0].double(), row, rtol=1e-12, atol=0)


@pytest.mark.parametrize("descending", [True, False])
def test_ranks_are_a_permutation_with_invalid_positions_last(descending: bool) -> None:
    scores, valid = example()
    rank = rank_scores(scores, valid, descending=descending)
    assert torch.equal(rank.sort(-1).values, torch.arange(19).expand(7, 19))
    for row in range(7):
        num = int(valid[row].sum())
        assert bool((rank[row][valid[row]] < num).all())
        ordered = scores[row][rank[row].argsort()[:num]]
        assert torch.equal(ordered, ordered.sort(descending=descending).values)
