"""Policies with a state: the queue of gls, the adaptive fraction of latf, and what a checkpoint must bring back."""

import io
import math
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strategies.base import StepContext
from strategies.noise import streams
from strategies.registry import POLICIES

LATF = {"decay": 0.0, "tolerance": 0.05, "step": 0.1, "floor": 0.5, "warmup": 0.0}


def context(step: int, *, num: int = 8, budget: float = 0.2, num_steps: int = 100, loss: float | None = None) -> Any:
    return StepContext(budget=budget, progress=step / num_steps, keys=streams(step, torch.arange(num)), last_loss=loss)


def round_trip(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def stream(seed: int, num: int = 8, length: int = 64) -> tuple[Tensor, Tensor]:
    draws = np.random.RandomState(seed)
    scores = torch.from_numpy(draws.exponential(size=(num, length))).float()
    return scores, torch.from_numpy(draws.random_sample((num, length)) < 0.8)


# ---- gls


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.5, 1.0])
def test_gls_equals_a_plain_queue(budget: float) -> None:
    gls, state, queue = POLICIES["gls"].build(capacity=700), None, deque[float](maxlen=700)
    for step in range(5):
        scores, valid = stream(step)
        selection, state = gls.select(scores, valid, context(step, budget=budget), state)
        if step == 0:
            wanted = POLICIES["top_k"].build().select(scores, valid, context(0, budget=budget), None)[0].weight
        else:
            ordered = sorted(queue)
            threshold = ordered[math.floor((1 - budget) * (len(ordered) - 1) + 1e-9)]
            wanted = ((scores >= threshold) & valid).float()
        assert torch.equal(selection.weight, wanted)
        assert torch.equal(selection.denom, wanted.sum(-1))
        queue.extend(scores[valid].tolist())
        assert state["queue"].tolist() == list(queue), "first in, first out"


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.5])
def test_gls_keeps_about_its_budget_of_a_stationary_stream(budget: float) -> None:
    gls, state, shares = POLICIES["gls"].build(capacity=30_000), None, []
    for step in range(120):
        scores, valid = stream(step)
        selection, state = gls.select(scores, valid, context(step, budget=budget), state)
        shares.append(float(selection.weight.sum()) / int(valid.sum()))
    late = np.array(shares[80:])
    num = 0.8 * 8 * 64
    assert len(state["queue"]) == 30_000
    assert late.mean() == pytest.approx(budget, abs=0.01)
    assert late.std() == pytest.approx(math.sqrt(budget * (1 - budget) / num), rel=0.5), "it varies as chance would"
    assert len(set(shares)) > 60, "the realised share is not the budget, and is logged for that"


def test_gls_leaves_its_budget_where_scores_drift() -> None:
    gls, state = POLICIES["gls"].build(capacity=30_000), None
    for step in range(10):
        scores, valid = stream(step)
        selection, state = gls.select(scores * 0.9**step, valid, context(step), state)
    assert float(selection.weight.sum()) / int(valid.sum()) < 0.15


def test_gls_may_select_nothing_and_survives_infinite_scores() -> None:
    gls = POLICIES["gls"].build(capacity=10)
    valid = torch.ones((2, 3), dtype=torch.bool)
    _, state = gls.select(torch.full((2, 3), torch.inf), valid, context(0, num=2), None)
    selection, state = gls.select(torch.zeros((2, 3)), valid, context(1, num=2), state)
    assert not selection.weight.any()
    assert selection.denom.tolist() == [0.0, 0.0]
    selection, _ = gls.select(torch.full((2, 3), torch.inf), valid, context(2, num=2), state)
    assert bool(selection.weight.all())


def test_a_batch_without_targets_leaves_the_queue_empty() -> None:
    gls, (scores, valid) = POLICIES["gls"].build(capacity=10), stream(0)
    selection, state = gls.select(scores, torch.zeros_like(valid), context(0), None)
    assert not selection.weight.any()
    assert len(state["queue"]) == 0
    found, _ = gls.select(scores, valid, context(1), state)
    assert torch.equal(found.weight, POLICIES["top_k"].build().select(scores, valid, context(1), None)[0].weight)


def test_the_queue_holds_no_more_memory_than_its_scores() -> None:
    gls, state = POLICIES["gls"].build(capacity=100), None
    for step in range(3):
        _, state = gls.select(*stream(step), context(step), state)
    assert state["queue"].untyped_storage().nbytes() == 100 * 4


# ---- latf


def run_latf(losses: list[float | None], *, num_steps: int = 100, **options: Any) -> list[float]:
    """Return the fraction kept at every step, given the loss before it."""
    latf, state, kept = POLICIES["latf"].build(**{**LATF, **options}), None, []
    scores, valid = torch.rand((4, 1000)), torch.ones((4, 1000), dtype=torch.bool)
    for step, loss in enumerate(losses):
        selection, state = latf.select(scores, valid, context(step, num=4, loss=loss, num_steps=num_steps), state)
        kept.append(float(selection.weight.mean()))
    return kept


def test_latf_shrinks_when_the_loss_falls_and_grows_when_it_rises() -> None:
    # The reference is 1, then what the loss was at the last move.
    losses = [None, 1.0, 0.96, 0.94, 0.94, 0.80, 0.83, 0.85, 1.00, 1.20]
    assert run_latf(losses) == pytest.approx([1, 1, 1, 0.9, 0.9, 0.81, 0.81, 0.891, 0.981, 1], abs=1e-3)


def test_latf_stays_within_its_floor_and_one() -> None:
    falling = run_latf([None, *(0.8**step for step in range(20))])
    assert falling[-1] == pytest.approx(0.5, abs=1e-3)
    assert falling == sorted(falling, reverse=True)
    assert set(run_latf([None, *(1.2**step for step in range(20))])) == {1.0}
    assert set(run_latf([None, *[1.0] * 20])) == {1.0}


def test_latf_keeps_everything_during_warm_up_and_starts_from_there() -> None:
    losses = [None, *(0.8**step for step in range(9)), *[0.8**8] * 5]
    kept = run_latf(losses, warmup=0.1)
    assert set(kept) == {1.0}, "the reference is the average after warm-up"
    assert run_latf(losses, warmup=0.0)[-1] < 1.0


def test_latf_averages_the_loss() -> None:
    losses = [None, *[1.0] * 3, *[0.53] * 40]
    slow = run_latf(losses, decay=0.9)
    averages, average = [1.0], 1.0
    for loss in losses[2:]:
        assert loss is not None
        average = 0.9 * average + 0.1 * loss
        averages.append(average)
    fraction, anchor, wanted = 1.0, 1.0, [1.0]
    for each in averages:
        if abs(each - anchor) > 0.05 * anchor:
            fraction, anchor = max(fraction * 0.9, 0.5), each
        wanted.append(fraction)
    assert slow == pytest.approx(wanted, abs=1e-3)
    assert 0.5 <= slow[-1] < 1.0


def test_latf_moves_once_per_step_however_the_batch_is_split() -> None:
    latf = POLICIES["latf"].build(**LATF)
    (scores, valid), state, parted = stream(0), None, None
    for step, loss in enumerate([None, 1.0, 0.9, 0.7, 0.6]):
        whole, state = latf.select(scores, valid, context(step, loss=loss), state)
        weights = []
        for first in range(0, 8, 2):
            rows = slice(first, first + 2)
            piece, parted = latf.select(scores[rows], valid[rows], context(step, num=2, loss=loss), parted)
            weights.append(piece.weight)
        assert torch.equal(torch.cat(weights), whole.weight)
        assert parted == state
    assert state["fraction"] == pytest.approx(0.9**3)


# ---- checkpoints


@pytest.mark.parametrize(("name", "options"), [("gls", {"capacity": 900}), ("latf", LATF)])
def test_a_saved_state_continues_as_if_nothing_had_happened(name: str, options: dict[str, Any]) -> None:
    policy = POLICIES[name].build(**options)
    state, resumed = None, None
    for step in range(8):
        scores, valid = stream(step)
        ctx = context(step, loss=None if step == 0 else 0.9**step)
        selection, state = policy.select(scores, valid, ctx, state)
        again, resumed = policy.select(scores, valid, ctx, round_trip(resumed))
        assert torch.equal(again.weight, selection.weight)
    assert state.keys() == resumed.keys()


@pytest.mark.parametrize("name", ["gls", "latf"])
def test_select_does_not_change_the_state_it_is_given(name: str) -> None:
    policy = POLICIES[name].build(**({"capacity": 900} if name == "gls" else LATF))
    _, state = policy.select(*stream(0), context(0), None)
    before = round_trip(state)
    policy.select(*stream(1), context(1, loss=0.1), state)
    assert str(state) == str(before)
