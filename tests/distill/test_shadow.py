"""Shadow selections and their statistics, against sums done by hand."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from harness.distill.shadow import (
    BIN_NATS,
    NUM_BINS,
    NUM_PARTS,
    effective_positions,
    entropy_histogram,
    extreme_tokens,
    jaccard,
    position_profile,
    shadow_signals,
    top_masks,
    top_mass,
)
from harness.models import Head
from strategies.registry import SIGNALS, TEACHER_INPUTS, Component, Option, raw_inputs


def masks(*rows: list[str]) -> Tensor:
    """Write selections as rows of 1 and 0, one string per sequence."""
    return torch.tensor([[[mark == "1" for mark in sequence] for sequence in selection] for selection in rows])


def test_jaccard_is_intersection_over_union_averaged_over_sequences() -> None:
    found = jaccard(masks(["1100", "1110"], ["0110", "1110"], ["0000", "0001"]), torch.ones(2, 4, dtype=torch.bool))
    assert found[0, 1] == pytest.approx((1 / 3 + 1) / 2)
    assert found[0, 2] == 0
    assert found[2, 2] == 1, "nothing and nothing agree"
    assert torch.equal(found, found.T)
    assert found.diagonal().tolist() == [1, 1, 1]


def test_a_sequence_without_targets_does_not_count_in_the_overlap() -> None:
    valid = torch.tensor([[True, True], [False, False]])
    assert jaccard(masks(["10", "00"], ["01", "00"]), valid)[0, 1] == 0


def test_shadow_selections_are_those_of_top_k() -> None:
    scores = {"up": torch.arange(8.0).repeat(2, 1), "down": -torch.arange(8.0).repeat(2, 1)}
    valid = torch.tensor([[True] * 8, [True] * 4 + [False] * 4])
    found = top_masks(scores, valid, 0.3)  # ceil(2.4) = 3 of 8, ceil(1.2) = 2 of 4
    assert torch.equal(
        torch.stack([found["up"], found["down"]]), masks(["00000111", "00110000"], ["11100000", "11" + 6 * "0"])
    )


def test_entropies_are_counted_in_bins_whose_last_is_open() -> None:
    shares = entropy_histogram(torch.tensor([0.0, 0.9 * BIN_NATS, BIN_NATS, 1000.0]))
    assert shares.shape == (NUM_BINS,)
    assert (shares[0], shares[1], shares[-1]) == (0.5, 0.25, 0.25)
    assert entropy_histogram(torch.zeros(0)).sum() == 0


def test_the_position_profile_gives_the_share_selected_in_each_tenth() -> None:
    length = 2 * NUM_PARTS + 1
    valid = torch.ones((3, length), dtype=torch.bool)
    valid[:, -1] = False
    valid[:, 4:6] = False  # the third tenth has no target
    chosen = torch.zeros_like(valid)
    chosen[0, 0] = chosen[1, 1] = chosen[2, 19] = True
    found = position_profile(chosen, valid).tolist()
    assert found[0] == pytest.approx(2 / 6)
    assert math.isnan(found[2])
    assert found[9] == pytest.approx(1 / 6)
    assert [found[part] for part in (1, 3, 4, 5, 6, 7, 8)] == [0] * 7


def test_effective_positions_are_fewer_the_more_weights_differ() -> None:
    even, none = [0.0, 2.0, 2.0, 2.0], [0.0] * 4
    assert effective_positions(torch.tensor([even, none])) == 3
    assert effective_positions(torch.tensor([[3.0, 1.0, 0.0, 0.0]])) == pytest.approx(16 / 10)
    assert effective_positions(torch.tensor([none])) == 0


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_top_mass_sums_the_likeliest_classes(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn((7, 5), generator=generator), torch.randn((20, 5), generator=generator)
    probs = (hidden @ weight.T).softmax(dim=-1).sort(descending=True).values
    found = top_mass(hidden, Head(weight=weight), (1, 4, 20), chunk=chunk)
    assert found.tolist() == pytest.approx([float(probs[:, :k].sum()) for k in (1, 4, 20)], rel=1e-6)
    assert float(found[-1]) == pytest.approx(7)


def test_tokens_kept_most_and_least_are_told_by_share_and_then_by_frequency() -> None:
    seen = torch.tensor([9, 10, 20, 4, 30, 10, 0])
    kept = torch.tensor([9, 5, 20, 4, 0, 0, 0])
    assert extreme_tokens(seen, kept, least_seen=5, most=100) == [2, 0, 1, 4, 5]
    assert extreme_tokens(seen, kept, least_seen=5, most=2) == [2, 4]
    assert extreme_tokens(seen, kept, least_seen=5, most=3) == [2, 5, 4]
    assert extreme_tokens(seen, kept, least_seen=0, most=100) == [2, 0, 3, 1, 4, 5], "never one that was not seen"


def test_without_a_teacher_the_signals_are_those_that_read_none() -> None:
    with_teacher, without = (shadow_signals(None, with_teacher=flag) for flag in (True, False))
    assert set(with_teacher) == set(SIGNALS)
    assert set(without) == {name for name in SIGNALS if not raw_inputs(SIGNALS[name]) & TEACHER_INPUTS}
    assert {"student_entropy", "student_ce", "random"} <= set(without) < set(with_teacher)
    for names in (with_teacher, without):
        assert all(
            part not in SIGNALS or names.index(part) < names.index(name)
            for name in names
            for part in SIGNALS[name].inputs
        )


@pytest.fixture
def demanding() -> Iterator[str]:
    """A registered signal with an option that has no default."""

    def build(*, student_entropy: Float[Tensor, " N"], power: float) -> Tensor:
        return student_entropy**power

    traits: dict[str, Any] = {"scope": "row"}
    options = {"power": Option(type=float)}
    given = {"kind": "signal", "source": "-", "inputs": ("student_entropy",), "options": options, "traits": traits}
    SIGNALS._components["demanding"] = Component(name="demanding", build=build, **given)
    yield "demanding"
    del SIGNALS._components["demanding"]


def test_a_signal_that_needs_an_option_is_left_out_unless_the_trial_sets_it(demanding: str) -> None:
    assert demanding not in shadow_signals("kl", with_teacher=True)
    assert demanding in shadow_signals(demanding, with_teacher=True)
