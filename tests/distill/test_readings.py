"""Readings of a method that are settings of the core: cross-entropy everywhere, a frozen mask, smaller steps."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Pair, split_batch
from oracle import OPTIMISATION, SPLITS, assert_same, oracle, oracle_loss, run, variant

from harness.api import distil
from harness.config import Strategy
from harness.config.errors import UserError
from harness.config.legality import check_strategy
from harness.data.tokens import Batch
from harness.distill.train import batches_of, count_steps, data_order, expected_steps

BASES = ["se_kd", "pos_rs", "gls_ce", "rs_kd", "at_kd"]


@pytest.fixture(scope="module")
def batch(make_batch: Callable[..., Batch]) -> Batch:
    made: Batch = make_batch(6, 13)
    return made


@pytest.fixture(scope="module")
def pair(make_pair: Callable[..., Pair]) -> Pair:
    made: Pair = make_pair(torch.float64)
    return made


def everywhere(base: str, normaliser: str = "sequence_mean") -> Strategy:
    return variant(base, kd_weight=0.7, cross_entropy="all", normaliser=normaliser)


@pytest.mark.parametrize("normaliser", ["sequence_mean", "all_positions"])
@pytest.mark.parametrize("base", BASES)
def test_cross_entropy_everywhere_is_a_mean_of_its_own(
    base: str, normaliser: str, pair: Pair, batch: Batch, make_core: Any
) -> None:
    # Loss and gradient of the selected rows and of all, each from the dense oracle, add up.
    selected = oracle(variant(base, normaliser=normaliser), pair, batch)
    every = oracle(variant("sft", normaliser=normaliser), pair, batch)
    grads = {name: 0.7 * grad + 0.3 * every.grads[name] for name, grad in selected.grads.items()}
    wanted = replace(selected, loss=0.7 * selected.loss + 0.3 * every.loss, grads=grads)
    strategy = everywhere(base, normaliser)
    for chunk in (5, 10_000):
        assert_same(run(make_core(strategy, pair, chunk=chunk), [batch]), wanted, 1e-10)
    for sizes in SPLITS[1:]:
        assert_same(run(make_core(strategy, pair), split_batch(batch, sizes)), wanted, 1e-10)


def test_cross_entropy_everywhere_does_not_see_padding(
    pair: Pair, make_batch: Callable[..., Batch], make_core: Any
) -> None:
    core = make_core(everywhere("se_kd"), pair)
    assert_same(run(core, [make_batch(6, 13, padding=9)]), run(core, [make_batch(6, 13)]), 1e-10)


def test_cross_entropy_everywhere_reads_the_teacher_at_selected_positions_only(
    pair: Pair, batch: Batch, make_core: Any
) -> None:
    alone, both = (run(make_core(each, pair), [batch]).result for each in (variant("se_kd"), everywhere("se_kd")))
    assert alone is not None
    assert both is not None
    assert both.tally.teacher_rows == alone.tally.teacher_rows
    assert both.tally.student_trained == alone.tally.student_trained + both.tally.valid


def test_a_training_loop_of_ones_own_has_it_too(pair: Pair, batch: Batch, make_core: Any) -> None:
    strategy = everywhere("se_kd")
    student, teacher = (
        model(input_ids=batch.input_ids).logits[..., : pair.vocab_size] for model in (pair.student, pair.teacher)
    )
    made = distil(
        strategy, targets=batch.targets.where(batch.valid, -100), student_logits=student, teacher_logits=teacher
    )
    gold = F.cross_entropy(student.flatten(0, 1), batch.targets.flatten(), reduction="none").view(batch.valid.shape)
    mean = ((gold * batch.valid).sum(-1) / batch.valid.sum(-1)).mean()
    selected, _ = oracle_loss(variant("se_kd"), pair, batch, seed=0, step=0)
    assert float(made.loss.detach()) == pytest.approx(float((0.7 * selected + 0.3 * mean).detach()), rel=1e-10)


# ---- a mask of the student before training


def moved(pair: Pair) -> Pair:
    """The student after some training, so that it ranks positions otherwise."""
    student = copy.deepcopy(pair.student)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return replace(pair, student=student)


@pytest.mark.parametrize("signal", ["student_entropy", "kl", "tip_soft_or"])
def test_a_frozen_mask_is_the_initial_students(signal: str, pair: Pair, batch: Batch, make_core: Any) -> None:
    later = moved(pair)
    position = {"signal": signal, "policy": "top_k", "budget": 0.3}
    free, frozen = (variant("se_kd", position={**position, "frozen": each}) for each in (False, True))
    _, weights = oracle_loss(free, pair, batch, seed=7, step=3)
    _, other = oracle_loss(free, later, batch, seed=7, step=3)
    assert not torch.equal(weights, other), "both students rank alike"
    # Full KD on the positions that the initial student would choose is what the mask leaves.
    only = Batch.of(index=batch.index, input_ids=batch.input_ids, targets=batch.targets, valid=weights > 0)
    wanted = oracle(variant("full_kd"), later, only)
    core = replace(make_core(frozen, later), scorer=pair.student)
    for sizes in SPLITS:
        found = run(core, split_batch(batch, sizes))
        assert_same(found, wanted, 1e-10)
        assert found.result is not None
        assert found.result.tally.trunk_passes == len(batch.input_ids)


# ---- steps of what is left of a batch


def test_filtered_batches_keep_the_order_and_every_kept_sequence_once() -> None:
    only = torch.tensor([0, 3, 4, 9, 11, 12, 17, 18])
    order = data_order(20, OPTIMISATION.epochs, 3).tolist()
    groups = [[each for each in order[at : at + 2] if each in set(only.tolist())] for at in range(0, len(order), 2)]
    groups = [group for group in groups if group]
    steps = [groups[at] + groups[at + 1] for at in range(0, len(groups) - 1, 2)]
    found = batches_of(20, OPTIMISATION, 3, only=only, filtered=2)
    assert [each.tolist() for each in found] == steps
    assert len(found) > count_steps(len(only), OPTIMISATION)


def test_groups_of_a_batch_give_nearly_as_many_steps_as_without_the_axis() -> None:
    only = torch.arange(0, 400, 5)
    num = len(batches_of(400, OPTIMISATION, 0, only=only, filtered=4))
    assert num == pytest.approx(expected_steps(400, 80, OPTIMISATION, 4), rel=0.1)
    assert num > 2 * count_steps(80, OPTIMISATION)
    assert expected_steps(400, 80, OPTIMISATION) == count_steps(80, OPTIMISATION)


def test_filled_batches_are_those_of_the_data_order() -> None:
    only = torch.arange(3, 17)
    order = data_order(20, OPTIMISATION.epochs, 1, only)
    found = batches_of(20, OPTIMISATION, 1, only=only)
    assert torch.equal(torch.stack(found), order[: len(found) * 4].view(-1, 4))
    assert len(found) == count_steps(14, OPTIMISATION)


def test_too_few_groups_do_not_make_a_step() -> None:
    with pytest.raises(ValueError, match="1 groups of kept sequences do not fill one batch of 2"):
        batches_of(20, OPTIMISATION.model_copy(update={"epochs": 1}), 0, only=torch.tensor([5]), filtered=2)


# ---- what cannot mean what it says


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ("se_kd", {"cross_entropy": "all"}, "lambda 1 leaves no rest"),
        ("se_kd", {"cross_entropy": "all", "kd_weight": 0.0}, "lambda 0 leaves nothing else"),
        ("se_kd", {"cross_entropy": "all", "kd_weight": 0.5, "normaliser": "batch_mean"}, "not batch_mean"),
        ("full_kd_dense", {"cross_entropy": "all", "kd_weight": 0.5}, "use flow: chunked"),
        ("full_kd", {"position": {"policy": "all", "frozen": True}}, "no signal reads no student"),
        (
            "se_kd",
            {"position": {"signal": "teacher_entropy", "policy": "top_k", "budget": 0.2, "frozen": True}},
            "signal 'teacher_entropy' reads no student",
        ),
        (
            "at_kd",
            {"position": {"signal": "kl", "policy": "weighted", "frozen": True}},
            "criterion 'at_kd' reads signals",
        ),
    ],
)
def test_readings_that_cannot_be_are_refused(base: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_strategy(variant(base, **changes))
